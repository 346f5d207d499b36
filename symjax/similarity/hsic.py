"""The Hilbert-Schmidt independence criterion: three estimators, each an inner product of centred kernel matrices.

With H = 1 - 11'/n, and K, L kernel matrices (n, n), symmetric:

    gretton   <H K H, H L H> / (n - 1)^2: biased. Gretton et al. 2005 ("HSIC_0"); Kornblith et al. 2019, equation 3.
    song      <U(K), U(L)> / (n (n - 3)), U the U-centring of Szekely and Rizzo 2014, which leaves a zero diagonal and
              zero row sums: unbiased. Equal to Song et al. 2012, equation 5 ("HSIC_1"),
              (sum K L + sum K sum L / ((n - 1)(n - 2)) - 2 / (n - 2) <K 1, L 1>) / (n (n - 3)), diagonals set to zero.
    lange     the same with H K H, its diagonal set to zero, for U(K): centre first, then drop the diagonal, as the code
              of Lange et al. 2023 has it. Biased all the same: centring spreads the diagonal over the rest, which tells
              where there are many more features than examples.

Centring first has two uses: it is done once per representation, not per pair; and the published sum of three large
terms that nearly cancel is never formed. Of kernel matrices that are already centred, H K H = K, all three need nothing
but <K, L> and the diagonals, which for the linear kernel K = X X' come from X alone: `hsic_of_features`.
"""

import math

import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.checks import is_concrete, real, require_finite
from symjax.birkhoff.dual import matmul
from symjax.checks import one_of
from symjax.errors import InputError

ESTIMATORS = ("song", "gretton", "lange")
_ROUNDING = 16  # times eps and the size of a kernel: what centring may leave of one that it should make 0


def check_estimator(estimator, n=math.inf):
    """Raises an `InputError` if the estimator is unknown or n examples are too few for it."""
    one_of("estimator", estimator, ESTIMATORS)
    if n < least_examples(estimator):
        raise InputError(
            f"x: got {n} examples, must be at least {least_examples(estimator)} for the estimator {estimator!r}"
        )


def least_examples(estimator):
    return 2 if estimator == "gretton" else 4


def hsic(k, l, estimator="song"):  # noqa: E741 (K and L are what the papers call them)
    """The Hilbert-Schmidt independence criterion of two kernel matrices; the estimators are defined above.

    Args:
        k, l: (n, n), symmetric; n at least 4, for "gretton" 2.
        estimator: "song" (unbiased, may be negative), "gretton" (biased) or "lange".

    Returns:
        0-d array. Unchanged by adding a_i + a_j to the entries (i, j) of a kernel matrix; "song" does not see their
        diagonals.

    Raises:
        InputError: not square, sizes that differ, too few examples, unknown estimator; NaN in concrete input, or such
            input that is not symmetric up to rounding.
    """
    k, l = (_kernel_matrix(name, value) for name, value in (("k", k), ("l", l)))  # noqa: E741
    if k.shape != l.shape:
        raise InputError(f"l: got shape {l.shape}, must be that of k, {k.shape}")
    check_estimator(estimator, len(k))
    return (centre_kernel(k, estimator) * centre_kernel(l, estimator)).sum() / pairs(len(k), estimator)


def pairs(n, estimator):
    """What the inner product of centred kernel matrices is divided by."""
    return (n - 1) ** 2 if estimator == "gretton" else n * (n - 3)


def centre_kernel(k, estimator):
    """The kernel matrix (n, n), centred so that inner products of such matrices are the estimator up to `pairs`."""
    if estimator != "song":
        k = _doubly_centred(k)
        return k if estimator == "gretton" else _without_diagonal(k)
    n = len(k)
    k = _without_diagonal(k)
    rows = k.sum(0) / (n - 2)
    centred = _without_diagonal(k - rows[:, None] - rows[None, :] + rows.sum() / (n - 1))
    # Of a_i + a_j, as where one example alone differs from the others, nothing but rounding is left.
    return jnp.where(jnp.abs(centred).max() <= _ROUNDING * float(jnp.finfo(k.dtype).eps) * jnp.abs(k).max(), 0, centred)


def hsic_of_features(x, y, estimator):
    """The estimator, up to `pairs`, of the linear kernels of features x (n, p), y (n, q) with columns centred.

    Costs n p q and no memory of size n^2. <X X', Y Y'> = |X'Y|^2, and H X X' H = X X'.
    """
    return hsic_of_product(matmul(x.T, y), (x * x).sum(1), (y * y).sum(1), estimator)


def power_of_features(x, estimator):
    """`hsic_of_features` of x with itself; NaN where that is 0 up to rounding, so that nothing is divided by it."""
    power = hsic_of_features(x, x, estimator)
    products = lax.stop_gradient((x * x).sum()) ** 2  # no less than |x'x|^2
    return jnp.where(power <= _ROUNDING * float(jnp.finfo(x.dtype).eps) * products, jnp.nan, power)


def hsic_of_product(cross, x_diagonal, y_diagonal, estimator):
    """`hsic_of_features` from X'Y and the diagonals (n,) of both kernel matrices."""
    n = len(x_diagonal)
    products = (cross**2).sum()
    if estimator == "gretton":
        return products
    diagonals = (x_diagonal * y_diagonal).sum()
    if estimator == "lange":
        return products - diagonals
    # Off the diagonal, rows of X X' sum to minus its entry on the diagonal.
    return products - n / (n - 2) * diagonals + x_diagonal.sum() / (n - 1) * (y_diagonal.sum() / (n - 2))


def _kernel_matrix(name, value):
    value = real(name, value)
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        raise InputError(f"{name}: got shape {value.shape}, must be (n, n)")
    require_finite(name, value)
    if is_concrete(value):
        apart = float(jnp.abs(value - value.T).max(initial=0))
        # Products and exponentials round the two sides differently; features that are (n, n) are far from symmetric.
        if apart > float(jnp.sqrt(jnp.finfo(value.dtype).eps)) * float(jnp.abs(value).max(initial=0)):
            raise InputError(f"{name}: is not symmetric, entries differ by up to {apart:.1e}; must be a kernel matrix")
    return value.astype(jnp.float32) if value.dtype.itemsize < 4 else value


def _doubly_centred(k):
    rows = k.mean(0)
    return k - rows[:, None] - rows[None, :] + rows.mean()


def _without_diagonal(k):
    return jnp.where(jnp.eye(len(k), dtype=bool), 0, k)
