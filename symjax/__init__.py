"""symjax: symmetries of neural networks and of their internal representations, in JAX.

`__all__` lists the names of this module: measures of similarity, projections onto the Birkhoff polytope, and networks
and their stitching. Other public names are in `symjax.birkhoff`, `symjax.data`, `symjax.dissection`, `symjax.dynamics`,
`symjax.flops`, `symjax.freezing`, `symjax.groups`, `symjax.models`, `symjax.network`, `symjax.ops.memory`,
`symjax.ops.parallel`, `symjax.pairs`, `symjax.plots`, `symjax.projections`, `symjax.representations`,
`symjax.rotation`, `symjax.similarity`, `symjax.stitching`, `symjax.training` and `symjax.zoo`. A wrong argument raises
an `InputError` that names the argument. All other modules are internal and may change.
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
from symjax.errors import InputError
from symjax.similarity import (
    CCA,
    PCA,
    PLS,
    BartlettTest,
    Diagnosis,
    ErrorBars,
    FourierCCA,
    Matching,
    PairMean,
    Pairwise,
    PermutationTest,
    Rotation,
    Stream,
    Transport,
    aligned_cosine,
    bartlett_test,
    cca,
    cca_distance,
    cca_similarity,
    cca_stream,
    channel_normalized_cka,
    cka,
    cka_distance,
    cka_stream,
    dependent_columns_cka,
    diagnose,
    error_bars,
    fourier_cca,
    fourier_cca_similarity,
    group_means,
    gulp,
    hard_correlation_match,
    held_out_procrustes,
    hsic,
    linear_predictivity,
    load_stream,
    mean_correlation,
    mean_over_pairs,
    mean_square_correlation,
    pairwise,
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
    save_stream,
    shape_distance,
    soft_correlation_match,
    soft_matching,
    soft_matching_distance,
    stochastic_shape_distance,
    svcca,
    svcca_distance,
    svcca_stream,
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
    "Diagnosis",
    "ErrorBars",
    "FourierCCA",
    "InputError",
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
    "cca",
    "cca_distance",
    "cca_similarity",
    "cca_stream",
    "channel_normalized_cka",
    "cka",
    "cka_distance",
    "cka_stream",
    "dependent_columns_cka",
    "diagnose",
    "error_bars",
    "fourier_cca",
    "fourier_cca_similarity",
    "group_means",
    "gulp",
    "hard_correlation_match",
    "held_out_procrustes",
    "hsic",
    "linear_predictivity",
    "load_stream",
    "mean_correlation",
    "mean_over_pairs",
    "mean_square_correlation",
    "nearest_permutation",
    "pairwise",
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
    "save_stream",
    "shape_distance",
    "sinkhorn",
    "soft_correlation_match",
    "soft_matching",
    "soft_matching_distance",
    "softsort",
    "stitch",
    "stitch_point",
    "stochastic_shape_distance",
    "svcca",
    "svcca_distance",
    "svcca_stream",
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
    "birkhoff data dissection dynamics flops freezing groups models network ops pairs plots projections "
    "representations rotation similarity stitching training zoo"
).split()
_NAMES = {"Network": "network", "stitch": "stitching", "stitch_point": "network"}


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
