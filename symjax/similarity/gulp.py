"""GULP, the distance of the predictions of ridge regressions (Boix-Adsera et al. 2022)."""

from functools import lru_cache

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from symjax.birkhoff.dual import matmul
from symjax.checks import static_scalar
from symjax.similarity.channels import centered, safe_sqrt, unit_norm, zero_if_equal
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.linalg import first_order_only, to_row_space, triangular_factor
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.predictivity import LARGEST_RIDGE, augmented, penalty_of
from symjax.similarity.split_measure import SplitMeasure, evaluate, permute_samples

SMALL_SHARE = 0.02  # squared distances below this share of their terms, whose difference they are, lose a digit


def gulp(x, y, *, ridge=0.01, samples="positions", layout=None, mask=None):
    """Compute the distance of the predictions by ridge regression on x and on y, over all targets.

    With S_x = X (X'X + ridge I)^-1 X', where X is centered x divided by its norm, S_x t are the values fitted to
    targets t (n,) by ridge regression, and

        gulp(x, y) = |S_x - S_y| in the Frobenius norm = sqrt(tr(S_x S_x) + tr(S_y S_y) - 2 tr(S_x S_y)).

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c); floating (integers become the default float, half precisions
            float32).
        ridge: number in (0, 1e+15], in units of the total variance. Directions with a smaller share of the variance
            hardly count. With a small `ridge` the result resembles CCA, with a large one CKA.
        samples: "positions" (each token or pixel is a sample), "flatten", "pool", "first" or "last"; see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [0, sqrt(p + q)), 0 for equal arrays. NaN where x or y is constant. A metric up to its invariances,
        which are translation, isotropic scaling and orthogonal maps.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; ridge not positive, or traced; unknown option; concrete
            NaN or infinite entries.

    Reference: Boix-Adsera et al. 2022, with representations of unit variance.

    Example:
        >>> import numpy as np
        >>> from symjax import gulp
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{gulp(x, 3 * x[:, ::-1] + 1):.3f} {gulp(x, x[:, :3]):.3f}")
        0.000 0.927
    """
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=True)
    return evaluate(split((), ridge=check_ridge(ridge)), x, y)


def check_ridge(ridge):
    return static_scalar(
        "ridge", ridge, f"a number in (0, {LARGEST_RIDGE:g}]", lambda value: 0 < value <= LARGEST_RIDGE
    )


@lru_cache(maxsize=64)
def split(shapes, *, ridge=0.01, samples="positions"):
    """Return `gulp` as a `SplitMeasure`: S_x = D D', and `Prepared.aux` is tr(S_x S_x), NaN for constant data."""
    ridge = check_ridge(ridge)

    def prepare(x):
        x, norm = unit_norm(centered(as_matrix(x, "x", samples, layout="nhwc")))
        x = to_row_space(x)[0]
        factor = _smoother_factor(x, penalty_of(ridge, x))
        power = (matmul(factor.T, factor) ** 2).sum()
        return Prepared(factor.T, jnp.where(norm > 0, power, jnp.nan))

    def finish(cross, a, b):
        squares = a + b - 2 * (cross**2).sum()
        return jnp.where(squares < SMALL_SHARE * (a + b), -1, safe_sqrt(squares))

    def exact(a, b):
        left, right = jnp.split(triangular_factor(jnp.concatenate([a.data, b.data]).T), [len(a.data)], axis=1)
        difference = matmul(left, left.T) - matmul(right, right.T)
        return zero_if_equal(safe_sqrt((difference**2).sum()), a.data, b.data)

    return SplitMeasure(prepare, finish, exact, lambda value: value == -1, permute=permute_samples)


@jax.custom_jvp
def _smoother_factor(x, penalty):
    """Return D (n, p) with D D' = x (x'x + penalty I)^-1 x'; the derivative is valid for functions of D D' alone."""
    return jnp.linalg.qr(augmented(x, penalty))[0][: len(x)]


@_smoother_factor.defjvp
def _smoother_factor_jvp(primals, tangents):
    (x, penalty), (dx, _) = primals, tangents
    x = first_order_only(x, x)  # second derivatives would depend on the rotation Q of D Q
    q, r = jnp.linalg.qr(augmented(x, penalty))
    factor = q[: len(x)]
    change = solve_triangular(r, dx.T, trans=1).T  # dx R^-1
    half = matmul(factor.T, change)
    return factor, change - matmul(factor, half + half.T) / 2


MEASURES = (
    Measure(
        name="gulp",
        fn=gulp,
        reference="Boix-Adsera et al. 2022",
        range=(0.0, float("inf")),
        kind="distance",
        symmetric=True,
        invariances=ORTHOGONAL | {"translation", "isotropic_scaling"},
        split=split,
        one_map_size=True,
        zero_channels=True,
        title="GULP",
        cost="n p^2 once, n p q a pair",
        bias="large for independent data; grows with the numbers of directions that count",
        use="how differently ridge regressions on two networks predict; with a larger `ridge` fewer directions count",
    ),
)
