"""Procrustes distances: the distance of two representations after the best rotation, or the best permutation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import flag
from symjax.similarity.alignment import (
    Matching,
    Rotation,
    assign,
    matching_residual,
    paired_samples,
)
from symjax.similarity.channels import pad_to_common_width, safe_sqrt, subtract_mean, unit_norm, zero_if_equal
from symjax.similarity.isometry import best_isometry
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.procrustes_split import split


def procrustes(x, y, *, center=False, samples="positions", layout=None, mask=None, full_output=False):
    """Compute the orthogonal Procrustes similarity, 1 - d / 2 with d = `procrustes_distance(x, y)`.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose channels and sizes may differ; floating (integers become the
            default float, half precisions float32).
        center: whether to subtract each channel's mean first, as in Williams et al.; Godfrey et al. do not.
        samples: "positions" (as published) makes each pixel a sample, after enlarging the smaller map by nearest
            neighbor; the others as in `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        full_output: whether to return the alignment too.

    Returns:
        0-d array in [1 - 1 / sqrt(2), 1]; with `full_output` also the `Rotation` that brings x nearest to y. NaN where
        x or y is zero (with `center`: constant). Symmetric. Invariant to orthogonal transformations and isotropic
        scaling, with `center` also to translation.

        The derivative holds the best rotation fixed; this is the exact first derivative.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unknown `samples`; concrete NaN or infinite entries.

    Reference: Godfrey et al. 2022.

    Example:
        >>> import numpy as np
        >>> from symjax import procrustes
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> similarity, rotation = procrustes(x, 3 * x[:, ::-1], full_output=True)
        >>> print(f"{similarity:.3f} {rotation.scaling:.3f}")
        1.000 3.000
    """
    center, full_output = flag("center", center), flag("full_output", full_output)
    distance, rotation = _rotate(*_padded_samples(x, y, samples, layout, mask, center, full_output), center)
    return with_similarity(distance, rotation, full_output)


def procrustes_distance(x, y, *, center=False, samples="positions", layout=None, mask=None, full_output=False):
    """Compute min over orthogonal Q of |x / |x| - (y / |y|) Q| in the Frobenius norm.

    It equals sqrt(2 - 2 |x'y|_* / (|x| |y|)), with the nuclear norm |.|_*. The narrower side is padded with zero
    channels. A metric, up to the invariances, on representations of any width (Williams et al. 2021, without
    whitening).

    Args:
        x, y, center, samples, layout, mask, full_output: as in `procrustes`.

    Returns:
        0-d array in [0, sqrt(2)]; with `full_output` also the `Rotation`, as in `procrustes`. It is computed as the
        norm of the difference, with a rotation that is refined near 0. Small distances are therefore accurate to about
        the rounding of x / |x| and y / |y|, and not only to that of 2 - 2 |x'y|_*. Exactly 0 for equal arrays.

    Raises:
        InputError: as `procrustes`.

    Reference: Williams et al. 2021.

    Example:
        >>> import numpy as np
        >>> from symjax import procrustes_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{procrustes_distance(x, x):.3f}")
        0.000
    """
    center, full_output = flag("center", center), flag("full_output", full_output)
    distance, rotation = _rotate(*_padded_samples(x, y, samples, layout, mask, center, full_output), center)
    return (distance, rotation) if full_output else distance


def permutation_procrustes(x, y, *, center=False, samples="positions", layout=None, mask=None, full_output=False):
    """Compute the permutation Procrustes similarity, 1 - d / 2 with d = `permutation_procrustes_distance(x, y)`.

    Args:
        x, y, center, samples, layout, mask, full_output: as in `procrustes`.

    Returns:
        0-d array in [0, 1]; with `full_output` also the `Matching` of channels, whose scaling is |y| / |x| for all (of
        centered data with `center`). NaN where x or y is zero. Symmetric. Invariant to permutations and isotropic
        scaling, with `center` also to translation.

    Raises:
        InputError: as `procrustes`.

    Reference: Williams et al. 2021.

    Example:
        >>> import numpy as np
        >>> from symjax import permutation_procrustes
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> similarity, matching = permutation_procrustes(x, 3 * x[:, ::-1], full_output=True)
        >>> print(f"{similarity:.3f} {matching.permutation.tolist()}")
        1.000 [3, 2, 1, 0]
    """
    center, full_output = flag("center", center), flag("full_output", full_output)
    distance, matching = _permute(*_paired_samples(x, y, samples, layout, mask, center, full_output), center)
    return with_similarity(distance, matching, full_output)


def permutation_procrustes_distance(
    x, y, *, center=False, samples="positions", layout=None, mask=None, full_output=False
):
    """Compute min over permutations P of |x / |x| - (y / |y|) P| in the Frobenius norm.

    The narrower side is padded with zero channels. Linear assignment, exact, on the host. A metric, up to the
    invariances, on representations of equal width and on nonnegative ones of any width. (With negative inner products,
    padding both sides further can reduce the distance.)

    Args:
        x, y, center, samples, layout, mask, full_output: as in `procrustes`.

    Returns:
        0-d array in [0, 2]; with `full_output` also the `Matching`, as in `permutation_procrustes`.

    Raises:
        InputError: as `procrustes`.

    Reference: Williams et al. 2021.

    Example:
        >>> import numpy as np
        >>> from symjax import permutation_procrustes_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{permutation_procrustes_distance(x, 3 * x[:, ::-1]):.3f}")
        0.000
    """
    center, full_output = flag("center", center), flag("full_output", full_output)
    distance, matching = _permute(*_paired_samples(x, y, samples, layout, mask, center, full_output), center)
    return (distance, matching) if full_output else distance


def _paired_samples(x, y, samples, layout, mask, center, full_output):
    return paired_samples(x, y, samples, mask, layout=layout, translation_invariant=center and not full_output)


def with_similarity(distance, alignment, full_output):
    similarity = 1 - distance / 2
    return (similarity, alignment) if full_output else similarity


def _padded_samples(x, y, samples, layout, mask, center, full_output):
    x, y = _paired_samples(x, y, samples, layout, mask, center, full_output)
    return (x, y) if full_output else pad_to_common_width(x, y)


@partial(jax.jit, static_argnames="center")
def _rotate(x, y, center):
    return best_rotation(*_center_if(x, y, center))


def best_rotation(x, y, means):
    """Return distance and `Rotation` of x and y, from which `means` were subtracted; rows of both may be rotated."""
    (x, x_norm), (y, y_norm) = unit_norm(x), unit_norm(y)
    if x.shape[1] >= y.shape[1]:
        distance, isometry = best_isometry(y, x)
    else:
        distance, isometry = best_isometry(x, y)
        isometry = isometry.T
    scaling = y_norm / x_norm
    bias = means[1] - scaling * matmul(isometry, means[0])
    return _nan_if_zero(x_norm, y_norm, distance), Rotation(isometry, scaling, bias)


@partial(jax.jit, static_argnames="center")
def _permute(x, y, center):
    return best_permutation(*_center_if(x, y, center))


def best_permutation(x, y, means):
    """Return distance and `Matching` of x and y, from which `means` were subtracted; rows of both may be rotated."""
    (x, x_norm), (y, y_norm) = unit_norm(x), unit_norm(y)
    permutation, selection = assign(matmul(y.T, x))
    scaling = jnp.where(permutation < 0, 0, y_norm / x_norm)
    distance = zero_if_equal(safe_sqrt(matching_residual(x, y, selection)), x, y)
    bias = means[1] - scaling * matmul(selection, means[0])
    return _nan_if_zero(x_norm, y_norm, distance), Matching(permutation, scaling, selection, bias)


def _center_if(x, y, center):
    """Return x, y and the means that were subtracted."""
    if center:
        (x, x_mean), (y, y_mean) = subtract_mean(x), subtract_mean(y)
        return x, y, (x_mean, y_mean)
    return x, y, (jnp.zeros_like(x[0]), jnp.zeros_like(y[0]))


def _nan_if_zero(x_norm, y_norm, distance):
    return jnp.where((x_norm == 0) | (y_norm == 0), jnp.nan, distance)


_SCALING = frozenset({"isotropic_scaling"})
_ROTATED: dict[str, Any] = {"symmetric": True, "invariances": ORTHOGONAL | _SCALING, "zero_channels": True}
_PERMUTED: dict[str, Any] = {"symmetric": True, "invariances": _SCALING | {"permutation"}, "counts_channels": True}
_WILLIAMS = "Williams et al. 2021"

MEASURES = (
    Measure(
        name="procrustes",
        fn=procrustes,
        reference="Godfrey et al. 2022",
        range=(1 - 0.5**0.5, 1.0),
        kind="similarity",
        split=partial(split, similarity=True),
        title="orthogonal Procrustes",
        cost="n p once, (n + p) p q a pair",
        bias="grows with (p + q) / n, and with means, which stay",
        use="a metric up to rotations; all directions by their variance",
        **_ROTATED,
    ),
    Measure(
        name="procrustes_distance",
        fn=procrustes_distance,
        reference=_WILLIAMS,
        range=(0.0, 2**0.5),
        kind="distance",
        split=split,
        **_ROTATED,
    ),
    Measure(
        name="permutation_procrustes",
        fn=permutation_procrustes,
        reference=_WILLIAMS,
        range=(0.0, 1.0),
        kind="similarity",
        split=partial(split, permuted=True, similarity=True),
        title="permutation Procrustes",
        cost="n p once, n p q + p^3 a pair",
        bias="grows with log(p) / n, and with means, which stay",
        use="whether single neurons agree",
        **_PERMUTED,
    ),
    Measure(
        name="permutation_procrustes_distance",
        fn=permutation_procrustes_distance,
        reference=_WILLIAMS,
        range=(0.0, 2.0),
        kind="distance",
        split=partial(split, permuted=True),
        **_PERMUTED,
    ),
)
