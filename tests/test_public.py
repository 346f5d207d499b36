"""What is public, and what it makes of arguments that are wrong: an InputError that names them.

Public is what `symjax` and the modules right under it list in `__all__`. Every function there is called with each of
its arguments replaced by what no caller can have meant; library objects, keys, functions and truth values stay as they
are. A function whose arguments are not known by name or default needs an entry in `calls`.
"""

import importlib
import inspect
import itertools
import math
import pkgutil
import re
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from campaign import some, throws
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from matplotlib.figure import Figure
from stitch_helpers import images

import symjax
from symjax import InputError, rotation, similarity, stitching, training, zoo
from symjax.ops import files, parallel
from symjax.stitching.results import flatten

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
    pytest.mark.filterwarnings("ignore:constrained_layout not applied"),  # matplotlib's, for numbers of 300 digits
]

MODULES = {}
for info in [*pkgutil.iter_modules(symjax.__path__), *pkgutil.iter_modules(symjax.ops.__path__, "ops.")]:
    module = importlib.import_module(f"symjax.{info.name}")
    if hasattr(module, "__all__") and info.name != "ops":
        MODULES[info.name] = module
PUBLIC = {f"{name}.{item}": getattr(module, item) for name, module in MODULES.items() for item in module.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(inspect.unwrap(value))]
CLASSES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
MAKES = (  # classes that a caller makes by hand
    *("training.Recipe", "stitching.FitConfig", "zoo.ZooConfig", "stitching.Plan", "rotation.RotationPlan"),
    *("ops.parallel.Execution", "data.Split", "data.Dataset", "stitching.Sweep", "rotation.Retraining"),
    "freezing.Saturation",
)
MADE = (  # classes that the library makes, or that hold whatever they are given
    *(
        "birkhoff.ProjectionInfo",
        "birkhoff.SinkhornInfo",
        "groups.Decision",
        "groups.Intertwiner",
        "groups.MatrixGroup",
        "ops.memory.MemoryEstimate",
    ),
    *("groups.Axis", "groups.Symmetry", "groups.Space", "models.Model", "network.Member", "network.Network"),
    *("network.StitchPoint", "rotation.RotationCase", "rotation.CaseResult"),
    *("rotation.RotatedTail", "stitching.Family", "stitching.Pair", "stitching.PairResult", "stitching.Stitch"),
    "stitching.StitchResult",
    *("training.TrainData", "training.TrainState", "zoo.Group", "zoo.Zoo"),
    *(name for name in CLASSES if name.startswith("similarity.")),
)
METHODS = ("zoo.Zoo.member", "network.Network.index", "network.Network.parse_points")


def test_the_docstring_says_what_is_public():
    assert set(re.findall(r"`symjax\.([\w.]+)`", symjax.__doc__)) == set(MODULES)
    for name, value in vars(symjax).items():
        if name in symjax.__all__ and name != "InputError":
            assert value in (getattr(similarity, name, None), getattr(symjax.birkhoff, name, None))
    for module in (symjax, *MODULES.values()):
        assert len(set(module.__all__)) == len(module.__all__) and not [n for n in module.__all__ if n[0] == "_"]
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_class_is_known():
    assert sorted({*MAKES, *MADE}) == sorted(CLASSES), "a new class belongs to MAKES or to MADE"


# --- right arguments ---

ANY = np.random.default_rng(0).random((12, 3), np.float32)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Arguments that do, by function or class, beside those that `NAMED` knows and defaults."""
    folder = tmp_path_factory.mktemp("public")
    (x, y), (x_test, y_test) = images(30, 0), images(20, 1)
    np.savez(folder / "stripes.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    recipe = training.Recipe(epochs=2, batch_size=12, translate=1)
    config = zoo.ZooConfig(dataset=str(folder / "stripes.npz"), model="mcnn_k", width=2, image_size=16, recipe=recipe)
    dataset = config.load_dataset()
    own = zoo.train(config, dataset, (0, 1), folder / "zoo", keep=[1], devices=jax.devices()[:1], progress=False)
    network, member = own.network, own.member(0)
    stitch = stitching.Stitch(np.eye(network.points[0].channels, dtype=np.float32), np.zeros(2, np.float32))
    saved = {"relu1/full/matrix": stitch.matrix, "relu1/full/bias": stitch.bias}
    saved |= {f"relu1/full/stats/{key}": value for key, value in flatten(member.state).items()}
    (folder / "stitches").mkdir()
    files.write_npz(folder / "stitches" / "0-1.npz", saved)
    fit = stitching.FitConfig(epochs=1, batch_size=12)
    execution = parallel.default_execution()
    plan = stitching.Plan(network, (0,), stitching.parse_families("full"), fit, execution)
    turned = rotation.RotationPlan(network, (0,), recipe, execution)
    stream = similarity.cka_stream()
    state = stream.init(ANY, ANY)
    similarity.save_stream(folder / "state.npz", stream, state)
    history = {"a": np.stack([ANY, ANY[::-1]])}
    device_data = training.device_data(dataset, None)
    of_time = pd.DataFrame(itertools.product((0, 1), "ab", "ab"), columns=["epoch", "layer", "end_layer"])
    of_time = of_time.assign(**{"seed": 0, "value": 0.5, "measure": "cka", "class": "b"})
    results = pd.DataFrame(
        {
            **{"pair": ["0-1", "1-0"], "model": "m", "model_a": 0, "model_b": 1, "layer": "a", "layer_a": "a"},
            **{"layer_b": ["a", "b"], "starred": False, "family": "full", "kind": "none", "penalty": 1.0},
            **{"clean_accuracy": 90.0, "baseline": 90.0, "accuracy": 80.0, "val_accuracy": 80.0, "sparsity": 0.5},
            **{"learning_rate": 0.1, "hyperparameter": 0.1, "epoch": 1, "repeat": 0, "seed": 0, "value": 0.5},
            **{"measure": "cka", "activation": "relu", "matrix": "permutation", "member": True, "defect": 1e-9},
            **{"scale": [1.0, 2.0], "xi": 0.1, "pairs": "across", "mean": 0.5, "low": 0.4, "high": 0.6},
            **{"schedule": "normal", "validation_accuracy": 0.5, "share": 0.5},
        }
    )
    three = pd.concat([results.head(1).assign(pairs=kind) for kind in ("generalizing", "memorizing", "across")])
    out = Path(folder, "figure")
    whole = {"network": network, "dataset": dataset, "config": config, "recipe": recipe, "execution": execution}
    whole |= {"zoo": own, "members": own.members, "member": member, "mean": dataset.mean, "std": dataset.std}
    whole |= {"split": dataset.test, "images": dataset.test.images, "folder": folder / "zoo", "stream": stream}
    whole |= {"state": state, "stitch": stitch, "stats": member.state, "table": results, "path": out, "seeds": (0, 1)}
    whole |= {"key": jax.random.key(0), "fn": "cka", "measure": "cka", "activation": jax.nn.relu, "x": ANY, "y": ANY}
    whole |= {"matrix": np.eye(3), "epochs": (0, 1), "values": (0.0, 1.0), "history": history, "rcond": 1e-6}
    whole |= {"labels": None, "image_shape": (16, 16, 1), "max_device_memory": 2**40, "epoch": 1, "devices": None}
    whole |= {"max_iters": 10, "init": None, "batch_size": 4, "image_size": 16, "width": 2, "train_size": 12}
    whole |= {"test_size": 12, "data_dir": folder, "cache_dir": folder, "alternative": "greater"}
    special = {
        "birkhoff.permutation_matrix": {"permutation": [1, 0]},
        "birkhoff.softsort": {"scores": np.arange(3.0), "tau": 0.5},
        "data.batches": {"arrays": (ANY,)},
        "data.epoch_indices": {"num_examples": 12},
        "data.load": {"name": config.dataset},
        "data.Split": {"labels": dataset.test.labels},
        "data.Dataset": {
            **{"name": "own", "train": dataset.train, "validation": dataset.validation, "test": dataset.test},
            "class_names": dataset.class_names,
        },
        "dynamics.chance_correlation": {"features": 3, "samples": 12},
        "dynamics.checkpoints": {"epochs": 20},
        "dynamics.class_correlations": {"labels": np.arange(12) % 2, "classes": ("a", "b")},
        "dynamics.epoch_above": {"level": 0.5},
        "dynamics.similarity_to_end": {"end": {"a": ANY}},
        "flops.training_flops": {"train_images": 24},
        "freezing.linear_schedule": {"layers": 3, "epochs": 10},
        "groups.discover": {"fn": lambda params, x: x @ params["w"], "params": {"w": np.ones((3, 2), np.float32)}},
        "groups.homogeneity_defect": {"scales": [1.0, 2.0]},
        "groups.is_intertwiner": {"inputs": 50},
        "groups.polynomial": {"degree": 2},
        "ops.memory.estimate_memory": {"fn": lambda member, shared: member, "member": ANY, "shared": ANY},
        "ops.memory.parse_bytes": {"text": "1GB"},
        "models.build": {"name": "mcnn_k", "rngs": nnx.Rngs(0)},
        "models.create": {"name": "mcnn_k"},
        "models.register": {"presets": {}},
        "network.stitch_point": {"name": "hidden"},
        "network.Network.index": {"point": 0},
        "network.Network.parse_points": {"text": "relu1"},
        "pairs.draw_pairs": {"count": 2},
        "ops.parallel.Execution": {"members": "map", "conv": "native"},
        "ops.parallel.default_execution": {"backend": "cpu"},
        "ops.parallel.over_members": {"fn": lambda member, shared: member},
        "ops.parallel.use_cores": {"count": 2},
        "plots.by_layer": {"table": results.drop(columns="layer")},
        "plots.chosen_values": {"chosen": results, "values": (0.1, 1.0)},
        "plots.freezing": {"metrics": results, "cost": results},
        "plots.group_distances": {"means": three},
        "plots.homogeneity": {"slope": 0.1},
        "plots.over_time": {"table": of_time, "panel": "measure", "line": "layer", "label": "l", "title": "t"}
        | {"chance": {"cka": 0.1}},
        "plots.over_layers": {"table": of_time, "title": "t", "chance": {"a": 0.1, "b": 0.1}},
        "plots.layers_by_layers": {"table": of_time},
        "plots.layers_by_time": {"table": of_time},
        "rotation.parse_kinds": {"text": "none,orthogonal"},
        "rotation.RotationPlan": {"points": (0,)},
        "rotation.Retraining": {"plan": turned},
        "rotation.sample_rotation": {"kind": "orthogonal", "channels": 3},
        "similarity.add_measures": {"measures": ()},
        "similarity.group_means": {"values": [1.0, 2.0, 3.0], "pairs": [[0, 1], [0, 2], [1, 2]], "groups": "aaa"},
        "similarity.hsic": {"k": np.eye(12), "l": np.eye(12)},
        "similarity.load_stream": {"path": folder / "state.npz", "like": state},
        "similarity.mean_correlation": {"result": similarity.cca(ANY, ANY)},
        "similarity.mean_square_correlation": {"result": similarity.cca(ANY, ANY)},
        "similarity.mean_over_pairs": {"values": [1.0, 2.0, 3.0], "pairs": [[0, 1], [0, 2], [1, 2]]},
        "similarity.pairwise": {"representations": history, "against": history, "models": "ab", "against_models": "ab"},
        "stitching.apply_stitch": {"x": np.zeros((2, 3, 3, 2), np.float32)},
        "stitching.evaluate_stitch": {"a": member, "b": member, "point": 0},
        "stitching.least_squares": {"moments": stitching.feature_moments(ANY, ANY)},
        "stitching.matched": {"moments": stitching.feature_moments(ANY, ANY)},
        "stitching.load_stitch": {"folder": folder, "pair": (0, 1), "layer": "relu1", "family": "full"}
        | {"like": member.state},
        "stitching.parse_families": {"families": "full,rank2"},
        "stitching.register_family": {"name": "own"},
        "stitching.Plan": {"points": (0,), "families": stitching.parse_families("full"), "config": fit},
        "stitching.stitch": {"a": (network, member), "b": (network, member), "at": "relu1", "families": "full"}
        | {
            part: (getattr(dataset, part).images / np.float32(255), getattr(dataset, part).labels)
            for part in ("train", "test")
        },
        "stitching.Sweep": {"plan": plan, "num_pairs": 1},
        "training.accuracy": {"outputs_of": lambda x: jnp.zeros((len(x), 4))}
        | {"data": training.pad_batches(dataset.test, 4)},
        "training.create_state": {"steps_per_epoch": 2, "seed": 0},
        "training.device_data": {"validation_batches": None},
        "training.train_epoch": {"state": training.create_state(network, recipe, 2, 0), "data": device_data},
        "zoo.load_history": {"network": None, "seed": 0, "epochs": [1]},
        "zoo.test_accuracy": {"split": "test"},
        "zoo.load": {"network": None},
        "zoo.train": {"network": config, "data": dataset, "keep": [1]},
        "zoo.train_together": {"groups": [zoo.Group(config, (0, 1), folder / "zoo")], "keep": [1]},
        "zoo.Zoo.member": {"seed": 0},
    }
    return {"whole": whole, **special, "objects": {"zoo.Zoo": own, "network.Network": network}}


def called(name, calls):
    """The function and arguments that do."""
    owner, _, method = name.rpartition(".")
    function = getattr(calls["objects"][owner], method) if name in METHODS else PUBLIC[name]
    arguments = {}
    for argument, parameter in inspect.signature(function).parameters.items():
        default = None if parameter.default in (parameter.empty, None, ()) else parameter.default
        known = {**calls["whole"], **({argument: default} if default is not None else {}), **calls.get(name, {})}
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if argument not in known:
            assert parameter.default is not parameter.empty, f"{name} is new: `calls` wants a good {argument} for it"
            continue
        arguments[argument] = known[argument]
    return function, arguments


COSTLY = (
    "zoo.evaluate",
    "zoo.test_accuracy",
    "rotation.Retraining",
    "training.train_epoch",
    "dynamics.class_correlations",
    "stitching.stitch",
    "zoo.train_accuracy",
    "zoo.train",
    "zoo.train_together",
    "data.augment",
)
COSTLY += ("representations.features_of", "representations.representations", "ops.parallel.use_cores")  # too late here
QUICK = [name for name in (*FUNCTIONS, *MAKES, *METHODS) if name.split(".")[0] not in ("similarity", "birkhoff")]


@pytest.mark.parametrize("name", [name for name in QUICK if name not in COSTLY])
def test_right_arguments_do(name, calls, monkeypatch):
    """So that what is refused below is refused for what is thrown; those left out have tests of their values."""
    function, arguments = called(name, calls)
    function(**arguments)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith("plots.")])
def test_figures_go_on_axes_that_are_there_and_into_files_where_asked(name, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = called(name, calls)
    arguments.pop("path")
    if (own := function(**arguments)) is None:  # nothing to draw
        assert function(**arguments, ax=Figure().subplots()) is None
        return
    with pytest.raises(InputError, match="ax: got .*, expected [1-9] axes, one for each panel") as caught:
        function(**arguments, ax=[])
    count = int(re.search("expected ([0-9])", str(caught.value))[1])
    whole = Figure(layout="constrained")
    axes = whole.subfigures(2)[1].subplots(1, count)  # one alone where there is one panel
    written = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: written.append(figure))
    assert function(**arguments, ax=axes) is whole and not written
    assert whole.get_suptitle() == "" and not whole.legends
    for new, there in zip((axes for axes in own.axes if axes.get_visible()), np.ravel(axes), strict=False):
        for kind in ("lines", "patches", "collections", "texts"):
            assert len(getattr(new, kind)) == len(getattr(there, kind))
        for a, b in zip(new.lines, there.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
        assert new.get_title() == there.get_title() and new.get_title("left") == there.get_title("left")
    if own.legends:
        labels = [text.get_text() for text in own.legends[0].get_texts()]
        assert [text.get_text() for text in whole.axes[count - 1].get_legend().get_texts()] == labels
    function(**arguments, ax=axes, path=tmp_path / "given")
    assert written == [whole] * 2  # PNG and PDF


# --- wrong ones ---

NOTHING = [None, {}, object()]
PYTREES = {"params", "stats", "like", "state", "member", "shared", "result"}  # of the library's own making
NAMED = {  # arguments whose messages name the flag or what the argument belongs to
    "ops.memory.parse_bytes.text": "max_device_memory",
    "network.Network.parse_points.text": "layers",
    "models.build.name": "model",
    "models.create.name": "model",
    "pairs.draw_pairs.count": "pairs",
    "pairs.draw_pairs.seed": "pair_seed",
    "plots.over_time.line": "line|table: columns x",
    "plots.over_time.panel": "panel|table: columns x",
    "rotation.parse_kinds.text": "kinds",
    "stitching.load_stitch.pair": "pair|stitches",
    "stitching.stitch.validation": "validation|batch_size",
    "stitching.stitch.test": "train|test|inputs|targets",
    "stitching.stitch.train": "train|test|inputs|targets|batch_size",
    "zoo.load.seeds": "seeds|members",
}
WORDS = ("label", "title")  # which any text may be
SIZES = [math.inf, -math.inf, -1]
TAKEN = {  # what is right after all
    "birkhoff.softsort.scores": [[]],
    "birkhoff.softsort.tau": [math.inf],  # uniform rows
    "data.Dataset.name": ["x"],
    "data.augment.fill": [math.nan, *SIZES],
    "data.load.cache_dir": ["file/below"],  # which this set does not need
    "data.load.data_dir": ["file/below"],
    "data.normalize.images": [[math.nan]],  # NaN
    "dynamics.epoch_above.level": SIZES,
    "freezing.Saturation.threshold": [-1],
    "groups.homogeneity_defect.scales": [[]],
    "models.create.classes": [None],  # targets that are not classes
    "network.stitch_point.name": ["x"],
    "ops.parallel.default_execution.backend": ["x"],  # one of tomorrow
    "plots.curves.table": [pd.DataFrame()],  # no figure
    "plots.homogeneity.slope": [-1],
    "similarity.pairwise.pairs": [[]],
    "stitching.register_family.description": ["x", ""],
    "stitching.register_family.name": ["x"],
    "zoo.ZooConfig.dataset": ["x"],  # asked for when it is loaded
    "zoo.train.seeds": [[1, 2]],
    "zoo.train.save_every_seconds": [math.inf],
    "zoo.train_together.save_every_seconds": [math.inf],
}
WRONG = {
    "flag": [*NOTHING, "no", 0, math.nan, [], np.ones(2)],
    "number": [*NOTHING, "x", "", math.nan, math.inf, -math.inf, -1, 1j, [], [1, 2], 10**400],
    "name": [*NOTHING, "x", "", -1, math.nan, [], ["x"], np.ones(2)],
    "path": [*NOTHING, "", -1, math.nan, [], "\0", "\ud800", "x" * 300, "file/below"],
    "array": [*NOTHING, "x", -1, math.nan, [], [[1, 2], [3]], [None], [math.nan], ["x"], [1j]],
    "sequence": [*NOTHING, "x", -1, math.nan, [None], [math.nan], [[1, 2], [3]], [object()]],
    "mapping": [*NOTHING, "x", -1, math.nan, [], {"a": None}, {"a": "x"}, {"a": object()}],
    "table": [*NOTHING, "x", -1, math.nan, [], pd.DataFrame()],
}
EITHER = {  # what some may take and others not, as it comes: with InputError or without, and nothing else
    "number": [
        *(-0.0, 0.0, 2**31, 2**63, -(2**63), 10**30, 10**5000, np.int64(2**40), 1e-45, 1e300, np.float64(0.5)),
        *(Fraction(1, 2), np.complex64(1), np.datetime64(1, "s"), np.array(3), np.array([3]), jnp.asarray(3)),
    ],
    "array": [2**63, 10**400, [2**40], [2**63], [10**400], -0.0, np.array(1e300), np.array([np.datetime64(1, "s")])],
    "sequence": [[2**63], [10**400], [10**5000], [-0.0], [np.float32(1e-45)], range(0), [np.complex64(1)]],
}


def kind_of(value):
    if isinstance(value, (bool, np.bool)):
        return "flag"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return None
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return None
    kinds = {(int, float): "number", str: "name", Path: "path", (np.ndarray, jax.Array): "array"}
    kinds |= {(list, tuple): "sequence", dict: "mapping", pd.DataFrame: "table"}
    return next((kind for types, kind in kinds.items() if isinstance(value, types)), None)


def thrown(name, calls, folder):
    """(argument, what is thrown, whether it is right after all or None where it may be) of a function."""
    function, arguments = called(name, calls)
    defaults = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    for argument, good in arguments.items():
        kind = None if argument in PYTREES else kind_of(good)
        for bad in some(WRONG.get(kind, []), name + argument):
            if (bad is None and defaults[argument] is None) or (isinstance(bad, str) and argument in WORDS):
                continue
            right = taken(name, argument, bad)
            yield argument, folder / bad if isinstance(bad, str) and bad == "file/below" else bad, right
        for odd in some(EITHER.get(kind, []), name + argument):
            yield argument, odd, None
        if kind == "table" and name != "plots.curves":
            yield argument, good.head(0), False
            yield argument, good.drop(columns=good.columns), False
            yield argument, good.astype(str), False


def spelt(value):
    return f"10**{math.log10(value):.0f}" if isinstance(value, int) and value > 10**40 else repr(value)[:40]


def taken(name, argument, value):
    if argument == "mean" and value == -1:  # of any size, for all channels alike
        return name != "data.Dataset"
    return any(value is right or repr(value) == repr(right) for right in TAKEN.get(f"{name}.{argument}", []))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [*FUNCTIONS, *MAKES, *METHODS])
@pytest.mark.few(65)
def test_what_is_wrong_is_refused_by_name(name, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    function, arguments = called(name, calls)
    failed = []
    for argument, bad, right in thrown(name, calls, tmp_path):
        try:
            function(**{**arguments, argument: bad})
        except InputError as error:
            if right:
                failed.append((argument, spelt(bad), f"was refused: {str(error)[:80]}"))
            named = NAMED.get(f"{name}.{argument}", argument)
            a_path = isinstance(bad, Path) and str(bad) in str(error)
            if not re.search(rf"\b({named})\b", str(error)) and not a_path:
                failed.append((argument, spelt(bad), f"does not name it: {str(error)[:80]}"))
        except Exception as error:
            failed.append((argument, spelt(bad), repr(error)[:100]))
        else:
            if right is False:
                failed.append((argument, spelt(bad), "was taken"))
    assert not failed, "\n" + "\n".join(map(str, failed))


# --- arrays of any kind ---

REAL = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "uint64", "bool"]
UNREAL = ["complex64", "object", "U3", "S3", "M8[D]", "m8[s]", "V4"]


@st.composite
def arrays(draw, good):
    """(whether it is ordinary, an array) in the place of one that does.

    Ordinary are numbers of usual size in a usual shape and type: of them no function may make NaN.
    """
    good = np.asarray(good)
    kind = draw(st.sampled_from(["ordinary", "values", "shape", "type"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if kind == "ordinary" and good.dtype.kind == "f":
        numbers = rng.normal(size=good.shape) * 2.0 ** draw(st.integers(-10, 10))
        return True, numbers.astype(draw(st.sampled_from(["float32", "float64"])))
    if kind == "ordinary":
        return True, rng.permutation(good)
    if kind == "values":
        dtype = draw(st.sampled_from(REAL))
        if dtype == "bfloat16":
            return False, draw(numpy_arrays(np.float32, good.shape)).astype(jnp.bfloat16)
        return False, draw(numpy_arrays(dtype, good.shape))
    if kind == "type":
        return False, np.ones(good.shape, "int8").astype(draw(st.sampled_from(UNREAL)))
    shapes = [(), (0,), (1,), (*good.shape, 1), (1, *good.shape), (*good.shape, 0), good.shape[1:], good.shape[:-1]]
    return False, rng.random(draw(st.sampled_from(shapes)), np.float32)


def places(arguments):
    """(argument, array that does, what puts another in its place): of arrays, of numbers, of the first of several."""
    for argument, good in arguments.items():
        kind = None if argument in PYTREES else kind_of(good)
        if kind == "mapping" and good and kind_of(next(iter(good.values()))) == "array":
            key = next(iter(good))
            yield argument, good[key], lambda array, good=good, key=key: {**good, key: array}
        elif kind == "sequence" and good and kind_of(good[0]) == "array":
            yield argument, good[0], lambda array, good=good: (array, *good[1:])
        elif kind == "array" or (kind == "sequence" and are_numbers(good)):
            yield argument, good, lambda array: array


def are_numbers(values):
    flat = jax.tree.leaves(values)
    return bool(flat) and all(isinstance(value, (int, float)) for value in flat)


def has_nan(result):
    if isinstance(result, pd.DataFrame):
        return bool(result.select_dtypes("number").isna().any(axis=None))
    leaves = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, (float, np.ndarray, np.generic, jax.Array))]
    leaves = [leaf for leaf in leaves if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)]
    return any(bool(jnp.isnan(leaf).any()) for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def throw_at(place, arrays_of_any_kind, call, named, nan):
    """Calls with arrays in this place; an error is to name it, and begin with an argument's name."""

    @throws(10)
    @given(arrays_of_any_kind)
    def throw(drawn):
        ordinary, array = drawn
        try:
            result = call(place(array))
        except InputError as error:
            assert re.match(r"[\w ,\[\]'./-]+: ", str(error)) and re.search(rf"\b({named})\b", str(error)), str(error)
        else:
            assert nan or not ordinary or not has_nan(result)

    throw()


TRAIN = ("zoo.train", "zoo.train_together")  # whichever seeds they are given
MAY_BE_NAN = ("dynamics.epoch_above", "dynamics.convergence_epoch")  # of ordinary numbers, as documented


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [n for n in (*FUNCTIONS, *MAKES, *METHODS) if n not in (*COSTLY, *TRAIN)])
@pytest.mark.few(20)
def test_any_array_is_refused_by_name_or_gives_numbers(name, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = called(name, calls)
    failed = {}
    nan = True if name in MAY_BE_NAN else None
    for argument, good, place in places(arguments):
        nan = has_nan(function(**arguments)) if nan is None else nan
        named = NAMED.get(f"{name}.{argument}", argument)
        try:
            call = lambda value, argument=argument: function(**{**arguments, argument: value})  # noqa: E731
            throw_at(place, arrays(good), call, named, nan)
        except Exception as error:
            notes = " ".join(getattr(error, "__notes__", []))
            failed[argument] = f"{error!r:.300} {notes:.600}"
    assert not failed, "\n" + "\n".join(f"{argument}: {text}" for argument, text in failed.items())
