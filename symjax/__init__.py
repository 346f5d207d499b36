"""symjax: symmetries of neural networks and of their internal representations, in JAX.

`__all__` lists the names of this module: measures of similarity, projections onto the Birkhoff polytope, and networks
and their stitching. Other public names are in `symjax.activations`, `symjax.alignment`, `symjax.birkhoff`,
`symjax.comparison`, `symjax.data`, `symjax.dissection`, `symjax.dynamics`, `symjax.extraction`, `symjax.flops`,
`symjax.freezing`, `symjax.groups`, `symjax.models`, `symjax.network`, `symjax.ops.memory`, `symjax.ops.parallel`,
`symjax.pairs`, `symjax.plots`, `symjax.projections`, `symjax.representations`, `symjax.rotation`, `symjax.similarity`,
`symjax.stitching`, `symjax.training` and `symjax.zoo`. A wrong argument raises an `InputError` that names the argument.
All other modules are internal and may change.
"""

import importlib
from types import ModuleType

from symjax.birkhoff import (
    ProjectionInfo,
    SinkhornInfo,
    nearest_permutation,
    permutation_matrix,
    projection_birkhoff,
    sinkhorn,
    softsort,
)
from symjax.errors import (
    InputError,
)
from symjax.similarity import (
    CCA,
    PCA,
    PLS,
    BartlettTest,
    Calibration,
    Ceiling,
    Diagnosis,
    ErrorBars,
    FourierCCA,
    GroupTest,
    LayerCalibration,
    Matching,
    PairMean,
    Pairwise,
    PermutationTest,
    Rotation,
    Stream,
    Transport,
    aligned_cosine,
    bartlett_test,
    calibrate,
    cca,
    cca_distance,
    cca_similarity,
    cca_stream,
    channel_normalized_cka,
    cka,
    cka_distance,
    cka_stream,
    cknna,
    concentricity_difference,
    cycle_knn,
    dependent_columns_cka,
    diagnose,
    distance_correlation,
    edit_knn,
    eigenspace_overlap,
    error_bars,
    feature_sampled_cka,
    fourier_cca,
    fourier_cca_similarity,
    group_means,
    group_test,
    gulp,
    hard_correlation_match,
    held_out_procrustes,
    hsic,
    information_imbalance,
    knn_jaccard,
    lcs_knn,
    linear_predictivity,
    load_stream,
    magnitude_difference,
    mean_correlation,
    mean_over_pairs,
    mean_square_correlation,
    mutual_knn,
    pairwise,
    pairwise_batches,
    partial_soft_matching,
    pca,
    permutation_procrustes,
    permutation_procrustes_distance,
    permutation_procrustes_stream,
    permutation_test,
    pls,
    pls_similarity,
    pls_stream,
    procrustes,
    procrustes_distance,
    procrustes_stream,
    pwcca,
    pwcca_distance,
    pwcca_stream,
    rank_similarity,
    rsa,
    rsm_norm_difference,
    save_stream,
    second_order_cosine,
    seed_ceiling,
    shape_distance,
    soft_correlation_match,
    soft_matching,
    soft_matching_distance,
    split_half_ceiling,
    stochastic_shape_distance,
    svcca,
    svcca_distance,
    svcca_stream,
    uniformity_difference,
    wreath_cka,
    wreath_cka_distance,
    wreath_cka_stream,
    wreath_procrustes,
    wreath_procrustes_distance,
    wreath_procrustes_stream,
)

__all__ = [
    "CCA",
    "PCA",
    "PLS",
    "BartlettTest",
    "Calibration",
    "Ceiling",
    "Comparison",
    "Diagnosis",
    "ErrorBars",
    "FourierCCA",
    "GroupTest",
    "InputError",
    "LayerCalibration",
    "Matching",
    "Network",
    "PairMean",
    "Pairwise",
    "PermutationTest",
    "ProjectionInfo",
    "Rotation",
    "SinkhornInfo",
    "Stream",
    "Transport",
    "aligned_cosine",
    "bartlett_test",
    "calibrate",
    "capture",
    "capture_batches",
    "cca",
    "cca_distance",
    "cca_similarity",
    "cca_stream",
    "channel_normalized_cka",
    "cka",
    "cka_distance",
    "cka_stream",
    "cknna",
    "compare",
    "concentricity_difference",
    "cycle_knn",
    "dependent_columns_cka",
    "diagnose",
    "distance_correlation",
    "edit_knn",
    "eigenspace_overlap",
    "error_bars",
    "feature_sampled_cka",
    "fourier_cca",
    "fourier_cca_similarity",
    "group_means",
    "group_test",
    "gulp",
    "hard_correlation_match",
    "held_out_procrustes",
    "hsic",
    "information_imbalance",
    "knn_jaccard",
    "lcs_knn",
    "linear_predictivity",
    "load_stream",
    "magnitude_difference",
    "mean_correlation",
    "mean_over_pairs",
    "mean_square_correlation",
    "mutual_knn",
    "nearest_permutation",
    "pairwise",
    "pairwise_batches",
    "partial_soft_matching",
    "pca",
    "permutation_matrix",
    "permutation_procrustes",
    "permutation_procrustes_distance",
    "permutation_procrustes_stream",
    "permutation_test",
    "pls",
    "pls_similarity",
    "pls_stream",
    "procrustes",
    "procrustes_distance",
    "procrustes_stream",
    "projection_birkhoff",
    "pwcca",
    "pwcca_distance",
    "pwcca_stream",
    "rank_similarity",
    "rsa",
    "rsm_norm_difference",
    "save_stream",
    "second_order_cosine",
    "seed_ceiling",
    "shape_distance",
    "sinkhorn",
    "soft_correlation_match",
    "soft_matching",
    "soft_matching_distance",
    "softsort",
    "split_half_ceiling",
    "stitch",
    "stitch_point",
    "stochastic_shape_distance",
    "svcca",
    "svcca_distance",
    "svcca_stream",
    "uniformity_difference",
    "wreath_cka",
    "wreath_cka_distance",
    "wreath_cka_stream",
    "wreath_procrustes",
    "wreath_procrustes_distance",
    "wreath_procrustes_stream",
]

__version__ = "0.2.0"

# Imported when one of their names is first used, also after `from symjax import plots`: Flax, Matplotlib and pandas
# take a second.
_MODULES = (
    "activations alignment birkhoff comparison data dissection dynamics extraction flops freezing groups models "
    "network ops pairs plots projections representations rotation similarity stitching training zoo"
).split()
_NAMES = {
    "Comparison": "comparison",
    "Network": "network",
    "capture": "extraction",
    "capture_batches": "extraction",
    "compare": "comparison",
    "stitch": "stitching",
    "stitch_point": "network",
}


class _Package(ModuleType):
    """A reference to a package of symjax, which is imported when an attribute is first read."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(self.__name__), name)

    def __setattr__(self, name: str, value):
        setattr(importlib.import_module(self.__name__), name, value)

    def __delattr__(self, name: str):
        delattr(importlib.import_module(self.__name__), name)

    @property
    def __dict__(self):  # vars() of the package, as monkeypatch reads it
        return vars(importlib.import_module(self.__name__))

    def __dir__(self):
        return dir(importlib.import_module(self.__name__))


def __getattr__(name: str):
    if name in _MODULES:
        return _Package(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
