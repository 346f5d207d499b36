"""Bartlett's test for the number of canonical correlations that are not zero."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc

from symjax.checks import flag, integer, is_concrete, scalar
from symjax.errors import InputError
from symjax.similarity.canonical_variates import CCA
from symjax.spelling import one_line


class BartlettTest(NamedTuple):
    """The tests of all hypotheses "at most k canonical correlations differ from zero", k = 0, ..., m - 1."""

    num_significant: jax.Array  # int32, number of leading hypotheses that are rejected
    p_values: jax.Array  # (m,); NaN past the common rank
    statistics: jax.Array  # (m,), chi-squared under the hypothesis
    degrees: jax.Array  # (m,), degrees of freedom

    def __repr__(self):
        return one_line(self)


def bartlett_test(result: CCA, samples: int, *, level: float = 0.05, lawley: bool = False) -> BartlettTest:
    """Test how many canonical correlations differ from zero.

    For samples of a joint normal distribution in which only k correlations are not zero,

        statistic_k = -(n - 1 - (p + q + 1) / 2) sum_{i > k} log(1 - rho_i^2)

    is approximately chi-squared with (p - k) (q - k) degrees of freedom, where n is the number of samples and p and q
    are the ranks of the two sides (Bartlett 1941). Hypotheses are tested in the order k = 0, 1, ... until one is not
    rejected.

    The samples must be independent: pixels of one image are not. The approximation is good for n well above p + q.

    Args:
        result: the result of `cca`.
        samples: n, the number of samples from which it was computed.
        level: significance level of each test, in (0, 1).
        lawley: whether to add sum_{i <= k} (1 / rho_i^2 - 1) to the factor n - 1 - (p + q + 1) / 2, which corrects the
            mean of the statistic for the k correlations that are not zero (Lawley 1959).

    Returns:
        `BartlettTest`, with m the number of correlations.

    Raises:
        InputError: `samples` is at most p + q + 1, or `level` is out of range.

    Reference: Bartlett 1941, "The statistical significance of canonical correlations"; Lawley 1959, "Tests of
    significance in canonical analysis".

    Example:
        >>> import numpy as np
        >>> from symjax import bartlett_test, cca
        >>> shared, x_noise, y_noise = np.random.default_rng(0).normal(size=(3, 500, 6))
        >>> x = np.concatenate([shared[:, :2], x_noise], axis=1)
        >>> y = np.concatenate([shared[:, :2], y_noise], axis=1)
        >>> int(bartlett_test(cca(x, y), samples=500).num_significant)
        2
    """
    if not isinstance(result, CCA):
        raise InputError(f"result: got {type(result).__name__}, expected the result of cca")
    samples, lawley = integer("samples", samples, 2), flag("lawley", lawley)
    level = scalar("level", level, "a number in (0, 1)", lambda value: 0 < value < 1)
    rho, ranks = result.correlations, (result.x_rank, result.y_rank)
    if all(map(is_concrete, ranks)) and samples <= (least := int(ranks[0]) + int(ranks[1]) + 1):
        raise InputError(f"samples: got {samples}, expected more than {least}, the sum of both ranks plus 1")
    p, q = (rank.astype(rho.dtype) for rank in ranks)
    k = jnp.arange(len(rho), dtype=rho.dtype)
    valid = k < jnp.minimum(p, q)
    logs = jnp.log1p(-(jnp.where(valid, rho, 0) ** 2))
    remaining = jnp.cumsum(logs[::-1])[::-1]  # from the small end, to keep the digits of small correlations
    factor = samples - 1 - (p + q + 1) / 2
    if lawley:
        terms = jnp.where(valid, 1 / jnp.where(valid, rho, 1) ** 2 - 1, 0)
        factor = factor + jnp.concatenate([jnp.zeros(1, terms.dtype), jnp.cumsum(terms)[:-1]])
    degrees = (p - k) * (q - k)
    # The statistic is infinite where a remaining correlation is 1.
    statistics = jnp.where(remaining == 0, 0, -factor * remaining)
    p_values = gammaincc(degrees / 2, jnp.minimum(statistics / 2, 1e30))
    statistics, p_values, degrees = (jnp.where(valid, a, jnp.nan) for a in (statistics, p_values, degrees))
    rejected = p_values < level
    return BartlettTest(jnp.cumprod(rejected.astype(jnp.int32)).sum(dtype=jnp.int32), p_values, statistics, degrees)
