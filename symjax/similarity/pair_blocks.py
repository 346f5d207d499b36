"""Evaluate a `SplitMeasure` on requested pairs of many representations, in blocks that fit in memory, on all devices.

Each representation is prepared once, and the results stay on the host. (Maps whose size neither divides nor is divided
by that of the other side are prepared again for each pair of blocks.) For two blocks of prepared representations at a
time, copied to all devices, the requested pairs are covered with square tiles. A tile is one matrix product (for
Fourier CCA one per frequency) followed by the small computation for each of its pairs. Devices share the tiles.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.ops import parallel
from symjax.ops.memory import num_bytes
from symjax.similarity import nuclear_pairs
from symjax.similarity.channels import common_width, pad_channels
from symjax.similarity.inputs import enlarge
from symjax.similarity.pair_product import Prepared, larger_size

TILE_WIDTH = 512  # largest number of rows of a tile's product; wider products are not faster
TILE_EDGE = 64  # largest number of representations on one side of a tile
MAX_PRODUCT = 2**24  # largest number of entries of a tile's products (Fourier CCA has one product per frequency)
MAX_WASTE = 1.25  # largest ratio of computed to requested pairs
MAX_WASTE_OF_NUMBERS = 2.0  # the same for pairs whose product is one number, which takes less time than reading them
CHUNK_BYTES = 2**26  # size of the representations that are prepared at once


@dataclass(frozen=True)
class Representations:
    """Representations in stacks, numbered one stack after the other."""

    arrays: tuple  # stacks: an array (k, n, d) or (k, n, h, w, c), real, or a list of k arrays
    dtype: np.dtype  # dtype of the computation
    padded: bool = False  # whether zero channels are appended up to a common width, to share compiled programs

    @property
    def size(self):
        return sum(map(len, self.arrays))

    @property
    def shapes(self):
        """The different shapes of representations, with their common width if those of a list are `padded`."""
        lists = [stack for stack in self.arrays if isinstance(stack, list)]
        width = common_width if self.padded else int
        shapes = [stack.shape[1:] for stack in self.arrays if not isinstance(stack, list)]
        return (*shapes, *((*x.shape[:-1], width(x.shape[-1])) for stack in lists for x in stack))

    def locate(self, index):
        """Return the array at this number."""
        for stack in self.arrays:
            if index < len(stack):
                return stack[index]
            index -= len(stack)

    def array_at(self, index):
        return jnp.asarray(np.asarray(self.locate(index)), self.dtype)


@dataclass(frozen=True)
class Block:
    """Prepared representations with equal shapes."""

    indices: np.ndarray  # of the block's representations
    prepared: Prepared  # with a leading axis, one entry for each representation


def prepare(split, representations, memory, devices, size=None):
    """Return blocks of prepared representations, each within a share of `memory`, numbers of directions, and warnings.

    The second result is None for a measure without `num_directions`, the third has messages by number of the
    representation.
    """
    stacks = [_prepare_layer(split, stack, representations, devices, size) for stack in representations.arrays]
    starts = np.cumsum([0, *map(len, representations.arrays)])
    stacks_by_shape = {}
    for stack, prepared in enumerate(stacks):
        stacks_by_shape.setdefault(str(jax.tree.map(lambda leaf: leaf.shape[1:], prepared)), []).append(stack)
    blocks = []
    for same_shapes in stacks_by_shape.values():
        indices = np.concatenate([np.arange(starts[stack], starts[stack + 1]) for stack in same_shapes])
        prepared = jax.tree.map(_concatenate, *(stacks[stack] for stack in same_shapes))
        # Two blocks are in memory at once, and in the worst case one copy of each as a tile.
        step = max(1, int(memory // (4 * num_bytes(jax.tree.map(lambda leaf: leaf[0], prepared)))))
        for start in range(0, len(indices), step):
            rows = slice(start, start + step)
            blocks.append(Block(indices[rows], parallel.take(prepared, rows)))
    directions = None
    if split.num_directions is not None:
        directions = np.concatenate([split.num_directions(prepared.aux) for prepared in stacks])
    return blocks, directions, _warnings(split, representations, stacks)


def _warnings(split, representations, stacks):
    """Return the messages of `SplitMeasure.warning` by number of the representation."""
    if split.warning is None:
        return {}
    aux = [parallel.take(stack.aux, i) for stack in stacks for i in range(len(stack.data))]
    messages = {i: split.warning(partial(representations.array_at, i), aux[i]) for i in range(len(aux))}
    return {i: message for i, message in messages.items() if message}


def _concatenate(*leaves):
    return leaves[0] if len(leaves) == 1 else np.concatenate(leaves)


def _prepare_layer(split, stack, representations, devices, size):
    """Return the `Prepared` representations of one stack, with a leading axis, on the host."""
    dtype, count = representations.dtype, len(stack)
    width = max(array.shape[-1] for array in stack) if isinstance(stack, list) else stack.shape[-1]
    width = common_width(width) if representations.padded else width
    devices = devices[:count]
    chunk_size = min(count, max(1, CHUNK_BYTES // (stack[0][..., 0].size * width * dtype.itemsize)))
    chunk_size = -(-chunk_size // len(devices)) * len(devices)
    program = _prepare_program(split, size, devices)
    chunks = []
    for start in range(0, count, chunk_size):
        # The last one is padded, so that one compiled program serves all chunks.
        rows = np.minimum(np.arange(start, start + chunk_size), count - 1)
        if isinstance(stack, list):
            chunk = np.stack([pad_channels(np.asarray(stack[row], dtype), width) for row in rows])
        else:
            chunk = stack[start : start + chunk_size] if start + chunk_size <= count else stack[rows]
            chunk = chunk if chunk.dtype == dtype else chunk.astype(dtype)
            chunk = chunk if chunk.shape[-1] == width else pad_channels(np.asarray(chunk), width)
        widths = np.array([array.shape[-1] for array in (stack[row] for row in rows)], np.int32)
        chunks.append(jax.device_get(program((chunk, widths), ())))
    return jax.tree.map(lambda *leaves: _concatenate(*leaves)[:count], *chunks)


@lru_cache(maxsize=64)
def _prepare_program(split, size, devices):
    def prepare_one(member, _):
        x, width = member
        x = x if size is None else enlarge(x, size)
        return split.prepare(x, width) if split.counts_channels else split.prepare(x)

    # Sequential on every backend: the branches taken depend on the data.
    return parallel.over_members(prepare_one, _sequential_execution(), devices=devices)


def _sequential_execution():
    return replace(parallel.default_execution(), members="map")


def all_pairs(split, a, b, mask, symmetric, devices, prepared, update, equal_is_zero=False):
    """Return values (a.size, b.size), NaN where `mask` is false.

    Args:
        split: `SplitMeasure`.
        a, b: `Representations`. The same object stands for pairs within one set. Then, for a symmetric measure, `mask`
            is symmetric, and only one of (i, j) and (j, i) is computed.
        mask: booleans (a.size, b.size), the requested pairs.
        symmetric: whether the measure is symmetric.
        devices: tuple of devices.
        prepared: the blocks that `prepare` returned for a and for b.
        update: called with the number of values whenever some are computed.
        equal_is_zero: whether the caller sets the diagonal to 0, which then need not be computed exactly.
    """
    upper_only = symmetric and a is b
    values, computed = np.full(mask.shape, np.nan, a.dtype), np.zeros(mask.shape, bool)
    for i, left in enumerate(prepared[0]):
        left_on_devices = parallel.replicate(left.prepared, devices)
        for j, right in enumerate(prepared[1]):
            place = np.ix_(left.indices, right.indices)
            block_mask = mask[place]
            if upper_only and i == j:
                block_mask = np.triu(block_mask)
            if (upper_only and j < i) or not block_mask.any():
                continue
            on_devices = (
                left_on_devices,
                left_on_devices if right is left else parallel.replicate(right.prepared, devices),
            )
            size = _size_to_enlarge_to(split, left, right)
            if size:
                on_devices = (_prepare_enlarged(split, *side, size, devices) for side in ((a, left), (b, right)))
            exactly = ~np.equal.outer(left.indices, right.indices) if equal_is_zero else np.True_
            block_values = _block_values(split, *on_devices, block_mask, devices, exactly)
            values[place] = np.where(block_mask, block_values, values[place])
            computed[place] |= block_mask
            update(block_mask.sum())
    return np.where(computed, values, values.T) if upper_only else values


def _size_to_enlarge_to(split, left, right):
    """Return the map size to enlarge to before preparation where neither size divides the other, else None."""
    a, b = _single_shapes(left.prepared), _single_shapes(right.prepared)
    return larger_size(a.data.shape, b.data.shape) if split.product.size(a, b) is None else None


def _prepare_enlarged(split, representations, block, size, devices):
    """Return the block's representations, prepared again after enlarging their maps to `size`."""
    prepared = [
        _prepare_layer(split, representations.locate(index)[None], representations, devices, size)
        for index in block.indices
    ]
    return parallel.replicate(jax.tree.map(lambda *leaves: np.concatenate(leaves), *prepared), devices)


def _block_values(split, a, b, mask, devices, exactly):
    """Return values for the pairs of two prepared blocks; entries outside of `mask` are arbitrary.

    Inaccurate values are computed again where `exactly` is true.
    """
    size = split.product.size(_single_shapes(a), _single_shapes(b))
    sides = tuple(
        prepared  # without a copy
        if jax.eval_shape(lambda data: split.product.downsample(data, size), prepared.data).shape == prepared.data.shape
        else prepared._replace(data=_downsample(split.product, prepared.data, size))
        for prepared in (a, b)
    )
    on_host = split.nuclear and nuclear_pairs.on_host(a.data.dtype, devices)
    values = nuclear_pairs.values(split, *sides, mask) if on_host else _values_in_tiles(split, sides, mask, devices)
    if split.exact is not None:
        inaccurate = np.argwhere(mask & exactly & np.asarray(split.is_inaccurate(values)))
        program, at_once = _exact_program(split, devices), len(devices)
        for start in range(0, len(inaccurate), at_once):
            indices = inaccurate[np.minimum(np.arange(start, start + at_once), len(inaccurate) - 1)]
            values[tuple(indices.T)] = np.asarray(program(indices.astype(np.int32), (a, b)))
    return values


def _values_in_tiles(split, sides, mask, devices):
    """Return values for the pairs of two prepared blocks, one product for each tile."""
    a, b = sides
    numbers_per_pair = jax.eval_shape(split.product.multiply, *(side.data[:1] for side in sides)).size
    max_edge = min(
        TILE_EDGE, TILE_WIDTH // max(a.data.shape[1], b.data.shape[1]), math.isqrt(MAX_PRODUCT // numbers_per_pair)
    )
    edges = _edges(mask, max_edge, MAX_WASTE if numbers_per_pair > 1 else MAX_WASTE_OF_NUMBERS)
    starts = _tiles(mask, edges)
    tiles = np.asarray(_tile_program(split, edges, devices)(starts, sides))
    values = np.zeros(mask.shape, tiles.dtype)
    for (i, j), tile in zip(starts, tiles, strict=True):
        values[i : i + edges[0], j : j + edges[1]] = tile
    return values


def _single_shapes(prepared):
    """Return the shapes of one `Prepared` of a block."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), prepared)


@partial(jax.jit, static_argnums=(0, 2))
def _downsample(product, data, size):
    return product.downsample(data, size)


def _edges(mask, max_edge, max_waste):
    """Return the two edges of a tile, in representations: the largest up to `max_edge` with few unrequested pairs."""
    edge = _part(max(mask.shape), max(1, max_edge))
    while edge > 1:
        edges = tuple(min(edge, count) for count in mask.shape)
        if len(_tiles(mask, edges)) * edges[0] * edges[1] <= max_waste * mask.sum():
            return edges
        edge = -(-edge // 2)
    return (1, 1)


def _part(count, most):
    """Return the size of equal parts of `count`, each up to `most`."""
    return -(-count // -(-count // most))


def _tiles(mask, edges):
    """Return first indices (tiles, 2) of tiles that cover the mask; the last ones are shifted to end with the block."""
    missing = [-count % edge for count, edge in zip(mask.shape, edges, strict=True)]
    padded = np.pad(mask, [(0, missing[0]), (0, missing[1])])
    rows, columns = (size // edge for size, edge in zip(padded.shape, edges, strict=True))
    occupied = padded.reshape(rows, edges[0], columns, edges[1]).any((1, 3))
    return np.minimum(np.argwhere(occupied) * edges, np.subtract(mask.shape, edges)).astype(np.int32)


@lru_cache(maxsize=256)
def _tile_program(split, edges, devices):
    return parallel.over_members(partial(_tile, split, edges), _sequential_execution(), devices=devices)


def _tile(split, edges, start, sides):
    """Return the values of the pairs of a tile."""
    a, b = (
        jax.tree.map(lambda leaf, i=i, edge=edge: lax.dynamic_slice_in_dim(leaf, i, edge), prepared)
        for prepared, i, edge in zip(sides, start, edges, strict=True)
    )
    cross = split.product.multiply(a.data, b.data)
    rows, columns = jnp.repeat(jnp.arange(edges[0]), edges[1]), jnp.tile(jnp.arange(edges[1]), edges[0])

    def finish(pair):
        i, j = pair
        return split.finish(split.reduce(cross[i, j]), parallel.take(a.aux, i), parallel.take(b.aux, j))

    # On CPU sequentially: jaxlib decomposes a batch on the threads that run the program and blocks them meanwhile. Two
    # devices that each decompose a batch can deadlock.
    return parallel.each(finish, parallel.default_execution())((rows, columns)).reshape(edges)


@lru_cache(maxsize=256)
def _exact_program(split, devices):
    def pair(index, sides):
        return split.compare_exactly(*(parallel.take(prepared, i) for prepared, i in zip(sides, index, strict=True)))

    # Few pairs need it, and its time is that of decompositions.
    return parallel.over_members(pair, _sequential_execution(), devices=devices, effort=0)
