"""Scores and ranks of similarity measures in the tests of ReSi (Klabunde et al. 2024)."""

import itertools

import numpy as np
import pandas as pd

from symjax.similarity import MEASURES

TESTS = ("accuracy", "output", "labels", "shortcut", "augmentation", "layers")
DRAWS = 100  # resamples of networks
STITCH = "stitch:"  # prefix of the names of stitch families among the measures


def scores(table: pd.DataFrame, models: pd.DataFrame, weights: dict[str, int] | None = None) -> pd.DataFrame:
    """Return the score of each measure (rows) in each test (columns); NaN where a measure has no values.

    accuracy, output: Spearman correlation of the similarity of two networks with minus the difference of their
      accuracies, and with the share of examples that they classify alike.
    labels, shortcut, augmentation: average precision of the similarity for pairs of networks of one group.
    layers: share of pairs of layers that are more similar than a pair of layers which encloses them.

    Args:
      table: test, measure, model_a, layer_a, model_b, layer_b and value; also agreement for the test seeds.
      models: model and accuracy.
      weights: how often each model counts; once by default.
    """
    return _scores(_by_test(table), table.measure.unique(), models, weights)


def _by_test(table: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, pd.Series]]:
    """Return the similarities of each test, and how alike the predictions of each pair are, in the same order."""
    tests = {}
    for test, rows in table.groupby("test", sort=False):
        values = oriented(rows)
        agreement = rows.groupby(list(values.index.names), sort=False).agreement.first()
        tests[test] = values, agreement.loc[values.index]
    return tests


def _scores(
    tests: dict, measures: np.ndarray, models: pd.DataFrame, weights: dict[str, int] | None = None
) -> pd.DataFrame:
    columns = {}
    accuracy = dict(zip(models.model, models.accuracy, strict=True))
    for test, (values, agreement) in tests.items():
        counts = [1 if weights is None else weights[a] * weights[b] for a, b in values.index.droplevel([1, 3])]
        if test == "layers":
            columns["layers"] = conformity(values, weights)
            continue
        rows = np.repeat(np.arange(len(values)), counts)
        values = values.iloc[rows]
        pairs = list(values.index.droplevel([1, 3]))
        if test == "seeds":
            targets = {
                "accuracy": np.array([-abs(accuracy[a] - accuracy[b]) for a, b in pairs]),
                "output": agreement.to_numpy()[rows],
            }
            columns |= {name: values.apply(spearman, args=(target,)) for name, target in targets.items()}
        else:
            same = np.array([group_of(a) == group_of(b) for a, b in pairs], bool)
            columns[test] = values.apply(precision, args=(same,))
    table = pd.DataFrame(columns, index=pd.Index(measures, name="measure"))
    return table[[test for test in TESTS if test in table]]


def oriented(rows: pd.DataFrame) -> pd.DataFrame:
    """Return similarities, negated distances: a row for each pair and a column for each measure."""
    sign = rows.measure.map(lambda name: -1.0 if name in MEASURES and MEASURES[name].kind == "distance" else 1.0)
    index = ["model_a", "layer_a", "model_b", "layer_b"]
    return rows.assign(value=rows.value * sign).pivot(index=index, columns="measure", values="value")


def group_of(model: str) -> str:
    """Return the name of the group of a model."""
    return model.rpartition("/")[0]


def spearman(values: pd.Series, target: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN for a constant side or a NaN value."""
    if values.isna().any() or values.nunique() < 2 or len(np.unique(target)) < 2:
        return np.nan
    return float(np.corrcoef(values.rank(), pd.Series(target).rank())[0, 1])


def precision(values: pd.Series, same: np.ndarray) -> float:
    """Return the average precision of the values for the pairs in `same`; NaN for a NaN value."""
    from sklearn.metrics import average_precision_score  # imported here, for a quick --help

    return np.nan if values.isna().any() or not same.any() else float(average_precision_score(same, values))


def conformity(values: pd.DataFrame, weights: dict[str, int] | None = None) -> pd.Series:
    """Return the share of cases with similarity(i, j) or (j, k) at least similarity(i, k), layers i < j < k."""
    shares, counts = [], []
    for model, rows in values.groupby(level="model_a", sort=False):
        pair = {(a, b): row for (_, a, _, b), row in zip(rows.index, rows.to_numpy(), strict=True)}
        layers = list(dict.fromkeys(layer for key in pair for layer in key))
        layers.sort(key=lambda layer: sum(b == layer for _, b in pair))  # the first layer is never on the right
        inner = [pair[side] >= pair[i, k] for i, j, k in itertools.combinations(layers, 3) for side in ((i, j), (j, k))]
        shares.append(np.mean(inner, 0))
        counts.append(1 if weights is None else weights[model])
    known = values.notna().all().to_numpy()
    return pd.Series(np.where(known, np.average(shares, axis=0, weights=counts), np.nan), values.columns)


def ranks(scored: pd.DataFrame) -> pd.DataFrame:
    """Return ranks in each test, 1 for the best, and their median; a measure without a score is not ranked."""
    ranked = scored.rank(ascending=False)
    return ranked.assign(median=ranked.median(axis=1))


def ranks_with_intervals(table: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """Return scores, ranks and the median rank of each measure, with 95 % intervals of the median rank.

    Intervals are those of a bootstrap over the networks of each group. A pair of equal networks is left out.
    """
    generator, names = np.random.default_rng(0), list(models.model)
    groups = pd.Series(names).groupby([group_of(name) for name in names], sort=False)
    tests, measures, medians = _by_test(table), table.measure.unique(), []
    for _ in range(DRAWS):
        weights = dict.fromkeys(names, 0)
        for _, members in groups:
            for name in generator.choice(members.to_numpy(), len(members)):
                weights[name] += 1
        medians.append(ranks(_scores(tests, measures, models, weights))["median"])
    low, high = np.nanquantile(medians, (0.025, 0.975), axis=0)
    scored = _scores(tests, measures, models)
    result = scored.assign(rank=ranks(scored)["median"], low=low, high=high)
    return result.sort_values("rank", kind="stable")


def format_ranks(ranked: pd.DataFrame) -> pd.DataFrame:
    """Return scores and ranks as text."""
    text = ranked.drop(columns=["rank", "low", "high"]).map("{:.2f}".format)
    intervals = ranked.apply(lambda row: f"{row['rank']:g} [{row.low:g}, {row.high:g}]", axis=1)
    return text.assign(**{"median rank": intervals}).rename_axis(index=None)


def conclusion(ranked: pd.DataFrame) -> str:
    """Return the best measures and the ranks of those that ReSi had not tested."""
    best = ranked.head(3)
    text = "Best median ranks: " + ", ".join(f"{name} {row['rank']:g}" for name, row in best.iterrows()) + "."
    other = [name for name in ranked.index if name in ("svcca", "pwcca", "wreath_cka", "wreath_procrustes")]
    other += [name for name in ranked.index if name.startswith(STITCH)]
    if other:
        text += " Others: " + ", ".join(
            f"{name} {ranked.loc[name, 'rank']:g} [{ranked.loc[name, 'low']:g}, {ranked.loc[name, 'high']:g}]"
            for name in other
        )
        text += f" of {len(ranked)}."
    return text
