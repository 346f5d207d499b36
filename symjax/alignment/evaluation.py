"""Examples and programs for the evaluation of networks on a line."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax

from symjax.checks import integer, short
from symjax.data import Dataset, Split, load, statistics
from symjax.errors import InputError, renamed
from symjax.network import Network
from symjax.ops import memory, parallel
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


def over_items(network: Network, fn: Callable, items: Any, shared: Any, options: tuple = (), limit=None) -> Any:
    """Return `fn(network, item, shared, *options)` over the leading axis of items, in groups within `limit` bytes."""
    item, shapes = jax.eval_shape(lambda *trees: trees, parallel.take(items, 0), shared)
    program = dataclasses.replace(_item_program(network, fn, options), member=item, shared=shapes)
    return program.within(limit, tuple(jax.local_devices()))(items, shared)


@lru_cache(maxsize=8)
def _item_program(network: Network, fn: Callable, options: tuple) -> memory.MemberProgram:
    """Return the program without shapes, which `over_items` adds; cached, so that a process compiles it once."""
    call = lambda item, shared: fn(network, item, shared, *options)  # noqa: E731
    return memory.MemberProgram(call, parallel.default_execution(), None, None)
