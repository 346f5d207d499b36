"""Means and labels of result tables, as summaries and figures show them."""

import math

import pandas as pd
from scipy.special import stdtrit


def mean_and_deviation(grouped, digits: int) -> pd.Series:
    """Return the mean of each group as text, with ± standard deviation (n - 1) if all groups have two rows or more.

    Args:
      grouped: a pandas `SeriesGroupBy`. The mean of a group with a NaN is NaN.
      digits: number of decimal places.
    """
    to_text = f"{{:z.{digits}f}}".format  # z: no -0.0
    text = grouped.agg(mean).map(to_text)
    return (
        text + " ± " + grouped.agg(lambda s: s.std(skipna=False)).map(to_text) if (grouped.size() > 1).all() else text
    )


def mean(values: pd.Series) -> float:
    """Return the mean; NaN if any value is NaN, so that failures are not hidden."""
    return values.mean(skipna=False)


def with_both_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with `layer` replaced by, for example, "relu1 to relu2" where `layer_b` differs from it."""
    if "layer_b" not in table:
        return table
    differs = table.layer_b.notna() & (table.layer_b != table.layer)
    return table.assign(layer=table.layer.where(~differs, table.layer + " to " + table.layer_b.astype(str)))


def over_networks(count: int, what: str = "mean ± deviation") -> str:
    """Return the words for a statistic `what` over `count` networks, as in captions."""
    return f"{what} over {count} networks" if count > 1 else "of one network"


def mean_interval(values: pd.Series, level: float = 0.95) -> tuple[float, float]:
    """Return the mean and the half width of its confidence interval by Student's t; NaN for a single value."""
    count = len(values)
    half = stdtrit(count - 1, (1 + level) / 2) * values.std(skipna=False) / math.sqrt(count) if count > 1 else math.nan
    return mean(values), float(half)


def interval_text(values: pd.Series, digits: int = 2) -> str:
    """Return the mean and its 95 % confidence interval as text, such as "0.27 [0.25, 0.29]"; the mean of one value."""
    centre, half = mean_interval(values)
    if math.isnan(half):
        return f"{centre:z.{digits}f}"
    return f"{centre:z.{digits}f} [{centre - half:z.{digits}f}, {centre + half:z.{digits}f}]"
