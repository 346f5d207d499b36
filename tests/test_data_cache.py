"""The cache of decoded data sets: concurrent, killed and failing writers; damaged entries."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from symjax.data import cache
from symjax.errors import InputError

KEY = "set-1.0.0"
ARRAYS = {"images": np.arange(5000, dtype=np.uint8).reshape(50, 100), "labels": np.arange(50, dtype=np.int32)}
FACTS = {"class_names": ["a", "b"]}


def make():
    return {name: array.copy() for name, array in ARRAYS.items()}, dict(FACTS)


def forbidden():
    raise AssertionError("decoded again")


def check(entry):
    arrays, facts = entry
    assert facts == FACTS and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def only_the_entry(folder):
    assert os.listdir(folder) == [KEY]


def test_second_call_reads(tmp_path):
    folder = tmp_path / "new" / "folder"
    check(cache.cached(folder, KEY, make))
    check(cache.cached(folder, KEY, forbidden))
    only_the_entry(folder)
    assert sorted(os.listdir(folder / KEY)) == ["images.npy", "labels.npy", "manifest.json"]


def test_keys_are_apart(tmp_path):
    cache.cached(tmp_path, "other", lambda: ({"images": np.zeros(1)}, {}))
    check(cache.cached(tmp_path, KEY, make))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def change_a_fact(path):
    path.write_text(path.read_text().replace('"a"', '"z"'))


def wrong_shape(path):
    path.write_text(json.dumps({"contents": [], "crc32": 0}))


DAMAGE = [
    ("images.npy", cut_short),
    ("images.npy", flip_a_bit),
    ("labels.npy", pathlib.Path.unlink),
    ("manifest.json", cut_short),
    ("manifest.json", change_a_fact),
    ("manifest.json", wrong_shape),
    ("manifest.json", pathlib.Path.unlink),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE, ids=[f"{name} {f.__name__}" for name, f in DAMAGE])
def test_damage_is_found_and_repaired(tmp_path, name, damage):
    cache.cached(tmp_path, KEY, make)
    damage(tmp_path / KEY / name)
    with pytest.warns(UserWarning, match="is damaged .* made again"):
        check(cache.cached(tmp_path, KEY, make))
    check(cache.cached(tmp_path, KEY, forbidden))
    only_the_entry(tmp_path)


def test_a_file_in_the_entrys_place_is_replaced(tmp_path):
    (tmp_path / KEY).write_text("what?")
    with pytest.warns(UserWarning, match="is damaged"):
        check(cache.cached(tmp_path, KEY, make))
    check(cache.cached(tmp_path, KEY, forbidden))
    only_the_entry(tmp_path)


def test_an_empty_folder_in_the_entrys_place_is_filled(tmp_path):
    (tmp_path / KEY).mkdir()
    check(cache.cached(tmp_path, KEY, make))
    check(cache.cached(tmp_path, KEY, forbidden))


def test_pickles_are_not_read(tmp_path):
    cache.cached(tmp_path, KEY, make)
    with (tmp_path / KEY / "labels.npy").open("wb") as file:
        np.save(file, np.array([{}], object), allow_pickle=True)
    manifest = json.loads((tmp_path / KEY / "manifest.json").read_text())
    manifest["contents"]["arrays"]["labels"]["size"] = (tmp_path / KEY / "labels.npy").stat().st_size
    manifest["crc32"] = cache._checksum(cache._canonical(manifest["contents"]))
    (tmp_path / KEY / "manifest.json").write_bytes(cache._canonical(manifest))
    with pytest.warns(UserWarning, match="allow_pickle"):
        check(cache.cached(tmp_path, KEY, make))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_unwritable_folder_is_done_without(tmp_path, monkeypatch, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(np, "save", fail)
    with pytest.warns(UserWarning, match="cannot be written .*SYMJAX_CACHE"):
        check(cache.cached(tmp_path, KEY, make))
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written"):
        check(cache.cached(tmp_path / "file" / "cache", KEY, make))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.warns(UserWarning, match="cannot be written"):
            check(cache.cached(tmp_path, KEY, make))
    finally:
        tmp_path.chmod(0o700)


def test_unreadable_entry(tmp_path, monkeypatch):
    cache.cached(tmp_path, KEY, make)

    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(np, "load", fail)
    with pytest.warns(UserWarning, match="cannot be read"):
        check(cache.cached(tmp_path, KEY, make))


def test_failing_and_interrupted_writers_leave_nothing(tmp_path, monkeypatch):
    def interrupt(file, array, **kwargs):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.cached(tmp_path, KEY, make)
    assert os.listdir(tmp_path) == []
    check(cache.cached(tmp_path, KEY, make))


WRITER = """
import os, pathlib, signal, sys, time
import numpy as np
sys.path.insert(0, sys.argv[3])
import test_data_cache as t
from symjax.data import cache
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
if mode == "killed":
    save, count = np.save, [0]
    def dying(file, array, **kwargs):
        count[0] += 1
        if count[0] == 2:
            file.write(b"half"); file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(file, array, **kwargs)
    np.save = dying
def make():
    (folder / f"ready-{os.getpid()}").touch()
    while mode == "together" and len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.01)
    return t.make()
t.check(cache.cached(folder / "cache", t.KEY, make))
"""


def start(folder, mode):
    here = str(pathlib.Path(__file__).parent)
    # Two levels up is the project, which need not be installed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(pathlib.Path(here).parent), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), mode, here], env=environment)


@pytest.mark.slow
def test_two_writers_at_once(tmp_path):
    # Each waits, in the middle of decoding, until the other is there as well.
    writers = [start(tmp_path, "together") for _ in range(2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    only_the_entry(tmp_path / "cache")
    check(cache.cached(tmp_path / "cache", KEY, forbidden))


@pytest.mark.slow
def test_killed_writer(tmp_path):
    assert start(tmp_path, "killed").wait(timeout=120) == -9
    folder = tmp_path / "cache"
    (left,) = os.listdir(folder)
    assert left.startswith(".tmp-")
    check(cache.cached(folder, KEY, make))
    check(cache.cached(folder, KEY, forbidden))
    assert sorted(os.listdir(folder)) == sorted([left, KEY])  # it might be another writer's: too young to sweep
    os.utime(folder / left, (time.time() - 2 * 24 * 3600,) * 2)
    cache.cached(folder, "another", make)
    assert sorted(os.listdir(folder)) == sorted(["another", KEY])


def test_another_writer_comes_first(tmp_path):
    def make_slowly():
        cache.cached(tmp_path, KEY, make)
        return make()

    check(cache.cached(tmp_path, KEY, make_slowly))
    check(cache.cached(tmp_path, KEY, forbidden))
    only_the_entry(tmp_path)


def test_another_writer_comes_while_a_damaged_entry_is_moved_away(tmp_path, monkeypatch):
    cache.cached(tmp_path, KEY, make)
    cut_short(tmp_path / KEY / "images.npy")
    rename, busy = os.rename, []

    def rename_then_other_writer(source, target):
        rename(source, target)
        if str(target).endswith("-old") and not busy:
            busy.append(True)
            cache.cached(tmp_path, KEY, make)

    monkeypatch.setattr(os, "rename", rename_then_other_writer)
    with pytest.warns(UserWarning, match="damaged"):
        check(cache.cached(tmp_path, KEY, make))
    assert busy
    check(cache.cached(tmp_path, KEY, forbidden))
    only_the_entry(tmp_path)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SYMJAX_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/symjax"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/symjax"),
        ({"HOME": "/h"}, "/h/.cache/symjax"),
    ],
)
def test_default_folder(monkeypatch, variables, expected):
    for name in ("SYMJAX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache.default_folder()) == expected


def test_no_home(monkeypatch):
    monkeypatch.delenv("SYMJAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match="SYMJAX_CACHE"):
        cache.default_folder()
