"""Differences of descriptors: numbers that describe one representation each."""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.checks import scalar
from symjax.similarity.channels import magnitude, norms, pad_to_common_width, safe_sqrt, unit_channels, zero_rounding
from symjax.similarity.distances import squared_distances, unit_rows
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.pair_product import PairProduct, Prepared
from symjax.similarity.split_measure import SplitMeasure


def magnitude_difference(x, y, *, samples="flatten", layout=None, mask=None):
    """Compute | |mean of x| - |mean of y| |, the difference of the lengths of the mean examples.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ; floating (integers become the
            default float, half precisions float32).
        samples: how tokens and maps become matrices: "flatten", "positions", "pool", "first" or "last"; see
            `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array, nonnegative. Symmetric. Invariant to orthogonal transformations. 0 does not mean that the
        representations are equal: each is described by one number.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; an unknown option; concrete NaN or infinite entries.

    Reference: Wang et al. 2022; Klabunde et al. 2025.

    Example:
        >>> import numpy as np
        >>> from symjax import magnitude_difference
        >>> x = np.ones((16, 4))
        >>> print(f"{magnitude_difference(x, 3 * x):.3f}")
        4.000
    """
    return _difference(_length, *_checked(x, y, samples, layout, mask))


def uniformity_difference(x, y, *, t=2.0, samples="flatten", layout=None, mask=None):
    """Compute |u(x) - u(y)| with the uniformity u(x) = log of the mean of exp(-t |x_i - x_j|^2) over pairs i < j.

    Examples are scaled to unit norm first, as in the definition; examples that are zero stay zero.

    Args:
        x, y, samples, layout, mask: as in `magnitude_difference`.
        t: positive number.

    Returns:
        0-d array in [0, 4 t]. NaN where all examples of x or of y are zero. Symmetric. Invariant to isotropic scaling
        and orthogonal transformations. Each representation is described by one number.

    Raises:
        InputError: as `magnitude_difference`; t is not positive.

    Reference: Wang and Isola 2020; Klabunde et al. 2025 (without scaling to unit norm, and with pairs i = j).

    Example:
        >>> import numpy as np
        >>> from symjax import uniformity_difference
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{uniformity_difference(x, 3 * x[:, ::-1]):.3f}")
        0.000
    """
    t = scalar("t", t, "a positive number", lambda value: 0 < value < math.inf)
    return _difference(_uniformity, *_checked(x, y, samples, layout, mask), t)


def concentricity_difference(x, y, *, samples="flatten", layout=None, mask=None):
    """Compute |c(x) - c(y)| with the concentricity c(x), the mean cosine of the examples with the mean example.

    Args and Raises: as for `magnitude_difference`.

    Returns:
        0-d array in [0, 2]. An example that is zero has cosine 0. NaN where the mean of x or of y is zero up to
        rounding. Symmetric. Invariant to isotropic scaling and orthogonal transformations. Each representation is
        described by one number.

    Reference: Wang et al. 2022; Klabunde et al. 2025.

    Example:
        >>> import numpy as np
        >>> from symjax import concentricity_difference
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{concentricity_difference(x, 3 * x[:, ::-1]):.3f}")
        0.000
    """
    return _difference(_concentricity, *_checked(x, y, samples, layout, mask))


def _checked(x, y, samples, layout, mask):
    return pad_to_common_width(*as_pair(x, y, samples, mask, layout=layout))


@partial(jax.jit, static_argnums=0)
def _difference(describe, x, y, *options):
    return jnp.abs(describe(x, *options) - describe(y, *options))


def _length(x):
    size = magnitude(x)
    return size * safe_sqrt(((x / size).mean(0) ** 2).sum())


def _uniformity(x, t=2.0):
    points = unit_rows(x)
    exponents = -jnp.asarray(t, x.dtype) * squared_distances(points)[jnp.triu_indices(len(x), 1)]
    value = jax.nn.logsumexp(exponents) - math.log(len(exponents))
    return jnp.where((points != 0).any(), value, jnp.nan)


def _concentricity(x):
    mean = zero_rounding(x.mean(0)[:, None], norms(x, (0, 1)) / len(x) ** 0.5)  # of centered data it has no direction
    direction, length = unit_channels(mean)
    cosines = (unit_rows(x) * direction.T).sum(1)
    return jnp.where(length[0] > 0, cosines.mean(), jnp.nan)


DIFFERENCE = PairProduct(lambda a, b: (), lambda data, size: data, lambda a, b: a[:, None] - b[None])


@lru_cache(maxsize=64)
def split(shapes, *, describe, samples="flatten", **options):
    """Return the difference of describe(x, **options) as a `SplitMeasure`."""

    def prepare(x):
        return Prepared(describe(as_matrix(x, "x", samples, layout="nhwc"), **options).reshape(1, 1), ())

    return SplitMeasure(
        prepare, lambda cross, *_: jnp.abs(cross[0, 0]), product=DIFFERENCE, permute=lambda prepared, order: prepared
    )


_SCALED = ORTHOGONAL | {"isotropic_scaling", "cyclic_shift"}
_KLABUNDE = "Klabunde et al. 2025"


def _measure(name, fn, reference, largest, invariances, describe, title, cost, use):
    return Measure(
        name=name,
        fn=fn,
        reference=f"{reference}; {_KLABUNDE}",
        range=(0.0, largest),
        kind="distance",
        symmetric=True,
        invariances=invariances,
        split=partial(split, describe=describe),
        zero_channels=True,
        title=title,
        cost=cost,
        bias="near 0 for independent data of one distribution",
        use=use,
    )


MEASURES = (
    _measure(
        *("magnitude_difference", magnitude_difference, "Wang et al. 2022", math.inf),
        *(_SCALED - {"isotropic_scaling"}, _length, "magnitude difference"),
        *("n p once", "drift of activations; it does not show which examples are alike"),
    ),
    _measure(
        *("uniformity_difference", uniformity_difference, "Wang and Isola 2020", 8.0),
        *(_SCALED, _uniformity, "uniformity difference"),
        *("n^2 p once", "how evenly examples spread over the sphere, for example in contrastive learning"),
    ),
    _measure(
        *("concentricity_difference", concentricity_difference, "Wang et al. 2022", 2.0),
        *(_SCALED, _concentricity, "concentricity difference"),
        *("n p once", "anisotropy: whether the examples share a direction"),
    ),
)
