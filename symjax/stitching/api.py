"""Stitch one network to another: networks, data and points in, a table out."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax import parallel
from symjax.checks import integer, short
from symjax.data import Dataset, Split
from symjax.data.dataset import Source, build
from symjax.errors import InputError, renamed
from symjax.network import Member, Network
from symjax.spelling import described, one_line
from symjax.stitching.evaluate import evaluate_member
from symjax.stitching.families import Family, parse_families
from symjax.stitching.fit import FitConfig, Plan
from symjax.stitching.results import trouble
from symjax.stitching.stitched import Stitch
from symjax.stitching.sweep import Sweep, check_plan
from symjax.training.loop import tree_types
from symjax.training.custom import EXAMPLES, check_functions

PyTree = Any
Point = str | int
OPTIONS = tuple(field.name for field in dataclasses.fields(FitConfig) if field.name not in ("loss", "metric"))


@dataclasses.dataclass(frozen=True, eq=False)
class StitchResult:
    """What `stitch` returns.

    Attributes:
      table: a row for each point and family, with layer, starred, family, hyperparameter, start, learning_rate (that
        validation picked), clean_accuracy (the mean of both networks' own), stitched_accuracy, penalty (clean less
        stitched), val_accuracy, clean_accuracy_a, clean_accuracy_b, rank and sparsity (share of zero entries) of the
        stitch's matrix. Accuracies are in percent. With an own metric, columns are named clean_score, stitched_score
        and so on, and hold its means. Between different networks or points there are layer_b, the point of B, and
        resize: how A's features were brought to the size of B's ("none", "mean", "nearest").
      curves: a row for each point, family that trains, learning rate and epoch, with loss, accuracy and residual.
      stitches: (layer, family) to its `Stitch`; (layer, layer_b, family) where the names of the points differ.
      states: likewise the state of B (batch statistics) that belongs to the stitch.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    stitches: Mapping[tuple[str, ...], Stitch]
    states: Mapping[tuple[str, ...], PyTree]

    __repr__ = one_line

    def plot(self, path: str | Path | None = None, *, ax=None):
        """Return the figure of penalties: a group of bars for each layer, a bar for each family.

        Args:
          path, ax: as of all figures, see `symjax.plots`.
        """
        from symjax.plots import penalties

        table = self.table.rename(columns={"clean_score": "clean_accuracy"}).assign(pair="one pair")
        return penalties(table, path, ax=ax, percent="clean_accuracy" in self.table)


def stitch(
    a: tuple[Network, Any],
    b: tuple[Network, Any],
    at: Point | tuple[Point, Point] | Sequence[Point | tuple[Point, Point]],
    *,
    families: str | Sequence[Family] = "full,rank1,birkhoff",
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    validation: float = 0.1,
    loss: Callable[[Any, Any], jax.Array] | None = None,
    metric: Callable[[Any, Any], jax.Array] | None = None,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    **options: Any,
) -> StitchResult:
    """Stitch the front of one network to the tail of another, and measure what that costs.

    At each point a stitch, a matrix (d_b, d_a) of each family, is trained on A's features so that B's tail does its
    task on them; neither network changes. Batch statistics of the tail are re-estimated, then the stitch is scored.

    Features of A whose size (height and width, or tokens) differs from that at B's point are brought to it: by mean
    pooling where each is a multiple of B's, else by nearest neighbour. Points inside of residual blocks (starred) take
    the skip of A; two different ones can be stitched where that has the same shape in both.

    While stitches train, B's tail runs in training mode. Dropout and the like are off in modules of Flax NNX; in Linen
    modules and functions, which have one switch for all of training, they are on, with one key a step for all stitches.

    Args:
      a: the network of the front and its variables: a `Member`, or what `Network.member` takes, such as an NNX module.
      b: likewise, of the tail. Both take the same inputs.
      at: a point by name; a tuple (point of A, point of B) where they differ; or a list of these.
      families: names with commas between (`symjax.stitching.parse_families`), or families.
      train: inputs (n, ...) of any type as the networks take them, which are not normalised, and targets (n, ...):
        integer classes (n,), or whatever `loss` and `metric` take.
      test: likewise; looked at once, by the stitches that validation picked.
      validation: the share of `train` that is not trained on, and picks among learning rates.
      loss: a function of outputs and targets of a batch, the scalar to be minimised; cross-entropy by default.
      metric: a function of outputs and targets of a batch that says for each example how good its output is, (n,), the
        higher the better; accuracy by default.
      seed: of random numbers and of the choice of validation examples.
      devices: share the stitches; all local ones by default.
      **options: of `FitConfig`: epochs, batch_size, learning_rates, optimizer, schedule, start, bias, ...

    Returns:
      A `StitchResult`: `table`, `stitches`, `plot()`.

    Warns:
      UserWarning: losses that are not finite, or projections that miss their constraint.

    Raises:
      InputError: wrong arguments, before anything is compiled: points that do not exist, or whose features have unequal
        ranks, a family of square matrices between unequal widths, inputs that the networks do not take, targets that
        are no classes where no loss is given.

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
        raise InputError(f"{unknown[0]}: is no option of stitch; options are {', '.join(OPTIONS)}")
    config = FitConfig(loss=loss, metric=metric, **options)
    seed = integer("seed", seed)
    families = parse_families(families) if isinstance(families, str) else families
    plan = Plan(network, _points(network, network_b, at), families, config, parallel.default_execution(), network_b)
    source = Source("data", _split("train", train), _split("test", test), (), normalize=False)
    with _own_words():
        dataset = build(source, validation=validation, train_size=None, test_size=None, seed=seed)
    check_plan(plan, dataset)
    outputs = [_outputs(one, dataset) for one in (network, network_b)]
    targets = jax.ShapeDtypeStruct((EXAMPLES, *dataset.train.labels.shape[1:]), dataset.train.labels.dtype)
    check_functions(loss, metric, network_b, outputs[1], targets, _num_classes(source))

    sweep = Sweep(plan, dataset, num_pairs=1, devices=devices)
    (result,) = sweep.run({0: member_a, 1: member_b}.get, [(0, 1)], seed=seed)
    if text := trouble(pd.DataFrame(result.curves).assign(pair="one pair"), "StitchResult.curves"):
        warnings.warn(text, stacklevel=2)
    score = {"batch_size": config.eval_batch_size, "metric": metric}
    comparable = tree_types(outputs[0]) == tree_types(outputs[1])  # else A's task is another one than B's
    clean_a = evaluate_member(network, member_a, dataset.test, None, None, **score) if comparable else np.nan
    clean_b = evaluate_member(network_b, member_b, dataset.test, None, None, **score)
    return _result(result, clean_a, clean_b, metric is None)


def _result(result, clean_a: float, clean_b: float, percent: bool) -> StitchResult:
    clean, rows = float(np.nanmean([clean_a, clean_b])), []
    for row, (stitch, _) in zip(result.rows, map(result.stitches.get, map(_key, result.rows)), strict=True):
        rows.append(
            {
                **{name: row[name] for name in ("layer", "layer_b", "resize", "starred") if name in row},
                **{name: row[name] for name in ("family", "hyperparameter", "start", "learning_rate")},
                "clean_accuracy": clean,
                "stitched_accuracy": row["stitched_accuracy"],
                "penalty": clean - row["stitched_accuracy"],
                "val_accuracy": row["val_accuracy"],
                "clean_accuracy_a": clean_a,
                "clean_accuracy_b": clean_b,
                "rank": int(np.linalg.matrix_rank(stitch.matrix)) if np.isfinite(stitch.matrix).all() else np.nan,
                "sparsity": row["sparsity"],
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
    return (*dict.fromkeys((row["layer"], row.get("layer_b", row["layer"]))), row["family"])


def _member(name: str, given: Any) -> tuple[Network, Member]:
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Network)):
        raise InputError(f"{name}: got {short(given)}, expected (a Network, its variables)")
    network, variables = given
    try:
        return network, network.member(variables)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _points(network: Network, network_b: Network, at) -> tuple[tuple[int, int], ...]:
    """Pairs of indices, each once."""
    pairs = []
    for one in at if isinstance(at, list) else [at]:
        first, second = one if isinstance(one, tuple) and len(one) == 2 else (one, one)
        with renamed(point="at"):
            pairs.append((network.index(first), network_b.index(second)))
    if not pairs:
        raise InputError(f"at: got none; points of {network.name} are {', '.join(one.name for one in network.points)}")
    return tuple(dict.fromkeys(pairs))


def _split(name: str, given: Any) -> Split:
    if not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise InputError(f"{name}: got {short(given)}, expected (inputs, targets)")
    with _own_words(f"{name}: "):
        return Split(*given)


@contextlib.contextmanager
def _own_words(prefix: str = ""):
    """Errors of data sets, which have images and labels, about inputs and targets."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}{error}".replace("images", "inputs").replace("labels", "targets")) from None


def _outputs(network: Network, dataset: Dataset) -> PyTree:
    """Shapes and types of a network's outputs on `EXAMPLES` inputs; an InputError where it does not take them."""
    leaves, inputs = jax.tree.leaves(network.example), dataset.train.images
    fits = len(leaves) == 1 and leaves[0].shape[1:] == inputs.shape[1:]
    if not fits or np.issubdtype(leaves[0].dtype, np.integer) != np.issubdtype(inputs.dtype, np.integer):
        given, expected = described(inputs, "n"), described(network.example, "n")
        raise InputError(f"train: got inputs {given}, expected {expected} as of the example of {network.name}")
    x = jax.ShapeDtypeStruct((EXAMPLES, *inputs.shape[1:]), inputs.dtype)
    return jax.eval_shape(network.apply, network.shapes, x)


def _num_classes(source: Source) -> int | None:
    """How many classes integer targets (n,) from 0 stand for; None where they are no classes."""
    labels = [part.labels for part in (source.train, source.test) if len(part)]
    if any(part.ndim != 1 or part.dtype.kind not in "iu" or part.min() < 0 for part in labels):
        return None
    return int(max(part.max() for part in labels)) + 1
