"""Run folders: complete files, one configuration, one process at a time."""

import json
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

from symjax.errors import InputError
from symjax.ops import files, runs

CONFIG = {"width": 8, "recipe": {"epochs": 10, "learning_rate": 0.003}, "name": None}


def hold(folder, kind="zoo", config=CONFIG):
    with runs.open_folder(folder, kind, config):
        pass


def test_json_csv_and_npz_read_back_the_same(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"ä": "x"}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value

    numbers = np.random.default_rng(0).normal(size=200) * 10.0 ** np.random.default_rng(1).integers(-12, 12, 200)
    frame = pd.DataFrame({"x": numbers, "name": 'one, "two"', "count": np.arange(200)})
    frame.loc[3, "x"] = np.nan
    files.write_csv(tmp_path / "a.csv", frame)
    pd.testing.assert_frame_equal(files.read_csv(tmp_path / "a.csv", ["x", "name"]), frame, check_exact=True)

    arrays = {"file": np.arange(6.0).reshape(2, 3), "layer/p": np.zeros((0, 2), np.int32), "s": np.float32(2)}
    files.write_npz(tmp_path / "a.npz", arrays)
    result = files.read_npz(tmp_path / "a.npz")
    assert set(result) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(result[name], array)
        assert result[name].dtype == array.dtype


def test_a_crash_while_writing_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, "old")

    def crash(*_):
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(runs.os, name, crash)
            files.write_json(path, "new")
        assert files.read_json(path) == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    files.write_json(tmp_path / "a.json", "old")
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    files.write_npz(tmp_path / "a.npz", {"a": np.ones(2)})
    with pytest.raises(ValueError):
        files.write_npz(tmp_path / "a.npz", {"a": np.ones(2), "b": np.array([object()])})
    assert files.read_json(tmp_path / "a.json") == "old"
    assert list(files.read_npz(tmp_path / "a.npz")) == ["a"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b'{"a": [1, 2', b"\xff\xfe\x00", b"not json"])
def test_broken_json(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json.*delete"):
        files.read_json(path)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n1,2,3,4\n", b"a,b\n\xff\xfe,2\n", b"a\n1\n", b"a,b\n1,2.3"])
def test_broken_csv(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv.*delete"):
        files.read_csv(path, ["a", "b"])


def test_broken_npz(tmp_path):
    path = tmp_path / "a.npz"
    files.write_npz(path, {"a": np.arange(1000.0), "b": np.ones(3)})
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"a\.npz.*delete"):
            files.read_npz(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.npz.*delete"):
        files.read_npz(path)


def test_npz_never_unpickles(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"a\.npz"):
        files.read_npz(path)
    np.save(tmp_path / "b.npy", np.ones(3))
    with pytest.raises(InputError, match="not a zip file"):
        files.read_npz(tmp_path / "b.npy")


def test_missing_files(tmp_path):
    for read in (files.read_json, files.read_csv, files.read_npz):
        with pytest.raises(InputError, match="nowhere.*No such file"):
            read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_json(tmp_path / "nowhere" / "a.json", 1)


def test_fingerprint_depends_on_values_and_not_on_order():
    same = {"name": None, "recipe": {"learning_rate": 0.003, "epochs": 10}, "width": 8}
    assert files.fingerprint(CONFIG) == files.fingerprint(same)
    assert files.fingerprint(CONFIG) == "eb0f0456b9"  # default folders are named by it: it may never change
    for other in ({"width": 9}, {"name": "None"}, {"recipe": {"epochs": 10, "learning_rate": 0.0030000001}}):
        assert files.fingerprint(CONFIG | other) != files.fingerprint(CONFIG)


def test_a_folder_belongs_to_its_configuration(tmp_path):
    folder = tmp_path / "new" / "folder"
    hold(folder)
    assert runs.read_config(folder, "zoo") == CONFIG
    versions = json.loads((folder / "config.json").read_text())["versions"]
    assert {"symjax", "jax", "flax", "optax", "numpy", "python", "backend", "device"} <= set(versions)
    before = (folder / "config.json").stat().st_mtime_ns
    hold(folder)
    assert (folder / "config.json").stat().st_mtime_ns == before


def test_another_configuration_is_compared_key_by_key(tmp_path):
    hold(tmp_path / "a")
    other = {"width": 8, "recipe": {"epochs": 20, "learning_rate": 0.003}, "name": "x", "seed": 0}
    with pytest.raises(InputError) as caught:
        hold(tmp_path / "a", config=other)
    message = str(caught.value)
    assert "recipe.epochs: saved 10, requested 20" in message
    assert 'name: saved null, requested "x"' in message
    assert "seed: saved absent, requested 0" in message
    assert "width" not in message and "learning_rate" not in message
    assert "--out" in message and "delete" in message
    assert runs.read_config(tmp_path / "a", "zoo") == CONFIG


def test_other_folders_are_refused(tmp_path):
    hold(tmp_path / "a")
    with pytest.raises(InputError, match="a zoo folder, expected a stitch folder"):
        hold(tmp_path / "a", kind="stitch")
    (tmp_path / "a" / "config.json").write_text('{"version": 3}')
    with pytest.raises(InputError, match="symjax has not written"):
        hold(tmp_path / "a")
    (tmp_path / "a" / "config.json").write_text('{"kind": "zo')
    with pytest.raises(InputError, match=r"config\.json: not a complete JSON file"):
        hold(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"has contents but no config\.json"):
        hold(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    (tmp_path / "c").touch()
    for path in (tmp_path / "c", tmp_path / "c" / "d"):
        with pytest.raises(InputError, match="folder: .* cannot be"):
            hold(path)
    with pytest.raises(InputError, match=r"has no config\.json, expected a zoo folder"):
        runs.read_config(tmp_path, "zoo")


def test_files_of_another_configuration_are_not_read(tmp_path):
    """In a folder, in one inside it, and two levels down; nor are files without a fingerprint. Files of the same
    configuration, or outside of run folders, are read."""
    frame, arrays = pd.DataFrame({"x": [1.5, 2.5]}), {"a": np.arange(3)}
    cases = {"own": CONFIG, "same": CONFIG | {"width": 8.0}, "other": CONFIG | {"width": 9}, "kind": CONFIG}
    for name, config in cases.items():
        hold(tmp_path / name, "stitch" if name == "kind" else "zoo", config)
        (tmp_path / name / "parts" / "deep").mkdir(parents=True)
    (tmp_path / "none").mkdir()
    for inner in ("", "parts", "parts/deep"):
        source = tmp_path / "own" / inner
        files.write_csv(source / "a.csv", frame)
        files.write_npz(source / "a.npz", arrays)
        for target in (source, tmp_path / "none", tmp_path / "same" / inner):
            if target != source:
                shutil.copy(source / "a.csv", target), shutil.copy(source / "a.npz", target)
            pd.testing.assert_frame_equal(files.read_csv(target / "a.csv", ["x"]), frame)
            assert list(files.read_npz(target / "a.npz")) == ["a"]
        for target in (tmp_path / "other" / inner, tmp_path / "kind" / inner):
            for read, name in ((files.read_csv, "a.csv"), (files.read_npz, "a.npz")):
                shutil.copy(source / name, target)
                with pytest.raises(
                    InputError, match=rf"{target / name}: written with another configuration .*delete it"
                ):
                    read(target / name)
            files.write_csv(target / "a.csv", frame)
            with (target / "a.csv").open("a") as file:  # a single row will do
                file.write((source / "a.csv").read_text().splitlines(keepends=True)[-1])
            with pytest.raises(InputError, match="another configuration"):
                files.read_csv(target / "a.csv")
            frame.to_csv(target / "a.csv", index=False)
            np.savez(target / "a.npz", **arrays)
            for read, name in ((files.read_csv, "a.csv"), (files.read_npz, "a.npz")):
                with pytest.raises(InputError, match=r"written with another configuration \(none\)"):
                    read(target / name)


def test_a_fingerprint_of_digits_only_stays_text(tmp_path, monkeypatch):
    hold(tmp_path)
    for fingerprint in ("0012345678", "12345e6789"):
        monkeypatch.setattr(files, "fingerprint", lambda _, fingerprint=fingerprint: fingerprint)
        files.write_csv(tmp_path / "a.csv", pd.DataFrame({"x": [1]}))
        assert list(files.read_csv(tmp_path / "a.csv")) == ["x"]
        assert fingerprint in (tmp_path / "a.csv").read_text()


def test_a_second_process_waits_for_the_first(tmp_path):
    folder = tmp_path / "a"
    script = f"""
        from symjax.ops import files, runs
        with runs.open_folder({str(folder)!r}, "zoo", {CONFIG!r}) as folder:
            files.write_json(folder / "second.json", (folder / "first.json").exists())
    """
    with runs.open_folder(folder, "zoo", CONFIG):
        command = [sys.executable, "-c", textwrap.dedent(script)]
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert "in use by another process" in second.stderr.readline()
        time.sleep(0.1)
        assert second.poll() is None
        files.write_json(folder / "first.json", 1)
    assert second.wait(30) == 0, second.stderr.read()
    second.stderr.close()
    assert files.read_json(folder / "second.json") is True


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(InputError, match="folder: .* cannot be created .File name too long"):
        with runs.open_folder(tmp_path / "new" / ("x" * 300), "zoo", CONFIG):
            pytest.fail("was made")
