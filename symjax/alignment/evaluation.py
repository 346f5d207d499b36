"""Examples and programs with which networks on a line are evaluated."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integer, short
from symjax.data import Dataset, Split, load, statistics
from symjax.errors import InputError, renamed
from symjax.network import Member, Network
from symjax.network.member import leaves_by_path
from symjax.ops import parallel
from symjax.spelling import one_line
from symjax.training.evaluation import Batches, pad_batches

BATCH = 256


class Examples(NamedTuple):
    """Examples in batches, and what normalizes their inputs."""

    batches: Batches
    mean: Any
    std: Any

    def __repr__(self):
        return one_line(self)


class Parts(NamedTuple):
    """Training and test examples."""

    train: Examples
    test: Examples

    def __repr__(self):
        return one_line(self)


def examples_of(data: Any, batch_size: int, examples: int | None) -> Parts:
    """Return full batches of the first training examples, and all test examples, of a data set or mapping."""
    if not isinstance(data, (Dataset, Mapping)):
        expected = "a Dataset or a mapping of x_train, y_train, x_test, y_test"
        raise InputError(f"data: got {short(data)}, expected {expected}")
    if isinstance(data, Mapping):
        with renamed(name="data"):
            data = load(data, validation=0)
    if examples is not None:
        examples = integer("examples", examples, 1)
    mean, std = statistics(data.mean, data.std, data.train.images.shape[-1:])
    count = min(len(data.train), examples or len(data.train))
    rows = slice(count if count < batch_size else count // batch_size * batch_size)
    parts = (Split(data.train.images[rows], data.train.labels[rows]), data.test)
    return Parts(*(Examples(pad_batches(part, batch_size), mean, std) for part in parts))


def stacked(name: str, network: Network, members: Any) -> tuple[Member, bool]:
    """Return members with a leading axis, and whether they had it; raise an InputError for other or NaN variables."""
    expected: Any = jax.tree.structure(network.shapes)
    if jax.tree.structure(members) != expected:
        raise InputError(f"{name}: got another structure, expected a member of {network.name}")
    given, shapes = leaves_by_path(members), leaves_by_path(network.shapes)
    lengths = set()
    for path, leaf in given.items():
        shape, expected = jnp.shape(leaf), shapes[path].shape
        lengths.add(shape[:1] if len(shape) > len(expected) else ())
        if shape[len(shape) - len(expected) :] != expected or len(shape) > len(expected) + 1 or len(lengths) > 1:
            like = f"{expected}, or one more leading axis for stacked members"
            raise InputError(f"{name}: got shape {shape} at {path}, expected {like}")
        is_real = jnp.issubdtype(leaf.dtype, jnp.floating)
        if is_real and not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise InputError(f"{name}: got NaN or infinite entries at {path}, expected finite ones")
    is_stacked = lengths != {()}
    return members if is_stacked else jax.tree.map(lambda leaf: leaf[None], members), is_stacked


@lru_cache
def item_program(network: Network, fn: Callable, options: tuple = ()) -> Callable:
    """Return `fn(network, item, shared, *options)` lifted over the leading axis of items, compiled once."""
    run = parallel.over_members(lambda item, shared: fn(network, item, shared, *options), parallel.default_execution())
    return lambda items, shared: jax.device_get(run(items, shared))
