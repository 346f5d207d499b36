"""A stitch family, a measure, a model and an experiment from outside of the packages, added as CONTRIBUTING says.

The modules are written to a folder, then used by their names, as on the command line.
"""

import importlib
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.colors import to_hex
from stitch_helpers import write_npz

import experiments.merge
import experiments.report
import experiments.zoo
import symjax
from experiments import summary
from experiments.command import run_command
from experiments.settings import ZooSettings
from experiments.summary import Summary, read
from symjax import plots, similarity, stitching
from symjax.errors import InputError
from symjax.models import MODELS
from symjax.ops import files
from symjax.similarity import error_bars, pairwise
from symjax.stitching import FAMILIES, parse_families
from symjax.stitching.selection import with_numbers

FAMILY = """
    from dataclasses import dataclass

    from symjax.stitching import Family, register_family

    @register_family("damped", "penalty on the norm", title="damped stitch", color="#006d2c", grid=(0.5, 2))
    @dataclass(frozen=True)
    class Damped(Family):
        weight: float = 0.5

        def penalty(self, params, progress):
            return self.weight * (params["matrix"] ** 2).sum()

    class Plain(Family):
        pass

    def damped_or_plain(weight=0.0):
        return Damped(weight) if weight else Plain()

    def nothing():
        return None
"""

MEASURE = """
    import jax.numpy as jnp

    from symjax.similarity import Measure

    def overlap(x, y):
        x, y = x / jnp.linalg.norm(x), y / jnp.linalg.norm(y)
        return jnp.linalg.norm(x.T @ y)

    MEASURES = (
        Measure(
            name="overlap",
            fn=overlap,
            reference="this test",
            range=(0.0, 1.0),
            kind="similarity",
            symmetric=True,
            invariances=frozenset({"isotropic_scaling", "orthogonal", "permutation", "sign_flip"}),
            title="overlap of features",
        ),
    )
"""

MODEL = """
    from flax import nnx

    from symjax import stitch_point
    from symjax.models import register

    @register({"perceptron": {}, "wide_perceptron": {"width": 32}})
    class Perceptron(nnx.Module):
        def __init__(self, *, width=8, channels=3, classes=10, rngs):
            self.hidden = nnx.Linear(channels, width, rngs=rngs)
            self.dense = nnx.Linear(width, classes, rngs=rngs)

        def __call__(self, x):
            return self.dense(stitch_point(nnx.relu(self.hidden(x.mean(axis=(1, 2)))), "relu1"))
"""

EXPERIMENT = '''
    """Counts the seeds."""

    import dataclasses
    from pathlib import Path

    import pandas as pd

    from experiments.registry import Experiment, PublishedTable
    from experiments.command import run_command
    from experiments.summary import Summary
    from symjax.ops import runs
    from symjax.ops.result_table import ResultTable, Schema

    ROWS = Schema("results", {"seed": int}, ("square",))
    EXPERIMENT = Experiment(
        place=15,
        published={"squares": PublishedTable(("square",), {"seed 3": (9,)})},
        published_on=None,
    )

    @dataclasses.dataclass(frozen=True)
    class Settings:
        seeds: tuple[int, ...]
        out: Path

    def main(settings: Settings) -> Summary:
        requested = pd.DataFrame({"seed": settings.seeds})
        with runs.open_folder(settings.out, "squares", {"version": 1}) as folder:
            results = ResultTable(folder, ROWS)
            missing = results.missing(requested)
            results.add(missing.assign(square=missing.seed**2))
            table = results.select(requested)
            return Summary(folder, "Squares", f"The largest is {table.square.max()}.", {"squares": table})

    if __name__ == "__main__":
        run_command(main, Settings)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a module to the current folder and return its import name; undo its registrations afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (FAMILIES, MODELS, similarity.MEASURES):
        for name in ("damped", "perceptron", "wide_perceptron", "overlap"):
            monkeypatch.setitem(registry, name, None)
            registry.pop(name)  # `monkeypatch` restores the registry: these names are not in it
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


# --- a stitch family ---


@pytest.fixture(scope="module")
def networks():
    """Two small networks, and data."""

    def mlp(weights, x):
        return symjax.stitch_point(jax.nn.relu(x @ weights["first"]), "relu1") @ weights["second"]

    x = np.random.RandomState(0).randn(60, 4).astype(np.float32)
    shapes = {"first": (4, 6), "second": (6, 2)}
    members = []
    for seed in (1, 2):
        weights = {n: np.random.RandomState(seed).randn(*s).astype(np.float32) for n, s in shapes.items()}
        members.append((symjax.Network.from_function(mlp, weights, example=x[:1]), weights))
    return members, (x, (x[:, 0] > 0).astype(np.int32))


def test_a_family_is_one_decorated_class(own, networks, tmp_path):
    own("own_family", FAMILY)
    with pytest.raises(InputError, match="families: got 'damped', expected one of .*package.module:Name"):
        parse_families("damped")
    families = parse_families("own_family:Damped, own_family:Damped:2, damped:2, own_family:Plain, full")
    assert [family.label for family in families] == ["damped", "damped:2", "Plain", "full"]
    assert parse_families("own_family:damped_or_plain:2,own_family:damped_or_plain") == families[1:3]
    assert [family.weight for family in with_numbers("damped")] == [0.5, 2]
    for text, expected in (
        ("damped:-1", "weight: got -1.0, expected a positive number"),
        ("own_family:Damped:x", "expected a number instead of 'x'"),
        ("own_family:Plain:1", "expected own_family:Plain without a number"),
        ("own_family:Missing", "own_family, which has no Missing"),
        ("own_family:nothing", "is None, expected a Family"),
        ("own_family:nothing:1", "cannot be built .TypeError"),
    ):
        with pytest.raises(InputError, match=f"^families: .*{expected}"):
            parse_families(text)

    (a, b), data = networks
    options = {"train": data, "test": data, "epochs": 1, "batch_size": 12, "validation": 0.2}
    result = symjax.stitch(a, b, "relu1", families=["own_family:Damped:2", families[2]], **options)
    assert result.table.family.tolist() == ["damped:2", "Plain"] and result.table.hyperparameter[0] == 2
    norms = [np.linalg.norm(result.stitches["relu1", label].matrix) for label in ("damped:2", "Plain")]
    assert norms[0] < norms[1]
    figure = result.plot()
    axes = figure.axes[0]
    handles, names = axes.get_legend_handles_labels()
    assert names == ["damped stitch 2", "Plain"]
    assert to_hex(handles[0].patches[0].get_facecolor()) == "#006d2c"


def test_labels_of_families_are_distinct(networks):
    (a, b), data = networks
    full = parse_families("full")[0]

    class Other(stitching.Family):
        label = "full"

    with pytest.raises(InputError, match="families: got full more than once"):
        symjax.stitch(a, b, "relu1", families=[full, Other()], train=data, test=data)


# --- a measure ---


def test_a_measure_is_one_module_with_a_tuple(own):
    (measure,) = importlib.import_module(own("own_measure", MEASURE)).MEASURES
    x = np.random.RandomState(0).randn(2, 12, 3).astype(np.float32)
    expected = float(measure.fn(*x))
    for given in (measure, measure.fn):
        np.testing.assert_allclose(pairwise({"layer": x}, given, pairs=[(0, 1)]).to_frame().value, expected, rtol=1e-6)
        np.testing.assert_allclose(error_bars(given, *x, jax.random.key(0), 4).estimate, expected, rtol=1e-6)
    similarity.add_measures([measure])
    with pytest.raises(InputError, match="measures: got the name overlap, which is in MEASURES"):
        similarity.add_measures([measure])
    table = pairwise({"layer": x}, "overlap").to_frame()
    figure = plots.by_layer(table)
    assert figure.axes[0].get_legend_handles_labels()[1] == ["overlap of features"]


def test_exports_agree_with_the_table_of_measures():
    """A measure's function is exported under its own name; variants with fixed options are not."""
    for name, measure in similarity.MEASURES.items():
        function = getattr(measure.fn, "func", measure.fn)
        for module in (symjax, similarity):
            assert getattr(module, function.__name__) is function, name
            assert function.__name__ in module.__all__


# --- a model ---


def test_a_model_is_one_decorated_module(own, tmp_path):
    own("own_model", MODEL)
    write_npz(tmp_path / "stripes.npz")
    flags = ["--dataset", "stripes.npz", "--seeds", "1", "--epochs", "1", "--batch-size", "12", "--out", "zoo"]
    run_command(experiments.zoo.main, experiments.zoo.Settings, [*flags, "--model", "own_model:Perceptron"])
    assert "accuracy" in read("zoo").conclusion
    for model in ("wide_perceptron", "own_model:Perceptron"):  # which the decorator has registered by now
        settings = ZooSettings(dataset=str(tmp_path / "stripes.npz"), model=model, width=32)
        network = settings.zoo_config().network(settings.load_dataset())
        assert [point.channels for point in network.points] == [32]


# --- an experiment ---


def test_an_experiment_is_one_module(own, tmp_path, monkeypatch, capsys):
    (tmp_path / "more").mkdir()
    own("more/squares", EXPERIMENT)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "more")])
    squares = importlib.import_module("experiments.squares")
    monkeypatch.setitem(sys.modules, "experiments.squares", squares)  # and gone afterwards
    for part, seeds in (("a", "12"), ("b", "23")):
        run_command(squares.main, squares.Settings, ["--seeds", *seeds, "--out", f"runs/{part}"])
    run_command(experiments.merge.main, experiments.merge.Settings, ["runs/a", "runs/b", "--out", "runs/whole"])
    assert "runs/whole: 3 rows of 2 folders" in capsys.readouterr().out
    assert files.read_csv("runs/whole/results.csv").to_dict("list") == {"seed": [1, 2, 3], "square": [1, 4, 9]}

    for name in ("zoo", "stitch"):
        Path("runs", name).mkdir()
        summary.write(Summary(Path("runs", name), name, "", experiment=name))
    run_command(experiments.report.main, experiments.report.Settings, [])
    lines = (tmp_path / "runs" / "report" / "report.md").read_text().splitlines()
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert titles == ["zoo: zoo", "squares: Squares", "squares: Squares", "stitch: stitch"]
    assert "The largest is 9." in lines and lines.count("Published: squares:") == 2 and "| seed 3 | 9 |" in lines
