"""Batch files: all lines that their headers and docs/cluster.md give, submitted to a SLURM that is two tiny scripts."""

import fnmatch
import importlib
import itertools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro

from experiments.sharing import split_name

PROJECT = Path(__file__).resolve().parent.parent
FILES = sorted((PROJECT / "experiments" / "slurm").glob("*.*"))
SBATCH = """#!/bin/bash
# Runs the script at once, once for each number of an array, and prints the number of the job.
array=1-1
while [[ $1 == --* ]]; do
    [[ $1 == --array=* ]] && array=${1#--array=}
    [[ $1 == --dependency=*:* && ${1##*:} -gt $(cat jobs) ]] && exit 1 # there is no such job
    shift
done
for i in $(seq "${array%-*}" "${array#*-}"); do
    SLURM_ARRAY_TASK_ID=$i bash "$@" >>log || exit 1
done
job=$(($(cat jobs) + 1))
echo $job | tee jobs
"""
SRUN = """#!/bin/bash
printf '%q ' "$@" >>steps
echo >>steps
"""
LINES = [
    line
    for path in [*FILES, PROJECT / "docs" / "cluster.md"]
    for line in re.findall(
        r"^(?:#   )?((?:[A-Z]+=\S+ )*(?:sbatch|bash) .*experiments/slurm/.*)$", path.read_text(), re.M
    )
]

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


def submit(line: str, folder: Path) -> list[tuple[str, object]]:
    """The steps that a line starts: their commands, and the settings that these take from their flags."""
    (folder / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "jobs").write_text("0\n")
    (folder / "experiments").symlink_to(PROJECT / "experiments")
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-ec", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [parsed(shlex.split(step)) for step in (folder / "steps").read_text().splitlines()]


def parsed(step: list[str]) -> tuple[str, object]:
    assert step[:2] == ["python", "-m"]
    module = importlib.import_module(step[2])
    return step[2].removeprefix("experiments."), tyro.cli(module.Settings, args=step[3:])


def test_every_file_is_in_a_line_or_submitted_by_one():
    submitted = " ".join([*LINES, *(path.read_text() for path in FILES if path.suffix == ".sh")])
    assert len(LINES) == len(set(LINES)) + 3 and all(path.name in submitted for path in FILES), LINES


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".sbatch"], ids=lambda path: path.name)
def test_a_notice_comes_before_the_end(path):
    head = itertools.takewhile(lambda line: not line or line.startswith("#"), path.read_text().splitlines())
    assert "#SBATCH --signal=TERM@60" in head and "\nsrun " in path.read_text()


@pytest.mark.parametrize("line", sorted({line for line in LINES if ".sbatch" in line}))
def test_a_job_is_one_command(line, tmp_path):
    ((name, settings),) = submit(line, tmp_path)
    assert name == "stitch" and settings.dataset == "cifar10" and settings.pairs == "all"
    assert settings.distributed == ("many-nodes" in line)


@pytest.mark.parametrize("line", sorted({line for line in LINES if "array.sh" in line}))
def test_an_array_divides_merges_and_draws(line, tmp_path):
    steps = submit(line, tmp_path)
    assert [name for name, _ in steps] == ["zoo"] * 8 + ["merge", "zoo"] + ["stitch"] * 8 + ["merge", "stitch"]
    for first in (0, 10):
        tasks, merge, whole = steps[first : first + 8], steps[first + 8][1], steps[first + 9][1]
        assert [settings.task for _, settings in tasks] == [f"{i}/8" for i in range(1, 9)]
        assert all({**vars(settings), "task": None} == vars(whole) for _, settings in tasks)
        assert merge.out == whole.out and str(whole.out).startswith("runs/stitch/mine")
        (pattern,) = merge.folders  # nothing is there that it would stand for
        folders = [settings.part_folder(settings.out) for _, settings in tasks]
        assert all(fnmatch.fnmatch(str(folder), str(pattern)) for folder in folders)
        assert [split_name(folder) for folder in folders] == [(whole.out, (i, 8)) for i in range(1, 9)]
    assert steps[10][1].zoo == steps[0][1].out
    assert (tmp_path / "jobs").read_text() == "4\n"
