"""Tables and conclusion of the dissection of zoos."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.dissect_rows import GROUPS, ORIGINAL, power_name
from symjax.tables import mean, mean_and_deviation, mean_interval

VALUES = {"detectors": "unique detectors", "mean_iou": "mean best IoU"}

DIGITS = {"detectors": 1, "mean_iou": 3}  # decimal places


def tables(table: pd.DataFrame, concepts: int, threshold: float, members: int) -> dict[str, pd.DataFrame]:
    """Return tables of unique detectors and of the best IoU, by caption."""
    over = f", mean ± deviation over {members} networks" if members > 1 else ""
    captions = {
        "detectors": f"unique detectors (of {concepts} concepts; IoU over {threshold:g}){over}",
        "mean_iou": f"mean over units of the best IoU{over}",
    }
    return {caption: means(table, value) for value, caption in captions.items()}


def means(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return means and deviations as text, with rows of variants and layers and columns of bases."""
    grouped = table.groupby(["variant", "layer", "basis"], sort=False)[value]
    text = mean_and_deviation(grouped, DIGITS[value]).unstack(sort=False)
    text.index = [", ".join(names) for names in text.index]
    return text.rename_axis(columns=None)


def changes(rows: pd.DataFrame, value: str, basis: str) -> np.ndarray:
    """Return a value in this basis minus the value in the original basis (members,)."""
    wide = rows.pivot(index="seed", columns="basis", values=value)
    return (wide[basis] - wide[ORIGINAL]).to_numpy(float)


def verdict(low: float, high: float, members: int) -> str:
    """Return the sign of a change as words; with fewer than 3 members no change is shown."""
    if members >= 3 and high < 0:
        return "falls"
    return "rises" if members >= 3 and low > 0 else "no change is shown"


def signed_interval(center: float, low: float, high: float, digits: int) -> str:
    """Return a signed mean and its interval as text."""
    return f"{center:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def conclusion(table: pd.DataFrame, powers: Sequence[float], members: int) -> str:
    """Return how the values change along the path of rotations, with and without ReLU, and under the two groups.

    Args:
      table: rows as in results.csv.
      powers: exponents of the rotations, in ascending order.
      members: number of members of each zoo.
    """
    if table[list(VALUES)].isna().any().any():
        diverged = table[table.detectors.isna()][["variant", "seed"]].itertuples(index=False)
        names = sorted({f"{variant} {seed}" for variant, seed in diverged})
        return f"activations that are not finite, of {', '.join(names)}: nothing is concluded"
    lines, last = [], power_name(powers[-1])
    for layer, layer_rows in table.groupby("layer", sort=False):
        by_variant = {}
        for variant, rows in layer_rows.groupby("variant", sort=False):
            original = rows[rows.basis == ORIGINAL]
            by_variant[variant] = {value: changes(rows, value, last) for value in VALUES}
            parts = []
            for value, name in VALUES.items():
                center, low, high = mean_interval(by_variant[variant][value])
                change = signed_interval(center, low, high, DIGITS[value])
                parts.append(
                    f"{name} {mean(original[value]):.{DIGITS[value]}f}, change {change} ({verdict(low, high, members)})"
                )
            lines.append(f"{layer} {variant}, from {ORIGINAL} to {last}: {'; '.join(parts)}.")
        if len(by_variant) == 2 and members > 1:
            with_relu, without = by_variant.values()
            parts = []
            for value, name in VALUES.items():
                # Both zoos have the same seeds, and so the same rotations, initial weights and batches.
                difference = mean_interval(with_relu[value] - without[value])
                parts.append(f"{name} {signed_interval(*difference, DIGITS[value])}")
            lines.append(f"{layer}, change with ReLU minus change without: {'; '.join(parts)}.")
    largest = max(
        abs(changes(rows, value, kind)).max()
        for _, rows in table.groupby(["variant", "layer"])
        for value in VALUES
        for kind in GROUPS
    )
    lines.append(f"Permutations and elements of G_ReLU change these values by at most {largest:.1g}.")
    return "\n".join(lines)
