"""Similarity up to the symmetries of ReLU, permutations and positive scalings of channels (Godfrey et al. 2022).

Dead channels (zero; for the kernel, constant) are ignored: removing them from a network does not change the values.
"""

import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import flag, one_of
from symjax.similarity.alignment import (
    assign,
    channels_first,
    matched_sum,
    matching_residual,
    matching_residual_of_rows,
    paired_samples,
    positive_matching,
    samples_or_maps,
)
from symjax.similarity.angles import angle, cosine
from symjax.similarity.channels import pad_to_common_width, safe_sqrt, unit_channels, zero_if_equal
from symjax.similarity.cka_split import split_kernels
from symjax.similarity.hsic import center_kernel, check_estimator
from symjax.similarity.inputs import as_map_pair, as_maps
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.procrustes import with_similarity
from symjax.similarity.procrustes_split import is_small_distance
from symjax.similarity.split_measure import SplitMeasure, permute_samples
from symjax.similarity.wreath_kernel import wreath_kernel

REDUCTIONS = ("max", "median")


def wreath_procrustes(x, y, *, samples="positions", layout=None, mask=None, full_output=False):
    """Compute the G_ReLU-Procrustes similarity, 1 - d / 2 with d = `wreath_procrustes_distance(x, y)`.

    It equals the published 1 - sqrt(d^2 / (4 C)), where d is not divided by sqrt(C), except that the published C
    includes dead channels, which count as perfect agreement.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose channels and sizes may differ; floating (integers become the
            default float, half precisions float32).
        samples: "positions" (as published) makes each pixel a sample, after enlarging the smaller map by nearest
            neighbor; the others as in `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        full_output: whether to return the alignment too.

    Returns:
        0-d array in [0, 1], at least 1 - 1 / sqrt(2) for nonnegative features. With `full_output` also the `Matching`:
        the permutation and positive scaling that map x to y. NaN where all channels of x or of y are dead. Symmetric.
        Invariant to permutations and positive scalings.

        The derivative holds the best permutation fixed, which is exact where the permutation is unique.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unknown `samples`; concrete NaN or infinite entries.

    Reference: Godfrey et al. 2022.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_procrustes
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> similarity, matching = wreath_procrustes(x, x[:, ::-1] * np.arange(1, 5), full_output=True)
        >>> print(f"{similarity:.3f} {np.asarray(matching.scaling).round(3)}")
        1.000 [1. 2. 3. 4.]
    """
    flag("full_output", full_output)
    x, y = paired_samples(x, y, samples, layout=layout, mask=mask)
    distance, matching = best_positive_matching(*((x, y) if full_output else pad_to_common_width(x, y)))
    return with_similarity(distance, matching, full_output)


def wreath_procrustes_distance(x, y, *, samples="positions", layout=None, mask=None, full_output=False):
    """Compute min over permutations P of |X - Y P| / sqrt(C), with X and Y the channels at unit norm.

    |.| is the Frobenius norm, and C the larger number of channels that are not dead. The side with fewer channels is
    padded with zero channels. Channels are not centered. Linear assignment, exact, on the host. A metric, up to the
    invariances, on representations with equal numbers of nonzero channels.

    Args:
        x, y, samples, layout, mask, full_output: as in `wreath_procrustes`.

    Returns:
        0-d array in [0, 2]; with `full_output` also the `Matching`, as in `wreath_procrustes`.

    Raises:
        InputError: as `wreath_procrustes`.

    Reference: Godfrey et al. 2022.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_procrustes_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{wreath_procrustes_distance(x, x[:, ::-1] * np.arange(1, 5)):.3f}")
        0.000
    """
    flag("full_output", full_output)
    x, y = paired_samples(x, y, samples, layout=layout, mask=mask)
    distance, matching = best_positive_matching(*((x, y) if full_output else pad_to_common_width(x, y)))
    return (distance, matching) if full_output else distance


def wreath_cka(x, y, reduce="max", estimator="song", *, layout=None):
    """Compute G_ReLU-CKA: CKA with the kernel K_ij = max over channels c of <H_i^c, H_j^c>, summed over pixels.

    H is x with each channel centered and at unit norm over examples and pixels. The max kernel is not positive
    semidefinite. Takes 2 n^2 h w c operations per side, one matrix product per channel, and memory for a few n x n
    matrices and a copy of x; the median also takes memory for `MAX_NUMBERS` numbers.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ; floating (integers become the
            default float, half precisions float32).
        reduce: "max", or "median" over channels (for an even number the mean of the middle two).
        estimator: estimator of HSIC (see `hsic`); "song" as published.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.

    Returns:
        0-d array in [-1, 1]. Constant channels are ignored; NaN where all are constant. Symmetric. Invariant to
        translation, permutations, positive scalings, and also to sign flips, which do not change the kernel.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; fewer than 4 examples for "song" and "lange"; an
            unknown option; concrete NaN or infinite entries.

    Reference: Godfrey et al. 2022.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_cka
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{wreath_cka(x, x[:, ::-1] * np.arange(1, 5)):.3f}")
        1.000
    """
    return _wreath_cka(*_check_arguments(x, y, reduce, estimator, layout), cosine)


def wreath_cka_distance(x, y, reduce="max", estimator="song", *, layout=None):
    """Compute arccos(`wreath_cka`), the angle between the centered kernel matrices, 0-d, in [0, pi]: a metric on these.

    Args, Raises and invariances: as for `wreath_cka`.

    Example:
        >>> import numpy as np
        >>> from symjax import wreath_cka_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{wreath_cka_distance(x, x):.3f}")
        0.000
    """
    return _wreath_cka(*_check_arguments(x, y, reduce, estimator, layout), angle)


@jax.jit
def best_positive_matching(x, y):
    """Return distance and `Matching` of two matrices, whose rows may be rotated."""
    (x, x_norm), (y, y_norm) = unit_channels(x), unit_channels(y)
    matching = positive_matching(matmul(y.T, x), x_norm, y_norm)
    x_count, y_count = ((norm > 0).sum().astype(x.dtype) for norm in (x_norm, y_norm))
    distance = zero_if_equal(
        safe_sqrt(matching_residual(x, y, matching.selection) / jnp.maximum(x_count, y_count)), x, y
    )
    return jnp.where((x_count == 0) | (y_count == 0), jnp.nan, distance), matching


@lru_cache(maxsize=64)
def split_cka(shapes, *, reduce="max", estimator="song", as_angle=False):
    """Return `wreath_cka` as a `SplitMeasure`."""
    return split_kernels(lambda x: wreath_kernel(as_maps(x, layout="nhwc"), reduce), estimator, as_angle)


@lru_cache(maxsize=64)
def split_procrustes(shapes, *, samples="positions", similarity=False):
    """Return `wreath_procrustes` as a `SplitMeasure`; `Prepared.aux` says which channels are nonzero."""

    def prepare(x):
        data, norms = unit_channels(samples_or_maps(x, samples))
        return Prepared(channels_first(data), norms > 0)

    def value(squares, a, b):
        a_count, b_count = (nonzero.sum().astype(squares.dtype) for nonzero in (a, b))
        distance = safe_sqrt(squares / jnp.maximum(a_count, b_count))
        distance = jnp.where((a_count == 0) | (b_count == 0), jnp.nan, distance)
        return 1 - distance / 2 if similarity else distance

    def finish(cross, a, b):
        permutation, _ = assign(cross.T, b, a)
        num_nonzero = (a.sum() + b.sum()).astype(cross.dtype)
        return value(num_nonzero - 2 * matched_sum(cross, permutation), a, b)

    def exact(a, b):
        matching = assign(matmul(b.data, a.data.T), b.aux, a.aux)
        return value(matching_residual_of_rows(a.data, b.data, *matching), a.aux, b.aux)

    return SplitMeasure(prepare, finish, exact, partial(is_small_distance, similarity), permute=permute_samples)


def check_reduce(reduce):
    one_of("reduce", reduce, REDUCTIONS)


def _check_arguments(x, y, reduce, estimator, layout):
    check_reduce(reduce)
    x, y = as_map_pair(x, y, layout=layout, translation_invariant=True)
    check_estimator(estimator, len(x))
    return x, y, reduce, estimator


@partial(jax.jit, static_argnums=(2, 3, 4))
def _wreath_cka(x, y, reduce, estimator, compare):
    return compare(*(center_kernel(wreath_kernel(z, reduce), estimator) for z in (x, y)))


_GODFREY: dict[str, Any] = {"reference": "Godfrey et al. 2022", "symmetric": True}
_RELU_INVARIANCES = frozenset({"isotropic_scaling", "permutation", "positive_diagonal"})
_PROCRUSTES = _GODFREY | {"invariances": _RELU_INVARIANCES, "zero_channels": True}
_CKA = _GODFREY | {"invariances": _RELU_INVARIANCES | {"translation", "sign_flip", "cyclic_shift"}}

MEASURES = (
    Measure(
        name="wreath_procrustes",
        fn=wreath_procrustes,
        range=(0.0, 1.0),
        kind="similarity",
        split=partial(split_procrustes, similarity=True),
        title="$G_{\\mathrm{ReLU}}$-Procrustes",
        cost="n p once, n p q + p^3 a pair",
        bias="grows with log(p) / n, with means, which stay, and with max(p, q) / min(p, q)",
        use="single neurons up to the symmetries of ReLU",
        **_PROCRUSTES,
    ),
    Measure(
        name="wreath_procrustes_distance",
        fn=wreath_procrustes_distance,
        range=(0.0, 2.0),
        kind="distance",
        split=split_procrustes,
        **_PROCRUSTES,
    ),
    Measure(
        name="wreath_cka",
        fn=wreath_cka,
        range=(-1.0, 1.0),
        kind="similarity",
        split=split_cka,
        title="$G_{\\mathrm{ReLU}}$-CKA",
        cost="n^2 p once, n^2 a pair",
        bias="none: about 0 for independent data",
        use="as cka, up to the symmetries of ReLU; sensitive to the basis of neurons",
        **_CKA,
    ),
    Measure(
        name="wreath_cka_median",
        fn=partial(wreath_cka, reduce="median"),
        range=(-1.0, 1.0),
        kind="similarity",
        split=partial(split_cka, reduce="median"),
        **_CKA,
    ),
    Measure(
        name="wreath_cka_distance",
        fn=wreath_cka_distance,
        range=(0.0, math.pi),
        kind="distance",
        split=partial(split_cka, as_angle=True),
        **_CKA,
    ),
)
