"""Result tables: keys, parts, missing rows and merging."""

import pandas as pd
import pytest

from symjax.errors import InputError
from symjax.ops import files, hosts
from symjax.ops.result_table import ResultTable, Schema

PLAIN = Schema("results", {"seed": int, "class": str}, ("value",))
PARTS = Schema("results", {"layer": str, "seed": int}, ("value",), part=("layer",), order=("layer",))


def rows(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_rows_are_added_replaced_and_sorted(tmp_path):
    table = ResultTable(tmp_path, PLAIN)
    assert table.rows().empty and list(table.rows()) == ["seed", "class", "value"]
    table.add(rows(value=[0.5, 0.1], seed=[3, 1], **{"class": ["0", "10"]}))
    table.add(rows(value=[0.25, 0.75], seed=[3, 4], **{"class": ["0", "None"]}))
    # Classes are text, though they look like numbers or missing values.
    expected = {"seed": [1, 3, 4], "class": ["10", "0", "None"], "value": [0.1, 0.25, 0.75]}
    assert table.rows().to_dict("list") == expected
    assert files.read_csv(table.path).seed.tolist() == [1, 3, 4]


def test_missing_and_selected_rows_are_in_the_order_of_the_request(tmp_path):
    table = ResultTable(tmp_path, PLAIN)
    requested = rows(seed=[2, 1, 2], **{"class": ["b", "a", "a"]})
    pd.testing.assert_frame_equal(table.missing(requested), requested)
    table.add(rows(seed=[1, 2, 1], value=[1.0, 2.0, 3.0], **{"class": ["a", "b", "b"]}))
    assert table.missing(requested).to_dict("list") == {"seed": [2], "class": ["a"]}
    assert table.select(requested).value.tolist() == [2.0, 1.0]
    assert table.select(rows(seed=[2, 1])).value.tolist() == [2.0, 1.0, 3.0]  # some columns of the key
    assert table.missing(rows(seed=[4, 1])).seed.tolist() == [4]
    assert table.select(rows(seed=[7])).empty


def test_parts(tmp_path):
    table = ResultTable(tmp_path, PARTS)
    table.add(rows(layer=["b", "a/1", "b"], seed=[0, 1, 1], value=[1.0, 2.0, 3.0]))
    assert not table.path.exists()
    table.assemble()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["a%2F1.results.csv", "b.results.csv"]
    assert files.read_csv(table.path).value.tolist() == [2.0, 1.0, 3.0]
    table.add(rows(layer=["b"], seed=[2], value=[4.0], note=["more columns"]))
    assert table.rows().note.isna().tolist() == [True, True, True, False]


def test_processes_write_files_of_their_own(tmp_path, monkeypatch):
    table = ResultTable(tmp_path, PARTS)
    table.add(rows(layer=["b"], seed=[0], value=[1.0]))
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "index", lambda: 1)
        table.add(rows(layer=["b", "b"], seed=[1, 0], value=[2.0, 1.0]))
        table.assemble()
    assert len(list((tmp_path / "parts").iterdir())) == 2 and not table.path.exists()
    assert table.rows().value.tolist() in ([1.0, 2.0], [2.0, 1.0])
    assert table.merge([tmp_path]) == 2
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["b.results.csv"]
    assert len(files.read_csv(table.path)) == 2


def test_a_row_of_two_folders_is_one_row_or_an_error(tmp_path):
    tables = [ResultTable(tmp_path / name, PARTS) for name in "abc"]
    for table, value in zip(tables, (1.0, 1.0, 5.0), strict=True):
        table.folder.mkdir()
        table.add(rows(layer=["x", f"of {table.folder.name}"], seed=[0, 0], value=[value, 9.0]))
    folders = [table.folder for table in tables]
    assert tables[0].merge(folders[:2]) == 3
    with pytest.raises(InputError, match=r"different rows of layer x, seed 0 in .*\(value 1.0 and 5.0\)"):
        tables[0].merge(folders)
    assert len(tables[0].rows()) == 3
    rounded = Schema("results", PARTS.key, PARTS.columns, PARTS.part, recomputable=True)
    assert ResultTable(folders[0], rounded).merge(folders) == 4
    assert ResultTable(folders[0], PARTS).select(rows(layer=["x"])).value.tolist() == [1.0]


def test_details_of_no_row_are_left_out(tmp_path):
    """The curves of seed 1, which differ, belong to no row; a row has one of the rates, and curves have both."""
    curves = Schema("curves", {**PARTS.key, "rate": float, "epoch": int}, ("loss",), part=("layer",))
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, seeds, loss in zip(folders, ([0, 1], [1]), (0.5, 1.5), strict=True):
        folder.mkdir()
        for rate in (0.1, 0.2):
            ResultTable(folder, curves).add(rows(layer="x", seed=seeds, rate=rate, epoch=1, loss=loss))
    ResultTable(folders[0], PARTS).add(rows(layer=["x"], seed=[0], value=[9.0], rate=[0.2]))
    merged = ResultTable(folders[0], curves)
    assert merged.merge(folders, details_of=PARTS) == 2
    assert merged.rows()[["seed", "rate"]].values.tolist() == [[0, 0.1], [0, 0.2]]
