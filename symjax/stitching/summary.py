"""Tables of penalties, of agreement and of controls, from the rows of results.csv."""

from collections.abc import Callable
from functools import partial

import pandas as pd

from symjax.stitching.controls import DEFAULTS, RELATED, label
from symjax.tables import interval_text, mean_and_deviation, mean_interval, with_both_layers


def with_defaults(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns `control` and `objective`."""
    texts = {name: table[name].fillna(value) if name in table else value for name, value in DEFAULTS.items()}
    return table.assign(**texts)


def with_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows with `controls.label` for the name of the family."""
    columns = with_defaults(table)[["family", *DEFAULTS]]
    return table.assign(family=[label(*names) for names in columns.itertuples(index=False, name=None)])


def penalty_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) of the penalty over pairs, as a table of families by layers."""
    return _by_layer(table, lambda rows: mean_and_deviation(rows.penalty, 1))


def agreement_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) of the agreement with B over pairs, likewise."""
    return _by_layer(table, lambda rows: mean_and_deviation(rows.agreement, 1))


def gap_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the penalty of each control minus that of the related front, with 95 % intervals over pairs.

    The intervals are Student's t. They treat pairs as independent, although pairs can share networks.
    """
    return _by_layer(control_gaps(table), lambda rows: rows.gap.agg(partial(interval_text, digits=1)))


def control_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of controls with `gap`: their penalty minus that of the related front of the same stitch."""
    table = with_defaults(table)
    key = [name for name in ("pair", "layer", "layer_b", "family", "objective") if name in table]
    related = table[table.control == RELATED].set_index(key).penalty
    controls = table[table.control != RELATED]
    of_stitch = related.loc[pd.MultiIndex.from_frame(controls[key])].to_numpy()
    return controls.assign(gap=controls.penalty.to_numpy() - of_stitch)


def distinguished(table: pd.DataFrame) -> str:
    """Return a sentence on how many controls each family distinguishes from the related front.

    A control at a layer is distinguished if the 95 % interval of its gap over pairs is above 0, and better than the
    related front if the interval is below 0.
    """
    texts = []
    gaps = with_both_layers(control_gaps(table))
    for (family, objective), rows in gaps.groupby(["family", "objective"], sort=False):
        ends = [mean_interval(values)[1:] for _, values in rows.groupby(["control", "layer"], sort=False).gap]
        better = sum(high < 0 for _, high in ends)
        text = f"{sum(low > 0 for low, _ in ends)} of {len(ends)} with {label(family, objective=objective)}"
        texts.append(text + (f" (better: {better})" if better else ""))
    return (
        "Controls at a layer that cost more than the related front (95 % intervals over pairs above 0): "
        f"{', '.join(texts)}."
    )


def _by_layer(table: pd.DataFrame, entries: Callable) -> pd.DataFrame:
    """Return entries of the rows grouped by stitch (`controls.label`) and layer: a row per stitch."""
    table = with_labels(with_both_layers(table))
    summary = entries(table.groupby(["family", "layer"], sort=False)).unstack("layer")
    return summary[list(table.layer.unique())].loc[list(table.family.unique())].fillna("")
