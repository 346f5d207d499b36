"""Canonical correlation analysis."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.checks import is_concrete, scalar
from symjax.checks import one_of
from symjax.errors import InputError
from symjax.similarity.canonical import canonical, whiten
from symjax.similarity.channels import centre
from symjax.similarity.inputs import FewExamplesWarning, NumericalWarning, as_matrix, as_pair, warn_user
from symjax.similarity.linalg import from_row_space, reciprocal, to_row_space, unit_columns
from symjax.similarity.measure import LINEAR, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure
from symjax.spelling import one_line


class CCA(NamedTuple):
    """Canonical correlations, and the directions of the variates (x - x_mean) @ x_directions; k = min(d_x, d_y).

    Variates have mean 0 and variance 1 (sum of squares n - 1), and those of one side are uncorrelated. The i-th
    variates of x and of y have correlation `correlations[i]`, in [0, 1], in descending order. A side of rank under d
    has fewer directions than neurons: columns past min(x_rank, y_rank) are zero, and so are their correlations.
    """

    correlations: jax.Array  # (k,)
    x_directions: jax.Array  # (d_x, k)
    y_directions: jax.Array  # (d_y, k)
    x_mean: jax.Array  # (d_x,)
    y_mean: jax.Array  # (d_y,)
    x_loadings: jax.Array  # (d_x, k), covariance of each neuron with each variate of its side
    y_loadings: jax.Array  # (d_y, k)
    x_rank: jax.Array  # int32, number of kept directions
    y_rank: jax.Array
    x_smallest: jax.Array  # smallest kept singular value over the largest, of centred neurons of unit norm
    y_smallest: jax.Array
    x_dropped: jax.Array  # largest singular value that `rcond` drops, over the largest; 0 if it drops none
    y_dropped: jax.Array

    __repr__ = one_line


def cca(x, y, *, maps="pixels", layout=None, rcond=None):
    """Canonical correlation analysis: the linear combinations of two sets of neurons that correlate most.

    The i-th correlation is the maximum of <X a, Y b> / (|X a| |Y b|), with X and Y centred, over variates uncorrelated
    with the previous ones. The correlations are the singular values of Qx' Qy, where Qx and Qy are orthonormal bases of
    the column spaces (Hotelling 1936; Björck, Golub 1973). An ill-conditioned covariance matrix is never inverted; see
    `similarity.canonical`.

    Invariant to invertible linear maps and translations of either side (except for directions that `rcond` drops).

    With n - 1 < d_x + d_y some correlations are 1 for any data, and with n - 1 <= d all of them are; a
    `FewExamplesWarning` reports this.

    Derivatives are defined for correlations, and for functions that are symmetric in correlations that coincide. For
    directions and loadings they are defined where correlations are distinct, at the returned sign and within the span
    of the kept directions. All hold at constant rank: adding to a constant neuron changes the rank, and the result
    jumps. `x_smallest`, `y_smallest`, `x_dropped` and `y_dropped` have no derivative.

    Args:
        x: (n, d_x) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        y: (n, d_y) or maps, with as many examples.
        maps: conversion of maps to matrices: "pixels" (each pixel is a sample, the default of SVCCA, Raghu et al.
            2017), "flatten" or "pool"; see `as_matrix`.
        layout: layout of maps, "nhwc" or "nchw". None means "nhwc", with a `LayoutWarning` where an array looks like
            "nchw".
        rcond: directions with a singular value up to this multiple of the largest one are dropped, after scaling
            neurons to unit norm; by default 8 eps max(d_x, d_y)^(1/2). Constant neurons are always dropped. Static.
            Where the default drops directions over an eighth of it, which may be more than rounding, a
            `NumericalWarning` reports this (if not traced). `x_dropped` and `y_dropped` report it in any case.

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
    x, y, rcond = check_pair(x, y, maps, layout, rcond)
    result = cca_of_matrices(x, y, rcond)
    if default:
        warn_of_dropped_directions(x, y, rcond, result.x_dropped, result.y_dropped)
    return result


@partial(jax.jit, static_argnums=2)
def cca_of_matrices(x, y, rcond):
    """`cca` of matrices whose arguments have been checked."""
    return cca_of_centred(centre(x), centre(y), rcond, x.shape[0])


def cca_of_centred(x, y, rcond, samples):
    """Return the `CCA` of two pairs (centred data, mean).

    The result depends on the data through X'X, X'Y and Y'Y alone, so rows may be rotated.
    """
    return cca_of_reduced(unit_norm_data(*x), unit_norm_data(*y), rcond, samples)


def unit_norm_data(centred, mean):
    # Correlations do not depend on norms; with unit norms, rounding and `rcond` treat all neurons alike.
    unit, norms = unit_columns(centred)
    data, q = to_row_space(unit)
    return ReducedData(data, mean, norms, q, None)


class ReducedData(NamedTuple):
    """Data X diag(1 / neuron_norms) basis diag(1 / direction_norms) of centred neurons X.

    The data are uncorrelated with the part of X that they leave out.
    """

    data: jax.Array  # (n, m), columns of norm 1 or 0, m at most n
    mean: jax.Array  # (d,)
    neuron_norms: jax.Array | None  # (d,)
    basis: jax.Array | None  # (d, m), orthonormal or zero columns
    direction_norms: jax.Array | None  # (m,)


def cca_of_reduced(x, y, rcond, samples):
    """Return the `CCA` of two `ReducedData`, in terms of their neurons.

    `samples` is a number or a 0-d array of their dtype.
    """
    result = canonical(x.data, y.data, rcond)
    count = min(len(x.mean), len(y.mean))
    deviation = jnp.sqrt(jnp.asarray(samples - 1, x.data.dtype))
    x_directions, x_loadings = _to_neurons(x, result.x, count, deviation)
    y_directions, y_loadings = _to_neurons(y, result.y, count, deviation)
    return CCA(
        _pad_with_zeros(result.correlations, count, 0),
        x_directions,
        y_directions,
        x.mean,
        y.mean,
        x_loadings,
        y_loadings,
        result.x.rank,
        result.y.rank,
        result.x.smallest,
        result.y.smallest,
        result.x.dropped,
        result.y.dropped,
    )


def _to_neurons(unit_norm_data, side, count, deviation):
    directions, loadings = side.directions * deviation, side.loadings / deviation
    if unit_norm_data.direction_norms is not None:
        directions, loadings = (
            directions * reciprocal(unit_norm_data.direction_norms)[:, None],
            loadings * unit_norm_data.direction_norms[:, None],
        )
    directions, loadings = (
        from_row_space(directions, unit_norm_data.basis),
        from_row_space(loadings, unit_norm_data.basis),
    )
    if unit_norm_data.neuron_norms is not None:
        directions, loadings = (
            directions * reciprocal(unit_norm_data.neuron_norms)[:, None],
            loadings * unit_norm_data.neuron_norms[:, None],
        )
    return _pad_with_zeros(directions, count, 1), _pad_with_zeros(loadings, count, 1)


def _pad_with_zeros(array, size, axis):
    """Append zeros along `axis` up to `size`; with fewer samples than neurons there are fewer directions."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return jnp.pad(array, widths)


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
    """Return the mean of the min(x_rank, y_rank) squared correlations of a `CCA`, 0-d, in [0, 1]; NaN where that rank
    is 0.

    R^2 CCA = |Qx' Qy|_F^2 / rank.

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


def cca_similarity(x, y, *, maps="pixels", layout=None, summary="mean", rcond=None):
    """Mean ("mean") or mean square ("mean_square") canonical correlation; see `cca`.

    Args:
        x, y, maps, layout, rcond: as in `cca`.
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
    x, y, rcond = check_pair(x, y, maps, layout, rcond, translation_invariant=True)
    similarity, *dropped = _summary(x, y, rcond, summary)
    if default:
        warn_of_dropped_directions(x, y, rcond, *dropped)
    return similarity


@partial(jax.jit, static_argnums=(2, 3))
def _summary(x, y, rcond, summary):
    result = cca_of_matrices(x, y, rcond)  # the compiler removes unused outputs
    return SUMMARIES[summary](result), result.x_dropped, result.y_dropped


def cca_distance(x, y, *, maps="pixels", layout=None, rcond=None):
    """1 - mean canonical correlation, 0-d, in [0, 1]. Not a metric.

    Args, Raises and invariances: as for `cca_similarity`.

    Reference: Morcos et al. 2018, section 2.2.

    Example:
        >>> import numpy as np
        >>> from symjax import cca_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{cca_distance(x, x @ np.tri(4) + 1):.3f}")
        0.000
    """
    return 1 - cca_similarity(x, y, maps=maps, layout=layout, rcond=rcond)


@lru_cache(maxsize=64)
def split(shapes, *, maps="pixels", rcond=None, summary="mean", distance=False):
    """Return `cca_similarity` as a `SplitMeasure`.

    Where `rcond` is None, the default depends on each side's own width.
    """

    def prepare(x):
        x = as_matrix(x, "x", maps, layout="nhwc")
        basis, _, rank = whiten(unit_norm_data(*centre(x)).data, resolve_rcond(rcond, x))
        return Prepared(basis.T, rank)

    def finish(cross, a_rank, b_rank):
        if summary == "mean":
            total = jnp.minimum(jnp.linalg.svd(cross, compute_uv=False), 1).sum()
        else:
            total = (cross**2).sum()
        similarity = jnp.minimum(total / jnp.minimum(a_rank, b_rank).astype(cross.dtype), 1)
        return 1 - similarity if distance else similarity

    return SplitMeasure(prepare, finish)


def check_pair(x, y, maps, layout, rcond, *, translation_invariant=False):
    """Return the checked arguments of `cca` as (x, y, rcond)."""
    x, y = as_pair(x, y, maps, layout=layout, translation_invariant=translation_invariant)
    rcond = resolve_rcond(rcond, x, y)
    warn_of_few_examples(x.shape[0], x.shape[1], y.shape[1])
    return x, y, rcond


def resolve_rcond(rcond, *sides):
    """Return `rcond` as a float in [0, 1).

    By default the relative size that rounding gives a direction without variance.
    """
    if rcond is None:
        return float(8 * jnp.finfo(sides[0].dtype).eps * np.sqrt(max(side.shape[1] for side in sides)))
    if not is_concrete(rcond):
        raise InputError(f"rcond: got {rcond}, expected a number in [0, 1), not traced")
    return float(scalar("rcond", rcond, "a number in [0, 1)", lambda value: 0 <= value < 1))


def warn_of_few_examples(samples, x_width, y_width):
    if message := few_examples_message(samples, x_width, y_width):
        warn_user(message, FewExamplesWarning)


def warn_of_dropped_directions(x, y, rcond, *dropped):
    """Warn of directions that the default of `rcond` drops and that may be more than rounding."""
    for name, side, share in zip("xy", (x, y), dropped, strict=True):
        if is_concrete(share) and share > resolve_rcond(None, side) / 8:
            warn_user(
                f"{name}: the default rcond of {rcond:.1e} drops directions with singular values up to "
                f"{float(share):.1e} of the largest; in {side.dtype} they may be rounding. A smaller rcond keeps them; "
                "jax_enable_x64 shows whether they are rounding",
                NumericalWarning,
            )


def few_examples_message(samples, x_width, y_width):
    """Return a message where so few samples of so many neurons fix some correlations, or None."""
    # Two subspaces of n - 1 dimensions share at least d_x + d_y - (n - 1) dimensions, which have correlation 1.
    trivial = min(x_width + y_width - (samples - 1), x_width, y_width)
    if trivial <= 0:
        return None
    undetermined = ", and pwcca is not determined" if 1 < trivial < min(x_width, y_width) else ""
    return (
        f"{samples} samples of {x_width} and {y_width} neurons: {trivial} of {min(x_width, y_width)} canonical "
        f"correlations are 1 for any data, unless ranks are lower{undetermined}; more than {x_width + y_width} "
        "samples are needed, or fewer directions, as in svcca"
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
    ),
)
