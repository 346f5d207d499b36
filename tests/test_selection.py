"""Choosing by validation."""

import numpy as np
import pandas as pd
import pytest

from symjax.errors import InputError
from symjax.stitching import parse_families
from symjax.stitching.selection import GRIDS, choose


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


def test_validation_chooses_and_the_test_split_has_no_say():
    rng = np.random.RandomState(0)
    validation, test = rng.permutation(3 * 4 * 5).reshape(3, 4, 5), rng.rand(3, 4, 5)
    found = choose(make_table(validation, test)).set_index(["pair", "layer"])
    assert len(found) == 12
    best = validation.argmax(-1)
    assert (best != test.argmax(-1)).any()
    for p in range(3):
        for k in range(4):
            row = found.loc[f"{p}-{p + 1}", f"relu{k}"]
            assert row.stitched_accuracy == test[p, k, best[p, k]] and row.hyperparameter == 10.0 ** -best[p, k]


def test_of_equals_the_first_is_taken():
    found = choose(make_table([[[1, 3, 3], [2, 2, 2]]], np.zeros((1, 2, 3))))
    assert found.hyperparameter.tolist() == [0.1, 1.0]


def test_incomplete_tables_are_refused():
    table = make_table(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="pair 1-2, layer relu1 has 1 of 2 values"):
        choose(table.drop(index=7))
    table.loc[3, "val_accuracy"] = np.nan
    with pytest.raises(InputError, match="val_accuracy"):
        choose(table)


@pytest.mark.parametrize("family", GRIDS)
def test_grids_are_of_their_family(family):
    made = parse_families(",".join(f"{family}:{value}" for value in GRIDS[family]))
    assert [f.hyperparameter for f in made] == [float(value) for value in GRIDS[family]]
