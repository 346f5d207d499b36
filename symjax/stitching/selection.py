"""Select the hyperparameter of a family (alpha, lambda, rank, tau) for each pair and layer by validation."""

import pandas as pd

from symjax.errors import InputError
from symjax.stitching.families import Family, parse_families
from symjax.tables import with_both_layers

# The published grids. Ranks and the temperature of SoftSort have none; their grids are powers of two and of ten. The
# grid of the proximal lasso gives a range of sparsities on digits at the default step size; at 1, layers become zero.
GRIDS: dict[str, tuple[str, ...]] = {
    "birkhoff": ("1e-3", "1e-2", "1e-1", "1", "10"),
    "birkhoff_published": ("1e-3", "1e-2", "1e-1", "1", "10"),
    "lasso": ("1e-4", "1e-3", "1e-2", "1e-1"),
    "lasso_proximal": ("0.1", "0.3", "0.5", "0.7", "0.9"),
    "rank": ("1", "2", "4"),
    "softsort": ("1e-2", "1e-1", "1", "10"),
}


def with_numbers(family: str, numbers: str | None = None) -> tuple[Family, ...]:
    """Return the family named `family` with each of the comma-separated `numbers`, by default those of its grid.

    Raises:
      InputError: the family has no grid, or a number is not valid for it.
    """
    if numbers is None and family not in GRIDS:
        raise InputError(f"family: {family!r} has no grid; give numbers, or choose one of {', '.join(GRIDS)}")
    parts = GRIDS[family] if numbers is None else numbers.split(",")
    return parse_families(",".join(f"{family}:{part.strip()}" for part in parts if part.strip()))


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
