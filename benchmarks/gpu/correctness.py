"""Run the tests with the marker `gpu`, which compare values on this device with float64 on the host."""

import importlib.util
from collections import Counter

import pytest

from benchmarks.gpu.report import Report

WORKERS = 6
# Warnings are not errors, because versions of packages may differ.
FLAGS = ["tests/test_gpu.py", "-m", "gpu", "-v", "-W", "default", "-p", "no:cacheprovider"]


class Rows:
    """A pytest plugin that reports a row for each test function, and one for each failure."""

    def __init__(self, report: Report):
        self.report, self.counts = report, {}

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report):
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.split("::")[-1]
        counts = self.counts.setdefault(name.split("[")[0], Counter())
        counts[report.outcome] += 1
        comment = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        self.report.row(name.split("[")[0], counts["passed"], "passed", comment)
        if report.outcome == "failed":
            lines = str(getattr(report.longrepr, "reprcrash", report.longrepr)).splitlines()
            self.report.row(name, None, "failed", lines[0][-160:])


def run(report: Report) -> None:
    arguments = list(FLAGS)
    if report.rehearse:
        arguments += ["-k", "test_backend or tf32"]
    elif importlib.util.find_spec("xdist"):
        arguments += ["-n", str(WORKERS), "--dist", "worksteal"]
    words = " ".join(arguments)
    code = pytest.main(arguments, plugins=[Rows(report)])
    report.row("pytest", int(code), "exit code", words)
