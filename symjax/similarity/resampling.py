"""Error bars and p values for similarity measures: variation over examples and over models."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import integer, is_concrete, one_of, random_key, scalar
from symjax.errors import InputError
from symjax.ops import parallel
from symjax.similarity.measure import Measure
from symjax.similarity.permuted import MAX_NUMBERS, draw_permutations, permuted_values
from symjax.similarity.sides import checked_sides, function_of
from symjax.similarity.table import as_measure

ALTERNATIVES = ("greater", "less")


class ErrorBars(NamedTuple):
    """An estimate, and its variation if examples were drawn again."""

    estimate: jax.Array
    standard_error: jax.Array
    low: jax.Array  # ends of the interval
    high: jax.Array
    bias: jax.Array  # estimated bias of the estimate; the interval does not subtract it
    values: jax.Array  # (num_resamples,), on halves, or on samples drawn with replacement

    def __repr__(self):
        return format_result(self, "{estimate:.4g} [{low:.4g}, {high:.4g}]")


class PermutationTest(NamedTuple):
    """An estimate, its p value, and its values for permuted examples."""

    estimate: jax.Array
    p_value: jax.Array  # at least 1 / (1 + num_permutations)
    values: jax.Array  # (num_permutations,), with the examples of y permuted

    def __repr__(self):
        return format_result(self, "{estimate:.4g}, p = {p_value:.4g}")


def error_bars(
    fn,
    x,
    y,
    key,
    num_resamples=200,
    level=0.95,
    *,
    method="halves",
    batch_size=None,
    samples=None,
    layout=None,
    mask=None,
):
    """Return the standard error of fn(x, y) and an interval, over examples, from random halves or by the bootstrap.

    A half is drawn without replacement (the delete-d jackknife with d = n / 2: Shao, Wu 1989; subsampling: Politis,
    Romano 1994). The values t on halves vary by as much as the estimate on all n examples, so with m = floor(n / 2)

        standard error = sqrt(m / (n - m)) sd(t),   bias = m / (n - m) (mean(t) - estimate),
        interval       = estimate + sqrt(m / (n - m)) (quantiles of t - mean(t)).

    The interval has the orientation of a percentile interval, not the reversed one of Politis and Romano.

    method="bootstrap" draws n examples with replacement (Efron 1979): standard error = sd(t), bias = mean(t) -
    estimate, and the interval's ends are quantiles of t. It is not the default: two copies of an example coincide in
    both representations, which counts as agreement. With many independent neurons the interval therefore lies above the
    true value. The bootstrap is adequate for means over examples, such as a covariance.

    The interval is for the mean of fn on n examples. For most measures this mean differs from its limit by a bias of
    order 1 / n, which can exceed the width of the interval; for "cka" it is close to 0.

    Coverage at level 0.95, over 400 simulated sets of 100 Gaussian examples of 10 and 8 neurons: for "cka", of its
    limit, 94 % where that is .30, 95 % where it is .59, and 100 % for independent x and y, where the interval is too
    wide (the bootstrap: 88, 92 and 0 %). For other measures, of their mean at n = 100, for data as in the first case:
    centered Procrustes 94 %, "pls" 92 %, CKA with "gretton" 93 %, and "cca", with 5 and 4 neurons, 96 %.

    Args:
        fn: a name in `MEASURES`, a `Measure`, or a traceable function fn(x, y) -> 0-d array. It is compiled once per
            function object, so pass the same object again and not a new lambda.
        x, y: representations (n, d) or (n, h, w, c), with n at least 4 and n / 2 examples enough for fn (n = 8 for
            "cka").
        key: key of `jax.random`, such as jax.random.key(0).
        num_resamples: number of halves, or samples, at least 2.
        level: level of the interval, in (0, 1).
        method: "halves" or "bootstrap".
        batch_size: number of halves that are evaluated at once, as under `vmap`; by default one on CPU, where
            jaxlib can wait forever for its threads in batches of decompositions, elsewhere limited by `MAX_NUMBERS`.
        samples: "pool", "flatten", "first" or "last" reduces tokens and maps to vectors first, as in `as_matrix`. By
            default fn receives them as (n, h, w, c).
        layout: layout of maps, "nhwc" or "nchw".
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1, with `samples` one of "pool", "first" and
            "last". (With positions as samples, examples would have different numbers of them.)

    Returns:
        `ErrorBars`; NaN where the value on a half is NaN.

    Raises:
        InputError: x and y not as fn and `representation` require, fewer than 4 examples, or so few that fn rejects
            halves; fn is not a measure or returns something else; invalid key; num_resamples, level or batch_size out
            of range; unknown method.

    Example:
        >>> import jax, numpy as np
        >>> from symjax import error_bars
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> bars = error_bars("cka", x, x + 1, jax.random.key(0), num_resamples=8)
        >>> print(f"{bars.estimate:.3f} {bars.standard_error:.3f}")
        1.000 0.000
    """
    measure, key = as_measure("fn", fn), random_key("key", key)
    (x,), (y,) = (side.values() for side in checked_sides(measure, x, y, samples, layout, mask, min_examples=4))
    fn = function_of(measure)
    integer("num_resamples", num_resamples, 2)
    check_level(level)
    one_of("method", method, DRAW_EXAMPLES)
    estimate = _estimate(fn, x, y)
    ends = jnp.array([(1 - level) / 2, (1 + level) / 2], estimate.dtype)
    chosen = len(x) // 2 if method == "halves" else len(x)
    try:
        values = _resampled(fn, x, y, key, num_resamples, _batch_size(x, y, chosen, batch_size), method)
    except InputError as error:  # fn accepts the full data
        raise InputError(
            f"x, y: got {len(x)} examples, expected more, since fn rejects halves of {chosen}: {error}"
        ) from error
    if method == "bootstrap":
        return ErrorBars(estimate, values.std(ddof=1), *jnp.quantile(values, ends), values.mean() - estimate, values)
    weight = chosen / (len(x) - chosen)
    low, high = math.sqrt(weight) * jnp.quantile(values - values.mean(), ends)
    return ErrorBars(
        estimate,
        math.sqrt(weight) * values.std(ddof=1),
        estimate + low,
        estimate + high,
        weight * (values.mean() - estimate),
        values,
    )


def permutation_test(
    fn, x, y, key, num_permutations=999, *, alternative=None, batch_size=None, samples=None, layout=None, mask=None
):
    """Test whether fn(x, y) exceeds chance, by random permutations of the examples of y.

    p = (1 + number of permutations with fn at least as extreme) / (1 + num_permutations). The test is exact: for x and
    y without a relation, p <= a has probability at most a (Phipson, Smyth 2010; `Permutations` describes how these
    are drawn). Values equal to the estimate up to rounding count as extreme.

    A measure of `MEASURES` prepares x and y once, and the products for all permutations follow from Fourier transforms.

    Args:
        fn, x, y, key, samples, layout, mask: as in `error_bars`; 2 examples suffice if they do for fn.
        num_permutations: number of permutations, at least 1.
        alternative: which values are extreme, "greater" or "less". By default "less" for names and `Measure`s of
            distances, otherwise "greater".
        batch_size: as in `error_bars`, for a function or a `Measure` without a split form.

    Returns:
        `PermutationTest`; p is NaN where the estimate is. NaN among the values counts as extreme.

    Raises:
        InputError: as `error_bars`; unknown alternative.

    Example:
        >>> import jax, numpy as np
        >>> from symjax import permutation_test
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> test = permutation_test("cka", x, x + 1, jax.random.key(0), num_permutations=8)
        >>> print(f"{test.p_value:.3f}")
        0.111
    """
    measure, key = as_measure("fn", fn), random_key("key", key)
    (x,), (y,) = (side.values() for side in checked_sides(measure, x, y, samples, layout, mask))
    if alternative is None:
        alternative = "less" if isinstance(measure, Measure) and measure.kind == "distance" else "greater"
    one_of("alternative", alternative, ALTERNATIVES)
    integer("num_permutations", num_permutations, 1)
    estimate = _estimate(function_of(measure), x, y)
    if batch_size is not None:
        integer("batch_size", batch_size, 1)
    permutations = draw_permutations(key, len(x), num_permutations)
    values = permuted_values(measure, [x], [y], permutations, batch_size)[:, 0, 0]
    p_value = p_value_of(values, alternative, rounding_of(measure, values))
    return PermutationTest(estimate, jnp.where(jnp.isnan(estimate), jnp.nan, p_value), values[1:])


def rounding_of(measure, values):
    """Return the size of rounding errors of values (1 + permutations, ...) of a measure, the identity first."""
    ends = measure.range if isinstance(measure, Measure) else ()
    size = jnp.maximum(jnp.abs(values[0]), max((abs(end) for end in ends if math.isfinite(end)), default=0.0))
    return 16 * float(jnp.finfo(values.dtype).eps) * size


def p_value_of(values, alternative, rounding):
    """Return the p value of values[0] among all values (1 + permutations, ...); equal ones up to `rounding` count."""
    sign = 1 if alternative == "greater" else -1
    hits = (~(sign * values[1:] < sign * values[0] - rounding)).sum(0, dtype=jnp.int32)
    return (1 + hits).astype(values.dtype) / len(values)


DRAW_EXAMPLES = {
    "halves": lambda key, n: jax.random.permutation(key, n)[: n // 2],
    "bootstrap": lambda key, n: jax.random.randint(key, (n,), 0, n),
}  # indices of examples, by method of `error_bars`


@partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _resampled(fn, x, y, key, count, batch_size, method):
    def value(key):
        chosen = DRAW_EXAMPLES[method](key, len(x))
        return fn(x[chosen], y[chosen])

    return lax.map(value, jax.random.split(key, count), batch_size=batch_size)


def _batch_size(x, y, examples, batch_size):
    """Return the batch size of `lax.map`.

    None evaluates sequentially, since `vmap` evaluates both branches of conditions.
    """
    if batch_size is None and parallel.default_execution().members == "map":
        return None
    if batch_size is None:
        batch_size = MAX_NUMBERS // (examples * (x[0].size + y[0].size + 2 * examples))
    else:
        integer("batch_size", batch_size, 1)
    return batch_size if batch_size > 1 else None


def _estimate(fn, x, y):
    estimate = fn(x, y)
    if not isinstance(estimate, jax.Array) or estimate.shape != ():
        raise InputError(f"fn: got a {type(estimate).__name__} of shape {jnp.shape(estimate)}, expected a 0-d array")
    return estimate


def format_result(result, template):
    """Format a result by `template` for `repr`; traced results and arrays of results by their shapes."""
    parts = result._asdict()
    is_concrete_result = all(
        isinstance(part, (jax.Array, np.ndarray, np.generic, float)) and is_concrete(part) for part in result
    )
    if is_concrete_result and jnp.ndim(result[0]) == 0:
        text = template.format(**{name: float(part) for name, part in parts.items() if jnp.ndim(part) == 0})
    else:
        text = ", ".join(f"{name}: {getattr(part, 'shape', part)}" for name, part in parts.items())
    return f"{type(result).__name__}({text})"


def check_level(level, name="level"):
    if not is_concrete(level):
        raise InputError(f"{name}: got a traced value, expected a number in (0, 1)")
    scalar(name, level, "a number in (0, 1)", lambda value: 0 < value < 1)
