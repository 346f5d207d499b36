"""The Hilbert-Schmidt independence criterion: three estimators, each an inner product of centered kernel matrices.

With H = 1 - 11'/n and symmetric kernel matrices K, L (n, n):

    gretton   <H K H, H L H> / (n - 1)^2: biased. Gretton et al. 2005 ("HSIC_0"); Kornblith et al. 2019, equation 3.
    song      <U(K), U(L)> / (n (n - 3)): unbiased. U is the U-centering of Szekely and Rizzo 2014, whose result has a
              zero diagonal and zero row sums. Equal to Song et al. 2012, equation 5 ("HSIC_1"),
              (sum K L + sum K sum L / ((n - 1)(n - 2)) - 2 / (n - 2) <K 1, L 1>) / (n (n - 3)), with zero diagonals.
    lange     as song, with H K H after setting its diagonal to zero in place of U(K): center, then remove the diagonal,
              as in the code of Lange et al. 2023. Biased: centering spreads the diagonal over the other entries, which
              matters unless there are far fewer than n^2 features.

Centering first has two advantages. It is done once per representation and not per pair, and the published sum of three
large terms that nearly cancel is never computed. For kernel matrices that are already centered, H K H = K, all three
estimators depend on <K, L> and the diagonals alone. For the linear kernel K = X X' these follow from X alone:
`hsic_of_features`.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.checks import is_concrete, one_of, real, require_finite
from symjax.errors import InputError
from symjax.similarity.off_diagonal import centered_products, sums_of

ESTIMATORS = ("song", "gretton", "lange")
_LEAST_SHARE = 1 / 64  # if subtracting diagonals leaves a smaller share of the products, about two digits are lost
_ROUNDING = 16  # times eps and the kernel's size: the largest rounding error of a kernel that centering makes 0


def check_estimator(estimator, n=math.inf):
    """Raise an `InputError` if the estimator is unknown or n examples are too few for it."""
    one_of("estimator", estimator, ESTIMATORS)
    if n < min_examples_of(estimator):
        raise InputError(
            f"x: got {n} examples, expected at least {min_examples_of(estimator)} for the estimator {estimator!r}"
        )


def min_examples_of(estimator):
    return 2 if estimator == "gretton" else 4


def hsic(k, l, estimator="song"):  # noqa: E741 (K and L are what the papers call them)
    """Return the Hilbert-Schmidt independence criterion of two kernel matrices.

    With H = 1 - 11'/n, "gretton" is <H K H, H L H> / (n - 1)^2, and "song" is <U(K), U(L)> / (n (n - 3)) with
    U-centering U. "lange" is "song" with H K H, its diagonal set to zero, in place of U(K).

    Args:
        k, l: (n, n), symmetric; n at least 4, or 2 for "gretton".
        estimator: "song" (unbiased, may be negative), "gretton" (biased) or "lange" (biased).

    Returns:
        0-d array. Adding a_i + a_j to the entries (i, j) of a kernel matrix does not change it; "song" does not depend
        on the diagonals.

    Raises:
        InputError: not square, different sizes, too few examples, unknown estimator; concrete input with NaN or
            infinite entries, or not symmetric up to rounding.

    Reference: Song et al. 2012, equation 5; Gretton et al. 2005; Lange et al. 2023.

    Example:
        >>> import numpy as np
        >>> from symjax import hsic
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> k = x @ x.T
        >>> print(f"{hsic(k, 2 * k) / hsic(k, k):.3f}")
        2.000
    """
    k, l = (_kernel_matrix(name, value) for name, value in (("k", k), ("l", l)))  # noqa: E741
    if k.shape != l.shape:
        raise InputError(f"l: got shape {l.shape}, expected that of k, {k.shape}")
    check_estimator(estimator, len(k))
    return (center_kernel(k, estimator) * center_kernel(l, estimator)).sum() / normalizer(len(k), estimator)


def normalizer(n, estimator):
    """Return the divisor of the inner product of centered kernel matrices.

    A float, since JAX rejects integers over 2^31.
    """
    return float((n - 1) ** 2 if estimator == "gretton" else n * (n - 3))


def center_kernel(k, estimator):
    """Center the kernel matrix (n, n) so that inner products of the results are the estimator times `normalizer`."""
    if estimator != "song":
        k = _doubly_centered(k)
        return k if estimator == "gretton" else _without_diagonal(k)
    n = len(k)
    k = _without_diagonal(k)
    rows = k.sum(0) / (n - 2)
    centered = _without_diagonal(k - rows[:, None] - rows[None, :] + rows.sum() / (n - 1))
    # The kernel a_i + a_j, as when one example alone differs from the others, is centered to rounding errors.
    rounding = _ROUNDING * float(jnp.finfo(k.dtype).eps)
    return jnp.where(jnp.abs(centered).max() <= rounding * jnp.abs(k).max(), 0, centered)


def hsic_of_features(x, y, estimator):
    """Return the estimators of (K, L), (K, K), (L, L) times `normalizer`, for linear kernels of x (n, p) and y (n, q).

    Takes n (p^2 + p q + q^2) operations and no memory of size n^2. x and y need no centering but should have no large
    offset. Where subtracting the kernels' diagonals leaves few digits, as with one huge example, everything is computed
    again without diagonals (`off_diagonal`). Kernels that are 0 up to rounding count as 0.
    """
    centered_x, centered_y = x - x.mean(0)[None], y - y.mean(0)[None]
    x_diagonal, y_diagonal = diagonal(centered_x), diagonal(centered_y)
    x_power, x_accurate = power_of_features(centered_x, x_diagonal, estimator)
    y_power, y_accurate = power_of_features(centered_y, y_diagonal, estimator)
    cross = hsic_of_product(matmul(centered_x.T, centered_y), x_diagonal, y_diagonal, estimator)
    if estimator == "gretton":
        return cross, x_power, y_power
    return lax.cond(
        x_accurate & y_accurate,
        lambda x, y: (cross, x_power, y_power),
        jax.checkpoint(lambda x, y: hsic_without_diagonals(x, y, estimator)),
        x,
        y,
    )


def hsic_without_diagonals(x, y, estimator):
    """Compute `hsic_of_features` for "song" and "lange", accurate for any diagonals; 2 to 4 times slower."""
    widths = x.shape[1], y.shape[1]
    if estimator == "lange":
        x, y = x - x.mean(0)[None], y - y.mean(0)[None]
    sums = sums_of(x, y)
    centered = centered_products(sums, len(x), "song", widths) if estimator == "song" else sums.squares
    products = zero_rounding_products(centered, sums)
    return products[0, 1], products[0, 0], products[1, 1]


def zero_rounding_products(centered, sums):
    """Return the products of centered kernels, set to 0 for kernels at the rounding level of `sums`."""
    noise = lax.stop_gradient(_ROUNDING * float(jnp.finfo(centered.dtype).eps) * sums.squares)
    nonzero = ~(jnp.diagonal(centered) <= jnp.diagonal(noise))  # NaN counts as nonzero
    return jnp.where(nonzero[:, None] & nonzero[None], centered, 0)


def diagonal(x):
    """Return the diagonal of X X'."""
    return (x * x).sum(1)


def power_of_features(x, diagonal, estimator):
    """Return `hsic_of_product` of centered features x with x, and whether it is accurate without the diagonal."""
    products = matmul(x.T, x)
    power = hsic_of_product(products, diagonal, diagonal, estimator)
    return power, power > _LEAST_SHARE * lax.stop_gradient((products**2).sum())


def hsic_of_product(cross, x_diagonal, y_diagonal, estimator):
    """Return the estimator times `normalizer`, from X'Y of centered features and the kernels' diagonals (n,).

    <X X', Y Y'> = |X'Y|^2, and H X X' H = X X'.
    """
    n = len(x_diagonal)
    products = (cross**2).sum()
    if estimator == "gretton":
        return products
    diagonals = (x_diagonal * y_diagonal).sum()
    if estimator == "lange":
        return products - diagonals
    # The off-diagonal entries of a row of X X' sum to minus its diagonal entry.
    return products - n / (n - 2) * diagonals + x_diagonal.sum() / (n - 1) * (y_diagonal.sum() / (n - 2))


def _kernel_matrix(name, value):
    value = real(name, value)
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        raise InputError(f"{name}: got shape {value.shape}, expected (n, n)")
    require_finite(name, value)
    if is_concrete(value):
        asymmetry = float(jnp.abs(value - value.T).max(initial=0))
        # The two sides of a kernel matrix may differ by rounding; features (n, n) are far from symmetric.
        if asymmetry > float(jnp.sqrt(jnp.finfo(value.dtype).eps)) * float(jnp.abs(value).max(initial=0)):
            raise InputError(
                f"{name}: got entries that differ by up to {asymmetry:.1e} from symmetry, expected a kernel matrix"
            )
    return value.astype(jnp.float32) if value.dtype.itemsize < 4 else value


def _doubly_centered(k):
    rows = k.mean(0)
    return k - rows[:, None] - rows[None, :] + rows.mean()


def _without_diagonal(k):
    return jnp.where(jnp.eye(len(k), dtype=bool), 0, k)
