"""Commands on a model, a loader and images of the caller's own, as they are named on the command line."""

import importlib
import re
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from campaign import slow
from PIL import Image

from experiments.command import run_command
from experiments.defaults import defaults_of
from experiments.settings import ZooSettings, parse_options, short_name, zoo_folder
from symjax import zoo
from symjax.errors import InputError
from symjax.zoo import estimate

pytestmark = pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")

MODULE = """
    import jax
    import numpy as np
    from flax import nnx
    import symjax
    from symjax.network import Network, stitch_point

    class Net(nnx.Module):
        def __init__(self, *, rngs, classes, channels, hidden=4):
            self.conv1 = nnx.Conv(channels, hidden, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(hidden, rngs=rngs)
            self.conv2 = nnx.Conv(hidden, hidden, (3, 3), rngs=rngs)
            self.dropout = nnx.Dropout(0.2, rngs=rngs)
            self.head = nnx.Linear(hidden, classes, rngs=rngs)

        def __call__(self, x):
            x = stitch_point(nnx.relu(self.norm(self.conv1(x))), "relu1")
            x = stitch_point(nnx.relu(self.conv2(x)), "relu2")
            return self.head(self.dropout(x.mean(axis=(1, 2))))

    def fails(*, rngs):
        raise KeyError("no such layer")

    class Narrow(nnx.Module):
        def __init__(self, *, rngs):
            self.head = nnx.Linear(7, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(x)

    def load(seed):
        rng = np.random.default_rng(seed)
        labels = np.arange(80) % 2
        tokens = rng.integers(0, 5, (80, 6)) + 3 * labels[:, None]
        return {"x_train": tokens[:60], "y_train": labels[:60], "x_test": tokens[60:], "y_test": labels[60:]}

    class Tokens(nnx.Module):
        def __init__(self, *, rngs, classes):
            self.embed, self.head = nnx.Embed(8, 4, rngs=rngs), nnx.Linear(4, classes, rngs=rngs)

        def __call__(self, tokens):
            return self.head(stitch_point(self.embed(tokens), "embedded").mean(axis=1))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The current folder, with a module and a folder of images."""
    (tmp_path / "own_nets.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 12)):
        for label in ("bright", "dark"):
            folder = tmp_path / "pictures" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (8, 8, 3)) + 120 * (label == "bright")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    yield tmp_path
    sys.modules.pop("own_nets", None)


ZOO = ["--model", "own_nets:Net", "--dataset", "pictures", "--seeds", "2", "--epochs", "2", "--batch-size", "12"]
ZOO += ["--validation", "0.2", "--model-options", "hidden=3", "--zoo", "zoo"]
COMMANDS = {
    "stitch": ["--families", "identity,full", "--pairs", "1", "--stitch-epochs", "1"],
    "align": ["--examples", "20", "--measures", "cka"],
    "dynamics": ["--examples", "20", "--measures", "cka", "--checkpoints", "0,2"],
}


def run(name, *words):
    module = importlib.import_module(f"experiments.{name}")
    run_command(module.main, module.Settings, [str(word) for word in words])


@pytest.mark.slow
def test_commands_on_an_own_model_and_a_folder_of_images(own, capsys, monkeypatch):
    monkeypatch.setattr(estimate, "REHEARSAL_STEPS", 1)
    words = [*ZOO, *COMMANDS["stitch"], "--layers", "relu2"]
    run("stitch", *words, "--dry-run", "--max-device-memory", "1GB")
    assert re.search(r"own_nets:Net on pictures.*trained own_nets:Net at", capsys.readouterr().out, re.DOTALL)
    assert not (own / "zoo").exists()
    with pytest.raises(SystemExit):
        run("stitch", *words, "--max-device-memory", "10KB")
    assert "max-device-memory: got 10 KB, expected" in capsys.readouterr().err
    run("stitch", *words, "--out", "stitch")
    table = pd.read_csv("stitch/results.csv", comment="#")
    assert set(table.layer) == {"relu2"} and set(table.family) == {"full", "identity"}
    assert np.isfinite(table.stitched_accuracy).all()
    trained = zoo.load("zoo")
    assert [point.channels for point in trained.network.points] == [3, 3]
    assert trained.config.to_json()["model_options"] == {"hidden": 3}
    assert trained.config.dataset == str((own / "pictures").resolve())
    config = own / "zoo" / "config.json"
    config.write_text(config.read_text().replace("own_nets:Net", "no_nets:Net"))
    with pytest.raises(InputError, match="^model: got 'no_nets:Net', and no_nets cannot be imported"):
        zoo.load("zoo")


@pytest.mark.slow
def test_dynamics_of_an_own_model(own):
    run("dynamics", *ZOO, *COMMANDS["dynamics"], "--out", "dynamics")
    assert zoo.load("zoo").config.dataset == str((own / "pictures").resolve())


@pytest.mark.parametrize(("name", "column"), [("align", "value"), slow("stitch", "stitched_accuracy")])
def test_commands_on_tokens_of_an_own_loader(name, column, own):
    words = ["--model", "own_nets:Tokens", "--dataset", "own_nets:load", "--seeds", "2", "--epochs", "1"]
    words += ["--batch-size", "12", "--zoo", "tokens"]
    run(name, *words, *COMMANDS[name], "--out", name)
    assert np.isfinite(pd.read_csv(f"{name}/results.csv", comment="#")[column]).all()


REFUSED = {
    "own_nets:fails": "model: got own_nets:fails, which raises KeyError: 'no such layer'; expected a function",
    "own_nets:missing": "model: got 'own_nets:missing', expected an attribute of own_nets, which has no missing",
    "no_nets:Net": "model: got 'no_nets:Net', and no_nets cannot be imported",
    "own_nets:Narrow": "expected a size that fits own_nets:Narrow",
}


def test_builders_that_fail_are_named(own, capsys):
    for model, message in REFUSED.items():
        with pytest.raises(SystemExit):
            run("zoo", "--model", model, "--dataset", "pictures", "--out", "none")
        assert re.search(f"^error: .*{message}", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        run("zoo", *ZOO[:-2], "--model-options", "depth=3", "--out", "none")
    assert "model: got depth for own_nets:Net, expected" in capsys.readouterr().err


def test_names_that_are_not_cut(own):
    (own / "cifar10").mkdir()
    folder = ZooSettings(dataset="./cifar10", model="own_nets:Net").zoo_config()
    assert folder.dataset == str((own / "cifar10").resolve()) and folder.width is None
    assert (folder.recipe.flip, folder.recipe.translate) == (False, 0)
    assert defaults_of("cifar10:3.0.2", "mcnn").flip and not defaults_of("cifar10:load", "mcnn").flip
    assert defaults_of("digits", "mcnn").width == 8 and defaults_of("digits", "own_nets:Net").width is None
    assert defaults_of("digits", "cct2").optimizer == "adamw" != defaults_of("digits", "cct:build").optimizer
    np.savez(own / "a.npz", x=1)
    assert ZooSettings(dataset="a.npz").zoo_config().dataset == str((own / "a.npz").resolve())
    config = ZooSettings(dataset="own_nets:load", model="own_nets:Tokens").zoo_config()
    assert (config.dataset, short_name(config.dataset)) == ("own_nets:load", "own_nets-load")
    assert zoo_folder(config).name.startswith("own_nets-load-own_nets-Tokens-")


def test_model_options_are_literals():
    text = "activation=sigmoid,pools=(1,2,2),norm=False,rate=1e-3,name='a,b',none=None"
    expected = {"activation": "sigmoid", "pools": (1, 2, 2), "norm": False, "rate": 1e-3, "name": "a,b", "none": None}
    assert parse_options(text) == expected and parse_options("") == {}
    for wrong in ("sigmoid", "a=b=c", "a=f()", "**a", "a", "a=1)", "a=1,a=2", "a=1)(b=2"):
        with pytest.raises(InputError, match="^model_options: got"):
            parse_options(wrong)
    settings = ZooSettings(model="mcnn", model_options="activation=sigmoid,multiples=(1,2),pools=(2,2)", width=2)
    config = settings.zoo_config()
    assert config.to_json()["model_options"] == {"activation": "sigmoid", "multiples": (1, 2), "pools": (2, 2)}
    assert zoo.ZooConfig.from_json(config.to_json()) == config and hash(config) is not None
    assert ZooSettings().zoo_config().to_json()["model_options"] == {}
    for wrong in ("width=3", "classes=3", "a={}", "a={1}"):
        with pytest.raises(InputError, match="^model_options: got"):
            ZooSettings(model_options=wrong).zoo_config()
