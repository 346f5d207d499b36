"""CCA of maps at each spatial frequency."""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.ops import parallel
from symjax.similarity.cca_checks import resolve_rcond, warn_of_few_examples
from symjax.similarity.channels import magnitude, norms, subtract_mean, zero_rounding
from symjax.similarity.inputs import as_map_pair, as_maps
from symjax.similarity.linalg import adjoint, hold_constant, masked, reciprocal, unit_columns
from symjax.similarity.measure import LINEAR, Measure
from symjax.similarity.pair_product import PairProduct, Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples
from symjax.spelling import one_line


class FourierCCA(NamedTuple):
    """CCA at each of f_h x f_w frequencies.

    The remaining frequencies of a real map are conjugate and give the same values.
    """

    correlations: jax.Array  # (f_h, f_w, k), descending, in [0, 1], k = min(c_x, c_y)
    mean_correlations: jax.Array  # (f_h, f_w), sum over the smaller rank; NaN where that is 0
    x_rank: jax.Array  # int32 (f_h, f_w)
    y_rank: jax.Array
    rows: jax.Array  # int32 (f_h,), vertical frequencies, in periods per map
    columns: jax.Array  # int32 (f_w,), horizontal frequencies, nonnegative
    weights: jax.Array  # (f_w,), number of frequencies of the full transform that a column represents: 1 or 2

    def __repr__(self):
        return one_line(self)


def fourier_cca(x, y, *, layout=None, rcond=None):
    """Compute CCA of the channels of two maps at each spatial frequency ("DFT CCA").

    The discrete Fourier transform over the map turns a cyclic convolution into one c_y x c_x matrix per frequency.
    Layers that are convolutions of each other therefore have correlation 1 everywhere. At each frequency the n complex
    vectors of channels are centered, and their canonical correlations are the singular values of Qx* Qy, as in `cca`.
    Half of the frequencies are computed (those of `jnp.fft.rfft2`), since maps are real.

    Maps of different sizes are compared at their common frequencies, as if resized by cropping the spectrum. Along an
    axis where sizes differ, these are the frequencies under half the smaller size. (At half of an even size, a map has
    one number for a frequency and its negative, but a larger map has two.) A matrix (n, d) is a map of one pixel, for
    which the result is that of `cca`.

    Derivatives: first derivatives of correlations, and of functions symmetric in those that coincide, at constant rank.

    Args:
        x: (n, h, w, c_x), floating (integers become the default float, half precisions float32).
        y: (n, h', w', c_y).
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        rcond: as in `cca`.

    Returns:
        `FourierCCA`.

    Raises:
        InputError: x or y not as above, different numbers of examples, fewer than 2; rcond not in [0, 1); concrete NaN
            or infinite entries.

    Reference: Raghu et al. 2017, section 3.1.

    Example:
        >>> import numpy as np
        >>> from symjax import fourier_cca
        >>> x = np.random.default_rng(0).normal(size=(16, 4, 4, 2))
        >>> result = fourier_cca(x, np.roll(x, 1, axis=2))  # cyclic shift
        >>> result.correlations.shape, float(result.mean_correlations.min().round(4))
        ((4, 3, 2), 1.0)
    """
    x, y = as_map_pair(x, y, layout=layout, translation_invariant=True)
    warn_of_few_examples(x.shape[0], x.shape[-1], y.shape[-1])
    return _fourier_cca(x, y, resolve_rcond(rcond, x[:, 0, 0], y[:, 0, 0]))


@partial(jax.jit, static_argnums=2)
def _fourier_cca(x, y, rcond):
    rows, columns = _frequencies(x.shape[1:3], y.shape[1:3])
    x_spectrum, y_spectrum = (_spectrum(side, rows, columns) for side in (x, y))
    correlations, x_rank, y_rank = _correlations_by_frequency(x_spectrum, y_spectrum, rcond)
    correlations, x_rank, y_rank = (
        part.reshape(len(rows), len(columns), *part.shape[1:]) for part in (correlations, x_rank, y_rank)
    )
    return FourierCCA(
        correlations,
        correlations.sum(-1) / jnp.minimum(x_rank, y_rank).astype(correlations.dtype),
        x_rank,
        y_rank,
        jnp.asarray(rows, jnp.int32),
        jnp.asarray(columns, jnp.int32),
        _weights(columns, x.shape[2]).astype(correlations.dtype),
    )


def _frequencies(size, other):
    """Return (rows, columns): the common frequencies of maps of both sizes (h, w), without conjugate ones."""
    (h, w), (other_h, other_w) = size, other
    return _shared_frequencies(h, other_h), np.unique(np.abs(_shared_frequencies(w, other_w)))


def _weights(columns, width):
    """Return how many frequencies of the full transform of `width` each column represents."""
    return jnp.where((columns == 0) | (2 * columns == width), 1, 2)


def _shared_frequencies(size, other):
    """Return the common frequencies of axes of both sizes in the order of the transform: 0, 1, ..., -1."""
    if size == other:
        return np.fft.fftfreq(size, 1 / size).round().astype(int)
    top = (min(size, other) - 1) // 2
    return np.concatenate([np.arange(top + 1), np.arange(-top, 0)])


def _spectrum(x, rows, columns):
    """Return the spectrum of centered maps (frequencies, n, c), exactly 0 where it is at rounding level."""
    x = x / magnitude(x, (0, 1, 2), keepdims=True)  # correlations do not depend on scales
    centered, _ = subtract_mean(x, (0,))
    spectrum = jnp.fft.rfft2(centered, axes=(1, 2))[:, rows][:, :, columns]
    spectrum = spectrum.transpose(1, 2, 0, 3).reshape(len(rows) * len(columns), x.shape[0], x.shape[3])
    # Rounding errors of the given numbers are equal at all frequencies; so are those of the transform's sums.
    power, summed = norms(x, (0, 1, 2)), math.sqrt(x.shape[1] * x.shape[2]) * norms(centered, (0, 1, 2))
    return jax.vmap(zero_rounding, (0, None))(spectrum, jnp.maximum(power, summed).reshape(1, -1))


def _correlations_by_frequency(x, y, rcond):
    return jax.vmap(lambda x, y: _correlations(unit_columns(x)[0], unit_columns(y)[0], rcond))(x, y)


def _correlations(x, y, rcond):
    """Return canonical correlations of complex X (n, c_x) and Y (n, c_y), and ranks; correlations have derivatives."""
    count = min(x.shape[1], y.shape[1])
    constant_x, constant_y = lax.stop_gradient((x, y))
    (x_basis, x_transform, x_rank), (y_basis, y_transform, y_rank) = (
        _basis(constant_x, rcond),
        _basis(constant_y, rcond),
    )
    p, correlations, qh = jnp.linalg.svd(matmul(adjoint(x_basis), y_basis), full_matrices=False)
    correlations = jnp.minimum(correlations, 1)
    used = jnp.arange(len(correlations), dtype=jnp.int32) < jnp.minimum(x_rank, y_rank)
    correlations = jnp.where(used, correlations, 0 * correlations)
    # d rho_i = Re <d x a_i, k_i - rho_i h_i> + Re <d y b_i, h_i - rho_i k_i>, with h = X a and k = Y b, is linear in X
    # and Y. Hence a term of value zero (X minus a constant equal to X) has this derivative.
    p, q = masked(p, used), masked(adjoint(qh), used)
    a, b, h, k = matmul(x_transform, p), matmul(y_transform, q), matmul(x_basis, p), matmul(y_basis, q)
    a, b, h, k, rho = hold_constant((a, b, h, k, correlations.astype(x.dtype)), (x, y))
    slope = _inner(matmul(x - constant_x, a), k - h * rho[None]) + _inner(matmul(y - constant_y, b), h - k * rho[None])
    return jnp.pad(correlations + slope, (0, count - len(correlations))), x_rank, y_rank


def _basis(x, rcond):
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    kept = ~(s <= rcond * s[0])  # NaN counts as kept
    transform = adjoint(vh) * masked(reciprocal(s), kept).astype(x.dtype)[None]
    return masked(u, kept), transform, kept.sum(dtype=jnp.int32)


def _inner(left, right):
    return jnp.einsum("ni,ni->i", left.conj(), right, precision="highest").real


def fourier_cca_similarity(x, y, *, layout=None, rcond=None):
    """Compute the mean of `fourier_cca` over correlations, then over all frequencies of the full transform.

    Args and Raises: as for `fourier_cca`.

    Returns:
        0-d array in [0, 1]. Frequencies at which a side is constant have no correlation and are left out; NaN where
        none remains. Symmetric. Invariant to translation and invertible linear maps of channels, and to cyclic shifts
        of either side's maps.

    Example:
        >>> import numpy as np
        >>> from symjax import fourier_cca_similarity
        >>> x = np.random.default_rng(0).normal(size=(16, 4, 4, 2))
        >>> print(f"{fourier_cca_similarity(x, np.roll(x, 1, axis=2)):.3f}")
        1.000
    """
    result = fourier_cca(x, y, layout=layout, rcond=rcond)
    return _mean(result.correlations.sum(-1), jnp.minimum(result.x_rank, result.y_rank), result.weights)


def _mean(totals, ranks, weights):
    """Return the mean over ranks and then over frequencies, from sums of correlations (f_h, f_w)."""
    weights = jnp.where(ranks > 0, weights, 0)
    return (weights * totals / jnp.maximum(ranks, 1).astype(weights.dtype)).sum() / weights.sum()


class Spectrum(NamedTuple):
    """The auxiliary data of one representation in `split`."""

    rank: jax.Array  # int32 (f_h, f_w)
    size: jax.Array  # (h, w, 0), whose shape is that of the maps


@lru_cache(maxsize=64)
def split(shapes, *, rcond=None):
    """Return `fourier_cca_similarity` as a `SplitMeasure`.

    Where `rcond` is None, the default depends on each side's width.
    """

    def prepare(x):
        x = as_maps(x, layout="nhwc")
        rows, columns = _frequencies(x.shape[1:3], x.shape[1:3])
        least = resolve_rcond(rcond, x[:, 0, 0])
        basis, rank = _over_frequencies(lambda z: _basis(unit_columns(z)[0], least)[::2])(_spectrum(x, rows, columns))
        shape = len(rows), len(columns)
        data = basis.transpose(2, 1, 0).reshape(basis.shape[2], basis.shape[1], *shape)
        return Prepared(data, Spectrum(rank.reshape(shape), jnp.zeros((*x.shape[1:3], 0), x.dtype)))

    def finish(cross, a, b):
        size, other = a.size.shape[:2], b.size.shape[:2]
        rows, columns = _frequencies(size, other)
        ranks = jnp.minimum(*(side.rank[rows][:, columns] for side in (a, b)))
        correlations = _over_frequencies(partial(jnp.linalg.svd, compute_uv=False))(cross.reshape(-1, *cross.shape[2:]))
        totals = jnp.minimum(correlations, 1).sum(-1).reshape(ranks.shape)
        return _mean(totals, ranks, _weights(columns, size[1]).astype(totals.dtype))

    return SplitMeasure(
        prepare,
        finish,
        product=PairProduct(_common_frequencies, _select_frequencies, _products_by_frequency),
        permute=permute_samples,
    )


def _over_frequencies(fn):
    """Map fn over frequencies, in a form that several devices can run at once; see `parallel.use_cores`."""
    return parallel.each(fn, parallel.default_execution())


def _common_frequencies(a, b):
    size, other = a.aux.size.shape[:2], b.aux.size.shape[:2]
    return tuple(tuple(map(int, axis)) for axis in _frequencies(size, other))


def _select_frequencies(data, frequencies):
    rows, columns = frequencies
    if data.shape[-2:] == (len(rows), len(columns)):
        return data
    return data[..., np.array(rows), :][..., np.array(columns)]


def _products_by_frequency(a, b):
    """Return Qx* Qy at each frequency for all pairs of a (i, p, n, f_h, f_w) and b (j, q, n, f_h, f_w)."""
    return jnp.einsum("ipnhw,jqnhw->ijhwpq", a.conj(), b, precision="highest")


MEASURES = (
    Measure(
        name="fourier_cca",
        fn=fourier_cca_similarity,
        reference="Raghu et al. 2017, section 3.1 (DFT CCA)",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=LINEAR | {"translation", "cyclic_shift"},
        split=split,
        zero_channels=True,
        cost="n h w p (p + log(h w)) once, n h w p q a pair",
        bias="as cca, with n examples at each frequency",
        use="convolutional maps compared up to shifts",
    ),
)
