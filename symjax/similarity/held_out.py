"""Procrustes rotations, evaluated by the cosine of each example, or on held-out examples."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.similarity.alignment import paired_samples
from symjax.similarity.channels import centered, unit_channels, unit_norm
from symjax.similarity.folds import fold_of_samples
from symjax.similarity.linalg import to_row_space
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.polar import polar, uncertain_share, warn_of_uncertain_directions


def aligned_cosine(x, y, *, samples="positions", layout=None, mask=None):
    """Compute the mean cosine of x_i Q and y_i over examples i, with the orthogonal Q that minimizes |x Q - y|.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose channels and sizes may differ; floating (integers become the
            default float, half precisions float32).
        samples: "positions" makes each token or pixel a sample, after enlarging the smaller map by nearest neighbor;
            "flatten", "pool", "first" and "last" as in `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [-1, 1]. Every example counts alike, large or small, while Q is fitted to the large ones. Samples
        that are zero in x or in y are left out; NaN where all are. Symmetric. Invariant to orthogonal maps and
        isotropic scaling. Q is 0 on directions outside of the span of x or y.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unknown option; concrete NaN or infinite entries.

    Reference: Hamilton et al. 2016; Klabunde et al. 2025.

    Example:
        >>> import numpy as np
        >>> from symjax import aligned_cosine
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{aligned_cosine(x, 3 * x[:, ::-1]):.3f}")  # permuted and scaled
        1.000
    """
    value, share = _aligned_cosine(*paired_samples(x, y, samples, mask, layout=layout))
    warn_of_uncertain_directions(share)
    return value


@jax.jit
def _aligned_cosine(x, y):
    (x, _), (y, _) = unit_norm(x), unit_norm(y)
    products = matmul(x.T, y)
    rotation, _ = polar(products)
    (x_rows, x_norms), (y_rows, y_norms) = unit_channels(x.T), unit_channels(y.T)
    turned = matmul(rotation.T, x_rows)
    cosines = (turned * y_rows).sum(0)
    kept = (x_norms > 0) & (y_norms > 0)
    count = kept.sum().astype(x.dtype)
    mean = jnp.clip(jnp.where(kept, cosines, 0).sum() / count, -1, 1)
    # The products of these parts of both sides are at the rounding level of the largest ones.
    kept_parts = (lax.stop_gradient(z) for z in (turned, matmul(rotation, y_rows)))
    dropped = (jnp.sqrt(jnp.maximum(1 - (part**2).sum(0), 0)) for part in kept_parts)
    share = jnp.where(kept, math.prod(dropped), 0).sum() / count
    share = jnp.maximum(share, uncertain_share(products, x_rows.T, y_rows.T))
    return mean + 0 * cosines.sum(), share  # a NaN of any sample


def held_out_procrustes(x, y, *, folds=2, samples="positions", layout=None, mask=None):
    """Compute the cosine of x Q and y on examples to which the rotation Q was not fitted.

    For each fold, the means of x and of y and the orthogonal Q that minimizes |x Q - y| are fitted to all other folds.
    With x_i and y_i minus these means, and the Q of example i's fold, the value is
    sum_i <x_i Q, y_i> / sqrt(sum_i |x_i|^2 sum_i |y_i|^2).

    Args:
        x, y, samples, layout, mask: as in `aligned_cosine`.
        folds: number of folds, example i being in fold i modulo this number; or the fold of each example, integers
            (n,), such as jax.random.permutation(key, n) % 2.

    Returns:
        0-d array in [-1, 1]; about 0 for independent data, where `procrustes` is far above its smallest value. NaN
        where x or y is constant. Symmetric. Invariant to translation, orthogonal maps and isotropic scaling. Q is 0 on
        directions outside of the span of the examples to which it is fitted, so that with few examples the value of x
        with itself is less than 1.

    Raises:
        InputError: as `aligned_cosine`; fewer examples than folds.

    Reference: Williams et al. 2021, `fit` and `score` of their code.

    Example:
        >>> import numpy as np
        >>> from symjax import held_out_procrustes, procrustes
        >>> x, y = np.random.default_rng(0).normal(size=(2, 40, 20))  # independent
        >>> print(f"{procrustes(x, y):.2f} {held_out_procrustes(x, y):.2f}")
        0.52 -0.06
    """
    given = x
    x, y = paired_samples(x, y, samples, mask, layout=layout, translation_invariant=True)
    labels, count = fold_of_samples(folds, given, len(x), mask if samples == "positions" else None)
    value, share = _held_out(x, y, labels, count)
    warn_of_uncertain_directions(share)
    return value


@partial(jax.jit, static_argnums=3)
def _held_out(x, y, labels, count):
    x, y = (to_row_space(unit_norm(centered(z))[0])[0] for z in (x, y))

    def fold_sums(fold):
        training = (labels != fold).astype(x.dtype)[:, None]
        x_less, y_less = (z - (z * training).sum(0)[None] / training.sum() for z in (x, y))
        products = matmul((x_less * training).T, y_less)
        rotation, _ = polar(products)
        test_x, test_y = (z * (1 - training) for z in (x_less, y_less))
        sums = (matmul(test_x, rotation) * test_y).sum(), (test_x**2).sum(), (test_y**2).sum()
        return sums, uncertain_share(products, test_x, test_y)

    sums, shares = lax.map(fold_sums, jnp.arange(count, dtype=jnp.int32))
    inner, x_squares, y_squares = (part.sum() for part in sums)
    return jnp.clip(inner / (jnp.sqrt(x_squares) * jnp.sqrt(y_squares)), -1, 1), shares.max()


_ROTATED = ORTHOGONAL | {"isotropic_scaling"}

MEASURES = (
    Measure(
        name="aligned_cosine",
        fn=aligned_cosine,
        reference="Hamilton et al. 2016; Klabunde et al. 2025",
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_ROTATED,
        zero_channels=True,
        title="aligned cosine",
        cost="n p q and a singular value decomposition (p, q) a pair",
        bias="grows with (p + q) / n",
        use="as procrustes, where examples of small norm should count as much as others",
    ),
    Measure(
        name="held_out_procrustes",
        fn=held_out_procrustes,
        reference="Williams et al. 2021",
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_ROTATED | {"translation"},
        zero_channels=True,
        ends_at_equal=False,
        title="held-out Procrustes",
        cost="k times that of procrustes, for k folds",
        bias="none: about 0 for independent data",
        use="as procrustes, with many features for the number of examples",
    ),
)
