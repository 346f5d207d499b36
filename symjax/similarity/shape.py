"""Shape metrics with partial whitening: the angle of two representations after the best linear maps of a class."""

import math
from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.checks import flag, static_scalar
from symjax.similarity.cca_checks import (
    dropped_message,
    notable_share,
    warn_of_dropped_directions,
    warn_of_few_examples,
)
from symjax.similarity.channels import centered, pad_to_common_width, unit_channels, unit_norm
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.measure import LINEAR, ORTHOGONAL, Measure
from symjax.similarity.polar import polar
from symjax.similarity.procrustes import best_rotation
from symjax.similarity.procrustes_split import SMALL_DISTANCE
from symjax.similarity.procrustes_split import split as split_procrustes


def shape_distance(x, y, *, alpha=1.0, center=True, samples="positions", layout=None, mask=None):
    """Compute min over orthogonal Q of the angle between X and Y Q, for partially whitened X and Y.

    X = x (alpha I + (1 - alpha) (x'x)^-1/2), with centered x, and Y likewise. The angle is
    arccos(<X, Y Q> / (|X| |Y|)). It is 2 arcsin(d / 2) for the Procrustes distance d of X and Y.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c); floating (integers become the default float, half precisions
            float32).
        alpha: number in [0, 1]. 1 is `procrustes_distance` as an angle. 0 whitens: the value is arccos of the sum of
            canonical correlations over the root of the product of both ranks.
        center: whether to subtract each channel's mean first.
        samples: "positions" (each token or pixel is a sample), "flatten", "pool", "first" or "last"; see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [0, pi / 2], 0 for equal arrays. NaN where x or y is constant (without `center`: zero). A metric on
        representations of any width, up to orthogonal maps, with `center` translation, with alpha 0 or 1 isotropic
        scaling, and with alpha 0 every invertible map. In between, as published, the scale of x matters: X is the sum
        of x with weight alpha and of orthonormal directions with weight 1 - alpha, so x should be scaled to a norm
        about 1 first. Directions of x at the level of rounding are left out by whitening; a `NumericalWarning` reports
        those that may be more. The first derivative is exact; it holds Q fixed.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; alpha not in [0, 1], or traced; unknown option;
            concrete NaN or infinite entries.

    Reference: Williams et al. 2021.

    Example:
        >>> import numpy as np
        >>> from symjax import shape_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> y = x @ np.tri(4)  # an invertible linear map
        >>> print(f"{shape_distance(x, y, alpha=0):.3f} {shape_distance(x, y):.3f}")
        0.000 0.570
    """
    center = flag("center", center)
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=center)
    alpha = check_alpha(alpha)
    if alpha == 0:
        warn_of_few_examples(len(x), x.shape[1], y.shape[1])
    angle, dropped = _angle(*pad_to_common_width(x, y), alpha, center, _whitening(alpha))
    warn_of_dropped_directions(x, y, dropped)
    return angle


def check_alpha(alpha):
    return static_scalar("alpha", alpha, "a number in [0, 1]", lambda value: 0 <= value <= 1)


@lru_cache(maxsize=64)
def split(shapes, *, alpha=1.0, center=True, samples="positions"):
    """Return `shape_distance` as a `SplitMeasure`, that of `procrustes_distance` with whitening before."""
    base, alpha = split_procrustes(shapes), check_alpha(alpha)

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        whitened, dropped = _whitened(x, alpha, center, _whitening(alpha))
        prepared = base.prepare(whitened)
        return prepared._replace(aux=(*prepared.aux, notable_share(dropped, x)))

    return replace(
        base,
        prepare=prepare,
        finish=lambda *sides: _angle_of(base.finish(*sides)),
        exact=lambda *sides: _angle_of(base.exact(*sides)),
        is_inaccurate=lambda value: value < SMALL_DISTANCE,
        warning=lambda read, aux: dropped_message(aux[-1]),
    )


@partial(jax.jit, static_argnums=(3, 4))
def _angle(x, y, alpha, center, whitening):
    (x, x_dropped), (y, y_dropped) = (_whitened(z, alpha, center, whitening) for z in (x, y))
    zero = jnp.zeros((), x.dtype)
    return _angle_of(best_rotation(x, y, (zero * x[0], zero * y[0]))[0]), (x_dropped, y_dropped)


def _whitening(alpha):
    return {0: "full", 1: "none"}.get(alpha, "partial")


def _whitened(x, alpha, center, whitening):
    """Return x partially whitened, with norm about 1, and the share of the largest direction that this drops."""
    x, norm = unit_norm(centered(x) if center else x)
    if whitening == "none":
        return x, jnp.zeros((), x.dtype)
    if whitening == "full":
        return polar(unit_channels(x)[0])  # columns of unit norm have the same directions
    white, dropped = polar(x)
    total = alpha * norm + 1 - alpha
    return alpha * norm / total * x + (1 - alpha) / total * white, dropped


def _angle_of(distance):
    return 2 * jnp.arcsin(distance / 2)


def _measure(name, alpha, invariances, use, bias):
    return Measure(
        name=name,
        fn=shape_distance if alpha == 1 else partial(shape_distance, alpha=alpha),
        reference="Williams et al. 2021",
        range=(0.0, math.pi / 2),
        kind="distance",
        symmetric=True,
        invariances=invariances,
        split=partial(split, alpha=alpha),
        one_map_size=True,
        zero_channels=True,
        lost_with=lambda center=True, **_: frozenset({"translation"} if center is False else ()),
        cost="n p^2 once, n p q and a singular value decomposition (p, q) a pair",
        bias=bias,
        use=use,
    )


_BIAS = "decreases from pi / 2 with growing (p + q) / n"
_TRANSLATED = ORTHOGONAL | {"translation"}

MEASURES = (
    _measure(
        "shape_distance",
        1.0,
        _TRANSLATED | {"isotropic_scaling"},
        "a metric, for clustering and embedding of networks; directions count by their variance",
        _BIAS,
    ),
    _measure(
        "shape_distance_white",
        0.0,
        LINEAR | {"translation"},
        "a metric where all directions count alike, as in CCA; many more examples than features",
        f"{_BIAS}; 0 for any data with n - 1 <= min(p, q)",
    ),
)
