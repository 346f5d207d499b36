"""Null-calibrated values: how far a value exceeds what unrelated examples give (Aristotelian view, 2026)."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integer, one_of, random_key, scalar
from symjax.errors import InputError
from symjax.similarity.inputs import FewExamplesWarning, warn_user
from symjax.similarity.measure import Measure
from symjax.similarity.pairwise_checks import LAYERS, trace_measure
from symjax.similarity.permuted import draw_permutations, permuted_values
from symjax.similarity.resampling import (
    check_level,
    format_result,
    p_value_of,
    rounding_of,
)
from symjax.similarity.sides import checked_sides, function_of
from symjax.similarity.table import as_measure
from symjax.spelling import one_line


class Calibration(NamedTuple):
    """A value, and how it compares with the values of permuted examples.

    Each part has the same shape, () for two arrays; `values` has a leading axis of permutations.
    """

    value: jax.Array
    calibrated: jax.Array  # 0 at chance, 1 at the best value
    p_value: jax.Array  # at least 1 / (1 + num_permutations)
    threshold: jax.Array  # the value that chance exceeds with probability alpha
    values: jax.Array  # (num_permutations, ...)

    def __repr__(self):
        return format_result(self, "{value:.4g}, calibrated {calibrated:.4g}, p = {p_value:.4g}")


class LayerCalibration(NamedTuple):
    """Calibrated values of all pairs of layers, and of their summaries; NaN for pairs that are not compared."""

    layers_x: tuple
    layers_y: tuple
    pairs: Calibration  # (layers of x, layers of y)
    best: Calibration  # of the most similar pair: the maximum of similarities, the minimum of distances
    mean: Calibration  # of the mean over pairs

    def __repr__(self):
        return one_line(self)


def calibrate(
    measure,
    x,
    y,
    key,
    num_permutations=200,
    *,
    alpha=0.05,
    layers="all",
    best=None,
    samples=None,
    layout=None,
    mask=None,
):
    """Compare a measure's value with its values for permuted examples of y, for two arrays or for all layers.

    With t the ceil((1 - alpha) (1 + num_permutations))-th smallest of the value s and those for permuted examples,

        calibrated = max((s - t) / (s_best - t), 0),   p = (1 + number of permutations at least as similar)
                                                          / (1 + num_permutations).

    For distances the order is reversed. For unrelated representations `calibrated` is positive with probability at most
    alpha, for any number of examples and of neurons. All layers share the permutations, so that this also holds for
    the best pair of layers, however many there are, and for their mean.

    Each representation is prepared once (`Measure.split`). The permutations are shifts along cycles to which examples
    are assigned at random (`Permutations`), so that the products for all of them follow from Fourier transforms. The
    time of 200 permutations, relative to one evaluation, for 1,000 to 5,000 examples and 64 to 256 neurons: 1 to 8 for
    CKA and other kernels, RSA and distance correlation, whose values are one correlation; 4 to 22 for CCA, SVCCA, shape
    metrics, `gulp` and measures of neighbors, and 11 to 25 for Procrustes, which need singular values for each
    permutation; 20 to 55 for "pls", "pwcca" and measures that match neurons; 90 to 100 for "lcs_knn", "edit_knn" and
    "rank_similarity", whose lists depend on the order of examples at equal distances; about 200 for a function, and for
    measures without a split form ("linear_predictivity", "aligned_cosine", "held_out_procrustes",
    "stochastic_shape_distance").

    Args:
        measure: a name in `MEASURES`, a `Measure`, or a traceable function fn(x, y) -> 0-d array of a similarity.
        x, y: representations (n, d) or (n, h, w, c), or mappings from names of layers to such arrays.
        key: key of `jax.random`.
        num_permutations: number of permutations, at least 1; the same for all pairs of layers.
        alpha: probability of exceeding the threshold by chance, in (0, 1).
        layers: for mappings, "all" pairs of layers, or "same" for layers of equal names.
        best: s_best, by default the end of the measure's range, which most measures reach for equal representations.
            `calibrated` is NaN if there is no such end.
        samples, layout, mask: as in `error_bars`; the mask holds for all tokens and maps.

    Returns:
        `Calibration` for arrays, `LayerCalibration` for mappings. NaN where the value is NaN.

    Raises:
        InputError: wrong arrays, different numbers of examples, or layers that the measure cannot compare; x or y is
            a mapping and the other one is not; unknown measure; numbers out of range.

    Reference: Aristotelian view of representations, 2026 (arXiv 2602.14486), algorithms 1 and 2.

    Example:
        >>> import jax, numpy as np
        >>> from symjax import calibrate
        >>> x = np.random.default_rng(0).normal(size=(2, 20, 30))
        >>> calibrate("cka_gretton", x[0], x[0] + x[1], jax.random.key(0))
        Calibration(0.8025, calibrated 0.4591, p = 0.004975)
    """
    measure, key = as_measure("measure", measure), random_key("key", key)
    integer("num_permutations", num_permutations, 1)
    check_level(alpha, "alpha")
    best = _best(measure, best)
    one_of("layers", layers, LAYERS)
    if isinstance(x, Mapping) != isinstance(y, Mapping):
        raise InputError(f"y: got {type(y).__name__}, expected a mapping if and only if x is one ({type(x).__name__})")
    sides = checked_sides(measure, x, y, samples, layout, mask, mappings=True)
    pairs = np.ones([len(side) for side in sides], bool)
    if layers == "same" and isinstance(x, Mapping):
        pairs = np.array([[a == b for b in y] for a in x])
        if not pairs.any():
            raise InputError(f"layers: got 'same', expected one of {', '.join(map(repr, x))} in y")
    _check_pairs(measure, sides, pairs)
    xs, ys = (list(side.values()) for side in sides)
    permutations = draw_permutations(key, len(xs[0]), num_permutations)
    values = permuted_values(measure, xs, ys, permutations, pairs=pairs)
    sign = -1 if isinstance(measure, Measure) and measure.kind == "distance" else 1

    def calibration(values):
        return _calibration(measure, values, sign, best, alpha)

    if not isinstance(x, Mapping):
        return calibration(values[:, 0, 0])
    compared = values[:, *np.nonzero(pairs)]
    summaries = sign * (sign * compared).max(1), compared.mean(1)
    return LayerCalibration(tuple(x), tuple(y), calibration(values), *map(calibration, summaries))


def _best(measure, best):
    if best is not None:
        return scalar("best", best, "a number", math.isfinite)
    if not isinstance(measure, Measure):
        return math.nan
    end = measure.range[measure.kind == "similarity"]
    return end if math.isfinite(end) else math.nan


def _check_pairs(measure, sides, pairs):
    """Check that the measure accepts the pairs, by shapes alone; issue its warning about few examples once."""
    fn = function_of(measure)
    message = None
    for i, (x_name, x) in enumerate(sides[0].items()):
        for j, (y_name, y) in enumerate(sides[1].items()):
            if pairs[i, j]:
                try:
                    message = message or trace_measure(fn, (x.shape, y.shape), x.dtype, ())
                except InputError as error:
                    raise error if pairs.size == 1 else InputError(f"{x_name} and {y_name}: {error}") from error
    if message:
        warn_user(message, FewExamplesWarning)


def _calibration(measure, values, sign, best, alpha):
    """Return the `Calibration` of values (1 + permutations, ...), the identity first."""
    value, count = values[0], len(values)
    position = max(math.ceil((1 - float(alpha)) * count - 1e-9), 1) - 1
    threshold = sign * jnp.sort(sign * values, axis=0)[position]
    rounding = rounding_of(measure, values)
    gap, reach = sign * (best - threshold), sign * (value - threshold)
    calibrated = jnp.where(reach > rounding, jnp.where(reach < gap, reach / gap, 1), 0)
    calibrated = jnp.where(jnp.isnan(reach) | jnp.isnan(gap), jnp.nan, calibrated)
    p_value = p_value_of(values, "greater" if sign > 0 else "less", rounding)
    return Calibration(value, calibrated, jnp.where(jnp.isnan(value), jnp.nan, p_value), threshold, values[1:])
