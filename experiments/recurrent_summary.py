"""Tables and conclusion of the comparison of recurrent states."""

import math

import numpy as np
import pandas as pd

from experiments.recurrent_distances import POSITIONS, REPEATS, UNRELATED
from symjax.tables import mean_and_deviation, mean_interval, over_networks

LATE = 0.75  # a distance is called high until late if more than half of it remains at this fraction of the steps


def tables(table: pd.DataFrame, layer: str, networks: int) -> dict[str, pd.DataFrame]:
    """Return tables of the mean distances of one layer at some positions and after the last repeat, by caption."""
    rows = table[table.layer == layer]
    last = rows.step[rows.experiment == REPEATS].max()
    positions = rows[rows.experiment == POSITIONS]
    selected = sorted({*np.rint(np.linspace(0, last - 2, 5)).astype(int).tolist()})
    positions = positions[positions.step.isin(selected)]
    positions = positions.assign(column=positions.step.map("token {}".format))
    unrelated = rows[rows.experiment == UNRELATED].assign(column="another context")
    repeats = rows[(rows.experiment == REPEATS) & (rows.step == last)]
    mark = too_few_beginnings(repeats).map({True: " *", False: ""})
    repeats = repeats.assign(column=repeats.share.map("{} %".format) + mark)
    over = over_networks(networks)
    return {
        f"{layer}: distance of the states at a token from those at token {last - 1}, {over}": _means(
            pd.concat([positions, unrelated])
        ),
        f"{layer}: distance of the states after {last} repeats from those before, by the share of the context before "
        f"the repeats, {over} (* too few different beginnings for CCA; not used in the conclusion)": _means(repeats),
    }


def too_few_beginnings(rows: pd.DataFrame) -> pd.Series:
    """Return for each row whether any two sets of states are similar by CCA, because few beginnings differ.

    The states after n different beginnings span at most n directions. In the space of n values two subspaces of c
    dimensions each, one per channel, intersect if n < 2 c.
    """
    return rows.beginnings <= 2 * rows.channels


def _means(table: pd.DataFrame) -> pd.DataFrame:
    """Return means and deviations of values as text, with a row for each measure."""
    text = mean_and_deviation(table.groupby(["measure", "column"], sort=False).value, 3)
    return text.unstack(sort=False).rename_axis(columns=None)


def conclusion(table: pd.DataFrame, layer: str) -> str:
    """Return what one layer shows, in a line for each measure, with 95 % t intervals over networks."""
    lines = []
    for measure, rows in table[table.layer == layer].groupby("measure", sort=False):
        wide = {
            name: part.pivot(index="seed", columns=["share", "step"], values="value")
            for name, part in rows.groupby("experiment")
        }
        positions, repeats = wide[POSITIONS][0], wide[REPEATS]
        late = int(LATE * (positions.columns.max() + 1))
        remaining = mean_interval(positions[late] / positions[0])
        last = repeats.columns.get_level_values("step").max()
        shares = rows[(rows.experiment == REPEATS) & ~too_few_beginnings(rows)].share
        if shares.nunique() < 2:
            growth = "too few different contexts to compare shares"
        else:
            low, high = shares.min(), shares.max()
            increase = mean_interval(repeats[high, last] - repeats[low, last])
            growth = (
                f"after {last} repeats it is larger by {with_reach(increase)} at {high} % of a context than at "
                f"{low} % (states change late, not early: {verdict(increase, 0.0)})"
            )
        lines.append(
            f"{measure}: at token {late} the distance from the last token is {with_reach(remaining)} of that at "
            f"token 0 (high until late: {verdict(remaining, 0.5)}); {growth}"
        )
    return "\n".join(lines)


def with_reach(interval: tuple[float, float, float]) -> str:
    """Return mean ± half the width of an interval; the mean alone if there is no interval."""
    mean, _, high = interval
    return f"{mean:.3f}" + (f" ± {high - mean:.3f}" if math.isfinite(high) else "")


def verdict(interval: tuple[float, float, float], threshold: float) -> str:
    """Return whether an interval is above a threshold: "yes", "no", or "not settled" if it contains the threshold."""
    _, low, high = interval
    return "yes" if low > threshold else "no" if high < threshold else "not settled"
