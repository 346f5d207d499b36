"""Minibatch CKA (Nguyen, Raghu, Kornblith 2021): the mean of HSIC over batches, then the ratio.

    CKA = mean_b HSIC(K_b, L_b) / sqrt(mean_b HSIC(K_b, K_b) mean_b HSIC(L_b, L_b)),

where each HSIC is that of one batch's examples. With HSIC_1 ("song") and the linear kernel each mean is an unbiased
estimate of the population's value, for any batch size. Its noise differs from that of CKA on the whole data, since
pairs of examples from different batches are not compared.

Batches are weighted by their number of examples, so that all examples have equal weight. Batches of equal size, as
published, have equal weight.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.checks import is_concrete, one_of
from symjax.errors import InputError
from symjax.similarity.angles import ratio
from symjax.similarity.channels import subtract_ninther, unit_norm
from symjax.similarity.cka import cheaper_form
from symjax.similarity.hsic import center_kernel, check_estimator, hsic_of_features, normalizer
from symjax.similarity.inputs import as_map_pair, as_pair, check_layout, check_samples
from symjax.similarity.kernels import check_kernel, kernel_of
from symjax.similarity.streams.exact_cka import exact_cka_stream
from symjax.similarity.streams.stream import (
    Stream,
    add_counts,
    as_float,
    count_of,
    no_samples,
    require_same_shapes,
    require_samples,
)
from symjax.similarity.wreath import check_reduce
from symjax.similarity.wreath_kernel import wreath_kernel
from symjax.spelling import one_line

FORMS = ("auto", "exact", "minibatch")


class Means(NamedTuple):
    """The state: weighted means of HSIC over batches."""

    # (2,) int32, number of examples; see `stream.count_of`
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    scales: jax.Array  # (2,), sizes of x and y; the linear kernel is proportional to their squares
    means: jax.Array  # (3,), means of HSIC(K, L), HSIC(K, K), HSIC(L, L), of x and y divided by their scales

    def __repr__(self):
        return one_line(self)


def cka_stream(estimator="song", kernel="linear", *, bandwidth=1.0, samples="flatten", layout=None, form="auto"):
    """Compute `cka` of all examples of all batches: exactly, or in the minibatch form of Nguyen et al. 2021.

    form="exact", for the linear kernel, equals `cka` of the whole data up to rounding, for any order and size of
    batches. With D = p + q features in all, the state has D^2 + O(D) numbers. A batch of n takes at least n D (2 D +
    128) operations, a merge about D^2. Padding can be masked.

    form="minibatch" averages the three HSIC over batches, weighted by examples, and then takes the ratio. The state has
    5 numbers and a count, and a batch costs as much as `cka` in the cheaper of its two forms. For one batch it equals
    `cka`. For several batches it compares examples within a batch only, so it depends on the order. Shuffle the data:
    for batches in random order the three means are unbiased for "song", and have the bias of the batch size for
    "gretton" and "lange". For data sorted by class, each batch shows the variation within a class alone, and the value
    differs (.86 where `cka` of the whole data is .76). The kernel "rbf" uses each batch's own median of distances, so
    the means depend slightly on the batch size.

    Args:
        estimator, kernel, bandwidth, samples, layout: as in `cka`; the bandwidth must not be traced.
        form: "exact", "minibatch", or "auto": exact for the linear kernel and minibatch for "rbf".

    Returns:
        `Stream`. finalize returns a 0-d array in [-1, 1]; NaN where x or y is constant, in the minibatch form where it
        is constant within every batch. Invariances are those of `cka`. The minibatch form takes no mask: leave out a
        last batch that is too small.

    Raises:
        InputError: as `cka`; form="exact" with "rbf"; in init, more than 16384 features on both sides together. In the
            minibatch form, for every batch: fewer than 4 examples for "song" and "lange" or 2 for "gretton"; a mask. In
            finalize: too few examples for the estimator, no batch.

    Reference: Nguyen, Raghu, Kornblith 2021 (minibatch form).

    Example:
        >>> import numpy as np
        >>> from symjax import cka_stream
        >>> x = np.random.default_rng(0).normal(size=(32, 4))
        >>> stream = cka_stream()
        >>> state = stream.init(x[:16], x[:16])
        >>> for batch in (x[:16], x[16:]):
        ...     state = stream.update(state, batch, 2 * batch[:, ::-1] + 1)
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    check_estimator(estimator)
    if not is_concrete(bandwidth):
        raise InputError("bandwidth: got a traced value, expected a number")
    check_kernel(kernel, bandwidth)
    check_samples(samples)
    check_layout(layout)
    one_of("form", form, FORMS)
    if form == "exact" and kernel != "linear":
        raise InputError(f"form: got 'exact', expected 'minibatch' or 'auto' for the kernel {kernel!r}")
    if kernel == "linear" and form != "minibatch":
        return exact_cka_stream(estimator, samples, layout)
    kernel_text = f"kernel: {kernel}, bandwidth {float(bandwidth)}" if kernel == "rbf" else f"kernel: {kernel}"
    batch = partial(_linear_or_rbf, estimator=estimator, kernel=kernel, bandwidth=float(bandwidth))
    return _stream(
        partial(as_pair, samples=samples, layout=layout, translation_invariant=True),
        batch,
        estimator,
        f"hsic ({estimator}, {kernel_text}, samples: {samples})",
    )


def wreath_cka_stream(reduce="max", estimator="song", *, layout=None):
    """Compute the minibatch form of `wreath_cka`: minibatch CKA with `wreath_kernel`.

    Channels are centered and scaled within each batch, to a mean square of 1 per example, so that batches of different
    sizes estimate the same value. For one batch it equals `wreath_cka`. For several batches in random order, the
    difference from the value on the whole data is noise: of order 1 / n for batch size n, from means and norms of
    channels, and that of HSIC. Examples of different batches are not compared, so shuffle data that is sorted, for
    example by class.

    The state has 5 numbers and a count. A batch costs as much as `wreath_cka`.

    Args:
        reduce, estimator, layout: as in `wreath_cka`.

    Returns:
        `Stream`, as `cka_stream`; invariances are those of `wreath_cka`.

    Raises:
        InputError: as `wreath_cka`, for every batch; a mask; in finalize, no batch.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_cka_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = wreath_cka_stream()
        >>> state = stream.update(stream.init(x, x), x, x[:, ::-1] * np.arange(1, 5))
        >>> print(f"{stream.finalize(state):.3f}")
        1.000
    """
    check_reduce(reduce)
    check_estimator(estimator)
    check_layout(layout)
    batch = partial(_wreath, reduce=reduce, estimator=estimator)
    return _stream(
        partial(as_map_pair, layout=layout, translation_invariant=True),
        batch,
        estimator,
        f"hsic ({estimator}, wreath kernel: {reduce})",
    )


def _stream(pair_of, batch, estimator, kind):
    def init(x, y):
        x, y = jax.eval_shape(partial(pair_of, min_examples=1), x, y)
        return Means(no_samples(), jnp.zeros(2, x.dtype), jnp.zeros(3, x.dtype))

    def update(state, x, y, mask=None):
        if mask is not None:
            raise InputError("mask: got a mask, expected None for minibatch CKA; leave a padded batch out")
        x, y = pair_of(x, y)
        check_estimator(estimator, len(x))
        if x.dtype != state.means.dtype:
            raise InputError(f"x: got {x.dtype}, expected {state.means.dtype}")
        return _merge(state, batch(x, y))

    def merge(a, b):
        require_same_shapes(a, b)
        return _merge(a, b)

    def finalize(state):
        require_samples(state.count, 1, "examples")
        return _ratio(state)

    return Stream(init, update, merge, finalize, kind)


@partial(jax.jit, static_argnames=("estimator", "kernel", "bandwidth"))
def _linear_or_rbf(x, y, estimator, kernel, bandwidth):
    """Return the `Means` of one batch."""
    # At unit norm, fourth powers neither overflow nor vanish.
    (x, x_scale), (y, y_scale) = unit_norm(subtract_ninther(x)), unit_norm(subtract_ninther(y))
    if kernel == "linear" and cheaper_form(x, y, kernel) == "features":
        terms = hsic_of_features(x, y, estimator)
    else:
        terms = _terms(*(center_kernel(kernel_of(z, kernel, bandwidth), estimator) for z in (x, y)))
    scales = jnp.stack([x_scale, y_scale])
    scales = scales if kernel == "linear" else jnp.ones_like(scales)  # the rbf kernel does not depend on the size
    return Means(count_of(len(x)), scales, jnp.stack(terms) / normalizer(len(x), estimator))


@partial(jax.jit, static_argnames=("reduce", "estimator"))
def _wreath(x, y, reduce, estimator):
    """Return the `Means` of one batch."""
    terms = _terms(*(center_kernel(len(x) * wreath_kernel(z, reduce), estimator) for z in (x, y)))
    return Means(count_of(len(x)), jnp.ones(2, x.dtype), jnp.stack(terms) / normalizer(len(x), estimator))


def _terms(k, l):  # noqa: E741
    return [(k * l).sum(), (k * k).sum(), (l * l).sum()]


@jax.jit
def _merge(a, b):
    count = add_counts(a.count, b.count)
    dtype = a.means.dtype
    share = as_float(b.count, dtype) / jnp.maximum(as_float(count, dtype), 1)
    scales = jnp.maximum(a.scales, b.scales)
    a_means, b_means = (_rescaled(part, scales) for part in (a, b))
    return Means(count, scales, a_means + share * (b_means - a_means))


def _rescaled(state, scales):
    x, y = (state.scales / jnp.where(scales == 0, 1, scales)) ** 2
    return state.means * jnp.stack([x * y, x * x, y * y])


@jax.jit
def _ratio(state):
    value = ratio(*state.means)
    return jnp.where((state.count == 0).all(), jnp.nan, value)
