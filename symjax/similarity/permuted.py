"""Values of a measure for permuted examples of one side, with each representation prepared once.

The permutations are shifts along cycles to which the examples are assigned at random. The products X' P Y for all
shifts then follow from Fourier transforms along the cycles, one complex product for each frequency, and one product
with the matrix of the inverse transform. For 200 permutations these are as many operations as 50 products for 1,000
examples, and 12 for 5,000. Inner products of kernel matrices follow from transforms of their wrapped diagonals, without
a pass over n^2 entries in random order for each permutation.
"""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.measure import Measure
from symjax.similarity.nuclear_norm import nuclear_norms
from symjax.similarity.pair_product import MAP_PRODUCT
from symjax.similarity.split_measure import kernel_matrix, permute_kernel, permute_matrices

MAX_NUMBERS = 2**24  # largest number of entries in memory at once: resampled data and (examples, examples) matrices
MAX_PRODUCTS = 2**26  # largest number of entries of the products X' P Y for all permutations P, and of their transform


class Permutations(NamedTuple):
    """Permutations of n examples: shifts of m cycles of L examples, for k assignments of examples to their places.

    A shift of the first assignment is uniform among all permutations with its cycle lengths, a shift of another one
    among all permutations. A test that draws from these pairs of an assignment and a shift is exact: composing the set
    of all permutations with the inverse of one of its members gives a set of the same distribution (Hemerik, Goeman
    2018). For one assignment the shifts are a group (Lehmann, Romano, section 15.2).
    """

    cycles: jax.Array  # (m, L), the examples of each cycle
    assigned: jax.Array  # (k, m, L), the examples assigned to their places; the first assignment is `cycles`
    fixed: jax.Array  # (n - m L,), the examples that no shift moves
    places: jax.Array  # (n,), the place of each example in `cycles` and `fixed`
    chosen: jax.Array  # assignment times L, plus shift: (1 + count,), the identity first

    def order(self, chosen):
        """Return the order of the examples for one of `chosen`, (n,)."""
        length = self.cycles.shape[1]
        shifted = jnp.roll(self.assigned[chosen // length], -(chosen % length), axis=1)
        return jnp.concatenate([shifted.reshape(-1), self.fixed])[self.places]

    def orders(self):
        """Return the orders of the examples, (1 + count, n)."""
        return jax.vmap(self.order)(self.chosen)


@partial(jax.jit, static_argnums=(1, 2))
def draw_permutations(key, n, count):
    """Draw the identity and `count` different shifts as `Permutations`.

    For n at least 2 (1 + count), all cycles have the length from 1 + count to 2 count + 1 that leaves the fewest
    examples fixed, less than n / (1 + count) of them. For smaller n, all examples are in one cycle.
    """
    relabeling_key, assignment_key, shift_key = jax.random.split(key, 3)
    length = n
    if n >= 2 * (1 + count):
        length = min(range(1 + count, min(2 * (1 + count), n // 2 + 1)), key=lambda length: n % length)
    moved = n - n % length
    num_assignments = -(-(1 + count) // length)
    examples = jax.random.permutation(relabeling_key, n)
    others = jax.vmap(lambda key: jax.random.permutation(key, n))(jax.random.split(assignment_key, num_assignments - 1))
    assigned = jnp.concatenate([examples[None], examples[others]])[:, :moved]
    chosen = 1 + jax.random.permutation(shift_key, num_assignments * length - 1)[:count]
    return Permutations(
        examples[:moved].reshape(-1, length),
        assigned.reshape(num_assignments, -1, length),
        examples[moved:],
        jnp.argsort(examples),
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
            assigned = permutations.cycles[None], permutations.assigned
            left_spectra, right_spectra = (
                [_spectra(prepared, cycles, permutations.fixed) for prepared in side]
                for side, cycles in zip((left, right), assigned, strict=True)
            )

    def values_of(i, j):
        if split is None or split.product.size(left[i], right[j]) is None:
            fn = measure.fn if isinstance(measure, Measure) else measure
            size = batch_size or MAX_NUMBERS // (len(xs[i]) * (xs[i][0].size + ys[j][0].size + 2 * len(xs[i])))
            # A size of 1 is sequential, since `vmap` evaluates both branches of conditions.
            return _of_function(fn, xs[i], ys[j], permutations, size if size > 1 else None)
        if is_kernel:
            return _of_kernels(split, left[i], right[j], left_spectra[i], right_spectra[j], permutations)
        if split.permute is None or split.permute is permute_matrices or split.product is not MAP_PRODUCT:
            return _of_prepared(split, left[i], right[j], ys[j] if split.permute is None else None, permutations)
        if count * len(left[i].data) * len(right[j].data) > MAX_PRODUCTS:
            return _of_prepared(split, left[i], right[j], None, permutations)
        return _of_products(split, left[i], right[j], permutations)

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


@partial(jax.jit, static_argnums=0)
def _of_products(split, a, b, permutations):
    """Return the values from the products of samples for all permutations."""
    size, n = split.product.size(a, b), permutations.cycles.size + len(permutations.fixed)
    data = (split.product.downsample(side.data, size) for side in (a, b))
    left, right = (part.reshape(len(part), n, -1) for part in data)  # (channels, examples, pixels)
    chosen = permutations.chosen[1:]
    # The matrix of the inverse transform has about (1 + count) L entries; more than MAX_PRODUCTS also overflow int32.
    if len(permutations.cycles) > 1 and len(permutations.chosen) * permutations.cycles.shape[1] <= MAX_PRODUCTS:
        products = _products_of_shifts(left, right, permutations)
    else:
        products = lax.map(lambda one: _product(left, right[:, permutations.order(one)]), chosen)
    reduced = nuclear_norms(products) if split.nuclear else products
    values = lax.map(partial(_value, split, a, b, permutations), (reduced, chosen))
    return jnp.concatenate([split.compare(a, b)[None], values])


def _value(split, a, b, permutations, item):
    """Return the value from the `reduce`d product of a and of b in one order."""
    reduced, chosen = item
    return split.value_of(reduced, a, lambda: split.permute(b, permutations.order(chosen)))


def _product(left, right):
    return matmul(left.reshape(len(left), -1), right.reshape(len(right), -1).T)


def _products_of_shifts(left, right, permutations):
    """Return the products (count, p, q) of left (p, n, pixels) and the shifts of right (q, n, pixels)."""
    length = permutations.cycles.shape[1]

    def spectrum(side):
        transformed = jnp.fft.rfft(side[:, permutations.cycles], axis=2)  # (p, m, frequencies, pixels)
        return transformed.transpose(2, 0, 1, 3).reshape(transformed.shape[2], len(side), -1)

    cross = jnp.matmul(spectrum(left).conj(), spectrum(right).swapaxes(1, 2), precision="highest")
    frequency = np.arange(len(cross))
    weights = jnp.asarray(np.where((frequency > 0) & (2 * frequency != length), 2, 1) / length, left.dtype)
    angles = 2 * np.pi / length * np.arange(length)
    phases = jnp.asarray(frequency, permutations.chosen.dtype) * permutations.chosen[1:, None] % length
    inverse = [weights * jnp.asarray(wave(angles), left.dtype)[phases] for wave in (np.cos, np.sin)]
    inverse = jnp.concatenate(inverse, 1)
    parts = jnp.concatenate([cross.real, -cross.imag]).reshape(inverse.shape[1], -1)
    products = matmul(inverse, parts).reshape(-1, *cross.shape[1:])
    return products + _product(left[:, permutations.fixed], right[:, permutations.fixed])


@lru_cache(maxsize=8)
def _diagonals(num_cycles, length, num_fixed):
    """Return (first, second, shift, weight): the wrapped diagonals of a symmetric matrix whose rows are in cycles.

    A diagonal has the entries of the rows (first, i) and the columns (second, i + shift modulo length). An example that
    is fixed counts as a cycle that repeats it. Diagonals that follow by symmetry are part of the weight.
    """
    diagonals = []
    for first in range(num_cycles + num_fixed):
        for second in range(first, num_cycles + num_fixed):
            if second >= num_cycles:
                shifts = np.zeros(1, int)
            else:
                shifts = np.arange(length // 2 + 1 if first == second else length)
            once = (first == second) & ((shifts == 0) | (2 * shifts == length))
            weights = np.where(once, 1, 2) / (length if first >= num_cycles else 1)
            diagonals.append(np.stack([np.full(len(shifts), first), np.full(len(shifts), second), shifts, weights]))
    first, second, shift, weight = np.concatenate(diagonals, 1)
    return *(index.astype(np.int32) for index in (first, second, shift)), weight


@jax.jit
def _spectra(prepared, assigned, fixed):
    """Return the Fourier transforms (k, diagonals, L / 2 + 1) of kernel matrices, see `_diagonals`."""
    kernel, (_, num_cycles, length) = kernel_matrix(prepared), assigned.shape
    first, second, shift, _ = _diagonals(num_cycles, length, len(fixed))
    places = (shift[:, None] + np.arange(length, dtype=np.int32)) % length

    def spectrum(cycles):
        cycles = jnp.concatenate([cycles, jnp.broadcast_to(fixed[:, None], (len(fixed), length))])
        return jnp.fft.rfft(kernel[cycles[first], cycles[second[:, None], places]])

    return lax.map(spectrum, assigned)


@partial(jax.jit, static_argnums=0)
def _of_kernels(split, a, b, a_spectra, b_spectra, permutations):
    num_cycles, length = permutations.cycles.shape
    weights = _diagonals(num_cycles, length, len(permutations.fixed))[3].astype(a_spectra.dtype)[:, None]
    # All shifts of an assignment at once: the correlation of the diagonals of both kernel matrices.
    spectra = lax.map(lambda spectrum: (weights * a_spectra[0].conj() * spectrum).sum(0), b_spectra)
    products = jnp.fft.irfft(spectra, length).reshape(-1)[permutations.chosen]
    return lax.map(partial(_value, split, a, b, permutations), (products[:, None, None], permutations.chosen))
