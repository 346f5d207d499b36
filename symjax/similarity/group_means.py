"""Groups of models: how alike models of one group are, and models of two."""

from collections.abc import Sequence

import numpy as np

from symjax.checks import labels, numpy_array
from symjax.errors import InputError
from symjax.similarity.resampling import PairMean, mean_over_pairs


def group_means(values, pairs, groups: Sequence, level: float = 0.95) -> dict[tuple, PairMean]:
    """The mean over pairs of models within each group and across each two groups, with error bars over models.

    As Morcos et al. 2018, section 3.1, compare generalising and memorising networks. The error bars are those of
    `mean_over_pairs`: a model is left out at a time with all its pairs, within a group and across two alike. Across two
    groups of k models, with v_ij = mu + a_i + b_j, a and b of one variance, the squared standard error is on average
    the true one times

        (2 k - 1) / (2 k - 2)                            of all k^2 pairs,
        (2 k - 1) ((k - 1)^2 + 1) / (2 (k - 1)^3)        of those with i != j, as where equal seeds are left out,

    if a and b are independent: at k = 4 an error 8 or 14 % too wide. Where a_i and b_i are alike, with correlation r (a
    seed that begins alike in both groups), the second is

        (2 k - 1) / (2 (1 + r)) (((k - 1)^2 + 1) / (k - 1)^3 - 2 r / (k - 1)^2),

    at k = 4 and r = 1/2 an error 22 % too narrow.

    Args:
        values: (p,) or (p, ...), of a measure that is symmetric or made so.
        pairs: (p, 2) integers: the positions of two models in `groups`.
        groups: one label for each model.
        level: of the interval, in (0, 1).

    Returns:
        From (group, group), in the order in which groups first come, to `PairMean`; of pairs that are there.

    Raises:
        InputError: as `mean_over_pairs`, so fewer than 3 models in a group; a position that is none.
    """
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
    names = list(dict.fromkeys(groups))
    label_pairs = np.sort(np.array([names.index(group) for group in groups], int)[pairs], axis=1)
    means = {}
    for a in range(len(names)):
        for b in range(a, len(names)):
            selected = (label_pairs == (a, b)).all(1)
            if selected.any():
                means[names[a], names[b]] = mean_over_pairs(values[selected], pairs[selected], level)
    return means
