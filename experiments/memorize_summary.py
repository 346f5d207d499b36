"""Tables and conclusion of the comparison of generalizing and memorizing networks."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from symjax.similarity import PairMean, group_means, mean_over_pairs

GROUPS = ("generalizing", "memorizing")
PAIR = {"group_a": str, "seed_a": int, "group_b": str, "seed_b": int}
EARLY = 0.25  # the gap in the first layer is small if it is at most this fraction of the gap in the last layer
FITTED = 95.0  # training accuracy in percent from which memorizing networks have fitted their labels


def group_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return means over pairs within each group and across, with error bars; NaN where a distance is NaN.

    Columns are measure, layer, pairs (a group, or "across"), mean, standard_error, low and high.
    """
    rows = []
    for measure, measure_rows in table.groupby("measure", sort=False):
        sides = [list(zip(measure_rows[f"group_{s}"], measure_rows[f"seed_{s}"], strict=True)) for s in "ab"]
        models = sorted(set(sides[0]) | set(sides[1]))
        layers = list(measure_rows.layer.unique())
        pairs = list(dict.fromkeys((models.index(a), models.index(b)) for a, b in zip(*sides, strict=True)))
        wide = measure_rows.pivot(index=list(PAIR), columns="layer", values="distance")
        values = np.array([wide.loc[(*models[i], *models[j]), layers].to_numpy() for i, j in pairs], float)
        groups, invalid = [group for group, _ in models], ~np.isfinite(values)
        invalid_share = group_means(invalid.astype(float), pairs, groups)
        for (a, b), group_mean in group_means(np.where(invalid, 0, values), pairs, groups).items():
            columns = {"mean": group_mean.estimate, "standard_error": group_mean.standard_error}
            columns |= {"low": group_mean.low, "high": group_mean.high}
            any_invalid = np.asarray(invalid_share[a, b].estimate) > 0
            columns = {
                name: np.where(any_invalid, np.nan, np.asarray(values, float)) for name, values in columns.items()
            }
            rows.append(
                pd.DataFrame({"measure": measure, "layer": layers, "pairs": a if a == b else "across"} | columns)
            )
    return pd.concat(rows, ignore_index=True)


def format_means(means: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """Return mean ± standard error of one measure as text, with rows of kinds of pairs and columns of layers."""
    text = means["mean"].map("{:.3f}".format) + " ± " + means.standard_error.map("{:.3f}".format)
    return means.assign(text=text).pivot(index="pairs", columns="layer", values="text").loc[[*GROUPS, "across"], layers]


def conclusion(table: pd.DataFrame, layers: list[str], accuracy: pd.DataFrame) -> str:
    """Return whether the published result holds, in one line for each measure.

    Args:
      table: distances of equal layers, as in results.csv.
      layers: names of layers in order.
      accuracy: mean accuracy in percent by group, with the columns train and test.
    """
    lines, fitted = [], accuracy.train.memorizing >= FITTED
    if not fitted:
        lines.append(
            f"the memorizing networks fit only {accuracy.train.memorizing:.1f} % of their labels: train for longer "
            "(--epochs), on fewer images (--train-size) or wider networks (--width)"
        )
    for measure, rows in table.groupby("measure", sort=False):
        if invalid_layers := sorted(set(rows.layer[~np.isfinite(rows.distance)]), key=layers.index):
            count = int((~np.isfinite(rows.distance)).sum())
            lines.append(f"{measure}: {count} of {len(rows)} distances are NaN, in {', '.join(invalid_layers)}")
            if {layers[0], layers[-1]} & set(invalid_layers):
                continue
        gap = gaps(rows, layers[0], layers[-1])
        farther = (
            f"{measure}: memorizing networks are farther from each other than generalizing ones by "
            f"{gap.first.estimate:.3f} ± {gap.first.standard_error:.3f} in {layers[0]}, by "
            f"{gap.last.estimate:.3f} ± {gap.last.standard_error:.3f} in {layers[-1]}"
        )
        late, early = all_positive(gap.last, gap.growth), all_positive(gap.below, gap.above)
        claims = [
            f"generalizing networks are {WORDS[late]}closer in late layers",
            f"the early gap is {WORDS[early]}under {EARLY:.0%} of the late one",
        ]
        holds = False if False in (late, early) else late and early
        verdict = VERDICTS[holds] if fitted else "no conclusion, as the labels are not fitted"
        lines.append(f"{farther}: {verdict} ({', '.join(claims)})")
    return "\n".join(lines)


WORDS = {True: "", False: "not ", None: "not shown to be "}
VERDICTS = {True: "as published", False: "not as published", None: "not settled"}


def all_positive(*means: PairMean) -> bool | None:
    """Return whether all means are above zero by their intervals; False if one is below zero, None if undecided."""
    if any(mean.high < 0 for mean in means):
        return False
    return True if all(mean.low > 0 for mean in means) else None


class Gaps(NamedTuple):
    """The mean distance in the memorizing group minus that in the generalizing group.

    Attributes:
      first, last: the gap in the first and in the last layer.
      growth: `last` - `first`.
      below, above: `EARLY` * `last` - `first` and `EARLY` * `last` + `first`; both are positive if the magnitude of
        `first` is less than `EARLY` * `last`.
    """

    first: PairMean
    last: PairMean
    growth: PairMean
    below: PairMean
    above: PairMean


def gaps(rows: pd.DataFrame, first: str, last: str) -> Gaps:
    """Return the gaps of one measure between two layers, with error bars.

    Networks of equal seeds start from the same weights, so the groups are not independent. The difference is taken for
    each pair of seeds, and the jackknife leaves a seed out of both groups at a time (`mean_over_pairs`).
    """
    within = rows[(rows.group_a == rows.group_b) & rows.layer.isin([first, last])]
    wide = within.pivot(index=["seed_a", "seed_b"], columns=["group_a", "layer"], values="distance")
    early, late = (wide["memorizing"] - wide["generalizing"])[[first, last]].to_numpy(float).T
    values = np.column_stack([early, late, late - early, EARLY * late - early, EARLY * late + early])
    means = mean_over_pairs(values, np.array(wide.index.tolist()))
    return Gaps(*(PairMean(*(float(field[i]) for field in means)) for i in range(values.shape[1])))
