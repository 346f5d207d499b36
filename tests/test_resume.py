"""An interrupted command keeps its pieces; the same command again goes on from them and finds the same."""

from typing import Any, NamedTuple

import jax
import pytest
from stitch_helpers import SEEDS, flags, scratch, trained

import experiments.classes
import experiments.dynamics
import experiments.freeze
import experiments.lasso
from experiments import summary
from experiments.command import run_command
from symjax import dynamics, zoo
from symjax.stitching.results import StitchResults

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
]


class Case(NamedTuple):
    """A command that is interrupted when `owner.name` is called for the first time after `kept` calls."""

    module: Any
    flags: list
    owner: Any
    name: str
    kept: int = 1


LOOKS = ["--seeds", 2, "--examples", 30]
MOMENTS = [*LOOKS, "--checkpoints", "3"]
STITCHES = ["--weights", "0.1", "--references", "", "--pairs", 4, "--layers", "relu1", "--stitch-epochs", 1]
CASES = {
    "dynamics": Case(experiments.dynamics, [*MOMENTS, "--measures", "cka"], dynamics, "similarity_to_end"),
    "classes": Case(experiments.classes, MOMENTS, dynamics, "class_correlations"),
    "freeze": Case(experiments.freeze, [*LOOKS, "--schedules", "1"], experiments.freeze, "test_percent"),
    # Two pairs at a time on two devices; the second two begin.
    "lasso": Case(experiments.lasso, STITCHES, StitchResults, "add", kept=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    dataset, whole = trained()
    folder = tmp_path_factory.mktemp("resume")
    zoo.train(whole.config, dataset, SEEDS, folder / "zoo", keep=(0, 3), devices=jax.devices()[:1], progress=False)
    return folder


@pytest.mark.parametrize("name", ["lasso", "dynamics", "classes", "freeze"])
@pytest.mark.slow
def test_what_was_kept_is_not_computed_again(name, folder, tmp_path, monkeypatch):
    case = CASES[name]
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")  # as conftest.py has it, whatever the number of cores
    compute, calls, interrupted_calls = getattr(case.owner, case.name), [], [case.kept + 1]

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) in interrupted_calls:
            raise KeyboardInterrupt
        return compute(*arguments, **options)

    monkeypatch.setattr(case.owner, case.name, counted)

    def command(out):
        calls.clear()
        argv = [*flags(scratch()), "--zoo", folder / "zoo", "--out", tmp_path / out, *case.flags]
        run_command(case.module.main, case.module.Settings, [str(word) for word in argv])
        return len(calls)

    with pytest.raises(SystemExit) as end:
        command("cut")
    assert end.value.code == 130
    before = (tmp_path / "cut" / "results.csv").read_text().splitlines()
    interrupted_calls.clear()
    again, every = command("cut"), command("whole")
    assert again == every - case.kept > 0
    after = (tmp_path / "cut" / "results.csv").read_text().splitlines()
    assert (tmp_path / "whole" / "results.csv").read_text().splitlines() == after
    assert 1 < len(before) < len(after) and set(before) < set(after)
    assert summary.read(tmp_path / "cut").conclusion == summary.read(tmp_path / "whole").conclusion
