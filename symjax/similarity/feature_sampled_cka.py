"""CKA of two populations of neurons, of which both representations are samples (Chun et al. 2025)."""

import math
from functools import lru_cache, partial

import jax.numpy as jnp
from jax import lax

from symjax.errors import InputError
from symjax.similarity.channels import subtract_ninther, unit_norm
from symjax.similarity.hsic import center_kernel, check_estimator, hsic_without_diagonals
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.linalg import gram
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, evaluate, permute_kernel

_NEURONS = 64  # neurons whose own kernels are processed at once


def feature_sampled_cka(x, y, *, samples="flatten", layout=None, mask=None):
    """Estimate the linear CKA of two populations of neurons from samples of examples and of neurons.

    `cka` with "song" corrects for the finite number of examples alone. The norm of a kernel matrix K = sum_a x_a x_a'
    has terms of each neuron with itself, whose share is negligible in the population: few neurons make the norms too
    large and CKA too small. Here these terms are left out. With the estimator H of HSIC "song" (see `hsic`),

        H(K, L) / sqrt(A(x) A(y)),   A(x) = p / (p - 1) (H(K, K) - sum_a H(x_a x_a', x_a x_a')).

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c); n at least 4, p and q at least 2. They should be different
            neurons: of a representation with itself the value is over 1.
        samples: how tokens and maps become matrices: "flatten", "positions", "pool", "first" or "last"; see
            `as_matrix`.
        layout: "nhwc" or "nchw", for maps.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array, about in [-1, 1] but not bounded. NaN where the neurons of x or of y have nothing in common, so that
        the corrected norm is not positive. Symmetric. Invariant to translation, isotropic scaling, permutations and
        sign flips.

    Raises:
        InputError: as `cka`; fewer than 2 neurons.

    Reference: Chun et al. 2025 (arXiv 2502.15104).

    Example:
        >>> import numpy as np
        >>> from symjax import cka, feature_sampled_cka
        >>> rng = np.random.default_rng(0)
        >>> latent = rng.normal(size=(300, 20))
        >>> x, y = (latent @ rng.normal(size=(20, 40)) for _ in range(2))  # 40 neurons each of the same population
        >>> print(f"{cka(x, y):.2f} {feature_sampled_cka(x, y):.2f}")
        0.66 1.00
    """
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=True)
    check_estimator("song", len(x))
    for name, z in (("x", x), ("y", y)):
        if z.shape[1] < 2:
            raise InputError(f"{name}: got 1 neuron, expected at least 2")
    return evaluate(split(()), x, y)


@lru_cache(maxsize=64)
def split(shapes, *, samples="flatten"):
    """Return `feature_sampled_cka` as a `SplitMeasure`."""
    return SplitMeasure(
        partial(_prepare, samples=samples), lambda cross, a, b: cross[0, 0] + a + b, permute=permute_kernel
    )


def _prepare(x, samples):
    """Return the kernel divided by the root of its corrected square norm; `aux` is NaN if that is not positive."""
    x = unit_norm(subtract_ninther(as_matrix(x, "x", samples, layout="nhwc")))[0]
    kernel = center_kernel(gram(x), "song")
    own = lax.map(_own_power, x.T, batch_size=min(_NEURONS, x.shape[1])).sum()
    total = (kernel**2).sum()
    power = (total - own) * (x.shape[1] / (x.shape[1] - 1))
    positive = power > 16 * float(jnp.finfo(x.dtype).eps) * lax.stop_gradient(total + own)
    data = (kernel / jnp.sqrt(jnp.where(positive, power, 1))).reshape(1, -1)
    return Prepared(data, jnp.where(positive, 0, jnp.where(jnp.isnan(total), total, math.nan)).astype(x.dtype))


def _own_power(neuron):
    return hsic_without_diagonals(neuron[:, None], neuron[:, None], "song")[1]


MEASURES = (
    Measure(
        name="feature_sampled_cka",
        fn=feature_sampled_cka,
        reference="Chun et al. 2025 (arXiv 2502.15104)",
        range=(-math.inf, math.inf),
        kind="similarity",
        symmetric=True,
        invariances=frozenset({"translation", "isotropic_scaling", "permutation", "sign_flip", "cyclic_shift"}),
        split=split,
        title="CKA, feature-sampled",
        ends_at_equal=False,
        cost="n^2 p once, n^2 a pair",
        bias="none for populations of neurons",
        use="few neurons of large populations; different neurons on both sides",
    ),
)
