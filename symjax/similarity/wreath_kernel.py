"""The kernel of `wreath_cka`: the maximum or the median over the kernels of single channels."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.channels import subtract_mean, unit_norm

MAX_NUMBERS = 2**24  # largest number of entries in memory at once for the median


def wreath_kernel(x, reduce="max"):
    """Return the kernel matrix (n, n) of `wreath_cka` for maps (n, h, w, c)."""
    channels = jnp.moveaxis(x, -1, 0).reshape(x.shape[-1], len(x), -1)  # channels are contiguous
    if reduce == "median":
        return _median_kernel(channels)
    upper = jnp.zeros((len(x), len(x)), x.dtype)
    for start, strip in zip(_strip_starts(len(x)), _max_strips(channels), strict=True):
        upper = upper.at[start : start + len(strip), start:].set(strip)
    return jnp.triu(upper) + jnp.triu(upper, 1).T


@jax.custom_jvp
def _max_strips(channels):
    """Return strips of the max kernel of channels (c, n, pixels)."""
    strips, _ = lax.scan(
        lambda best, h: (_map(jnp.maximum, best, _strips_of_channel(h)), None), _empty_strips(channels), channels
    )
    return strips


@_max_strips.defjvp
def _max_strips_jvp(primals, tangents):
    # Autodiff compares the maxima with values that the compiler may round differently. The index of the winning
    # channel does not depend on rounding.
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
    """Return `strips`, the kernels of the channels `winner`, with derivatives of every order by `channels`."""
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
    """Return strips of the kernel of one channel (n, pixels); -inf if it is constant, so that no maximum selects it."""
    channel, norm = _standardized(channel)
    products = (
        matmul(channel[i : i + _strip_height(len(channel))], channel[i:].T) for i in _strip_starts(len(channel))
    )
    return tuple(jnp.where(norm == 0, -jnp.inf, product) for product in products)


def _standardized(channel):
    return unit_norm(subtract_mean(channel, (0, 1))[0])


def _empty_strips(channels):
    n = channels.shape[1]
    return tuple(jnp.full((min(_strip_height(n), n - i), n - i), -jnp.inf, channels.dtype) for i in _strip_starts(n))


def _strip_starts(n):
    """Return the first rows of the strips of a symmetric (n, n) matrix; each strip begins at its diagonal block."""
    return range(0, n, _strip_height(n))


def _strip_height(n):
    return max(128, -(-n // 4))  # 4 strips save 3/8 of the operations; products of fewer rows are slower


def _map(function, *trees):
    return jax.tree.map(function, *trees)


def _median_kernel(channels):
    """Return the median over channels that vary, in blocks of rows of the kernel, for all channels at once."""
    channels, norm = lax.map(_standardized, channels)
    count = (norm > 0).sum()
    middle = jnp.stack([(count - 1) // 2, count // 2])

    def row(example):  # (c, pixels)
        gram = jnp.einsum("cp,cjp->jc", example, channels, precision="highest")
        ordered = jnp.sort(jnp.where(norm == 0, jnp.inf, gram), axis=-1)  # constant channels last
        median = ordered[:, middle].mean(-1)
        return jnp.where(jnp.isnan(ordered[:, -1]), jnp.nan, median)  # NaN is sorted to the end

    rows = max(1, MAX_NUMBERS // (channels.shape[0] * channels.shape[1]))
    return lax.map(row, jnp.moveaxis(channels, 1, 0), batch_size=min(rows, channels.shape[1]))
