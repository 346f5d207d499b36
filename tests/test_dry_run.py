"""--dry-run of every command: it prints phases, writes and trains nothing, and raises the errors of the command."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import test_any_flags
from broden_helpers import write_broden
from campaign import slow
from stitch_helpers import SEEDS, flags, scratch, settings, trained

import experiments.dry_run
import symjax.zoo
import symjax.zoo.training
from experiments.command import run_command
from experiments.settings import ZooSettings
from symjax.flops import segment_flops, step_flops, training_flops
from symjax.ops import parallel
from symjax.ops.memory import MemoryEstimate
from symjax.rotation import RotationPlan
from symjax.rotation.cost import parts_flops, retraining_flops
from symjax.training import Recipe
from symjax.zoo import estimate, jobs

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
]
EXAMPLES = 20
# What a command is given besides, and its phases.
COMMANDS = {
    "align": (["--examples", EXAMPLES, "--measures", "cka,procrustes"], {"members to evaluate", "pairs to compare"}),
    "dynamics": (
        ["--examples", EXAMPLES, "--measures", "cka", "--checkpoints", "0,6"],
        {"snapshots to evaluate", "snapshots to compare"},
    ),
    "classes": (["--examples", EXAMPLES, "--checkpoints", "0,6"], {"snapshots to evaluate", "snapshots to compare"}),
    "freeze": (
        ["--examples", EXAMPLES, "--measure", "cka"],
        {"normal training", "similarity", "linear", "epochs to compare"},
    ),
    "memorize": (
        ["--examples", EXAMPLES, "--measures", "pwcca"],
        {"generalizing", "memorizing", "members to evaluate", "pairs to compare"},
    ),
    "project": (["--examples", EXAMPLES, "--directions", "1"], {"projections to evaluate"}),
    "symmetry": (["--draws", 1], {"members to transform", "matrices to test"}),
    "dissect": (
        ["--concepts", write_broden(scratch() / "broden"), "--quantile", 0.1, "--powers", 1],
        {"members to dissect"},
    ),
    "rotate": (["--model", "rotate_tiny", "--seeds", "2", "--repeats", 2, "--retrain-epochs", 2], {"matrices"}),
}


@pytest.fixture(autouse=True)
def phases(monkeypatch, tmp_path):
    """Forbid training in an empty folder, assume 1 GFLOP/s for each device, and yield {name: phase}."""
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    monkeypatch.setattr(symjax.zoo.training, "train_jobs", lambda *_: pytest.fail("trained"))
    recorded, report = {}, experiments.dry_run.report

    def recording(title, config, dataset, phases):
        recorded.update({phase.name: phase for phase in phases})
        return report(title, config, dataset, phases)

    monkeypatch.setattr(experiments.dry_run, "report", recording)
    return recorded


def dry(name, *words, zoo="zoo"):
    """Run --dry-run on the tiny data set, by default with a zoo in a new folder."""
    run(name, *words, "--dry-run", zoo=zoo)


def run(name, *words, zoo="zoo"):
    module = importlib.import_module(f"experiments.{name}")
    argv = [*flags(scratch()), "--zoo", zoo, *COMMANDS[name][0], *words]
    run_command(module.main, module.Settings, [str(word) for word in argv])


def images():
    """Return the operations of each segment for one image."""
    dataset, _ = trained()
    return segment_flops(settings().zoo_config().network(dataset), (8, 8, 1))


def test_every_command_that_computes_has_the_flag():
    with_own_tests = {"zoo", "stitch", "crossval", "lasso", "recurrent", "width", "clusters", "coefficients"}
    with_own_tests |= {"resi", "rebasin"}
    assert set(test_any_flags.TRAINING) == {*COMMANDS, *with_own_tests}
    assert "dry_run" in vars(ZooSettings)["__annotations__"]


@pytest.mark.parametrize("name", [name if name in ("symmetry", "rotate") else slow(name) for name in COMMANDS])
@pytest.mark.few(1)
def test_a_dry_run_tells_its_phases_and_writes_nothing(name, phases, capsys):
    dry(name)
    printed = capsys.readouterr().out
    expected = COMMANDS[name][1] | ({"members to train"} if name not in ("freeze", "memorize") else set())
    assert set(phases) == expected and all(called in printed.splitlines()[2] for called in expected)
    assert not list(Path().iterdir())
    assert all(phase.to_do and not phase.done for phase in phases.values())
    training = {"members to train", "normal training", "generalizing", "memorizing"} & expected
    config, (dataset, _) = settings().zoo_config(), trained()
    if name != "rotate":  # of another network
        for called in training:
            members = len(SEEDS) * 6 * estimate.epoch_flops(config, dataset)
            assert phases[called].flops == pytest.approx(members, rel=0.01)
    uncounted = [called for called, phase in phases.items() if phase.flops is None]
    assert all(f"{called} (not counted)" in printed for called in uncounted)
    if "operations" in printed and uncounted:
        assert "not counted" in printed.split("operations")[1].splitlines()[0]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("align", ["--examples", "3"], "examples: got 3"),
        ("align", ["--max-device-memory", "1KB"], "max-device-memory: got 1 KB"),
        ("dynamics", ["--checkpoints", "9"], "checkpoints: got '9'"),
        ("classes", ["--layers", "relu9"], "relu9"),
        ("freeze", ["--schedules", "1/2/3"], "schedules: got 1/2/3, 3 epochs"),
        ("memorize", ["--seeds", "2"], "seeds: got 2 for each group"),
        ("symmetry", ["--draws", "0"], "draws: got 0"),
        ("rotate", ["--repeats", "0"], "repeats: got 0"),
        ("rotate", ["--max-device-memory", "lots"], "max-device-memory: got 'lots'"),
    ],
)
def test_a_dry_run_refuses_what_the_command_refuses(name, words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        dry(name, *words)
    assert message in capsys.readouterr().err and not list(Path().iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_what_will_not_fit_is_refused_before_anything_is_trained(name, monkeypatch, capsys):
    """Training fits in memory, but the evaluation of all test images does not."""
    evaluation, training = (SimpleNamespace(memory=MemoryEstimate(fixed, 1)) for fixed in (2 * 10**9, 1))
    monkeypatch.setattr(symjax.zoo, "evaluation_program", lambda *_, **__: evaluation)
    monkeypatch.setattr(jobs, "training_program", lambda *_: training)
    for start in (run, dry):
        with pytest.raises(SystemExit, match="2"):
            start(name, "--max-device-memory", "1GB")
        assert "max-device-memory: got 1 GB, expected 2 GB" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_passes_over_examples(phases, capsys):
    dry("align", "--layers", "relu1", zoo=scratch() / "zoo")
    looked = phases["members to evaluate"]
    assert looked.flops == pytest.approx(3 * EXAMPLES * images()[0])
    assert looked.stored == 3 * EXAMPLES * 4 * 8 * 8 * 4  # float32 maps of 4 channels
    assert looked.at_once == 2 and phases["pairs to compare"].to_do == 2 * 3
    assert phases["members to train"].done == 3 and not phases["members to train"].to_do
    with pytest.raises(SystemExit, match="2"):
        dry("classes", zoo=scratch() / "zoo")
    assert "member-0 was trained for" in capsys.readouterr().err
    dry("classes")
    # Each network before its training and, twice, at the end; of 4 and 8 channels the means.
    assert phases["snapshots to evaluate"].flops == pytest.approx(3 * 3 * EXAMPLES * sum(images()[:2]))
    assert phases["snapshots to evaluate"].stored == 3 * EXAMPLES * (4 + 8) * 4
    assert phases["members to train"].to_do == 3 and phases["members to train"].flops > 0
    assert phases["snapshots to compare"].to_do == 3 * 2


@pytest.mark.slow
def test_frozen_layers_cost_less(phases, capsys):
    dry("freeze", "--schedules", "1/3,2/4,similarity")
    config, (dataset, _) = settings().zoo_config(), trained()
    network = config.network(dataset)
    validation = 6 * len(dataset.validation) * sum(images())
    steps = training_flops(network, (8, 8, 1), len(dataset.train), config.recipe, (1, 3))
    assert phases["1/3"].flops == pytest.approx(3 * (steps + validation))
    assert phases["1/3"].flops < phases["2/4"].flops < phases["normal training"].flops
    # At most nothing is ever frozen, and every epoch looked at.
    assert phases["epochs to compare"].to_do == 3 * 5 and phases["epochs to compare"].flops is None
    looks = 3 * 6 * EXAMPLES * sum(images()[:2])
    assert phases["similarity"].at_most and not phases["normal training"].at_most
    assert phases["similarity"].flops == pytest.approx(phases["normal training"].flops + looks)
    assert "at most" in capsys.readouterr().out


@pytest.mark.slow
def test_both_groups_are_trained_side_by_side(phases):
    dry("memorize")
    assert [phases[name].at_once for name in ("generalizing", "memorizing")] == [3, 3]
    assert phases["pairs to compare"].to_do == 15 - 3  # no pair of one seed across
    assert phases["members to evaluate"].to_do == 6


@pytest.mark.parametrize("point", [0, 1])
@pytest.mark.few(1)
def test_operations_of_a_retraining(point):
    """A step of the tail is one of the network with a frozen front, minus the front, plus matrix and ReLU."""
    dataset, _ = trained()
    network = settings(model="rotate_tiny").zoo_config().network(dataset)
    recipe, image = Recipe(epochs=2, batch_size=12, flip=False, translate=0), (8, 8, 1)
    plan = RotationPlan(network, (point,), recipe, parallel.default_execution())
    front, step, forward = parts_flops(plan, point, dataset)
    segments, channels, pixels = segment_flops(network, image), (4, 8)[point], (64, 16)[point]
    relu = pixels * channels
    behind = 2 * channels * relu + relu
    assert front == sum(segments[: point + 1]) - relu
    assert forward == sum(segments[point + 1 :]) + behind
    expected = step_flops(network, image, recipe, point + 1) - 12 * sum(segments[: point + 1]) + 12 * behind
    assert step == pytest.approx(expected, rel=0.01)  # batches and single images are counted a little differently
    each = 2 * (6 * step + 18 * forward) + 37 * forward
    assert retraining_flops(plan, point, dataset, 3) == pytest.approx((72 + 18 + 37) * front + 3 * each)
    blocked = retraining_flops(plan, point, dataset, 3, blocks=2)
    assert blocked == pytest.approx((2 * 72 + 2 * 18 + 37) * front + 3 * each)


@pytest.mark.slow
def test_matrices_of_every_layer_are_counted(phases):
    dry("rotate")
    assert phases["matrices"].to_do == 2 * 2 * 3 * 2  # layers, seeds, kinds, repeats
    at_once = phases["matrices"].at_once  # of two devices, at both layers
    assert at_once == 2 * 3 and phases["matrices"].memory.per_member > 0
    assert phases["members to train"].to_do == 2


@pytest.mark.slow
def test_a_rehearsal_measures_something():
    dataset, members = trained()
    config, devices = settings().zoo_config(), tuple(jax.devices())
    rate = estimate.rehearse(config, dataset, parallel.default_execution(), devices, 2)
    assert 1e4 < rate < 1e15
