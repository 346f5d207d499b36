"""Right arguments of every public function and class.

A function whose arguments are not known by name or default needs an entry in `right_arguments`."""

import importlib
import inspect
import itertools
import pkgutil
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx
from stitch_helpers import images, scratch

import symjax
from symjax import rotation, similarity, stitching, training, zoo
from symjax.dissection import SegmentedArrays
from symjax.ops import files, parallel
from symjax.projections import Projection
from symjax.stitching.results import flatten


def public_modules():
    listed = [*pkgutil.iter_modules(symjax.__path__), *pkgutil.iter_modules(symjax.ops.__path__, "ops.")]
    modules = {info.name: importlib.import_module(f"symjax.{info.name}") for info in listed if info.name != "ops"}
    return {name: module for name, module in modules.items() if hasattr(module, "__all__")}


MODULES = public_modules()
PUBLIC = {f"{name}.{item}": getattr(module, item) for name, module in MODULES.items() for item in module.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(inspect.unwrap(value))]
MAKES = (  # classes that a caller makes by hand
    *("training.Recipe", "stitching.FitConfig", "zoo.ZooConfig", "stitching.Plan", "rotation.RotationPlan"),
    *("ops.parallel.Execution", "data.Split", "data.Dataset", "stitching.Sweep", "rotation.Retraining"),
    "freezing.Saturation",
    "activations.Activations",
)
METHODS = ("zoo.Zoo.member", "network.Network.index", "network.Network.parse_points")
ANY = np.random.default_rng(0).random((12, 3), np.float32)


@lru_cache
def right_arguments():
    """Return valid arguments by function or class, where neither defaults nor the arguments common to all suffice."""
    folder = scratch() / "public"
    folder.mkdir()
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
    masks = SegmentedArrays(np.zeros((6, 4, 4, 1)), np.random.default_rng(0).random((6, 4, 4, 2)) < 0.5, ["a", "b"])
    pixels = symjax.Network.from_function(
        lambda w, x: symjax.stitch_point(x * w, "pixels").mean(), jnp.ones(1), example=jnp.ones((1, 4, 4, 1))
    )
    pixel_members = jax.tree.map(lambda leaf: leaf[None], pixels.member(jnp.ones(1)))
    special = {
        "alignment.match": {"a": member, "b": member},
        "alignment.element_stitches": {"a": member, "b": member, "element": {"relu1": np.eye(2)}, "at": "relu1"}
        | {
            part: (getattr(dataset, part).images / np.float32(255), getattr(dataset, part).labels)
            for part in ("train", "test")
        },
        "alignment.barrier": {"a": member, "b": member, "data": dataset},
        "alignment.cycle_error": {
            "symmetry": symjax.groups.Symmetry({"w": symjax.groups.Space("w", 2, "permutation", ())}, None, {}, {}, {}),
            "maps": {pair: {"w": np.eye(2)} for pair in itertools.permutations(range(3), 2)},
        },
        "alignment.interpolate": {"a": member, "b": member, "t": 0.5},
        "alignment.merge": {"group": "permutation"},
        "alignment.embed": {"narrow": network, "members": member, "wide": network, "like": member},
        "alignment.repair": {"merged": member, "ends": own.members, "data": dataset},
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
        "activations.Activations": {"readers": {"a": ANY}, "ids": range(12), "rows": [0, 2]},
        "activations.align": {"sets": {"a": {"relu1": ANY}}, "ids": {"a": range(12)}},
        "activations.load": {"path": folder / "stripes.npz", "ids": None},
        "comparison.compare": {"a": {"relu1": ANY}, "b": {"relu1": ANY}, "measures": "cka_gretton", "ids": None},
        "dissection.best_concepts": {"iou": np.random.default_rng(0).random((2, 3, 4))},
        "dissection.composites": {"count": 3},
        "dissection.dissect": {"data": masks, "network": pixels, "members": pixel_members, "mean": None, "std": None},
        "dissection.dissect_activations": {"activations": np.ones((1, 6, 4, 4, 2)), "data": masks, "quantile": 0.2},
        "dissection.intersection_over_union": {
            **{"common": np.ones((2, 3)), "unit_pixels": np.full((2, 3), 4), "concept_pixels": np.full(3, 5)},
        },
        "dissection.rotation_powers": {"rotation": np.eye(3), "exponents": (0, 0.5, 1)},
        "dissection.special_orthogonal": {"size": 3},
        "dissection.unique_detectors": {"iou": np.random.default_rng(0).random((2, 3, 4))},
        "dissection.unit_masks": {"activations": np.ones((2, 3, 3, 2)), "thresholds": np.zeros(2), "size": (6, 6)},
        "dynamics.chance_correlation": {"features": 3, "samples": 12},
        "dynamics.checkpoints": {"epochs": 20},
        "dynamics.class_correlations": {"labels": np.arange(12) % 2, "classes": ("a", "b")},
        "dynamics.epoch_above": {"level": 0.5},
        "dynamics.similarity_to_end": {"end": {"a": ANY}},
        "extraction.capture": {"model": lambda x: symjax.stitch_point(jnp.tanh(x), "hidden"), "batches": ANY},
        "extraction.capture_batches": {"model": lambda x: symjax.stitch_point(jnp.tanh(x), "hidden"), "batches": ANY},
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
        "models.register": {"presets": {"own": {}}},
        "network.stitch_point": {"name": "hidden"},
        "network.Network.index": {"point": 0},
        "network.Network.parse_points": {"text": "relu1"},
        "pairs.draw_pairs": {"count": 2},
        "ops.parallel.Execution": {"members": "map", "conv": "native"},
        "ops.parallel.default_execution": {"backend": "cpu"},
        "ops.parallel.over_members": {"fn": lambda member, shared: member},
        "plots.by_layer": {"table": results.drop(columns="layer")},
        "plots.chosen_values": {"chosen": results, "values": (0.1, 1.0)},
        "plots.intervals": {
            "table": results.assign(name="a", rank=1.0, low=0.5, high=2.0),
            "name": "name",
            "value": "rank",
            "xlabel": "rank",
        },
        "plots.detectors": {"table": results.assign(variant="a", exponent=0.5, detectors=3, mean_iou=0.1)},
        "plots.dendrogram": {"distances": pd.DataFrame(1 - np.eye(3))},
        "plots.embedding": {"distances": pd.DataFrame(1 - np.eye(3))},
        "plots.distance_matrix": {"distances": pd.DataFrame(np.eye(3)), "groups": ["a", "a", "b"]},
        "plots.mean_curves": {"x": "epoch", "line": "family", "panel": "layer", "xlabel": "x", "ylabel": "y"},
        "plots.freezing": {"metrics": results, "cost": results},
        "plots.group_distances": {"means": three},
        "plots.homogeneity": {"slope": 0.1},
        "plots.over_time": {"table": of_time, "panel": "measure", "line": "layer", "label": "l", "title": "t"}
        | {"chance": {"cka": 0.1}},
        "plots.over_layers": {"table": of_time, "title": "t", "chance": {"a": 0.1, "b": 0.1}},
        "plots.layers_by_layers": {"table": of_time},
        "plots.layers_by_time": {"table": of_time},
        "projections.project": {"method": "random"},
        "projections.projected_accuracy": {
            "projections": {0: [[Projection(*np.zeros((1, 2)), np.eye(2), np.eye(2))] for _ in own.seeds]},
            "directions": {0: [1, 2]},
        },
        "rotation.parse_kinds": {"text": "none,orthogonal"},
        "rotation.RotationPlan": {"points": (0,)},
        "rotation.Retraining": {"plan": turned},
        "rotation.sample_rotation": {"kind": "orthogonal", "channels": 3},
        "similarity.add_measures": {"measures": ()},
        "similarity.bartlett_test": {"result": similarity.cca(ANY, ANY[::-1]), "samples": 12},
        "similarity.group_means": {"values": [1.0, 2.0, 3.0], "pairs": [[0, 1], [0, 2], [1, 2]], "groups": "aaa"},
        "similarity.group_test": {"values": [1.0, 2.0, 3.0], "pairs": [[0, 1], [0, 2], [2, 3]], "groups": "aabb"},
        "similarity.hsic": {"k": np.eye(12), "l": np.eye(12)},
        "similarity.load_stream": {"path": folder / "state.npz", "like": state},
        "similarity.mean_correlation": {"result": similarity.cca(ANY, ANY)},
        "similarity.mean_square_correlation": {"result": similarity.cca(ANY, ANY)},
        "similarity.mean_over_pairs": {"values": [1.0, 2.0, 3.0], "pairs": [[0, 1], [0, 2], [1, 2]]},
        "similarity.pairwise_batches": {"batches": [{"a": ANY}]},
        "similarity.pairwise": {"representations": history, "against": history, "models": "ab", "against_models": "ab"},
        "similarity.seed_ceiling": {"representations": np.stack([ANY, ANY[::-1], ANY + 1])},
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


def called(name):
    """Return the function and valid arguments for it."""
    calls = right_arguments()
    owner, _, method = name.rpartition(".")
    function = getattr(calls["objects"][owner], method) if name in METHODS else PUBLIC[name]
    arguments = {}
    for argument, parameter in inspect.signature(function).parameters.items():
        default = None if parameter.default in (parameter.empty, None, ()) else parameter.default
        known = {**calls["whole"], **({argument: default} if default is not None else {}), **calls.get(name, {})}
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if argument not in known:
            assert parameter.default is not parameter.empty, (
                f"{name} is new: `right_arguments` needs a valid {argument} for it"
            )
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
    "alignment.element_stitches",
    "zoo.train_accuracy",
    "zoo.train",
    "zoo.train_together",
    "data.augment",
    # Too late here:
    "representations.features_of",
    "representations.representations",
    "ops.parallel.use_cores",
)
PYTREES = {"params", "stats", "like", "state", "member", "shared", "result"}  # of the library's own making
NAMED = {  # arguments whose messages name the flag or what the argument belongs to
    "ops.memory.parse_bytes.text": "max_device_memory",
    "network.Network.parse_points.text": "layers",
    "comparison.compare.a": "a|path",
    "comparison.compare.b": "b|path",
    "models.build.name": "model",
    "models.create.name": "model",
    "pairs.draw_pairs.count": "pairs",
    "pairs.draw_pairs.seed": "pair_seed",
    **{f"plots.mean_curves.{name}": f"{name}|table: got a table without x" for name in ("y", "line", "panel")},
    **{f"plots.intervals.{name}": f"{name}|table: got a table without x" for name in ("name", "value")},
    "plots.over_time.line": "line|table: got a table without x",
    "plots.over_time.panel": "panel|table: got a table without x",
    "rotation.parse_kinds.text": "kinds",
    "stitching.load_stitch.pair": "pair|stitches",
    "stitching.stitch.controls": "controls|batch_size",
    "stitching.stitch.validation": "validation|batch_size",
    "stitching.stitch.test": "train|test|inputs|targets",
    "stitching.stitch.train": "train|test|inputs|targets|batch_size",
    "zoo.load.seeds": "seeds|members",
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
