"""Similarity up to the symmetries of ReLU, permutations and positive scalings of channels (Godfrey et al. 2022).

A channel that is dead (zero; for the kernel constant) counts as absent: it agrees with nothing, and both networks could
be pruned of theirs without a change of the figures.
"""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.checks import flag, one_of
from symjax.similarity.alignment import assign, paired_samples, positive_matching
from symjax.similarity.channels import centre, pad_to_common_width, safe_sqrt, unit_channels, unit_norm, zero_if_equal
from symjax.similarity.cka import angle, cosine, split_kernels
from symjax.similarity.hsic import centre_kernel, check_estimator
from symjax.similarity.inputs import as_map_pair, as_maps
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.procrustes import (
    channels_first,
    is_small_distance,
    matched_sum,
    matching_residual,
    matching_residual_of_rows,
    samples_or_maps,
    with_similarity,
)
from symjax.similarity.split_measure import SplitMeasure

REDUCTIONS = ("max", "median")
MAX_NUMBERS = 2**24  # numbers held at once where all channels are (the median)


def wreath_procrustes(x, y, *, maps="pixels", layout=None, full_output=False):
    """G_ReLU-Procrustes similarity, 1 - d / 2 with d = `wreath_procrustes_distance(x, y)` (Godfrey et al. 2022).

    That is the published 1 - sqrt(d^2 / (4 C)), where their d is not divided by sqrt(C), but for dead channels: those
    count in the published C and as perfect agreement.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c), whose channels may differ, and their sizes too.
        maps: "pixels" (published) takes each pixel for a sample, after the smaller map is enlarged by nearest
            neighbour; "flatten" and "pool" as in `as_matrix`.
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other.
        full_output: whether to return the alignment too.

    Returns:
        0-d array in [0, 1], for nonnegative features of one width at least 1 - 1 / sqrt(2); with `full_output` also the
        `Matching`, the permutation and positive scaling that carry x to y. NaN where all channels of x or of y are
        dead. Symmetric. Invariant under permutations and positive scalings.

        The derivative is that at the best permutation held fixed, which is the true one wherever that is unique.

    Raises:
        InputError: shapes, types or numbers of examples are wrong; unknown `maps`; NaN or infinity in concrete input.
    """
    flag("full_output", full_output)
    x, y = paired_samples(x, y, maps, layout=layout)
    distance, matching = best_positive_matching(*((x, y) if full_output else pad_to_common_width(x, y)))
    return with_similarity(distance, matching, full_output)


def wreath_procrustes_distance(x, y, *, maps="pixels", layout=None, full_output=False):
    """min over permutations P of |X - Y P| / sqrt(C) in the Frobenius norm, X and Y the channels at unit norm.

    C is the greater number of channels that are not dead; the side with fewer is filled up with zero channels. Channels
    are not centred. Linear assignment, exact, on the host. A metric, up to the invariances, on representations with
    equally many living channels.

    Args:
        x, y, maps, layout, full_output: as of `wreath_procrustes`.

    Returns:
        0-d array in [0, 2], or this and the `Matching`, as `wreath_procrustes`.

    Raises:
        InputError: as `wreath_procrustes`.
    """
    flag("full_output", full_output)
    x, y = paired_samples(x, y, maps, layout=layout)
    distance, matching = best_positive_matching(*((x, y) if full_output else pad_to_common_width(x, y)))
    return (distance, matching) if full_output else distance


def wreath_cka(x, y, reduce="max", estimator="song", *, layout=None):
    """G_ReLU-CKA (Godfrey et al. 2022): CKA with K_ij = max over channels c of <H_i^c, H_j^c>, summed over pixels.

    H is x with every channel centred and at unit norm over examples and pixels. The max kernel is not positive
    semidefinite. Time 2 n^2 h w c operations per side, one matrix product per channel; memory of a few n x n and of one
    copy of x (the median: of `MAX_NUMBERS` numbers besides).

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ.
        reduce: "max", or "median" over channels instead, of an even number the mean of the middle two.
        estimator: of HSIC (`hsic`), "song" as published.
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other.

    Returns:
        0-d array in [-1, 1]. A constant channel counts as absent; NaN where all are. Symmetric. Invariant under
        translation, permutations, positive scalings, and also flips of signs, which the kernel does not see.

    Raises:
        InputError: shapes, types or numbers of examples are wrong; fewer than 4 examples for "song" and "lange"; an
            unknown option; NaN or infinity in concrete input.
    """
    return _wreath_cka(*_check_arguments(x, y, reduce, estimator, layout), cosine)


def wreath_cka_distance(x, y, reduce="max", estimator="song", *, layout=None):
    """arccos(`wreath_cka`), the angle between the centred kernel matrices, in [0, pi]: a metric on these.

    Args, errors and invariances: as of `wreath_cka`.
    """
    return _wreath_cka(*_check_arguments(x, y, reduce, estimator, layout), angle)


def wreath_kernel(x, reduce="max"):
    """The kernel matrix (n, n) of `wreath_cka` for maps (n, h, w, c)."""
    channels = jnp.moveaxis(x, -1, 0).reshape(x.shape[-1], len(x), -1)  # each channel in one piece
    if reduce == "median":
        return _median_kernel(channels)
    upper = jnp.zeros((len(x), len(x)), x.dtype)
    for start, strip in zip(_strip_starts(len(x)), _max_strips(channels), strict=True):
        upper = upper.at[start : start + len(strip), start:].set(strip)
    return jnp.triu(upper) + jnp.triu(upper, 1).T


@jax.jit
def best_positive_matching(x, y):
    """Distance and `Matching` of two matrices, whose rows may be rotated."""
    (x, x_norm), (y, y_norm) = unit_channels(x), unit_channels(y)
    matching = positive_matching(matmul(y.T, x), x_norm, y_norm)
    x_live, y_live = ((norm > 0).sum().astype(x.dtype) for norm in (x_norm, y_norm))
    distance = zero_if_equal(safe_sqrt(matching_residual(x, y, matching.selection) / jnp.maximum(x_live, y_live)), x, y)
    return jnp.where((x_live == 0) | (y_live == 0), jnp.nan, distance), matching


@lru_cache(maxsize=64)
def split_cka(shapes, *, reduce="max", estimator="song", as_angle=False):
    """`wreath_cka` in two parts."""
    return split_kernels(lambda x: wreath_kernel(as_maps(x, layout="nhwc"), reduce), estimator, as_angle)


@lru_cache(maxsize=64)
def split_procrustes(shapes, *, maps="pixels", similarity=False):
    """`wreath_procrustes` in two parts; the rest of a `Prepared` says which channels live."""

    def prepare(x):
        data, norms = unit_channels(samples_or_maps(x, maps))
        return Prepared(channels_first(data), norms > 0)

    def value(squares, a, b):
        a_live, b_live = (live.sum().astype(squares.dtype) for live in (a, b))
        distance = safe_sqrt(squares / jnp.maximum(a_live, b_live))
        distance = jnp.where((a_live == 0) | (b_live == 0), jnp.nan, distance)
        return 1 - distance / 2 if similarity else distance

    def finish(cross, a, b):
        permutation, _ = assign(cross.T, b, a)
        num_live = (a.sum() + b.sum()).astype(cross.dtype)
        return value(num_live - 2 * matched_sum(cross, permutation), a, b)

    def exact(a, b):
        matching = assign(matmul(b.data, a.data.T), b.aux, a.aux)
        return value(matching_residual_of_rows(a.data, b.data, *matching), a.aux, b.aux)

    return SplitMeasure(prepare, finish, exact, partial(is_small_distance, similarity))


def check_reduce(reduce):
    one_of("reduce", reduce, REDUCTIONS)


def _check_arguments(x, y, reduce, estimator, layout):
    check_reduce(reduce)
    x, y = as_map_pair(x, y, layout=layout, translation_invariant=True)
    check_estimator(estimator, len(x))
    return x, y, reduce, estimator


@partial(jax.jit, static_argnums=(2, 3, 4))
def _wreath_cka(x, y, reduce, estimator, compare):
    return compare(*(centre_kernel(wreath_kernel(z, reduce), estimator) for z in (x, y)))


@jax.custom_jvp
def _max_strips(channels):
    """Strips of the max kernel of channels (c, n, pixels)."""
    strips, _ = lax.scan(
        lambda best, h: (_map(jnp.maximum, best, _strips_of_channel(h)), None), _empty_strips(channels), channels
    )
    return strips


@_max_strips.defjvp
def _max_strips_jvp(primals, tangents):
    # Autodiff would compare maxima that a compiler may have rounded in two ways. So the winner is kept, as a number.
    constant = lax.stop_gradient(primals[0])

    def update(carry, step):
        best, winner = carry
        number, channel = step
        grams = _strips_of_channel(channel)
        winner = _map(lambda b, g, w: jnp.where(g > b, number, w), best, grams, winner)
        return (_map(jnp.maximum, best, grams), winner), None

    empty = _empty_strips(constant)
    no_winner = _map(lambda strip: jnp.full(strip.shape, -1), empty)
    (strips, winner), _ = lax.scan(update, (empty, no_winner), (jnp.arange(len(constant)), constant))
    return jax.jvp(partial(_kernel_of_winners, strips, winner), primals, tangents)


@jax.custom_jvp
def _kernel_of_winners(strips, winner, channels):
    """`strips`, the kernels of the channels `winner`, with derivatives of every order by `channels`."""
    del winner, channels
    return strips


@_kernel_of_winners.defjvp
def _kernel_of_winners_jvp(primals, tangents):
    _, winner, channels = primals

    def add(total, step):
        number, channel, change = step
        _, moved = jax.jvp(_strips_of_channel, (channel,), (change,))
        return _map(lambda t, m, w: t + jnp.where(w == number, m, 0), total, moved, winner), None

    start = _map(jnp.zeros_like, _empty_strips(channels))
    change, _ = lax.scan(add, start, (jnp.arange(len(channels)), channels, tangents[2]))
    return _kernel_of_winners(*primals), change


def _strips_of_channel(channel):
    """Strips of the kernel of one channel (n, pixels); of a constant channel -inf, which no maximum takes."""
    channel, norm = _standardized(channel)
    products = (
        matmul(channel[i : i + _strip_height(len(channel))], channel[i:].T) for i in _strip_starts(len(channel))
    )
    return tuple(jnp.where(norm == 0, -jnp.inf, product) for product in products)


def _standardized(channel):
    return unit_norm(centre(channel, (0, 1))[0])


def _empty_strips(channels):
    n = channels.shape[1]
    return tuple(jnp.full((min(_strip_height(n), n - i), n - i), -jnp.inf, channels.dtype) for i in _strip_starts(n))


def _strip_starts(n):
    """First rows of the strips in which a symmetric (n, n) matrix is computed, each from its diagonal to the right."""
    return range(0, n, _strip_height(n))


def _strip_height(n):
    return max(128, -(-n // 4))  # 4 strips save 3/8 of the operations; products of fewer rows are slower


def _map(function, *trees):
    return jax.tree.map(function, *trees)


def _median_kernel(channels):
    """The median over live channels; rows of the kernel in blocks, each with all channels at once."""
    channels, norm = lax.map(_standardized, channels)
    count = (norm > 0).sum()
    middle = jnp.stack([(count - 1) // 2, count // 2])

    def row(example):  # (c, pixels)
        gram = jnp.einsum("cp,cjp->jc", example, channels, precision="highest")
        ordered = jnp.sort(jnp.where(norm == 0, jnp.inf, gram), axis=-1)  # constant channels last
        median = ordered[:, middle].mean(-1)
        return jnp.where(jnp.isnan(ordered[:, -1]), jnp.nan, median)  # NaN, sorted to the end, is not passed over

    rows = max(1, MAX_NUMBERS // (channels.shape[0] * channels.shape[1]))
    return lax.map(row, jnp.moveaxis(channels, 1, 0), batch_size=min(rows, channels.shape[1]))


_RELU_INVARIANCES = frozenset({"isotropic_scaling", "permutation", "positive_diagonal"})
_CKA_INVARIANCES = _RELU_INVARIANCES | {"translation", "sign_flip", "cyclic_shift"}
_GODFREY = "Godfrey et al. 2022"
_MEDIAN = {"reduce": "median"}
_median, _split_median = partial(wreath_cka, **_MEDIAN), partial(split_cka, **_MEDIAN)
_split_similarity = partial(split_procrustes, similarity=True)
_split_angle = partial(split_cka, as_angle=True)


def _similarity(name, fn, least, invariances, split):
    zeros = invariances is _RELU_INVARIANCES
    return Measure(name, fn, _GODFREY, (least, 1.0), "similarity", True, invariances, split, zero_channels=zeros)


def _distance(name, fn, most, invariances, split):
    zeros = invariances is _RELU_INVARIANCES
    return Measure(name, fn, _GODFREY, (0.0, most), "distance", True, invariances, split, zero_channels=zeros)


MEASURES = (
    _similarity("wreath_procrustes", wreath_procrustes, 0.0, _RELU_INVARIANCES, _split_similarity),
    _distance("wreath_procrustes_distance", wreath_procrustes_distance, 2.0, _RELU_INVARIANCES, split_procrustes),
    _similarity("wreath_cka", wreath_cka, -1.0, _CKA_INVARIANCES, split_cka),
    _similarity("wreath_cka_median", _median, -1.0, _CKA_INVARIANCES, _split_median),
    _distance("wreath_cka_distance", wreath_cka_distance, math.pi, _CKA_INVARIANCES, _split_angle),
)
