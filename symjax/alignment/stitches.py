"""The matrices of an element as stitches, beside the best stitches."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from symjax.alignment.inputs import symmetry_of
from symjax.checks import sequence, short
from symjax.data import Split
from symjax.errors import InputError, renamed
from symjax.network import Network
from symjax.stitching import Family, FitConfig, Stitch, apply_stitch, evaluate_stitch, stitch
from symjax.training.evaluation import pool_moments


def element_stitches(
    network: Network,
    a: Any,
    b: Any,
    element: Mapping[str, Any],
    *,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    at: str | int | Sequence[str | int] | None = None,
    families: str | Family | Sequence[str | Family] = "identity,matched,least_squares",
    **options: Any,
) -> pd.DataFrame:
    """Return penalties of stitches from b to a by the matrices of an element, beside those of stitch families.

    After `match`, the features of the aligned b at a point are those of b times `symmetry.at(point, element)`. As a
    stitch from the front of b to the tail of a, this matrix shows how much of a's function the alignment keeps. Batch
    statistics of the tail are re-estimated for every stitch.

    Args:
      network, a, b: as in `match`, single members.
      element: the element that `match` returns.
      train, test: (inputs, targets), see `symjax.stitch`.
      at: names or indices of points; by default all at which the element acts as a matrix.
      families: families to compare with; "full" trains the best matrix.
      **options: further options of `symjax.stitch`.

    Returns:
      The table of `symjax.stitch` with a row for each point and family; the stitch of the element is family "element".

    Raises:
      InputError: as `match` and `symjax.stitch`, or the element acts at a point by more than a matrix.

    Example:
      >>> import jax, jax.numpy as jnp, symjax
      >>> from symjax.alignment import element_stitches
      >>> def mlp(weights, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ weights["first"]), "relu1") @ weights["second"]
      >>> a = {"first": jnp.eye(2), "second": jnp.eye(2)}
      >>> b = {"first": jnp.eye(2)[::-1], "second": jnp.eye(2)[::-1]}
      >>> x, y = jnp.tile(jnp.eye(2), (20, 1)), jnp.tile(jnp.arange(2), 20)
      >>> network = symjax.Network.from_function(mlp, a, example=x[:1])
      >>> table = element_stitches(
      ...     network, network.member(a), network.member(b), {"relu1": jnp.eye(2)[::-1]},
      ...     train=(x, y), test=(x, y), families="identity", epochs=1, batch_size=4)
      >>> table[["layer", "family", "penalty"]].values.tolist()
      [['relu1', 'element', 0.0], ['relu1', 'identity', 100.0]]
    """
    if not isinstance(network, Network):
        raise InputError(f"network: got a {type(network).__name__}, expected a Network")
    if not isinstance(element, Mapping) or not element:
        raise InputError(f"element: got {short(element)}, expected matrices by name of space, as match returns them")
    symmetry = symmetry_of(network, a, train[0] if isinstance(train, (tuple, list)) and train else None)
    names = [point.name for point in network.points]
    if at is not None:
        with renamed(point="at"):
            names = [names[network.index(p)] for p in ([at] if isinstance(at, (str, int)) else sequence("at", at))]
    matrices = {}
    for name in names:
        try:
            matrices[name] = np.asarray(symmetry.at(name, element), np.float32)
        except InputError:
            if at is not None:
                raise
    if not matrices:
        raise InputError("element: got one that acts as a matrix at no point of the network, expected one that does")
    table = stitch(
        (network, b), (network, a), list(matrices), families=families, train=train, test=test, **options
    ).table
    score = "accuracy" if "clean_accuracy" in table else "score"
    batch, split = int(options.get("batch_size", FitConfig.batch_size)), Split(*test)
    rows = []
    for name, group in table.groupby("layer", sort=False):
        made, clean = Stitch(jnp.asarray(matrices[name])), group[f"clean_{score}"].iloc[0]
        state = _statistics(network, b, a, made, name, np.asarray(train[0]), batch)
        metric, size = options.get("metric"), min(32, len(split))
        value = evaluate_stitch(network, b, a, made, state, name, split, None, None, batch_size=size, metric=metric)
        row = {"layer": name, "family": "element", f"clean_{score}": clean, f"stitched_{score}": value}
        rows += [pd.DataFrame([row | {"penalty": clean - value}]), group]
    return pd.concat(rows, ignore_index=True)[[*table.columns]]


def _statistics(network, front, tail, made, point, inputs, batch):
    """Return the state of the tail after exact re-estimation of its batch statistics on stitched features."""
    if not jax.tree.leaves(tail.state):
        return tail.state
    key = jax.random.key(0) if network.needs_key else None

    @jax.jit
    def moments(x):
        carried = network.front(front, x, point)
        stitched = (apply_stitch(made, carried[0]), *carried[1:])
        return network.tail(tail, stitched, point, mode="moments", key=key, with_state=True)[1]

    batch = min(batch, len(inputs))
    states = [moments(inputs[i : i + batch]) for i in range(0, len(inputs) - batch + 1, batch)]
    return pool_moments(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
