"""symjax: symmetries of neural networks and of their internal representations, in JAX.

`__all__` lists the names of this module: measures of similarity, projections, and networks and their stitching. The
other public packages are `birkhoff`, `data`, `dissection`, `groups`, `models`, `network`, `plots`, `rotation`,
`similarity`, `stitching`, `training` and `zoo`, and the modules `dynamics`, `flops`, `freezing`, `pairs`,
`representations`, `ops.memory` and `ops.parallel`. A wrong argument raises an `InputError` that names the argument. All
other modules are internal and may change.
"""

import importlib

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
    cca,
    cca_distance,
    cca_similarity,
    cca_stream,
    channel_normalized_cka,
    cka,
    cka_distance,
    cka_stream,
    diagnose,
    error_bars,
    fourier_cca,
    fourier_cca_similarity,
    group_means,
    hsic,
    load_stream,
    mean_correlation,
    mean_over_pairs,
    mean_square_correlation,
    pairwise,
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
    soft_matching,
    soft_matching_distance,
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
    "cca",
    "cca_distance",
    "cca_similarity",
    "cca_stream",
    "channel_normalized_cka",
    "cka",
    "cka_distance",
    "cka_stream",
    "diagnose",
    "error_bars",
    "fourier_cca",
    "fourier_cca_similarity",
    "group_means",
    "hsic",
    "load_stream",
    "mean_correlation",
    "mean_over_pairs",
    "mean_square_correlation",
    "nearest_permutation",
    "pairwise",
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
    "sinkhorn",
    "soft_matching",
    "soft_matching_distance",
    "softsort",
    "stitch",
    "stitch_point",
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

# Imported when they are first used: `import symjax` imports no Flax.
_MODULES = (
    "birkhoff data dissection dynamics flops freezing groups models network ops pairs plots representations rotation "
    "similarity stitching training zoo"
).split()
_NAMES = {"Network": "network", "stitch": "stitching", "stitch_point": "network"}


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
