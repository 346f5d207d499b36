"""Canonical correlation analysis."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.checks import one_of
from symjax.similarity.canonical import whiten
from symjax.similarity.canonical_variates import cca_of_centered, unit_norm_data
from symjax.similarity.cca_checks import (
    check_pair,
    notable_share,
    resolve_rcond,
    warn_of_dropped_directions,
    warning_of_default,
)
from symjax.similarity.channels import subtract_mean
from symjax.similarity.inputs import as_matrix
from symjax.similarity.measure import LINEAR, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples


def cca(x, y, *, samples="positions", layout=None, mask=None, rcond=None):
    """Compute the canonical correlation analysis of two sets of neurons.

    The i-th correlation is the maximum of <X a, Y b> / (|X a| |Y b|), with X and Y centered, over variates uncorrelated
    with the previous ones. The correlations are the singular values of Qx' Qy, where Qx and Qy are orthonormal bases of
    the column spaces (Hotelling 1936; Björck, Golub 1973). An ill-conditioned covariance matrix is never inverted; see
    `similarity.canonical`.

    Invariant to invertible linear maps and translations of either side (except for directions that `rcond` drops).

    With n - 1 < d_x + d_y some correlations are 1 for any data, and with n - 1 <= max(d_x, d_y) all up to the smaller
    rank are; a `FewExamplesWarning` reports this.

    Derivatives are defined for correlations, and for functions that are symmetric in correlations that coincide. For
    directions and loadings they are defined where correlations are distinct, at the returned sign and within the span
    of the kept directions. All hold at constant rank: adding to a constant neuron changes the rank, and the result
    jumps. `x_smallest`, `y_smallest`, `x_dropped` and `y_dropped` have no derivative.

    Args:
        x: (n, d_x) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        y: (n, d_y) or maps, with as many examples.
        samples: how tokens and maps become matrices: "positions" (each token or pixel is a sample, as in SVCCA of
            Raghu et al. 2017), "pool" (their mean), "flatten", "first" or "last" (one of them); see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        rcond: directions with a singular value up to this multiple of the largest one are dropped, after scaling
            neurons to unit norm; by default 8 eps max(d_x, d_y)^(1/2). Constant neurons are always dropped. Static.
            If the default drops a direction of more than an eighth of this size, which may be more than rounding, a
            `NumericalWarning` reports it (if not traced). `x_dropped` and `y_dropped` report it in any case.

    Returns:
        `CCA`.

    Raises:
        InputError: x or y not as above, fewer than 2 samples, rcond not in [0, 1); concrete NaN or infinite entries.
            (Traced ones make the correlations NaN.)

    Example:
        >>> import numpy as np
        >>> from symjax import cca
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> result = cca(x, x @ np.tri(4) + 1)  # an invertible linear map
        >>> result.correlations.round(4).tolist()
        [1.0, 1.0, 1.0, 1.0]
        >>> result.x_directions.shape, int(result.x_rank)
        ((4, 4), 4)
    """
    default = rcond is None
    x, y, rcond = check_pair(x, y, samples, layout, mask, rcond)
    result = cca_of_matrices(x, y, rcond)
    if default:
        warn_of_dropped_directions(x, y, (result.x_dropped, result.y_dropped), rcond)
    return result


@partial(jax.jit, static_argnums=2)
def cca_of_matrices(x, y, rcond):
    """Compute `cca` of matrices; arguments are not checked."""
    return cca_of_centered(subtract_mean(x), subtract_mean(y), rcond, x.shape[0])


def mean_correlation(result):
    """Return the mean of the min(x_rank, y_rank) correlations of a `CCA`, 0-d, in [0, 1]; NaN where that rank is 0.

    Reference: Kornblith et al. 2019, table 1 (rho CCA), which divides by the number of neurons and not by the rank.

    Example:
        >>> import numpy as np
        >>> from symjax import cca, mean_correlation
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{mean_correlation(cca(x, 2 * x)):.3f}")
        1.000
    """
    return result.correlations.sum() / _common_rank(result)


def mean_square_correlation(result):
    """Return the mean of the min(x_rank, y_rank) squared correlations of a `CCA`, 0-d, in [0, 1].

    It is R^2 CCA = |Qx' Qy|_F^2 / min(x_rank, y_rank), NaN where that rank is 0.

    Reference: Kornblith et al. 2019, table 1, as in `mean_correlation`.

    Example:
        >>> import numpy as np
        >>> from symjax import cca, mean_square_correlation
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{mean_square_correlation(cca(x, 2 * x)):.3f}")
        1.000
    """
    return (result.correlations**2).sum() / _common_rank(result)


def _common_rank(result):
    return jnp.minimum(result.x_rank, result.y_rank).astype(result.correlations.dtype)


SUMMARIES = {"mean": mean_correlation, "mean_square": mean_square_correlation}


def cca_similarity(x, y, *, samples="positions", layout=None, mask=None, summary="mean", rcond=None):
    """Compute the mean ("mean") or mean square ("mean_square") canonical correlation; see `cca`.

    Args:
        x, y, samples, layout, mask, rcond: as in `cca`.
        summary: "mean" or "mean_square".

    Returns:
        0-d array in [0, 1]: 1 where the narrower side is a linear function of the other. NaN where a side is constant.
        Symmetric, with the invariances of `cca`.

    Raises:
        InputError: as `cca`; unknown summary.

    Example:
        >>> import numpy as np
        >>> from symjax import cca_similarity
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{cca_similarity(x, x @ np.tri(4) + 1):.3f}")
        1.000
    """
    one_of("summary", summary, SUMMARIES)
    default = rcond is None
    x, y, rcond = check_pair(x, y, samples, layout, mask, rcond, translation_invariant=True)
    similarity, *dropped = _summary(x, y, rcond, summary)
    if default:
        warn_of_dropped_directions(x, y, dropped, rcond)
    return similarity


@partial(jax.jit, static_argnums=(2, 3))
def _summary(x, y, rcond, summary):
    result = cca_of_matrices(x, y, rcond)  # the compiler removes unused outputs
    return SUMMARIES[summary](result), result.x_dropped, result.y_dropped


def cca_distance(x, y, *, samples="positions", layout=None, mask=None, rcond=None):
    """Compute 1 - mean canonical correlation, 0-d, in [0, 1]. Not a metric.

    Args, Raises and invariances: as for `cca_similarity`.

    Reference: Morcos et al. 2018, section 2.2.

    Example:
        >>> import numpy as np
        >>> from symjax import cca_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{cca_distance(x, x @ np.tri(4) + 1):.3f}")
        0.000
    """
    return 1 - cca_similarity(x, y, samples=samples, layout=layout, mask=mask, rcond=rcond)


@lru_cache(maxsize=64)
def split(shapes, *, samples="positions", rcond=None, summary="mean", distance=False):
    """Return `cca_similarity` as a `SplitMeasure`.

    Where `rcond` is None, the default depends on each side's own width.
    """

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        basis, _, rank, dropped = whiten(unit_norm_data(*subtract_mean(x)).data, resolve_rcond(rcond, x))
        return Prepared(basis.T, (rank, notable_share(dropped, x)))

    def finish(reduced, a, b):
        total = reduced if summary == "mean" else (reduced**2).sum()
        similarity = jnp.minimum(total / jnp.minimum(a[0], b[0]).astype(total.dtype), 1)
        return 1 - similarity if distance else similarity

    return SplitMeasure(
        prepare,
        finish,
        permute=permute_samples,
        nuclear=summary == "mean",
        warning=warning_of_default(rcond),
    )


MEASURES = (
    Measure(
        name="cca",
        fn=cca_similarity,
        reference="Hotelling 1936; Kornblith et al. 2019, table 1 (rho CCA)",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=LINEAR | {"translation"},
        split=split,
        one_map_size=True,
        zero_channels=True,
        title="CCA",
        cost="n p^2 once, n p q a pair",
        bias="grows with (p + q) / n; 1 for any data with n - 1 <= max(p, q)",
        use="comparison up to any invertible linear map; needs many more examples than features",
    ),
    Measure(
        name="cca_mean_square",
        fn=partial(cca_similarity, summary="mean_square"),
        reference="Kornblith et al. 2019, table 1 (R^2 CCA)",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=LINEAR | {"translation"},
        split=partial(split, summary="mean_square"),
        one_map_size=True,
        zero_channels=True,
    ),
    Measure(
        name="cca_distance",
        fn=cca_distance,
        reference="Morcos et al. 2018, section 2.2",
        range=(0.0, 1.0),
        kind="distance",
        symmetric=True,
        invariances=LINEAR | {"translation"},
        split=partial(split, distance=True),
        one_map_size=True,
        zero_channels=True,
    ),
)
