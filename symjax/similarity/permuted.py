"""Values of a measure for permuted examples of one side, with each representation prepared once.

The permutations are cyclic shifts after random relabellings. For measures that are inner products of kernel matrices,
the values of all shifts are one correlation: n / 2 Fourier transforms of length n, instead of n^2 operations and random
reads for each permutation.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.similarity.measure import Measure
from symjax.similarity.split_measure import kernel_matrix, permute_kernel

MAX_NUMBERS = 2**24  # largest number of entries in memory at once: resampled data and (examples, examples) matrices


class Permutations(NamedTuple):
    """Permutations of n examples. With shifts S_s, they are R^-1 S_s Q_k R for the drawn pairs (k, s).

    Each is uniform by itself, or for k = 0, where Q_0 = 1, uniform among cyclic permutations of its type. A test that
    draws from these pairs is exact: composing the set {R^-1 S_s Q_k R} with the inverse of one of its members gives a
    set of the same distribution (Hemerik, Goeman 2018).
    """

    relabelling: jax.Array  # R, (n,)
    cosets: jax.Array  # Q, (k, n)
    chosen: jax.Array  # k n + s of each permutation, (1 + count,), the identity first

    def orders(self):
        """Return the orders of the examples, (1 + count, n)."""
        n = len(self.relabelling)

        def order(chosen):
            shifted = jnp.roll(self.cosets[chosen // n], -(chosen % n))
            return jnp.zeros_like(shifted).at[self.relabelling].set(self.relabelling[shifted])

        return jax.vmap(order)(self.chosen)


@partial(jax.jit, static_argnums=(1, 2))
def draw_permutations(key, n, count):
    """Draw the identity and `count` different pairs (k, s) of `Permutations`."""
    relabelling_key, coset_key, shift_key = jax.random.split(key, 3)
    cosets = -(-(1 + count) // n)
    relabelling = jax.random.permutation(relabelling_key, n)
    others = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(coset_key, cosets - 1))
    chosen = 1 + jax.random.permutation(shift_key, cosets * n - 1)[:count]
    return Permutations(
        relabelling,
        jnp.concatenate([jnp.arange(n, dtype=others.dtype)[None], others]),
        jnp.concatenate([jnp.zeros(1, chosen.dtype), chosen]),
    )


def permuted_values(measure, xs, ys, permutations, batch_size=None, pairs=None):
    """Return the values (1 + count, len(xs), len(ys)) of representations xs with ys, whose examples are permuted.

    Args:
        measure: `Measure` or function.
        xs, ys: lists of validated representations of the same examples.
        permutations: `Permutations`.
        batch_size: permutations evaluated at once where the measure has no split form; None limits them by memory.
        pairs: booleans (len(xs), len(ys)), which pairs are evaluated; others are NaN.
    """
    count = len(permutations.chosen)
    split = getattr(measure, "split", None)
    if split is not None:
        split = split(tuple(dict.fromkeys(z.shape for z in (*xs, *ys))))
        left, right = ([_prepare(split, z) for z in side] for side in (xs, ys))
        if is_kernel := split.permute is permute_kernel:
            relabelled = permutations.relabelling[None], permutations.relabelling[permutations.cosets]
            left_spectra, right_spectra = (
                [_spectra(prepared, orders) for prepared in side]
                for side, orders in zip((left, right), relabelled, strict=True)
            )

    def values_of(i, j):
        if split is None or split.product.size(left[i], right[j]) is None:
            fn = measure.fn if isinstance(measure, Measure) else measure
            size = batch_size or MAX_NUMBERS // (len(xs[i]) * (xs[i][0].size + ys[j][0].size + 2 * len(xs[i])))
            # A size of 1 is sequential, since `vmap` evaluates both branches of conditions.
            return _of_function(fn, xs[i], ys[j], permutations, size if size > 1 else None)
        if is_kernel:
            return _of_kernels(split, left[i], right[j], left_spectra[i], right_spectra[j], permutations)
        return _of_prepared(split, left[i], right[j], ys[j] if split.permute is None else None, permutations)

    def values_or_nan(i, j):
        return values_of(i, j) if pairs is None or pairs[i, j] else jnp.full(count, jnp.nan, xs[i].dtype)

    return jnp.stack([jnp.stack([values_or_nan(i, j) for j in range(len(ys))], 1) for i in range(len(xs))], 1)


@partial(jax.jit, static_argnums=0)
def _prepare(split, x):
    return split.prepare(x)


@partial(jax.jit, static_argnums=(0, 4))
def _of_function(fn, x, y, permutations, batch_size):
    return lax.map(lambda order: fn(x, y[order]), permutations.orders(), batch_size=batch_size)


@partial(jax.jit, static_argnums=0)
def _of_prepared(split, a, b, y, permutations):
    def value(order):
        return split.compare(a, split.prepare(y[order]) if split.permute is None else split.permute(b, order))

    return lax.map(value, permutations.orders())


@jax.jit
def _spectra(prepared, orders):
    """Return the Fourier transforms (orders, n / 2 + 1, n / 2 + 1) of the wrapped diagonals of kernel matrices.

    Diagonal d < n / 2 + 1 of the matrix with its examples in an order has the entries (i, i + d modulo n); by symmetry
    the others repeat these.
    """
    kernel, n = kernel_matrix(prepared), orders.shape[1]
    columns = (jnp.arange(n // 2 + 1)[:, None] + jnp.arange(n)) % n
    return lax.map(lambda order: jnp.fft.rfft(kernel[order, order[columns]]), orders)


@partial(jax.jit, static_argnums=0)
def _of_kernels(split, a, b, a_spectra, b_spectra, permutations):
    n = len(permutations.relabelling)
    diagonals = jnp.arange(n // 2 + 1)
    repeats = jnp.where((diagonals > 0) & (2 * diagonals != n), 2, 1).astype(a_spectra.dtype)[:, None]
    # All shifts of a coset at once: the correlation of the diagonals of both kernel matrices.
    spectra = lax.map(lambda spectrum: (repeats * a_spectra[0].conj() * spectrum).sum(0), b_spectra)
    products = jnp.fft.irfft(spectra, n).reshape(-1)[permutations.chosen]

    def value(permutation):
        product, order = permutation
        return split.value_of(product[None, None], a, b, order)

    return lax.map(value, (products, permutations.orders()))
