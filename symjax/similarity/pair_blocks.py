"""A `Factored` measure on all wanted pairs of many representations, in blocks that fit in memory, on all devices.

Each representation is prepared once (once more where maps meet others of a size that does not divide theirs, for each
two blocks), and the results lie on the host. Then, for two blocks of prepared representations
at a time, sent to all devices, the wanted pairs are covered with square tiles: a tile is one matrix product (of Fourier
CCA one at each frequency), followed by the small work of its pairs. Devices share the tiles.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax import parallel
from symjax.memory import num_bytes
from symjax.similarity.alignment import enlarged
from symjax.similarity.channels import common_width, widened
from symjax.similarity.meeting import Part, common_size

WIDTH = 512  # of a tile, in rows of its product: wider ones are not faster
EDGE = 64  # of a tile, in representations
PRODUCT = 2**24  # numbers in the product of a tile: of maps there may be one at each frequency
WASTE = 1.25  # how many pairs may be computed for one that is wanted
PREPARED_AT_ONCE = 2**26  # bytes of representations


@dataclass(frozen=True)
class Zoo:
    """Representations by layer and model; the number of a representation is layer * models + model."""

    arrays: tuple  # for each layer (models, n, d) or (models, n, h, w, c), of real numbers
    dtype: np.dtype  # in which to compute
    widened: bool = False  # whether zero channels are added up to a common width, so that a few programs do

    @property
    def models(self):
        return len(self.arrays[0])

    @property
    def size(self):
        return len(self.arrays) * self.models

    def one(self, number):
        layer, model = divmod(number, self.models)
        return jnp.asarray(np.asarray(self.arrays[layer][model]), self.dtype)


@dataclass(frozen=True)
class Block:
    numbers: np.ndarray  # of its representations
    part: Part  # prepared, with a leading axis


def prepare(factored, zoo, memory, devices, size=None):
    """Blocks of representations prepared alike, each taking a share of `memory`; and for each layer the widths."""
    layers = [_prepared(factored, array, zoo, devices, size) for array in zoo.arrays]
    kinds = {}
    for layer, part in enumerate(layers):
        kinds.setdefault(str(jax.tree.map(lambda leaf: leaf.shape[1:], part)), []).append(layer)
    blocks = []
    for alike in kinds.values():
        numbers = np.concatenate([layer * zoo.models + np.arange(zoo.models) for layer in alike])
        part = jax.tree.map(_joined, *(layers[layer] for layer in alike))
        # Two blocks are held at once, and at worst a copy of each as a tile.
        step = max(1, int(memory // (4 * num_bytes(jax.tree.map(lambda leaf: leaf[0], part)))))
        for start in range(0, len(numbers), step):
            rows = slice(start, start + step)
            blocks.append(Block(numbers[rows], parallel.take(part, rows)))
    return blocks, [None if factored.width is None else factored.width(part.rest).max() for part in layers]


def _joined(*leaves):
    return leaves[0] if len(leaves) == 1 else np.concatenate(leaves)


def _prepared(factored, array, zoo, devices, size):
    """The `Part`s of an array of `zoo`, (M, n, ...), with a leading axis M, on the host."""
    dtype, width = zoo.dtype, array.shape[-1]
    count, each = len(array), array[0].size * dtype.itemsize
    devices = devices[:count]
    at_once = min(count, max(1, PREPARED_AT_ONCE // each))
    at_once = -(-at_once // len(devices)) * len(devices)
    program = _prepare_program(factored, size, devices)
    found = []
    for start in range(0, count, at_once):
        chunk = array[start : start + at_once]
        if len(chunk) < at_once:  # filled up, so that one program does for all
            chunk = array[np.minimum(np.arange(start, start + at_once), count - 1)]
        chunk = chunk if chunk.dtype == dtype else chunk.astype(dtype)
        if zoo.widened and common_width(width) != width:
            chunk = widened(np.asarray(chunk), common_width(width))
        found.append(jax.device_get(program(chunk, ())))
    return jax.tree.map(lambda *leaves: _joined(*leaves)[:count], *found)


@lru_cache(maxsize=64)
def _prepare_program(factored, size, devices):
    def one(x, _):
        return factored.prepare(x if size is None else enlarged(x, size))

    # One after another on every backend: what is done depends on the data.
    return parallel.over_members(one, _one_by_one(), devices=devices)


def _one_by_one():
    return replace(parallel.default_execution(), members="map")


def all_pairs(factored, a, b, wanted, symmetric, devices, prepared):
    """Values (a.size, b.size), NaN where not `wanted` (booleans of that shape).

    a, b: each a `Zoo`; the same one for pairs among themselves, where for a symmetric measure `wanted` is symmetric,
        and only one of (i, j) and (j, i) is computed.
    prepared: what `prepare` made of a and of b.
    """
    once = symmetric and a is b
    values, done = np.full(wanted.shape, np.nan, a.dtype), np.zeros(wanted.shape, bool)
    for i, left in enumerate(prepared[0]):
        left_sent = parallel.replicate(left.part, devices)
        for j, right in enumerate(prepared[1]):
            here = np.ix_(left.numbers, right.numbers)
            mask = wanted[here]
            if once and i == j:
                mask = np.triu(mask)
            if (once and j < i) or not mask.any():
                continue
            sent = left_sent, left_sent if right is left else parallel.replicate(right.part, devices)
            size = _too_odd(factored, left, right)
            if size:
                sent = (_again(factored, *side, size, devices) for side in ((a, left), (b, right)))
            values[here] = np.where(mask, _between(factored, *sent, mask, devices), values[here])
            done[here] |= mask
    return np.where(done, values, values.T) if once else values


def _too_odd(factored, left, right):
    """The size to enlarge maps to before they are prepared, where neither size divides the other; otherwise None."""
    a, b = _one(left.part), _one(right.part)
    return common_size(a.data.shape, b.data.shape) if factored.meeting.size(a, b) is None else None


def _again(factored, zoo, block, size, devices):
    numbers = (divmod(number, zoo.models) for number in block.numbers)
    parts = [_prepared(factored, zoo.arrays[layer][model][None], zoo, devices, size) for layer, model in numbers]
    return parallel.replicate(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), devices)


def _between(factored, a, b, wanted, devices):
    """Values of the pairs of two prepared blocks on the devices, right where `wanted`."""
    size = factored.meeting.size(_one(a), _one(b))
    meeting = tuple(part._replace(data=_shrunk(factored.meeting, part.data, size)) for part in (a, b))
    of_a_pair = jax.eval_shape(factored.meeting.product, *(part.data[:1] for part in meeting)).size
    widest = min(EDGE, WIDTH // max(a.data.shape[1], b.data.shape[1]), math.isqrt(PRODUCT // of_a_pair))
    edges = _edges(wanted, widest)
    starts = _tiles(wanted, edges)
    tiles = np.asarray(_tile_program(factored, edges, devices)(starts, meeting))
    values = np.zeros(wanted.shape, tiles.dtype)
    for (i, j), tile in zip(starts, tiles, strict=True):
        values[i : i + edges[0], j : j + edges[1]] = tile
    if factored.exact is not None:
        doubtful = np.argwhere(wanted & np.asarray(factored.doubtful(values)))
        program, at_once = _exact_program(factored, devices), len(devices)
        for start in range(0, len(doubtful), at_once):
            some = doubtful[np.minimum(np.arange(start, start + at_once), len(doubtful) - 1)]
            values[tuple(some.T)] = np.asarray(program(some.astype(np.int32), (a, b)))
    return values


def _one(part):
    """The shapes of one `Part` of many."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), part)


@partial(jax.jit, static_argnums=(0, 2))
def _shrunk(meeting, data, size):
    return meeting.shrunk(data, size)


def _edges(wanted, widest):
    """Representations on the two sides of a tile: as many, up to `widest`, as make few pairs that are not wanted."""
    edge = 2 ** int(np.log2(max(1, min(widest, max(wanted.shape)))))
    while edge > 1:
        edges = tuple(min(edge, count) for count in wanted.shape)
        if len(_tiles(wanted, edges)) * edges[0] * edges[1] <= WASTE * wanted.sum():
            return edges
        edge //= 2
    return (1, 1)


def _tiles(wanted, edges):
    """Where tiles begin that hold everything wanted; the last ones are moved to end where the blocks end."""
    missing = [-count % edge for count, edge in zip(wanted.shape, edges, strict=True)]
    padded = np.pad(wanted, [(0, missing[0]), (0, missing[1])])
    rows, columns = (size // edge for size, edge in zip(padded.shape, edges, strict=True))
    some = padded.reshape(rows, edges[0], columns, edges[1]).any((1, 3))
    return np.minimum(np.argwhere(some) * edges, np.subtract(wanted.shape, edges)).astype(np.int32)


@lru_cache(maxsize=256)
def _tile_program(factored, edges, devices):
    return parallel.over_members(partial(_tile, factored, edges), _one_by_one(), devices=devices)


def _tile(factored, edges, start, parts):
    """Values of the pairs of a tile."""
    a, b = (
        jax.tree.map(lambda leaf, i=i, edge=edge: lax.dynamic_slice_in_dim(leaf, i, edge), part)
        for part, i, edge in zip(parts, start, edges, strict=True)
    )
    cross = factored.meeting.product(a.data, b.data)
    rows, columns = jnp.repeat(jnp.arange(edges[0]), edges[1]), jnp.tile(jnp.arange(edges[1]), edges[0])

    def finish(pair):
        i, j = pair
        return factored.finish(cross[i, j], parallel.take(a.rest, i), parallel.take(b.rest, j))

    # On a CPU one after the other: jaxlib decomposes a batch on the threads that run the program, and waits there, so
    # that two devices that decompose a batch each can wait for ever.
    return parallel.each(finish, parallel.default_execution())((rows, columns)).reshape(edges)


@lru_cache(maxsize=256)
def _exact_program(factored, devices):
    def pair(index, parts):
        return factored.directly(*(parallel.take(part, i) for part, i in zip(parts, index, strict=True)))

    return parallel.over_members(pair, _one_by_one(), devices=devices)
