"""CKA of two representations by the same neurons, a sample of a larger population (Chun et al. 2025)."""

import jax
import jax.numpy as jnp
from jax import lax

from symjax.checks import any_array
from symjax.errors import InputError
from symjax.similarity.channels import subtract_ninther, unit_norm
from symjax.similarity.hsic import check_estimator, hsic_without_diagonals
from symjax.similarity.inputs import as_pair

_NEURONS = 64  # neurons whose own kernels are processed at once


def dependent_columns_cka(x, y, *, samples="flatten", layout=None, mask=None):
    """Estimate the linear CKA of a population of neurons in two conditions, from a sample of its neurons.

    Column a of x and column a of y are one neuron: at two times, in two trials, of a network before and after training.
    `cka` also counts the agreement of each neuron with itself. Its share is small in the population, but large in a
    sample of few neurons. Here it is left out, with the estimator of HSIC "song" (see `hsic`), H:

        D(x, y) = H(x x', y y') - sum_a H(x_a x_a', y_a y_a'),   D(x, y) / sqrt(D(x, x) D(y, y)).

    Args:
        x, y: (n, p) both, or maps (n, h, w, c) of one size; n at least 4, p at least 2.
        samples: how tokens and maps become matrices: "flatten", "positions", "pool", "first" or "last"; see
            `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array, 1 for equal arrays, about in [-1, 1] but not bounded. NaN if D(x, x) or D(y, y) is not positive, as
        for neurons without anything in common. Symmetric. Invariant to translation, isotropic scaling and sign flips.
        Not in `MEASURES`, since it compares single columns and few neurons leave it undefined.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unequal or fewer than 2 columns; unknown option;
            concrete NaN or infinite entries.

    Reference: Chun et al. 2025 (arXiv 2502.15104), with dependent columns.

    Example:
        >>> import numpy as np
        >>> from symjax import cka, dependent_columns_cka
        >>> rng = np.random.default_rng(0)
        >>> signal = rng.normal(size=(300, 20))
        >>> weights = rng.normal(size=(20, 8))
        >>> x, y = signal @ weights, signal @ weights + 3 * rng.normal(size=(300, 8))  # eight neurons, with noise later
        >>> print(f"{cka(x, y):.2f} {dependent_columns_cka(x, y):.2f}")
        0.77 1.00
    """
    given = x, y
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=True)
    x_shape, y_shape = (any_array(name, z).shape for name, z in zip("xy", given, strict=True))
    if x_shape != y_shape:
        raise InputError(f"y: got shape {y_shape}, expected that of x, {x_shape}, whose columns are the same neurons")
    check_estimator("song", len(x))
    if x.shape[1] < 2:
        raise InputError("x: got 1 neuron, expected at least 2")
    return _value(x, y)


@jax.jit
def _value(x, y):
    (x, _), (y, _) = unit_norm(subtract_ninther(x)), unit_norm(subtract_ninther(y))

    def powers(x, y):
        return jnp.stack(hsic_without_diagonals(x, y, "song"))

    own = lax.map(lambda pair: powers(*(z[:, None] for z in pair)), (x.T, y.T), batch_size=min(_NEURONS, x.shape[1]))
    total, own = powers(x, y), own.sum(0)
    cross, x_power, y_power = total - own
    noise = 16 * float(jnp.finfo(x.dtype).eps) * lax.stop_gradient(total + own)
    positive = (x_power > noise[1]) & (y_power > noise[2])
    root = jnp.sqrt(jnp.where(positive, x_power, 1)) * jnp.sqrt(jnp.where(positive, y_power, 1))
    return jnp.where(positive, cross / root, jnp.nan)
