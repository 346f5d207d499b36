"""Noise ceilings: values for two samples of the neurons of one network, or for two seeds of one training."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.checks import integer, random_key
from symjax.errors import InputError
from symjax.similarity.inputs import representation
from symjax.similarity.pair_mean import mean_over_pairs
from symjax.similarity.pairwise import pairwise
from symjax.similarity.resampling import check_level, format_result
from symjax.similarity.sides import function_of
from symjax.similarity.table import as_measure


class Ceiling(NamedTuple):
    """The mean of a measure between random halves of the neurons, and quantiles over the halves."""

    estimate: jax.Array
    low: jax.Array
    high: jax.Array
    values: jax.Array  # (num_splits,)

    def __repr__(self):
        return format_result(self, "{estimate:.4g} [{low:.4g}, {high:.4g}]")


def split_half_ceiling(measure, x, key, num_splits=50, level=0.95, *, layout=None):
    """Compare random halves of the neurons of one representation: the value of a perfect match of as few neurons.

    The halves are disjoint, of floor(d / 2) neurons. The value for two networks with d neurons each can exceed this
    ceiling, since halves have fewer neurons; compare the ceiling with values for as many randomly chosen neurons.

    Args:
        measure: a name in `MEASURES`, a `Measure`, or a traceable function fn(x, y) -> 0-d array.
        x: representation (n, d) or (n, h, w, c), with at least 2 neurons.
        key: key of `jax.random`.
        num_splits: number of random splits, at least 2.
        level: share of the splits between `low` and `high`, in (0, 1).
        layout: layout of maps, "nhwc" or "nchw".

    Returns:
        `Ceiling`; NaN where the value on a split is NaN.

    Raises:
        InputError: x not as `measure` requires, fewer than 2 neurons; unknown measure; numbers out of range.

    Example:
        >>> import jax, numpy as np
        >>> from symjax import split_half_ceiling
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 40))  # 40 neurons that encode 4 variables
        >>> split_half_ceiling("cca", x, jax.random.key(0))
        Ceiling(1 [1, 1])
    """
    x, key = representation(x, layout=layout), random_key("key", key)
    measure = as_measure("measure", measure)
    if x.shape[-1] < 2:
        raise InputError(f"x: got {x.shape[-1]} neuron, expected at least 2")
    integer("num_splits", num_splits, 2)
    check_level(level)
    values = _split_values(function_of(measure), x, key, num_splits)
    return Ceiling(values.mean(), *jnp.quantile(values, jnp.array([(1 - level) / 2, (1 + level) / 2])), values)


@partial(jax.jit, static_argnums=(0, 3))
def _split_values(fn, x, key, count):
    half = x.shape[-1] // 2

    def value(key):
        order = jax.random.permutation(key, x.shape[-1])
        return fn(x[..., order[:half]], x[..., order[half : 2 * half]])

    return lax.map(value, jax.random.split(key, count))


def seed_ceiling(measure, representations, level=0.95, **options):
    """Compare the members of one zoo with each other: the value of networks that differ by their seeds alone.

    The value of another kind of network with the zoo is lower, by as much as the kind matters more than the seed.

    Args:
        measure: as in `pairwise`.
        representations: (models, n, d) or (models, n, h, w, c), at least 3 models; or a mapping from names of layers to
            such arrays.
        level: level of the interval over models, in (0, 1).
        options: options of the measure's function, and `layout`, `memory` and `devices` of `pairwise`.

    Returns:
        `PairMean`, the mean over pairs of models with the interval of `mean_over_pairs`; for a mapping a dict from
        layers to `PairMean`. A measure that is not symmetric counts with the mean of both orders.

    Raises:
        InputError: as `pairwise` and `mean_over_pairs`.

    Example:
        >>> import numpy as np
        >>> from symjax import seed_ceiling
        >>> rng = np.random.default_rng(0)
        >>> zoo = rng.normal(size=(50, 4)) + 0.5 * rng.normal(size=(3, 50, 4))  # 3 seeds
        >>> seed_ceiling("cka", zoo)
        PairMean(0.6382 [0.5726, 0.7037])
    """
    layers = representations if isinstance(representations, Mapping) else {"representations": representations}
    result = pairwise(layers, measure, layers="same", **options)
    a, b = np.triu_indices(len(result.models_a), 1)
    pairs = np.stack([a, b], 1)
    ceilings: dict = {}
    for k, layer in enumerate(result.layers_a):
        values = result.values[k, :, k]
        both = (values[a, b] + values[b, a]) / 2
        if not np.isfinite(both).all():
            raise InputError(
                f"representations: got members whose {result.measure} is NaN or infinite at {layer}, expected finite "
                "values"
            )
        ceilings[layer] = mean_over_pairs(both, pairs, level)
    return ceilings if isinstance(representations, Mapping) else ceilings["representations"]
