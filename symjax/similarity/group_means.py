"""Groups of models: similarity within each group and between two groups."""

from collections.abc import Sequence

import numpy as np

from symjax.checks import labels, numpy_array
from symjax.errors import InputError
from symjax.similarity.pair_mean import PairMean, mean_over_pairs


def group_means(values, pairs, groups: Sequence, level: float = 0.95) -> dict[tuple, PairMean]:
    """Return the mean over pairs of models within each group and between any two, with error bars over models.

    This is how Morcos et al. 2018, section 3.1, compare generalizing and memorizing networks. The error bars are those
    of `mean_over_pairs`: one model at a time is left out with all its pairs, both within a group and between groups.
    Between two groups of k models, with v_ij = mu + a_i + b_j and a, b of equal variance, the squared standard error is
    on average the true one times

        (2 k - 1) / (2 k - 2)                            for all k^2 pairs,
        (2 k - 1) ((k - 1)^2 + 1) / (2 (k - 1)^3)        for pairs with i != j, where equal seeds are left out,

    if a and b are independent. At k = 4 the error is 8 or 14 % too wide. Where a_i and b_i have correlation r (a seed
    with the same initial values in both groups), the second factor is

        (2 k - 1) / (2 (1 + r)) (((k - 1)^2 + 1) / (k - 1)^3 - 2 r / (k - 1)^2),

    which at k = 4 and r = 1/2 makes the error 22 % too narrow.

    Args:
        values: (p,) or (p, ...), of a symmetric or symmetrized measure.
        pairs: (p, 2) integers: the positions of two models in `groups`.
        groups: one label for each model.
        level: level of the interval, in (0, 1).

    Returns:
        A dict from (group, group), in the order of first occurrence, to `PairMean`; groups without a pair are left out.

    Raises:
        InputError: as `mean_over_pairs`, for example fewer than 3 models in a group; a position out of range.

    Example:
        >>> from symjax import group_means
        >>> pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 4), (2, 5)]
        >>> means = group_means([0.8, 0.9, 0.7, 0.2, 0.3, 0.1], pairs, "aaabbb")
        >>> {key: round(float(mean.estimate), 2) for key, mean in means.items()}
        {('a', 'a'): 0.8, ('a', 'b'): 0.2}
    """
    values, pairs, groups, names = grouped_pairs(values, pairs, groups)
    label_pairs = np.sort(np.array([names.index(group) for group in groups], int)[pairs], axis=1)
    means = {}
    for a in range(len(names)):
        for b in range(a, len(names)):
            selected = (label_pairs == (a, b)).all(1)
            if selected.any():
                means[names[a], names[b]] = mean_over_pairs(values[selected], pairs[selected], level)
    return means


def grouped_pairs(values, pairs, groups):
    """Return checked values and pairs of `group_means`, the group of each model, and the groups that occur."""
    values, pairs = numpy_array("values", values), numpy_array("pairs", pairs)
    if values.ndim < 1 or not np.issubdtype(pairs.dtype, np.integer):
        raise InputError(
            f"values, pairs: got {values.dtype}{list(values.shape)} and {pairs.dtype}, expected (p, ...) and integers"
        )
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) != len(values):
        raise InputError(f"pairs: got shape {list(pairs.shape)}, expected one for each of {len(values)} values, (p, 2)")
    groups = labels("groups", groups, "a label for each model")
    if pairs.size and not (0 <= pairs.min() and pairs.max() < len(groups)):
        positions = f"{pairs.min()} to {pairs.max()}"
        raise InputError(f"pairs, groups: got {positions}, expected positions of {len(groups)} models")
    return values, pairs, groups, list(dict.fromkeys(groups))
