"""Select the hyperparameter of a family (alpha, lambda, rank, tau) for each pair and layer by validation."""

import pandas as pd

from symjax.errors import InputError, renamed
from symjax.stitching.families import FAMILIES, Family, parse_families, parse_family
from symjax.tables import with_both_layers


def grids() -> dict[str, tuple[float, ...]]:
    """Return the hyperparameters to choose from, by the name of each registered family that has some."""
    return {name: family.grid for name, family in FAMILIES.items() if family.grid}


def with_numbers(family: str, numbers: str | None = None) -> tuple[Family, ...]:
    """Return the family named `family` with each of the comma-separated `numbers`, by default those of its grid.

    Args:
      family: a name as in `parse_families`, without a number.
      numbers: the hyperparameters.

    Raises:
      InputError: the family has no grid, or a number is not valid for it.
    """
    with renamed(families="family"):
        known = FAMILIES.get(family) or type(parse_family(family))
    if numbers is None:
        if not known.grid:
            raise InputError(f"family: got {family!r} without numbers, expected some, or one of {', '.join(grids())}")
        numbers = ",".join(map(repr, known.grid))
    return parse_families(",".join(f"{family}:{part.strip()}" for part in numbers.split(",") if part.strip()))


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each pair and layer the row with the best validation accuracy, the first one of equals.

    The choice does not use test accuracies. So the test accuracies of the chosen rows are a cross-validated result.

    Args:
      table: rows of results.csv of one family with several hyperparameters. It needs the columns pair, layer,
        hyperparameter and val_accuracy.

    Returns:
      The chosen rows, in the order of the table.

    Raises:
      InputError: a pair and layer lack one of the hyperparameters, or a validation accuracy is missing.
    """
    if table.val_accuracy.isna().any():
        raise InputError("table: got rows without val_accuracy, expected a number in each")
    groups = with_both_layers(table).groupby(["pair", "layer"], sort=False)
    counts, expected = groups.hyperparameter.nunique(), table.hyperparameter.nunique()
    if (counts != expected).any():
        pair, layer = counts.index[counts != expected][0]
        raise InputError(f"table: got {counts[pair, layer]} values for pair {pair}, layer {layer}, expected {expected}")
    return table.loc[sorted(groups.val_accuracy.idxmax())]
