"""Choosing a family's number (alpha, lambda, rank, tau) for each pair and layer by validation."""

import pandas as pd

from symjax.errors import InputError
from symjax.stitching.families import Family, parse_families
from symjax.summary import with_both_layers

# The published grids; of ranks and of SoftSort's temperature, which have none, powers of two and of ten.
# Of the proximal lasso: what spreads sparsities on digits at the default step size; at 1 whole layers are lost.
GRIDS: dict[str, tuple[str, ...]] = {
    "birkhoff": ("1e-3", "1e-2", "1e-1", "1", "10"),
    "birkhoff_published": ("1e-3", "1e-2", "1e-1", "1", "10"),
    "lasso": ("1e-4", "1e-3", "1e-2", "1e-1"),
    "lasso_proximal": ("0.1", "0.3", "0.5", "0.7", "0.9"),
    "rank": ("1", "2", "4"),
    "softsort": ("1e-2", "1e-1", "1", "10"),
}


def with_numbers(family: str, numbers: str | None = None) -> tuple[Family, ...]:
    """The family `family` with each of `numbers` (with commas between), by default those of its grid.

    Raises:
      InputError: none is given, or one that the family cannot have.
    """
    if numbers is None and family not in GRIDS:
        raise InputError(f"family: {family!r} has no grid; give numbers, or choose one of {', '.join(GRIDS)}")
    parts = GRIDS[family] if numbers is None else numbers.split(",")
    return parse_families(",".join(f"{family}:{part.strip()}" for part in parts if part.strip()))


def choose(table: pd.DataFrame) -> pd.DataFrame:
    """Of each pair and layer, the row with the best validation accuracy; of equals, the first in the table's order.

    Test accuracies have no part in the choice: only those of the chosen rows are a cross-validated result.

    Args:
      table: rows of one family with several numbers, as of results.csv: pair, layer, hyperparameter, val_accuracy and
        whatever else.

    Returns:
      The chosen rows, in the order of the table.

    Raises:
      InputError: for a pair and layer that lack one of the numbers, or a validation accuracy that is missing.
    """
    if table.val_accuracy.isna().any():
        raise InputError("table: val_accuracy is missing in some rows, wanted a number in each")
    groups = with_both_layers(table).groupby(["pair", "layer"], sort=False)
    counts, wanted = groups.hyperparameter.nunique(), table.hyperparameter.nunique()
    if (counts != wanted).any():
        pair, layer = counts.index[counts != wanted][0]
        raise InputError(f"table: pair {pair}, layer {layer} has {counts[pair, layer]} of {wanted} values")
    return table.loc[sorted(groups.val_accuracy.idxmax())]
