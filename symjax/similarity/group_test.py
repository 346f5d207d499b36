"""A permutation test of two groups of networks."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import jax
import numpy as np

from symjax.checks import integer, one_of, random_key
from symjax.errors import InputError
from symjax.similarity.group_means import grouped_pairs
from symjax.similarity.resampling import format_result

STATISTICS = ("between", "within")


class GroupTest(NamedTuple):
    """A difference between two groups of networks, its p value, and its values for permuted networks."""

    estimate: np.ndarray
    p_value: np.ndarray
    values: np.ndarray  # for all assignments of networks to groups, or for num_permutations random ones

    def __repr__(self):
        return format_result(self, "{estimate:.4g}, p = {p_value:.4g}")


def group_test(values, pairs, groups: Sequence, key=None, num_permutations: int = 9999, *, statistic="between"):
    """Test whether two groups of networks differ, from a measure on pairs of networks.

    Pairs that share a network depend on each other. Therefore networks, and not pairs, are assigned to the groups at
    random, in all ways if there are at most `num_permutations`. The test is exact if the networks of both groups have
    the same distribution. Each pair of networks counts once: values of (i, j) and (j, i) are averaged first.

    Args:
        values: (p,), of pairs of networks.
        pairs: (p, 2) integers: the positions of two networks in `groups`.
        groups: one of two labels for each network.
        key: key of `jax.random`; required if there are more assignments than `num_permutations`.
        num_permutations: largest number of assignments that are evaluated, at least 1.
        statistic: "between" is the mean over pairs within a group minus the mean over pairs between the groups: whether
            the groups are distinct. "within" is the mean within the first group minus that within the second one:
            whether one group is more homogeneous.

    Returns:
        `GroupTest`. p is two-sided: the share of assignments, the given one among them, whose statistic has at least
        the absolute value of the estimate. Assignments that leave a mean without a pair count as extreme.

    Raises:
        InputError: wrong shapes, dtypes or labels, a network with itself, NaN or infinite values; no pair for a mean;
            unknown statistic; num_permutations out of range; no key where it is required.

    Example:
        >>> from itertools import combinations
        >>> from symjax import group_test
        >>> pairs = list(combinations(range(6), 2))
        >>> group_test([0.9 if (i < 3) == (j < 3) else 0.2 for i, j in pairs], pairs, "aaabbb")
        GroupTest(0.7, p = 0.1)
    """
    values, pairs, groups, names = grouped_pairs(values, pairs, groups)
    integer("num_permutations", num_permutations, 1)
    one_of("statistic", statistic, STATISTICS)
    if len(names) != 2 or values.ndim != 1:
        raise InputError(f"groups, values: got {len(names)} labels and shape {list(values.shape)}, expected 2 and (p,)")
    if (pairs[:, 0] == pairs[:, 1]).any() or not np.isfinite(values).all():
        raise InputError("values, pairs: got NaN, infinity or a pair of one network, expected numbers of two networks")
    count = len(groups)
    first = np.array([group == names[0] for group in groups])
    sums, times = (np.zeros((count, count)) for _ in range(2))
    for i, j in (pairs.T, pairs.T[::-1]):
        np.add.at(sums, (i, j), values)
        np.add.at(times, (i, j), 1)
    known = (times > 0).astype(float)
    matrix = sums / np.maximum(times, 1)
    estimate = _statistics(matrix, known, first[None], statistic)[0]
    if np.isnan(estimate):
        raise InputError(f"pairs: got none for one of the means, expected pairs within and between for {statistic!r}")
    exact = math.comb(count, int(first.sum())) <= num_permutations
    if exact:
        chosen = np.array(list(combinations(range(count), int(first.sum()))))
        assignments = np.zeros((len(chosen), count), bool)
        np.put_along_axis(assignments, chosen, True, 1)
    else:
        keys = jax.random.split(random_key("key", key), num_permutations)
        assignments = first[np.asarray(jax.vmap(lambda key: jax.random.permutation(key, count))(keys))]
    statistics = _statistics(matrix, known, assignments, statistic)
    hits = (~(np.abs(statistics) < abs(estimate) - 1e-12 * np.abs(values).max())).sum()
    p_value = hits / len(statistics) if exact else (1 + hits) / (1 + len(statistics))
    return GroupTest(estimate, p_value, statistics)


def _statistics(matrix, known, first, statistic):
    """Return the statistic of each assignment (assignments, networks), true for the first group."""
    a, b = first.astype(float), 1.0 - first

    def mean(*sides):
        total, pairs = (sum(((x @ table) * y).sum(1) for x, y in sides) for table in (matrix, known))
        return np.divide(total, pairs, out=np.full(len(first), np.nan), where=pairs > 0)

    return mean((a, a)) - mean((b, b)) if statistic == "within" else mean((a, a), (b, b)) - mean((a, b))
