"""Streams that equal the functions on the whole data, computed from means and second moments."""

from functools import partial

import jax
import jax.numpy as jnp

from symjax.checks import flag, is_concrete
from symjax.similarity.alignment import paired_samples
from symjax.similarity.canonical_variates import cca_of_centered
from symjax.similarity.cca_checks import resolve_rcond, warn_of_few_examples
from symjax.similarity.inputs import as_pair, check_layout, check_samples
from symjax.similarity.pca import check_variance
from symjax.similarity.pls import pls_of_centered
from symjax.similarity.procrustes import best_permutation, best_rotation, with_similarity
from symjax.similarity.pwcca import weighted_mean
from symjax.similarity.streams.moments import (
    add_batch,
    centered,
    centered_neurons,
    merge_moments,
    uncentered,
    zero_moments,
)
from symjax.similarity.streams.stream import Stream, require_same_shapes, require_samples, samples_of
from symjax.similarity.svcca import svcca_of_centered
from symjax.similarity.wreath import best_positive_matching


def cca_stream(rcond=None, *, samples="positions", layout=None):
    """Compute `cca` of all samples of all batches, from running means and triangular factors (`streams.moments`).

    With D = d_x + d_y neurons in all, the state has 3 D^2 + 2 D numbers. A batch of m samples takes a QR of m + D rows,
    2 (m + D) D^2 operations, and a few m x D of memory; choose m at least D if possible. (Under `vmap`, two QRs of 2 D
    rows are added.) A merge takes three QRs of 2 D rows; the result takes one of 3 D rows and `cca` of D samples. The
    accuracy is about that of `cca`: in float32, at condition 10^3, errors of correlations were 2e-5 to 3e-5, those of
    `cca` 1e-5 to 2e-5. Updates are differentiable.

    Padding can be masked. States of `cca_stream`, `pwcca_stream`, `svcca_stream` and `pls_stream` are interchangeable
    for equal `samples`; so are those of the Procrustes streams.

    Args:
        rcond, samples, layout: as in `cca`.

    Returns:
        `Stream`; finalize returns a `CCA`, and issues the `FewExamplesWarning` of `cca` where the state is concrete.

    Raises:
        InputError: as `cca`; in finalize, fewer than 2 samples. Batches of one example are allowed.

    Example:
        >>> import numpy as np
        >>> from symjax import cca_stream
        >>> x = np.random.default_rng(0).normal(size=(32, 4))
        >>> stream = cca_stream()
        >>> state = stream.init(x[:16], x[:16])
        >>> for batch in (x[:16], x[16:]):
        ...     state = stream.update(state, batch, 2 * batch + 1)
        >>> stream.finalize(state).correlations.round(3).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    return _cca_stream(_cca, rcond, samples, layout)


def pwcca_stream(rcond=None, *, samples="positions", layout=None):
    """Compute `pwcca` of all samples of all batches. Otherwise as `cca_stream`.

    Example:
        >>> import numpy as np
        >>> from symjax import pwcca_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = pwcca_stream()
        >>> state = stream.update(stream.init(x, x), x, 2 * x + 1)
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    return _cca_stream(_pwcca, rcond, samples, layout, "pwcca")


def svcca_stream(variance=0.99, *, samples="positions", layout=None, full_output=False):
    """Compute `svcca` of all samples of all batches. Memory, cost and errors are those of `cca_stream`.

    Args:
        variance, samples, layout, full_output: as in `svcca`.

    Returns:
        `Stream`; finalize returns the similarity, or (similarity, `CCA`).

    Example:
        >>> import numpy as np
        >>> from symjax import svcca_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = svcca_stream(0.9)
        >>> state = stream.update(stream.init(x, x), x, 2 * x + 1)
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    check_variance(variance)
    flag("full_output", full_output)

    def finalize(state, num_samples):
        similarity, result = _svcca(state, variance)
        if num_samples is not None and is_concrete(similarity):
            warn_of_few_examples(num_samples, int(result.x_rank), int(result.y_rank), "svcca")
        return (similarity, result) if full_output else similarity

    return _stream(as_pair, samples, layout, finalize)


def pls_stream(*, samples="positions", layout=None):
    """Compute `pls` of all samples of all batches, always with min(d_x, d_y) pairs. Otherwise as `cca_stream`.

    Example:
        >>> import numpy as np
        >>> from symjax import pls_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = pls_stream()
        >>> state = stream.update(stream.init(x, x), x, 2 * x + 1)
        >>> stream.finalize(state).covariances.shape
        (4,)
    """

    def finalize(state, _):
        return _pls(state)

    return _stream(as_pair, samples, layout, finalize)


def procrustes_stream(*, center=False, samples="positions", layout=None, full_output=False):
    """Compute `procrustes` of all samples of all batches. Memory, cost and errors are those of `cca_stream`.

    Args:
        center, samples, layout, full_output: as in `procrustes`.

    Returns:
        `Stream`; finalize returns the similarity, or the similarity and the `Rotation`.

    Example:
        >>> import numpy as np
        >>> from symjax import procrustes_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = procrustes_stream()
        >>> state = stream.update(stream.init(x, x), x, 2 * x[:, ::-1])
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    return _procrustes_stream(_rotate, center, samples, layout, full_output)


def permutation_procrustes_stream(*, center=False, samples="positions", layout=None, full_output=False):
    """Compute `permutation_procrustes` of all samples of all batches, with the `Matching` for `full_output`.

    Otherwise as `procrustes_stream`.

    Example:
        >>> import numpy as np
        >>> from symjax import permutation_procrustes_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = permutation_procrustes_stream()
        >>> state = stream.update(stream.init(x, x), x, 2 * x[:, ::-1])
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    return _procrustes_stream(_permute, center, samples, layout, full_output)


def wreath_procrustes_stream(*, samples="positions", layout=None, full_output=False):
    """Compute `wreath_procrustes` of all samples of all batches, with the `Matching` for `full_output`.

    Otherwise as `procrustes_stream`.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_procrustes_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = wreath_procrustes_stream()
        >>> state = stream.update(stream.init(x, x), x, x[:, ::-1] * np.arange(1, 5))
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    flag("full_output", full_output)

    def finalize(state, _):
        return with_similarity(*_match(state), full_output)

    return _stream(paired_samples, samples, layout, finalize)


def _cca_stream(compute, rcond, samples, layout, measure="cca"):
    """Return the `Stream` with the result compute(state, rcond)."""
    if rcond is not None:
        resolve_rcond(rcond)

    def finalize(state, num_samples):
        if num_samples is not None:
            warn_of_few_examples(num_samples, len(state.x.shift), len(state.y.shift), measure)
        sides = (jax.ShapeDtypeStruct((1, len(z.shift)), z.shift.dtype) for z in (state.x, state.y))
        return compute(state, resolve_rcond(rcond, *sides))

    return _stream(as_pair, samples, layout, finalize)


def _procrustes_stream(align, center, samples, layout, full_output):
    """Return the `Stream` with the distance and alignment align(state, center)."""
    flag("center", center)
    flag("full_output", full_output)

    def finalize(state, _):
        return with_similarity(*align(state, center), full_output)

    return _stream(paired_samples, samples, layout, finalize)


def _stream(pair_of, samples, layout, finalize):
    """Return the `Stream` of `Moments` of the matrices that `pair_of` (`as_pair` or `paired_samples`) returns.

    `finalize(state, num_samples)` receives the number of samples, at least 2, or None if the state is traced.
    """
    check_samples(samples)
    check_layout(layout)
    pair_of = partial(pair_of, samples=samples, layout=layout, min_examples=1)

    def init(x, y):
        x, y = jax.eval_shape(pair_of, x, y)
        return zero_moments(x.shape[1], y.shape[1], x.dtype)

    def update(state, x, y, mask=None):
        return add_batch(state, *samples_of(pair_of, x, y, mask, (state.x.shift, state.y.shift), "neurons"))

    def merge(a, b):
        require_same_shapes(a, b)
        return merge_moments(a, b)

    def checked_finalize(state):
        return finalize(state, require_samples(state.count, 2, "samples"))

    enlarged = ", the smaller map enlarged" if samples == "positions" and pair_of.func is paired_samples else ""
    return Stream(init, update, merge, checked_finalize, f"moments (samples: {samples}{enlarged})")


@partial(jax.jit, static_argnums=1)
def _cca(state, rcond):
    x, y, samples = centered_neurons(state)
    return cca_of_centered(x, y, rcond, samples)


@partial(jax.jit, static_argnums=1)
def _pwcca(state, rcond):
    return weighted_mean(_cca(state, rcond))


@jax.jit
def _svcca(state, variance):
    x, y, samples = centered_neurons(state)
    return svcca_of_centered(x, y, variance, samples)


@jax.jit
def _pls(state):
    x, y, samples = centered_neurons(state)
    return pls_of_centered(x, y, samples)


@partial(jax.jit, static_argnums=1)
def _rotate(state, center):
    return best_rotation(*_center_if(state, center))


@partial(jax.jit, static_argnums=1)
def _permute(state, center):
    return best_permutation(*_center_if(state, center))


def _center_if(state, center):
    """Return x, y and the means that were subtracted, as in `procrustes`."""
    if center:
        (x, x_mean), (y, y_mean), _ = centered(state)
        return x, y, (x_mean, y_mean)
    return *uncentered(state), (jnp.zeros_like(state.x.shift), jnp.zeros_like(state.y.shift))


@jax.jit
def _match(state):
    return best_positive_matching(*uncentered(state))
