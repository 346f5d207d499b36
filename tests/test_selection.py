"""Selection by validation."""

import numpy as np
import pandas as pd
import pytest

from symjax.errors import InputError
from symjax.stitching import parse_families
from symjax.stitching.results import numerical_warnings
from symjax.stitching.selection import choose, grids, with_numbers


def make_table(validation, test):
    """Tables indexed (pair, layer, value)."""
    pairs, layers, values = np.shape(validation)
    return pd.DataFrame(
        {
            "pair": f"{p}-{p + 1}",
            "layer": f"relu{k}",
            "hyperparameter": 10.0**-v,
            "val_accuracy": float(validation[p][k][v]),
            "stitched_accuracy": float(test[p][k][v]),
        }
        for k in range(layers)
        for v in range(values)
        for p in range(pairs)
    )


def test_the_choice_depends_on_validation_only():
    rng = np.random.RandomState(0)
    validation, test = rng.permutation(3 * 4 * 5).reshape(3, 4, 5), rng.rand(3, 4, 5)
    result = choose(make_table(validation, test)).set_index(["pair", "layer"])
    assert len(result) == 12
    best = validation.argmax(-1)
    assert (best != test.argmax(-1)).any()
    for p in range(3):
        for k in range(4):
            row = result.loc[f"{p}-{p + 1}", f"relu{k}"]
            assert row.stitched_accuracy == test[p, k, best[p, k]] and row.hyperparameter == 10.0 ** -best[p, k]


def test_the_first_of_equals_is_chosen():
    result = choose(make_table([[[1, 3, 3], [2, 2, 2]]], np.zeros((1, 2, 3))))
    assert result.hyperparameter.tolist() == [0.1, 1.0]


def test_incomplete_tables_are_refused():
    table = make_table(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="table: got 1 values for pair 1-2, layer relu1, expected 2"):
        choose(table.drop(index=7))
    table.loc[3, "val_accuracy"] = np.nan
    with pytest.raises(InputError, match="val_accuracy"):
        choose(table)


@pytest.mark.parametrize("family", grids())
def test_grids_are_valid_for_their_family(family):
    made = with_numbers(family)
    assert tuple(f.hyperparameter for f in made) == grids()[family] and len(made) > 1
    assert parse_families([one.label for one in made]) == made


def test_numerical_warnings_name_the_stitches():
    curves = pd.DataFrame(
        {
            "pair": ["0-1", "0-1", "1-0", "1-0"],
            "layer": "relu4",
            "family": "birkhoff",
            "learning_rate": 0.01,
            "epoch": [1, 2, 1, 2],
            "loss": 1.0,
            "residual": [1e-7, 0.0, 3e-7, 2e-5],
        }
    )
    assert (
        numerical_warnings(curves) == ""
        and numerical_warnings(pd.DataFrame()) == ""
        and numerical_warnings(curves.drop(columns="residual")) == ""
    )
    missed = numerical_warnings(curves.assign(residual=[30.0, 120.0, 0.0, 0.0]))
    assert "in 1 stitch the projection missed" in missed and "(birkhoff at relu4)" in missed and "curves.csv" in missed
    assert "in 2 stitches the loss was not finite" in numerical_warnings(curves.assign(loss=[1.0, np.nan, np.inf, 1.0]))
