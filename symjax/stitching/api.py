"""The function `symjax.stitch`: stitch one network to another and return a table of penalties."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from symjax.checks import integer, short
from symjax.data import Dataset, Split
from symjax.data.dataset import Source
from symjax.data.splitting import build
from symjax.errors import InputError, renamed
from symjax.network import Member, Network
from symjax.ops import parallel
from symjax.spelling import described, one_line
from symjax.stitching.controls import DEFAULTS, NOISE, OBJECTIVES, TASK, WRONG_LAYER, control_members, label
from symjax.stitching.evaluate import evaluate_member
from symjax.stitching.families import Family, parse_families
from symjax.stitching.plan import FitConfig, Plan
from symjax.stitching.results import numerical_warnings
from symjax.stitching.stitched import Stitch
from symjax.stitching.sweep import check_plan, run_pair
from symjax.training.custom import CHECK_BATCH, check_functions
from symjax.training.loop import tree_types

PyTree = Any
Point = str | int
OPTIONS = tuple(field.name for field in dataclasses.fields(FitConfig) if field.name not in ("loss", "metric"))


@dataclasses.dataclass(frozen=True, eq=False)
class StitchResult:
    """The result of `stitch`.

    Attributes:
      table: a row per point and family with layer, starred, family, hyperparameter, start, learning_rate (selected by
        validation), clean_accuracy (the mean over both networks), stitched_accuracy, penalty (clean - stitched),
        val_accuracy, clean_accuracy_a, clean_accuracy_b, and rank and sparsity (the share of zero entries) of the
        matrix. Accuracies are in percent. With a custom metric the columns are named clean_score, stitched_score and so
        on, and contain means of its scores. Between different networks or points there are the columns layer_b, the
        point of B, and resize, the method that resizes A's features to those of B ("none", "mean", "nearest"). With
        controls or another loss there are the columns control ("related" for A itself), objective, agreement (percent
        of the test inputs for which the stitched network predicts the class that B predicts) and front_layer (for the
        control "wrong_layer").
      curves: a row per point, family that trains, learning rate and epoch with loss, accuracy and residual.
      stitches: (layer, family) to the `Stitch`; (layer, layer_b, family) if the names of the points differ. The family
        of a control is named as in "full@noise", that of another loss as in "full@match".
      states: the keys of `stitches` to the state of B (batch statistics) for the stitch.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    stitches: Mapping[tuple[str, ...], Stitch]
    states: Mapping[tuple[str, ...], PyTree]

    def __repr__(self):
        return one_line(self)

    def plot(self, path: str | Path | None = None, *, ax=None):
        """Return the figure of penalties: a group of bars per layer with a bar per family.

        Args:
          path, ax: the file and the axes of the figure, see `symjax.plots`.
        """
        from symjax.plots import penalties

        table = self.table.rename(columns={"clean_score": "clean_accuracy"}).assign(pair="one pair")
        return penalties(table, path, ax=ax, percent="clean_accuracy" in self.table)


def stitch(
    a: tuple[Network, Any],
    b: tuple[Network, Any],
    at: Point | tuple[Point, Point] | Sequence[Point | tuple[Point, Point]],
    *,
    families: str | Family | Sequence[str | Family] = "full,rank1,birkhoff",
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    validation: float = 0.1,
    loss: Callable[[Any, Any], jax.Array] | Literal["task", "match", "penultimate"] | None = None,
    metric: Callable[[Any, Any], jax.Array] | None = None,
    controls: bool | Mapping[str, Any] = False,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    **options: Any,
) -> StitchResult:
    """Stitch the front of one network to the tail of another and measure the penalty.

    At each point a matrix W (d_b, d_a) of each family is trained to minimize

        loss(tail_b(W front_a(x)), targets),

    where W acts on the channels of A's features; both networks stay fixed. Then the batch statistics of the tail are
    re-estimated and the stitch is evaluated. Its penalty is the mean accuracy of both networks minus that of the
    stitched network.

    Features of A of another size (height and width, or tokens) are resized to that of B's features: by mean pooling if
    each axis is a multiple of that of B, else by nearest neighbor. A stitch inside a residual block (at a starred
    point) uses the skip connection of A; two different starred points can be stitched if it has the same shape in both.

    While stitches train, B's tail runs in training mode. Dropout and similar operations are off in Flax NNX modules. In
    Linen modules and functions, whose training mode is a single switch, they are on, with one key per step for all
    stitches.

    Args:
      a: the network of the front and its variables: a `Member`, or an argument of `Network.member` such as an NNX
        module.
      b: likewise, of the tail. Both networks have the same inputs.
      at: the name of a point, a tuple (point of A, point of B), or a list of these.
      families: comma-separated names, a `Family`, or a sequence of both (`symjax.stitching.parse_families`).
      train: (inputs, targets). Inputs (n, ...) have the shape and dtype of the networks' inputs and are not normalized.
        Targets (n, ...) are integer classes (n,), or values for `loss` and `metric`.
      test: likewise. Only the stitches that validation selects are evaluated on it.
      validation: the share of `train` that is held out to select the learning rate.
      loss: a function of outputs and targets of a batch that returns the scalar to minimize; by default, or as "task",
        cross-entropy. "match" is the mean squared error between the stitched features and B's own at the point,
        "penultimate" that between the features at the last point of B which follow from both.
      metric: a function of outputs and targets of a batch that returns a score per example, (n,), higher is better; by
        default accuracy.
      controls: whether each stitch is also fitted to fronts that are not related to the tail: A untrained (if its
        network has an `init`), another point of A ("wrong_layer", if there is one), and noise around a center for each
        class ("noise"). A mapping of names to variables of A's network adds these fronts as controls, such as a network
        trained on other labels. Families of square matrices omit "wrong_layer" if its width differs.
      seed: the seed of random numbers and of the split into training and validation examples.
      devices: the devices that share the stitches; by default all local ones.
      **options: fields of `FitConfig`: epochs, batch_size, learning_rates, optimizer, schedule, start, bias, ...

    Returns:
      A `StitchResult` with `table`, `curves`, `stitches`, `states` and the method `plot`.

    Warns:
      UserWarning: a loss is not finite, or a projection misses its constraint.

    Raises:
      InputError: before compilation, if a point does not exist, the features at two points have unequal ranks, a family
        of square matrices connects unequal widths, the networks do not take the inputs, or targets are not classes and
        no loss is given.

    Example:
        >>> import jax, jax.numpy as jnp, symjax
        >>> def mlp(weights, x):
        ...     hidden = symjax.stitch_point(jax.nn.relu(x @ weights["first"]), "relu1")
        ...     return hidden @ weights["second"]
        >>> def weights(key, width):
        ...     keys = jax.random.split(key)
        ...     shapes = {"first": (4, width), "second": (width, 2)}
        ...     return {name: jax.random.normal(k, s) for (name, s), k in zip(shapes.items(), keys)}
        >>> x = jax.random.normal(jax.random.key(0), (60, 4))
        >>> y = (x[:, 0] > 0).astype(jnp.int32)
        >>> nets = [(symjax.Network.from_function(mlp, w, example=x[:1]), w)
        ...         for w in (weights(jax.random.key(1), 8), weights(jax.random.key(2), 6))]
        >>> result = symjax.stitch(
        ...     *nets, at="relu1", families="full,rank1", train=(x[:40], y[:40]), test=(x[40:], y[40:]),
        ...     epochs=2, batch_size=12, validation=0.2)
        >>> result.table[["layer", "family", "rank"]].values.tolist()
        [['relu1', 'full', 6], ['relu1', 'rank1', 1]]
        >>> result.stitches["relu1", "full"].matrix.shape
        (6, 8)
    """
    network, member_a = _member("a", a)
    network_b, member_b = _member("b", b)
    if unknown := [name for name in options if name not in OPTIONS]:
        raise InputError(f"{unknown[0]}: got an unknown option, expected one of {', '.join(OPTIONS)}")
    if isinstance(loss, str) and loss not in OBJECTIVES:
        raise InputError(f"loss: got {loss!r}, expected a function or one of {', '.join(OBJECTIVES)}")
    objective, loss = (loss, None) if isinstance(loss, str) else (TASK, loss)
    compared = controls is not False or objective != TASK
    options = {"agreement": compared and loss is None and metric is None} | options
    config = FitConfig(loss=loss, metric=metric, **options)
    seed = integer("seed", seed)
    fronts = control_members(network, controls, seed)
    plan = Plan(
        network,
        _points(network, network_b, at),
        parse_families(families),
        config,
        parallel.default_execution(),
        network_b,
    )
    source = Source("data", _split("train", train), _split("test", test), (), normalize=False)
    with _renamed_data():
        dataset = build(source, validation=validation, train_size=None, test_size=None, seed=seed)
    check_plan(plan, dataset)
    outputs = [_outputs(net, dataset) for net in (network, network_b)]
    targets = jax.ShapeDtypeStruct((CHECK_BATCH, *dataset.train.labels.shape[1:]), dataset.train.labels.dtype)
    classes = _num_classes(source)
    check_functions(loss, metric, network_b, outputs[1], targets, classes)
    if compared:
        has_noise = classes is not None and targets.ndim == 1
        names = [*fronts, WRONG_LAYER, *[NOISE] * has_noise] if controls is not False else ()
        plan = plan.with_controls(names, (objective,))
    members = {0: member_a, 1: member_b}.__getitem__
    result = run_pair(plan, dataset, members, (0, 1), devices=devices, controls=lambda _: fronts, seed=seed)
    numerical = numerical_warnings(pd.DataFrame(result.curves).assign(pair="one pair"), "StitchResult.curves")
    for text in filter(None, (plan.epochs_warning, numerical)):
        warnings.warn(text, stacklevel=2)
    evaluation = {"batch_size": config.eval_batch_size, "metric": metric}
    same_task = tree_types(outputs[0]) == tree_types(outputs[1])
    clean_a = evaluate_member(network, member_a, dataset.test, None, None, **evaluation) if same_task else np.nan
    clean_b = evaluate_member(network_b, member_b, dataset.test, None, None, **evaluation)
    return _result(result, clean_a, clean_b, metric is None)


def _result(result, clean_a: float, clean_b: float, percent: bool) -> StitchResult:
    clean, rows = float(np.nanmean([clean_a, clean_b])), []
    controlled = any(name in row for row in result.rows for name in DEFAULTS)
    for row, (stitch, _) in zip(result.rows, map(result.stitches.get, map(_key, result.rows)), strict=True):
        rows.append(
            {
                **{name: row[name] for name in ("layer", "layer_b", "resize", "starred") if name in row},
                **({name: row.get(name, value) for name, value in DEFAULTS.items()} if controlled else {}),
                **{name: row[name] for name in ("family", "hyperparameter", "start", "learning_rate")},
                "clean_accuracy": clean,
                "stitched_accuracy": row["stitched_accuracy"],
                "penalty": clean - row["stitched_accuracy"],
                "val_accuracy": row["val_accuracy"],
                "clean_accuracy_a": clean_a,
                "clean_accuracy_b": clean_b,
                "rank": int(np.linalg.matrix_rank(stitch.matrix)) if np.isfinite(stitch.matrix).all() else np.nan,
                "sparsity": row["sparsity"],
                **{name: row[name] for name in ("agreement", "front_layer") if name in row},
            }
        )
    table, curves = pd.DataFrame(rows), pd.DataFrame(result.curves)
    if "layer_b" in table:
        table["layer_b"], table["resize"] = table.layer_b.fillna(table.layer), table["resize"].fillna("none")
    if not percent:
        table, curves = (
            frame.rename(columns=lambda name: name.replace("accuracy", "score")) for frame in (table, curves)
        )
    stitches = {key: stitch for key, (stitch, _) in result.stitches.items()}
    return StitchResult(table, curves, stitches, {key: state for key, (_, state) in result.stitches.items()})


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = label(row["family"], *(row.get(name, value) for name, value in DEFAULTS.items()))
    return (*dict.fromkeys((row["layer"], row.get("layer_b", row["layer"]))), name)


def _member(name: str, argument: Any) -> tuple[Network, Member]:
    if not (isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[0], Network)):
        raise InputError(f"{name}: got {short(argument)}, expected (a Network, its variables)")
    network, variables = argument
    try:
        return network, network.member(variables)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _points(network: Network, network_b: Network, at) -> tuple[tuple[int, int], ...]:
    """Return pairs of indices, each once."""
    pairs = []
    for point in at if isinstance(at, list) else [at]:
        point_a, point_b = point if isinstance(point, tuple) and len(point) == 2 else (point, point)
        with renamed(point="at"):
            pairs.append((network.index(point_a), network_b.index(point_b)))
    if not pairs:
        raise InputError(f"at: got none, expected some of {', '.join(p.name for p in network.points)}")
    return tuple(dict.fromkeys(pairs))


def _split(name: str, argument: Any) -> Split:
    if not (isinstance(argument, (tuple, list)) and len(argument) == 2):
        raise InputError(f"{name}: got {short(argument)}, expected (inputs, targets)")
    with _renamed_data(f"{name}: "):
        return Split(*argument)


@contextlib.contextmanager
def _renamed_data(prefix: str = ""):
    """Rename images and labels in the errors of data sets to inputs and targets."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}{error}".replace("images", "inputs").replace("labels", "targets")) from None


def _outputs(network: Network, dataset: Dataset) -> PyTree:
    """Return shapes and dtypes of `CHECK_BATCH` outputs; raise an InputError if the inputs do not fit the network."""
    leaves, inputs = jax.tree.leaves(network.example), dataset.train.images
    fits = len(leaves) == 1 and leaves[0].shape[1:] == inputs.shape[1:]
    if not fits or np.issubdtype(leaves[0].dtype, np.integer) != np.issubdtype(inputs.dtype, np.integer):
        expected = f"{described(network.example, 'n')} as in the example of {network.name}"
        raise InputError(f"train: got inputs {described(inputs, 'n')}, expected {expected}")
    x = jax.ShapeDtypeStruct((CHECK_BATCH, *inputs.shape[1:]), inputs.dtype)
    return jax.eval_shape(network.apply, network.shapes, x)


def _num_classes(source: Source) -> int | None:
    """Return the number of classes of integer targets from 0; None if the targets are not classes."""
    labels = [part.labels for part in (source.train, source.test) if len(part)]
    if any(part.dtype.kind not in "iu" or part.min() < 0 for part in labels):
        return None
    return int(max(part.max() for part in labels)) + 1
