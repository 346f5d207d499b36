"""Linear predictivity: how well one representation predicts another by linear or ridge regression."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.checks import flag, static_scalar
from symjax.similarity.channels import centered, norms, unit_channels, unit_norm, zero_rounding
from symjax.similarity.folds import fold_of_samples
from symjax.similarity.inputs import FewExamplesWarning, as_pair, warn_user
from symjax.similarity.linalg import least_squares, to_row_space
from symjax.similarity.measure import ORTHOGONAL, Measure

LARGEST_RIDGE = 1e15


def linear_predictivity(x, y, *, ridge=0.0, folds=5, symmetric=False, samples="positions", layout=None, mask=None):
    """Compute the cross-validated R^2 of the linear regression of y on x.

    R^2 = 1 - sum_i |y_i - f_i(x_i)|^2 / sum_i |y_i - m_i|^2, over all examples i. The affine function f_i minimizes

        sum_j |y_j - f(x_j)|^2 + ridge * |x|^2 |B|^2,   f(x) = B x + b,

    over the examples j of the other folds, and m_i is the mean of their y. |x|^2 is the sum of squares of all centered
    x. Directions of x with a share of its variance under `ridge` are thus shrunk by more than half.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c); floating (integers become the default float, half precisions
            float32). y is predicted from x.
        ridge: number in [0, 1e+15]; 0 is least squares (of columns of unit norm, with a penalty at the level of
            rounding).
        folds: number of folds, example i being in fold i modulo this number; or the fold of each example, integers
            (n,), such as jax.random.permutation(key, n) % 5.
        symmetric: whether to return the mean of the values of both directions.
        samples: "positions" (each token or pixel is a sample), "flatten", "pool", "first" or "last"; see `as_matrix`.
            Samples of an example are in one fold.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array up to 1. About 0 or negative for independent data; very negative for least squares with few examples
        (a `FewExamplesWarning` reports fewer than features), where `ridge` helps. NaN where x or y is constant.
        Invariant to translation, isotropic scaling and orthogonal maps of both sides (without `ridge`, for more
        examples than features); without `ridge` and `symmetric`, also to every invertible map of x.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; fewer examples than folds; unknown option; concrete NaN
            or infinite entries.

    Reference: Hoerl and Kennard 1970; Yamins et al. 2014; Schrimpf et al. 2018 (Brain-Score).

    Example:
        >>> import numpy as np
        >>> from symjax import linear_predictivity
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> y = x[:, :2] + 1  # a part of x
        >>> print(f"{linear_predictivity(x, y):.3f} {linear_predictivity(y, x):.1f}")
        1.000 0.3
    """
    symmetric = flag("symmetric", symmetric)
    given = x
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=True)
    ridge = static_scalar(
        "ridge", ridge, f"a number in [0, {LARGEST_RIDGE:g}]", lambda value: 0 <= value <= LARGEST_RIDGE
    )
    labels, count = fold_of_samples(folds, given, len(x), mask if samples == "positions" else None)
    directions = ((x, y), (y, x)) if symmetric else ((x, y),)
    widest = max(source.shape[1] for source, _ in directions)
    if not ridge and len(x) - len(x) // count <= widest + 1:
        warn_user(
            f"{len(x)} samples of {widest} features: least squares fits the samples of all folds but one exactly, "
            "whatever the data; set ridge",
            FewExamplesWarning,
        )
    values = [_r_squared(*direction, labels, ridge, count, ridge > 0) for direction in directions]
    return sum(values) / len(values)


@partial(jax.jit, static_argnums=(4, 5))
def _r_squared(x, y, labels, ridge, count, penalized):
    (x, x_norm), (y, y_norm) = (unit_norm(centered(z)) for z in (x, y))
    x = to_row_space(x if penalized else unit_channels(x)[0])[0]
    penalty = penalty_of(ridge, x)

    def fold_sums(fold):
        training = (labels != fold).astype(x.dtype)[:, None]
        (train_x, test_x), (train_y, test_y) = (_less_mean(z, training) for z in (x, y))
        target = jnp.concatenate([train_y, jnp.zeros((x.shape[1], y.shape[1]), x.dtype)])
        design = augmented(train_x, penalty)
        start = least_squares(design, target)
        # A second fit, to the residuals, removes the effect of the penalty of least squares (iterated Tikhonov).
        residual = target - matmul(augmented(train_x, penalty if penalized else 0 * penalty), start)
        errors = test_y - matmul(test_x, start + least_squares(design, residual))
        return (errors**2).sum(), (test_y**2).sum()

    errors, squares = lax.map(fold_sums, jnp.arange(count, dtype=jnp.int32))
    return jnp.where((x_norm > 0) & (y_norm > 0), 1 - errors.sum() / squares.sum(), jnp.nan)


def _less_mean(z, training):
    """Return z minus the mean of its training samples: the training samples, and the others, with zeros elsewhere."""
    differences = z - (z * training).sum(0)[None] / training.sum()
    return zero_rounding(differences * training, norms(z * training)), differences * (1 - training)


def penalty_of(ridge, x):
    """Return `ridge`, at least a penalty at the level of rounding, for x (n, p) with columns of norm up to 1."""
    return jnp.maximum(jnp.asarray(ridge, x.dtype), (8 * float(jnp.finfo(x.dtype).eps)) ** 2 * x.shape[1])


def augmented(x, penalty):
    """Return x (n, p) with sqrt(penalty) I below it; least squares with zeros below y is then ridge regression."""
    return jnp.concatenate([x, jnp.sqrt(penalty) * jnp.eye(x.shape[1], dtype=x.dtype)])


def _measure(name, fn, bias):
    return Measure(
        name=name,
        fn=fn,
        reference="Yamins et al. 2014; Schrimpf et al. 2018",
        range=(-float("inf"), 1.0),
        kind="similarity",
        symmetric=False,
        invariances=ORTHOGONAL | {"translation", "isotropic_scaling"},
        one_map_size=True,
        zero_channels=True,
        ends_at_equal=False,
        min_examples=5,
        title=name.replace("_", " "),
        cost="k n p (p + q) a pair, for k folds",
        bias=bias,
        use="whether y is a linear function of x, on new examples; the direction matters",
    )


MEASURES = (
    _measure(
        "linear_predictivity",
        linear_predictivity,
        "negative for independent data, about -p / (m - p), m = n (k - 1) / k > p",
    ),
    _measure(
        "ridge_predictivity",
        partial(linear_predictivity, ridge=0.01),
        "negative for independent data, closer to 0 than with least squares",
    ),
)
