"""The benchmarks for accelerators: every step at toy size, and what steps that fail or hang cost the others."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from campaign import slow

from benchmarks.gpu import zoo_step
from benchmarks.gpu.__main__ import STEPS
from benchmarks.gpu.driver import ROOT, Step, run
from benchmarks.gpu.report import Report, read, table

# Compiled programs are kept from one run of the tests to the next, as the rehearsal has no other use for the time.
CACHE = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", Path(tempfile.gettempdir()) / "symjax-gpu-rehearsal"))


@pytest.mark.parametrize("steps", [["environment"], slow([step.name for step in STEPS])], ids=len)
def test_rehearsal(steps, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--minutes", "20", "--out", tmp_path / "out"]
    command += ["--steps", ",".join(steps)]
    done = subprocess.run([*command, "--cache", CACHE], cwd=ROOT, capture_output=True, text=True, check=False)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not [row for row in rows if row["unit"] == "failed"], log[-6000:]
    ends = {row["step"]: row["comment"] for row in rows if row["case"] == "whole step"}
    assert list(ends) == steps
    assert all(comment.startswith("done") for comment in ends.values()), log[-6000:]
    assert (tmp_path / "out" / "table.md").read_text() in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.txt", "results.json", "rows.jsonl", "table.md",
    ]  # fmt: skip
    cases = " ".join(row["case"] for row in rows)
    parts = ("bandwidth", "test_backend", "best arrangement", "main job", "sweep per pair", "CKA", "epoch")
    for part in parts if len(steps) > 1 else parts[:1]:
        assert part in cases


FAKES = {
    "good": "def run(report):\n    report.row('figure', 1.5, 's')\n",
    "failing": """
        def run(report):
            with report.case('a case'):
                raise ValueError('no\\nmore')
            with report.case('needs what is not there'):
                import no_such_package
            report.row('before', 2, 's')
            raise RuntimeError('the whole step')
        """,
    "hanging": """
        import pathlib, subprocess, sys, time
        def run(report):
            child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
            report.row('child', child.pid, 'pid')
            with report.path.open('a') as file:
                file.write('\\n{"step": "hanging", "ca')  # torn
            time.sleep(600)
        """,
    "last": "def run(report):\n    report.row('seconds left', report.left(), 's')\n",
}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    for name, source in FAKES.items():
        lines = source.strip("\n").splitlines()
        margin = len(lines[0]) - len(lines[0].lstrip())
        (tmp_path / f"fake_{name}.py").write_text("\n".join(line[margin:] for line in lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return [Step(name, f"fake_{name}", 1) for name in FAKES]


def test_failing_and_hanging_steps_cost_their_share_alone(steps, tmp_path):
    began = time.monotonic()
    rows = run(steps, 9, tmp_path / "out")
    assert time.monotonic() - began < 9
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    by_case = {(row["step"], row["case"]): row for row in rows}
    assert by_case["good", "figure"]["figure"] == 1.5
    assert by_case["failing", "before"]["figure"] == 2
    assert by_case["failing", "a case"]["comment"] == "ValueError: no"
    assert by_case["failing", "needs what is not there"]["unit"] == "not installed"
    assert by_case["failing", "whole step"]["comment"].startswith("failed (exit code 1)")
    assert by_case["hanging", "whole step"]["comment"].startswith("killed at its limit")
    child = Path(f"/proc/{by_case['hanging', 'child']['figure']:.0f}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"  # nobody may have waited for it yet
    assert by_case["last", "seconds left"]["figure"] > 1
    assert "the whole step" in (tmp_path / "out" / "log.txt").read_text()


def test_later_runs_replace_the_rows_of_their_steps(steps, tmp_path):
    path = tmp_path / "out" / "rows.jsonl"
    path.parent.mkdir()
    for step, case in (("good", "old"), ("other", "kept")):
        Report(step, path, 0.0).row(case, 3, "s")
    rows = run(steps[:1], 60, tmp_path / "out")
    cases = [(row["step"], row["case"]) for row in rows]
    assert cases == [("other", "kept"), ("good", "figure"), ("good", "whole step")]


def test_without_time_nothing_starts(steps, tmp_path):
    rows = run(steps[:1], 1, tmp_path / "out")
    assert [row["comment"] for row in rows] == ["no time was left; limit -2 s"]


def test_every_arrangement_is_measured(tmp_path, monkeypatch):
    """At full size, with measurements that are made up: the fastest is named, and others follow it."""
    measured = []

    def measure(report, cases, peaks, speeds):
        measured.extend(cases)
        for case in cases:
            speeds[case] = 1 + (case.execution.conv == "mixed") + (case.dtype == "bfloat16") / 2

    monkeypatch.setattr(zoo_step, "measure", measure)
    monkeypatch.setattr(zoo_step, "matmul_peak", lambda kind, size: 1.0)
    monkeypatch.setattr(zoo_step, "torch_rows", lambda *_: {"PyTorch": 0.5})
    zoo_step.run(report := Report("zoo", tmp_path / "rows.jsonl", time.monotonic() + 100))
    arrangements = {(case.execution, case.dtype) for case in measured}
    assert len(arrangements) == 12 and len({case.name for case in measured}) == len(measured) == 4 * 12 + 2 * 2
    for members in (1, 8, 32, 128):
        assert sum(case.members == members and case.model == "mcnn" for case in measured) == 12
    rows = {row["case"]: row for row in read(report.path)}
    best = rows["best arrangement of 32 members in bfloat16"]
    assert best["comment"] == "mcnn64, 32 members, vmap mixed bfloat16"
    assert rows["32 members against PyTorch"]["figure"] == best["figure"] / 0.5


@pytest.mark.slow
def test_tests_in_several_processes_are_counted(tmp_path):
    pytest.importorskip("xdist")
    code = "import sys; from benchmarks.gpu import correctness as c; from benchmarks.gpu.report import Report; "
    code += "c.FLAGS += ['-k', 'assignments or operations']; c.WORKERS = 2; "
    code += f"from pathlib import Path; c.run(Report('correctness', Path({str(tmp_path / 'rows.jsonl')!r}), 0.0))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    rows = {row["case"]: row for row in read(tmp_path / "rows.jsonl")}
    assert rows["pytest"]["figure"] == 0, done.stdout + done.stderr
    assert rows["test_operations_are_counted"]["figure"] == rows["test_assignments_inside_a_program"]["figure"] == 1


def test_figures_that_are_no_numbers(tmp_path):
    report = Report("step", tmp_path / "rows.jsonl", 0.0)
    report.row("case", float("nan"), "s", "why | not")
    report.row("count", 12345, "")
    (row, _) = read(report.path)
    assert row["figure"] is None and row["comment"].startswith("nan")
    assert "12,345" in table(read(report.path)) and "why / not" in table(read(report.path))
