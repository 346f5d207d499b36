"""Measures of the lists of nearest neighbors as sequences."""

from functools import lru_cache, partial

import jax.numpy as jnp
from jax import lax

from symjax.similarity.distances import lost_with_metric, warning_of_metric
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.neighbor_graph import (
    LEAST_EXAMPLES,
    checked,
    flat,
    neighbor_distances,
    neighbor_lists,
    rowwise,
)
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, evaluate


def lcs_knn(x, y, k=10, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute the mean share of the nearest neighbors that are common and in the same order.

    For each example it is the length of the longest common subsequence of the two lists of its k nearest neighbors, in
    the order of their distance, divided by k.

    Args and Raises: as for `mutual_knn`.

    Returns:
        0-d array in [0, 1], at most `mutual_knn`. Examples at equal distances are ranked in the order of the examples.
        NaN, symmetry, invariances and derivatives as for `mutual_knn`.

    Reference: Huh et al. 2024, `lcs_knn` of their code, which does not divide by k.

    Example:
        >>> import numpy as np
        >>> from symjax import lcs_knn
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{lcs_knn(x, 3 * x[:, ::-1] + 1, k=5):.3f}")
        1.000
    """
    x, y, k = checked(x, y, k, metric, samples, layout, mask)
    return evaluate(split_sequences((), k=k, metric=metric), x, y)


def edit_knn(x, y, k=10, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute 1 minus the mean edit distance of the lists of nearest neighbors, divided by k.

    The edit distance (Levenshtein) is the least number of insertions, deletions and substitutions that turn the list of
    an example's k nearest neighbors in x, in the order of their distance, into that in y.

    Args, Returns and Raises: as for `lcs_knn`.

    Reference: Huh et al. 2024, `edit_distance_knn` of their code.

    Example:
        >>> import numpy as np
        >>> from symjax import edit_knn
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{edit_knn(x, 3 * x[:, ::-1] + 1, k=5):.3f}")
        1.000
    """
    x, y, k = checked(x, y, k, metric, samples, layout, mask)
    return evaluate(split_sequences((), k=k, metric=metric, edits=True), x, y)


@lru_cache(maxsize=64)
def split_sequences(shapes, *, k=10, metric="euclidean", samples="flatten", edits=False):
    """Return `lcs_knn` or `edit_knn` as a `SplitMeasure`, by dynamic programming over both lists.

    The score of the first i and the first j items is the length of their longest common subsequence, or i + j minus
    their edit distance.
    """
    same, other = (2, 1) if edits else (1, 0)

    def agreement(a, b):
        a, b = a[0], b[0]

        def next_row(row, items):
            matched = row[:, :-1] + jnp.where(items[:, None] == b, same, other)
            return lax.cummax(jnp.pad(jnp.maximum(row[:, 1:], matched), ((0, 0), (1, 0))), axis=1), None

        row, _ = lax.scan(next_row, jnp.zeros((len(a), k + 1), a.dtype), a.T)
        score = row[:, -1] / k
        return (score - 1 if edits else score) + 0 * (a + b).sum(1)  # propagates NaN

    def prepare(x):
        return Prepared(flat(neighbor_lists(neighbor_distances(lax.stop_gradient(x), metric, samples), k)), ())

    # Not permuted: examples at equal distances are in the order of the examples, also after a permutation.
    return SplitMeasure(
        prepare,
        lambda rows, *_: jnp.clip(rows.mean(), 0, 1),
        product=rowwise(agreement, k),
        warning=warning_of_metric(metric, samples),
    )


def _measure(name, fn, split, title, bias, use):
    return Measure(
        name=name,
        fn=fn,
        reference="Huh et al. 2024, `lcs_knn` and `edit_distance_knn` of their code",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=ORTHOGONAL | {"isotropic_scaling", "cyclic_shift", "translation"},
        split=split,
        zero_channels=True,
        lost_with=lost_with_metric,
        title=title,
        differentiable=False,
        min_examples=LEAST_EXAMPLES,
        cost="n^2 p once, n k^2 a pair",
        bias=bias,
        use=use,
    )


MEASURES = (
    _measure(
        *("lcs_knn", lcs_knn, split_sequences, "LCS kNN"),
        *("grows with k / n, less than mutual_knn", "as rank_similarity, with equal weights of all places"),
    ),
    _measure(
        *("edit_knn", edit_knn, partial(split_sequences, edits=True), "edit kNN"),
        *("grows with k / n, less than lcs_knn", "as lcs_knn, where places in the lists count"),
    ),
)
