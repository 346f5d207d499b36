"""Scores and ranks of similarity measures in the tests of ReSi (Klabunde et al. 2024)."""

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from symjax.similarity import MEASURES

TESTS = ("accuracy", "output", "labels", "shortcut", "augmentation", "layers")
DRAWS = 1000  # resamples of networks
STITCH = "stitch:"  # prefix of the names of stitch families among the measures
PAIR = ["model_a", "layer_a", "model_b", "layer_b"]


def scores(table: pd.DataFrame, models: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """Return the score of each measure in each test (columns) for each draw of networks; NaN where a value is missing.

    accuracy, output: Spearman correlation of the similarity of two networks with minus the difference of their
      accuracies, and with the share of examples that they classify alike.
    labels, shortcut, augmentation: average precision of the similarity for pairs of networks of one group.
    layers: share of cases with similarity(i, j) or (j, k) at least similarity(i, k), layers i < j < k of a network.

    Args:
      table: test, measure, model_a, layer_a, model_b, layer_b and value; also agreement for the test seeds.
      models: model and accuracy.
      counts: (draws, models), how often a draw contains each model. A pair counts as often as the product of these
        numbers; a network forms no pair with its own copy.
    """
    measures, place = table.measure.unique(), pd.Index(models.model)
    accuracy, group = models.accuracy.to_numpy(), models.model.map(group_of).to_numpy()
    columns = {}
    for test, rows in table.groupby("test", sort=False):
        values = oriented(rows).reindex(columns=measures)
        if test == "layers":
            columns[test] = conformity(values, place, counts)
            continue
        a, b = (place.get_indexer(values.index.get_level_values(side)) for side in ("model_a", "model_b"))
        pairs = counts[:, a] * counts[:, b]
        if test == "seeds":
            agreement = rows.drop_duplicates(PAIR).set_index(PAIR).agreement[values.index].to_numpy()
            # Rounded, so that equal differences are ties.
            columns["accuracy"] = _each(spearman, values, -abs(accuracy[a] - accuracy[b]).round(9), pairs)
            columns["output"] = _each(spearman, values, agreement, pairs)
        else:
            columns[test] = _each(precision, values, group[a] == group[b], pairs)
    index = pd.MultiIndex.from_product([range(len(counts)), measures], names=["draw", "measure"])
    return pd.DataFrame({test: columns[test].ravel() for test in TESTS if test in columns}, index)


def oriented(rows: pd.DataFrame) -> pd.DataFrame:
    """Return similarities, negated distances: a row for each pair and a column for each measure."""
    sign = rows.measure.map(lambda name: -1.0 if name in MEASURES and MEASURES[name].kind == "distance" else 1.0)
    return rows.assign(value=rows.value * sign).pivot(index=PAIR, columns="measure", values="value")


def group_of(model: str) -> str:
    """Return the name of the group of a model."""
    return model.rpartition("/")[0]


def _each(score: Callable, values: pd.DataFrame, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the scores (draws, measures) of all columns; NaN for a column with a NaN value."""
    unknown = np.full(len(counts), np.nan)
    columns = values.to_numpy().T
    return np.stack([unknown if np.isnan(x).any() else score(x, target, counts) for x in columns], 1)


def _totals(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts (draws, distinct) of each distinct value, ascending, and the place of each value among them."""
    _, place, sizes = np.unique(values, return_inverse=True, return_counts=True)
    sorted_counts = counts[:, np.argsort(place, kind="stable")]
    return np.add.reduceat(sorted_counts, np.cumsum(sizes) - sizes, axis=1), place


def spearman(values: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation in each draw, ties at their mean rank; NaN for a constant side."""
    centered = []
    for side in (values, target):
        totals, place = _totals(side, counts)
        ranks = (totals.cumsum(1) - (totals - 1) / 2)[:, place]
        centered.append(ranks - ((counts * ranks).sum(1) / counts.sum(1).clip(1))[:, None])
    x, y = centered
    with np.errstate(invalid="ignore"):
        return (counts * x * y).sum(1) / np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))


def precision(values: np.ndarray, same: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the average precision of the values for the pairs in `same` in each draw; NaN without such a pair.

    It is the mean over these pairs of the share of `same` among the pairs with at least their value.
    """
    totals, hits = _totals(-values, counts)[0], _totals(-values, counts * same)[0]
    shares = hits.cumsum(1) / totals.cumsum(1).clip(1)
    with np.errstate(invalid="ignore"):
        return (hits * shares).sum(1) / hits.sum(1)


def conformity(values: pd.DataFrame, place: pd.Index, counts: np.ndarray) -> np.ndarray:
    """Return the shares of the test layers (draws, measures); NaN for a measure with a NaN value."""
    shares, drawn = [], []
    for model, rows in values.groupby(level="model_a", sort=False):
        pair = {(a, b): row for (_, a, _, b), row in zip(rows.index, rows.to_numpy(), strict=True)}
        layers = list(dict.fromkeys(layer for key in pair for layer in key))
        layers.sort(key=lambda layer: sum(b == layer for _, b in pair))  # the first layer is never on the right
        inner = [pair[side] >= pair[i, k] for i, j, k in itertools.combinations(layers, 3) for side in ((i, j), (j, k))]
        shares.append(np.where(values.isna().any(), np.nan, np.mean(inner, 0)))
        drawn.append(counts[:, place.get_loc(model)])
    return np.transpose(drawn) @ np.array(shares) / np.sum(drawn, 0)[:, None]


def ranks_with_intervals(table: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Return scores and the median rank over tests (1 the best) of each measure, with its 95 % interval.

    Intervals are those of a bootstrap over the networks of each group. A measure without a score in a test has no rank
    there.
    """
    generator, counts = np.random.default_rng(0), np.ones((1 + DRAWS, len(models)), int)  # first all networks once
    for members in models.groupby(models.model.map(group_of), sort=False).indices.values():
        share = np.full(len(members), 1 / len(members))
        counts[1:, members] = generator.multinomial(len(members), share, DRAWS)
    scored = scores(table, models, counts)
    # Rounded, so that equal scores are ties whatever the order of their sums.
    medians = scored.round(12).groupby(level="draw").rank(ascending=False).median(axis=1).unstack("measure")
    low, high = medians[1:].quantile([0.025, 0.975]).to_numpy()
    medians = medians.loc[0].to_frame("rank").assign(low=low, high=high)
    return scored.loc[0].join(medians).sort_values("rank", kind="stable")


def format_ranks(ranked: pd.DataFrame) -> pd.DataFrame:
    """Return scores and ranks as text."""
    text = ranked.drop(columns=["rank", "low", "high"]).map("{:.2f}".format)
    intervals = ranked.apply(lambda row: f"{row['rank']:g} [{row.low:g}, {row.high:g}]", axis=1)
    return text.assign(**{"median rank": intervals}).rename_axis(index=None)


def conclusion(ranked: pd.DataFrame) -> str:
    """Return the ranks of the best measures, and of SVCCA, PWCCA, two forms for G_ReLU and stitches."""
    best = ranked.head(3)
    text = "Best median ranks: " + ", ".join(f"{name} {row['rank']:g}" for name, row in best.iterrows()) + "."
    listed = [name for name in ranked.index if name in ("svcca", "pwcca", "wreath_cka", "wreath_procrustes")]
    listed += [name for name in ranked.index if name.startswith(STITCH)]
    other = [name for name in listed if name not in best.index]
    if other:
        text += " Others: " + ", ".join(
            f"{name} {ranked.loc[name, 'rank']:g} [{ranked.loc[name, 'low']:g}, {ranked.loc[name, 'high']:g}]"
            for name in other
        )
        text += f" of {len(ranked)}."
    return text
