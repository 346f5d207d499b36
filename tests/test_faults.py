"""Signals, full disks, leftovers, clocks, pickles: nothing is lost, nothing is executed, nothing is other numbers.

`python -m benchmarks.faults` does the same to whole commands, at random and many times over.
"""

import contextlib
import gc
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import campaign
import jax
import numpy as np
import pandas as pd
import pytest
from zoo_helpers import CONFIG, LONG, assert_same, train

import symjax.data.cache
from benchmarks import fault_results
from symjax import zoo
from symjax.errors import InputError
from symjax.ops import files, interruption

PROJECT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return an undisturbed zoo and its folder."""
    folder = tmp_path_factory.mktemp("faults") / "zoo"
    return train(folder), folder


def temporary(folder):
    return [str(path) for path in folder.rglob("*") if "tmp" in path.name]


# --- signals ---


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_raises_and_the_second_is_the_systems(number, code, handlers):
    with (
        pytest.raises(interruption.Interrupted, match="continue from the saved state") as caught,
        interruption.interruptible(),
    ):
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert all(signal.getsignal(each) == signal.SIG_DFL for each in interruption.SIGNALS)


def test_without_a_signal_handlers_are_as_before(handlers):
    before = [signal.getsignal(number) for number in interruption.SIGNALS]
    with interruption.interruptible(), interruption.deferred() as interrupted:
        assert not interrupted()
    assert before == [signal.getsignal(number) for number in interruption.SIGNALS]


def test_what_is_ignored_stays_ignored(handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.interruptible():
        signal.raise_signal(signal.SIGINT)


def test_a_signal_is_kept_back(handlers):
    done = []
    with pytest.raises(interruption.Interrupted), interruption.interruptible(), interruption.deferred() as interrupted:
        signal.raise_signal(signal.SIGTERM)
        done.append(interrupted())
    assert done == [True]


def test_a_written_file_is_whole_when_the_signal_comes(tmp_path, monkeypatch, handlers):
    replace = os.replace

    def signaled(source, target):
        signal.raise_signal(signal.SIGTERM)
        replace(source, target)

    monkeypatch.setattr(os, "replace", signaled)
    with pytest.raises(interruption.Interrupted), interruption.interruptible():
        files.write_json(tmp_path / "a.json", [1])
    assert files.read_json(tmp_path / "a.json") == [1] and not temporary(tmp_path)


def test_a_second_signal_and_a_thread_that_does_not_see_the_first():
    """The main thread is in C code, as in a compilation; also in a block that defers signals."""
    script = """
        import ctypes, os, signal, sys, threading
        from symjax.ops import interruption
        interruption.GRACE = 0.1
        if sys.argv[1] == "blind":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with interruption.interruptible():
                lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
                lock(mutex), lock(mutex)
        with interruption.interruptible(), interruption.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
    """
    for way, code in (("blind", 143), ("twice", -signal.SIGTERM)):
        command = [sys.executable, "-c", textwrap.dedent(script), way]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert ended.returncode == code, ended.stderr
        assert ("stopped by SIGTERM" in ended.stderr) == (way == "blind")


def test_a_signal_in_a_callback_of_the_garbage_collector_comes_again(handlers):
    """Python discards exceptions of handlers there."""

    def callback(phase, _):
        if phase == "stop" and not sent:
            sent.append(phase)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # the handler runs here

    sent = []
    gc.callbacks.append(callback)
    try:
        with pytest.raises(interruption.Interrupted) as ended, interruption.interruptible():
            gc.collect()
            assert sent
            time.sleep(5)
            pytest.fail("went on")
    finally:
        gc.callbacks.remove(callback)
    assert ended.value.exit_code == 143


def test_an_interrupted_zoo_is_saved_after_its_last_whole_epoch(tmp_path, monkeypatch, handlers):
    """No save was due; the signal comes in the middle of the fourth epoch."""
    is_ready, epochs = zoo.jobs._wait, []

    def wait(arrays, interrupted):
        epochs.append(1)
        if len(epochs) == 4:
            signal.raise_signal(signal.SIGTERM)
            return False
        return is_ready(arrays, interrupted)

    with monkeypatch.context() as patch:
        patch.setattr(zoo.jobs, "_wait", wait)
        with pytest.raises(interruption.Interrupted), interruption.interruptible():
            train(tmp_path / "a", config=LONG, save_every_seconds=1e9)
    assert {path.name for path in (tmp_path / "a").glob("member-*/epoch-*")} == {"epoch-00003"}
    assert not temporary(tmp_path)


# --- disks ---


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of this many kilobytes, or enlarge it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options, *flags):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 16, 96])
def test_a_disk_that_fills_up(reference, disk, kilobytes, monkeypatch, capfd):
    """The disk is full in the first table, in a checkpoint of the first member, or in one of a later member."""
    monkeypatch.setattr(zoo.jobs, "SAVING_SHARE", np.inf)
    folder = disk(f"size={kilobytes}k")
    with pytest.raises(InputError, match="cannot be written .No space left on device"):
        train(folder / "zoo", save_every_seconds=0)
    assert "Traceback" not in capfd.readouterr().err
    assert not temporary(folder)
    disk("remount,size=4096k")
    resumed = train(folder / "zoo")
    assert_same(resumed.members, reference[0].members)
    assert resumed.metrics.equals(reference[0].metrics)


def test_a_read_only_disk(reference, disk):
    folder = disk("size=4096k")
    shutil.copytree(reference[1], folder / "zoo")
    disk("remount,ro")
    with pytest.raises(InputError, match="Read-only file system., expected another one"):
        train(folder / "zoo")
    assert_same(zoo.load(folder / "zoo").members, reference[0].members)


# --- what killed processes leave ---


def test_temporary_files_are_swept_and_others_stay(reference, tmp_path):
    folder = shutil.copytree(reference[1], tmp_path / "zoo")
    left = [folder / f".results.csv.{32 * 'a'}.tmp", folder / "member-1" / f".metrics.csv.{32 * 'b'}.tmp"]
    own = folder / ".notes.tmp"
    for path in [*left, own]:
        path.write_text("x")
    for name in ("epoch-00002.orbax-checkpoint-tmp", "epoch-00002"):
        (folder / "member-2" / name).mkdir()
    again = train(folder)
    assert_same(again.members, reference[0].members)
    assert not any(path.exists() for path in left) and own.exists()
    assert [path.name for path in (folder / "member-2").glob("epoch*")] == ["epoch-00003"]


def test_campaigns_see_what_differs(reference, tmp_path):
    whole = fault_results.folder_contents(reference[1])
    assert sum("kernel" in name for name in whole) >= 4 * 3
    folder = shutil.copytree(reference[1], tmp_path / "zoo")
    assert not fault_results.differences("same", fault_results.folder_contents(folder), whole)
    metrics = pd.read_csv(folder / "member-0" / "metrics.csv")
    files.write_csv(folder / "member-0" / "metrics.csv", metrics.assign(loss=metrics.loss * (1 + 1e-12)))
    (folder / "more.csv").write_text("a\n")
    differences = fault_results.differences("other", fault_results.folder_contents(folder), whole)
    assert differences == ["other: member-0/metrics.csv differs", "other: more.csv differs"]
    other = train(tmp_path / "other", seeds=(5, 1, 2, 3))
    assert other.seeds == (5, 1, 2, 3)
    shutil.rmtree(folder / "member-0")
    shutil.copytree(tmp_path / "other" / "member-5", folder / "member-0")
    with pytest.raises(InputError, match="member-0"):
        fault_results.folder_contents(folder)


def test_campaigns_see_by_how_much_numbers_differ():
    """On another number of devices only numbers, and the conclusions from them, may differ."""
    left = {"a": np.float32([1, np.nan, np.inf]), "n": np.arange(2), "t.csv": "seed,loss\n0,1.5\n", "summary.json": "1"}
    arrays, tables, rest = fault_results.split_results(left)
    assert list(arrays) == ["a"] and list(tables) == ["t.csv: loss"] and tables["t.csv: loss"].tolist() == [1.5]
    changed = {"a": arrays["a"] + 1, "t.csv": "seed,loss\n0,1.6\n", "summary.json": "2"}
    assert not fault_results.differences("same", fault_results.split_results(left | changed)[2], rest)
    others = fault_results.split_results(left | {"n": np.arange(1, 3), "t.csv": "seed,loss\n1,1.5\n"})[2]
    assert fault_results.differences("other", others, rest) == ["other: n differs", "other: t.csv: seed differs"]
    apart = fault_results.distance(arrays["a"], np.float32([1.5, 0, np.inf]))
    assert apart.tolist() == [0.5, np.inf, 0] and not fault_results.distance(arrays["a"], arrays["a"]).any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="audits paths by /proc")
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param("--commands zoo --times 1 --ways operations --seed 128".split(), marks=pytest.mark.slow),
        pytest.param("--commands stitch,align --times 1 --ways operations --seed 128".split(), marks=pytest.mark.slow),
        pytest.param(["--times", "3"], marks=pytest.mark.slow),
        pytest.param(["--times", "2", "--fault", "full"], marks=pytest.mark.slow),
        pytest.param(["--times", "2", "--fault", "term", "--ways", "between"], marks=pytest.mark.slow),
        pytest.param(["--times", "1", "--fault", "together"], marks=pytest.mark.slow),
        pytest.param(["--devices", "1,2"], marks=pytest.mark.slow),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_commands_go_on_after_faults(flags):
    command = [sys.executable, "-m", "benchmarks.faults", *flags]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_numbers_in_tables_are_the_same_after_any_number_of_readings(tmp_path):
    values = np.random.default_rng(0).normal(size=3000)
    for dtype in ("float32", "float64"):
        files.write_csv(tmp_path / "a.csv", pd.DataFrame({"a": values.astype(dtype)}))
        read = files.read_csv(tmp_path / "a.csv")
        assert np.array_equal(read.a, values.astype(dtype).astype(np.float64))
        files.write_csv(tmp_path / "b.csv", read)
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


# --- clocks ---


@pytest.mark.parametrize("jump", [-1e7, 1e7])
def test_a_clock_that_jumps(reference, tmp_path, monkeypatch, jump):
    """The clock jumps by over half a year between any two readings, for zoos and the cache of data sets."""
    now, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() + jump * next(looks))
    assert_same(train(tmp_path / "zoo").members, reference[0].members)
    made = [symjax.data.cache.cached(tmp_path / "cache", key, lambda: ({"a": np.arange(3)}, {"n": 1})) for key in "aba"]
    assert all(np.array_equal(arrays["a"], np.arange(3)) and facts == {"n": 1} for arrays, facts in made)


# --- pickles ---


class Malicious:
    """Create a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def test_pickles_are_never_loaded(tmp_path):
    """In place of every file of a zoo in turn, as such and as an array of objects."""
    proof = tmp_path / "executed"
    folder = tmp_path / "zoo"
    expected = train(folder, (1,)).members
    np.save(tmp_path / "objects.npy", np.array([Malicious(proof)], dtype=object))
    np.savez(tmp_path / "objects.npz", metrics=np.array([Malicious(proof)], dtype=object))
    loads = [pickle.dumps(Malicious(proof)), *((tmp_path / f"objects.{kind}").read_bytes() for kind in ("npy", "npz"))]
    paths = [path for path in folder.rglob("*") if path.is_file() and "member-1" in str(path)]
    assert len(paths) > 5
    for i, path in enumerate([*paths, folder / "config.json"]):
        whole = path.read_bytes()
        for load in loads if campaign.FULL else loads[i % 3 : i % 3 + 1]:
            path.write_bytes(load)
            with contextlib.suppress(InputError):
                assert_same(zoo.load(folder).members, expected)
        path.write_bytes(whole)
    assert not proof.exists()
    np.load(tmp_path / "objects.npy", allow_pickle=True)
    assert proof.exists()  # it would have been


# --- determinism ---


@pytest.mark.slow
def test_the_same_again_is_the_same_bitwise_and_on_more_devices_nearly(reference, tmp_path):
    again = train(tmp_path / "again")
    assert_same(again.members, reference[0].members)
    assert again.metrics.equals(reference[0].metrics)
    spread = train(tmp_path / "spread", devices=jax.devices())
    assert len(jax.devices()) == 2 and spread.config == CONFIG
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), spread.members, reference[0].members)
