"""Means over pairs of models, with error bars over models."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.birkhoff.dual import matmul
from symjax.checks import integer, numpy_array, one_of, random_key, real, require_finite
from symjax.errors import InputError
from symjax.similarity.resampling import check_level, format_result

PAIR_METHODS = ("jackknife", "bootstrap")


class PairMean(NamedTuple):
    """A mean over pairs of models, and its variation if models were drawn again."""

    estimate: jax.Array
    standard_error: jax.Array
    low: jax.Array
    high: jax.Array

    def __repr__(self):
        return format_result(self, "{estimate:.4g} [{low:.4g}, {high:.4g}]")


def mean_over_pairs(values, pairs, level=0.95, *, method="jackknife", key=None, num_resamples=1000):
    """Return the mean of values of pairs of models, with error bars over models.

    Pairs that share a model are not independent: with v_ij = mu + a_i + a_j + e_ij, sd / sqrt(number of pairs) hardly
    accounts for a. Therefore one model at a time is left out with all its pairs (the jackknife over the k models):

        standard error^2 = (k - 1) / k sum_i (mean without i - mean of these)^2,
        interval         = estimate +- t_(k - 1) standard error.

    Both are exact for all pairs, e = 0 and Gaussian a. With a = 0, the standard error^2 is up to twice the true one.
    In 1500 simulated sets of all pairs of 4 models the interval at level 0.95 covered mu in 95 % with e = 0, in 96 %
    with equal parts and in 98 % with a = 0. Resampling models with replacement covered it in 75, 84 and 97 %, and
    treating pairs as independent in 67, 79 and 95 %.

    method="bootstrap" is this resampling: k models are drawn with replacement, and a pair counts c_i c_j times for
    counts c_i and c_j of its models. A model drawn twice forms no pair with itself, which would be perfect agreement.
    The standard error is the deviation of the means, and the interval's ends are their quantiles. It is provided for
    comparison; for few models it is too narrow, as above.

    Args:
        values: (p,) or (p, ...); each position of the other axes is computed separately.
        pairs: (p, 2) concrete integers: the two models of each value.
        level: level of the interval, in (0, 1).
        method: "jackknife" or "bootstrap".
        key: key of `jax.random`, for the bootstrap.
        num_resamples: number of draws of the bootstrap, at least 2. Draws without any pair are left out.

    Returns:
        `PairMean` with the shape of the other axes.

    Raises:
        InputError: wrong shapes or dtypes, a pair of one model with itself, fewer than 3 models, a model in all pairs
            (the jackknife); concrete NaN or infinite values; an unknown method, or no key for the bootstrap.

    Example:
        >>> from symjax import mean_over_pairs
        >>> mean_over_pairs([0.8, 0.9, 0.7], [(0, 1), (0, 2), (1, 2)])
        PairMean(0.8 [0.3032, 1.297])
    """
    values = real("values", values)
    require_finite("values", values)
    pairs = numpy_array("pairs", pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(f"pairs: got {pairs.dtype}{list(pairs.shape)}, expected integers (p, 2)")
    if values.ndim < 1 or len(values) != len(pairs):
        raise InputError(f"values: got shape {values.shape}, expected one for each of {len(pairs)} pairs, (p, ...)")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise InputError("pairs: got a model with itself, expected pairs of different models")
    check_level(level)
    one_of("method", method, PAIR_METHODS)
    integer("num_resamples", num_resamples, 2)
    from scipy.special import stdtrit  # imported here for a fast `import symjax`

    models = np.unique(pairs)
    if len(models) < 3:
        raise InputError(f"pairs: got {len(models)} models, expected at least 3")
    if method == "bootstrap":
        return _bootstrap_over_models(values, np.searchsorted(models, pairs), len(models), level, key, num_resamples)
    without = (pairs[None] != models[:, None, None]).all(-1)  # (models, pairs)
    if not without.any(1).all():
        raise InputError(f"pairs: got model {models[~without.any(1)][0]} in all of them, expected pairs without it")
    weights = jnp.asarray(without / without.sum(1, keepdims=True), values.dtype)
    left_out = matmul(weights, values.reshape(len(values), -1)).reshape(len(models), *values.shape[1:])
    share = (len(models) - 1) / len(models)
    error = jnp.sqrt(share * ((left_out - left_out.mean(0, keepdims=True)) ** 2).sum(0))
    estimate, reach = values.mean(0), float(stdtrit(len(models) - 1, (1 + level) / 2)) * error
    return PairMean(estimate, error, estimate - reach, estimate + reach)


def _bootstrap_over_models(values, pairs, count, level, key, num_resamples):
    """Compute `mean_over_pairs` by the bootstrap; `pairs` contain indices of models from 0."""
    key = random_key("key", key)

    def draw(key):
        drawn = jax.random.randint(key, (count,), 0, count)
        return jnp.zeros(count, values.dtype).at[drawn].add(1)

    times = jax.vmap(draw)(jax.random.split(key, num_resamples))
    weights = times[:, pairs[:, 0]] * times[:, pairs[:, 1]]  # (draws, pairs)
    weights = weights / weights.sum(1, keepdims=True)  # NaN for draws without a pair
    means = matmul(weights, values.reshape(len(values), -1)).reshape(num_resamples, *values.shape[1:])
    ends = jnp.array([(1 - level) / 2, (1 + level) / 2], values.dtype)
    return PairMean(values.mean(0), jnp.nanstd(means, axis=0, ddof=1), *jnp.nanquantile(means, ends, axis=0))
