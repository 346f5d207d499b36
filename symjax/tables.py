"""Means, intervals and labels of result tables, for summaries and figures."""

import math

import numpy as np
import pandas as pd


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
    """Return text such as "mean ± deviation over 8 networks", or "of one network", for captions."""
    return f"{what} over {count} networks" if count > 1 else "of one network"


def mean_interval(values) -> tuple[float, float, float]:
    """Return the mean of independent values (n,) and the ends of its 95 % t interval; NaN ends for a single value.

    A NaN makes all three NaN.
    """
    values = np.asarray(values, float)
    center, reach = values.mean(), np.nan
    if len(values) > 1:
        reach = _quantile_of_t(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
    return float(center), float(center - reach), float(center + reach)


def difference_interval(values, others, level: float = 0.95) -> tuple[float, float, float]:
    """Return the difference of the means of two independent samples, and the ends of Welch's t interval.

    Args:
      values, others: (n,) and (m,), at least 2 each; a NaN makes all three NaN.
      level: of the interval, in (0, 1).
    """
    values, others = np.asarray(values, float), np.asarray(others, float)
    errors = [sample.std(ddof=1) / math.sqrt(len(sample)) for sample in (values, others)]
    return welch_interval(values.mean() - others.mean(), errors, [len(values) - 1, len(others) - 1], level)


def welch_interval(difference: float, errors, freedoms, level: float = 0.95) -> tuple[float, float, float]:
    """Return a difference of two independent estimates and the ends of Welch's t interval.

    Args:
      difference: of the estimates.
      errors: the standard errors of both.
      freedoms: the degrees of freedom of both errors.
      level: of the interval, in (0, 1).
    """
    difference, squares = float(difference), np.square(errors)
    total = float(squares.sum())
    if not total > 0:  # constant samples, or NaN
        return difference, difference, difference
    freedom = total**2 / float((squares**2 / np.asarray(freedoms)).sum())
    reach = _quantile_of_t(freedom, (1 + level) / 2) * math.sqrt(total)
    return difference, difference - reach, difference + reach


def interval_text(values, digits: int = 2) -> str:
    """Return the mean and its 95 % confidence interval as text, such as "0.27 [0.25, 0.29]"; one value alone."""
    return spell_interval(*mean_interval(values), digits)


def spell_interval(center: float, low: float, high: float, digits: int = 2) -> str:
    """Return a number and its interval as text, such as "0.27 [0.25, 0.29]"; the number alone for NaN ends."""
    if math.isnan(low):
        return f"{center:z.{digits}f}"
    return f"{center:z.{digits}f} [{low:z.{digits}f}, {high:z.{digits}f}]"


def _quantile_of_t(freedom: float, share: float) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.special import stdtrit  # imported here, since the import takes a fifth of a second

    return float(stdtrit(freedom, share))
