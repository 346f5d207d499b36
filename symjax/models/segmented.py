"""What a model is: a chain of segments, each ending at a stitch point, but for the last, which ends in logits.

A stitch point is a joint of the chain. What travels through a joint is an array of features, channels last, or inside
a residual block the pair (branch, skip); a stitch acts on the branch alone and the skip travels along.

`Network` is the edge between `flax.nnx` modules and the functional core: a static description on one side, plain
pytrees (for each segment nested dicts of arrays) of parameters and batch-norm statistics on the other. Everything above
works with those pytrees, so `jit`, `vmap`, `shard_map`, optax and checkpoints see nothing but arrays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import is_integer, short
from symjax.errors import InputError
from symjax.models.layers import NormMode
from symjax.models.wiring import Wiring, wire
from symjax.network.low_rank import LowRankFeatures, materialize
from symjax.spelling import one_line

PyTree = Any


@dataclass(frozen=True)
class StitchPoint:
    """A joint of the chain: its name, the number of channels, and whether it lies inside a residual block."""

    name: str
    channels: int
    starred: bool = False


class Member(NamedTuple):
    """One trained or fresh network: parameters and batch-norm statistics, each a tuple of one dict per segment."""

    params: PyTree
    stats: PyTree

    __repr__ = one_line


class Segmented(nnx.Module):
    """A chain of segments; segment i maps (what travels, norm mode) to what travels through stitch point i."""

    def __init__(self, segments: list[nnx.Module], points: list[StitchPoint]):
        assert len(segments) == len(points) + 1
        self.segments = nnx.List(segments)
        self.points = tuple(points)

    def __call__(self, x, mode: NormMode = "inference"):
        for segment in self.segments:
            x = segment(x, mode)
        return x


class Keys:
    """What `rngs=` is when a `Network` builds its segments: keys, and normal numbers cut from one long draw.

    XLA compiles every draw of a program anew, 1 to 3 s of CPU time each: `count` numbers are drawn at once. Without a
    `count` each on its own, and a `count` of 0 gives zeros while `drawn` counts what a build needs. `nnx.Rngs` counts
    in a variable; under a trace each use of it searches the trace, quadratic time in all.
    """

    def __init__(self, key: jax.Array, count: int | None = None):
        self._key, self._keys, self._count, self.drawn = key, 0, count, 0
        self._values = _truncated_normal(self.params(), (count,)) if count else None

    def params(self) -> jax.Array:
        """The next key."""
        self._keys += 1
        return jax.random.fold_in(self._key, self._keys)

    __call__ = params

    def normal(self, shape: tuple[int, ...], variance: float) -> jax.Array:
        """The next numbers from a normal distribution that is cut at two deviations, `variance` after the cut."""
        start, self.drawn = self.drawn, self.drawn + math.prod(shape)
        if self._count == 0:
            return jnp.zeros(shape, jnp.float32)
        if self._values is None:
            values = _truncated_normal(self.params(), shape)
        else:
            values = self._values[start : self.drawn].reshape(shape)
        return values * math.sqrt(variance)


def _truncated_normal(key, shape):
    """Normal numbers cut at two deviations, of unit variance after the cut."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) / 0.87962566103423978


class Network:
    """A model's static description: builds members, runs any stretch of the chain. Hashable by identity."""

    def __init__(self, build: Callable[[Keys], Segmented], *, name: str = "network", dtype=jnp.float32):
        self._build = build
        self.name = name
        self.dtype = dtype
        keys = Keys(jax.random.key(0), count=0)
        abstract = nnx.eval_shape(lambda: build(keys))
        self._drawn = keys.drawn
        # (graph, abstract parameters, abstract statistics) of every segment; segments share nothing
        self._segments = [nnx.split(segment, nnx.Param, nnx.BatchStat) for segment in abstract.segments]
        self.points: tuple[StitchPoint, ...] = abstract.points
        # Of segments that end in one activation, it alone; it holds no parameters.
        self._activations = [getattr(segment, "activate", None) for segment in abstract.segments]

    def __repr__(self):
        names = [point.name for point in self.points]
        points = names if len(names) <= 8 else f"{len(names)} from {names[0]} to {names[-1]}"
        return f"Network({self.name}, points={points}, parameters={self.num_parameters})"

    @property
    def num_parameters(self) -> int:
        """Trainable numbers, all told."""
        return sum(leaf.size for _, params, _ in self._segments for leaf in jax.tree.leaves(params))

    @cached_property
    def wiring(self) -> Wiring:
        """Which channels stand on which axes of the parameters; an InputError where a segment does not say."""
        return wire([nnx.merge(*segment) for segment in self._segments], self.points)

    def init(self, key: jax.Array) -> Member:
        """A fresh member; a pure function of the key, good under jit and vmap."""
        segments = self._build(Keys(key, self._drawn)).segments
        states = [nnx.split(segment, nnx.Param, nnx.BatchStat)[1:] for segment in segments]
        return Member(*(tuple(map(nnx.to_pure_dict, kind)) for kind in zip(*states, strict=True)))

    @cached_property
    def shapes(self) -> Member:
        """A member's shapes and types (`jax.ShapeDtypeStruct`) in place of its arrays."""
        return jax.eval_shape(self.init, jax.eval_shape(lambda: jax.random.key(0)))

    def index(self, point: str | int) -> int:
        """The index of a stitch point given by name or by index."""
        names = [p.name for p in self.points]
        if isinstance(point, str) and point in names:
            return names.index(point)
        if is_integer(point) and 0 <= point < len(names):
            return int(point)
        raise InputError(f"point: {short(point)} is not a stitch point of {self.name}; known: {', '.join(names)}")

    def parse_points(self, text: str) -> tuple[int, ...]:
        """The indices of stitch points given as "all" or as names with commas between, in the chain's order."""
        if not isinstance(text, str):
            raise InputError(f"layers: got {text!r}, wanted names of stitch points with commas between, or all")
        if text == "all":
            return tuple(range(len(self.points)))
        try:
            found = {self.index(name.strip()) for name in text.split(",") if name.strip()}
        except InputError as error:
            raise InputError(str(error).replace("point:", "layers:", 1)) from None
        if not found:
            raise InputError(f"layers: none given; known: {', '.join(point.name for point in self.points)}, or all")
        return tuple(sorted(found))

    def run(
        self, member: Member, x, *, start: int = 0, stop: int | None = None, mode: NormMode = "inference", key=None
    ):
        """Segments `start` to `stop` (excluded) on what travels into segment `start`.

        In mode "train" a random `key` is for segments that do something at random, as stochastic depth; such ones say
        `takes_key`. Without a key nothing is random.

        Returns what leaves the last segment run, and the batch-norm statistics as `mode` left them: those of all
        segments, the ones that did not run as they were.
        """
        stats = list(member.stats)
        if start == 0:
            x = x.astype(self.dtype)
        for i in range(*slice(start, stop).indices(len(self._segments))):
            segment = self._segment(i, member)
            if not getattr(segment, "takes_low_rank", False):
                x = replace_branch(x, materialize(branch(x)))
            random = key is not None and getattr(segment, "takes_key", False)
            x = segment(x, mode, jax.random.fold_in(key, i)) if random else segment(x, mode)
            stats[i] = nnx.to_pure_dict(nnx.state(segment, nnx.BatchStat))
        return x, tuple(stats)

    def _segment(self, i: int, member: Member) -> nnx.Module:
        graph, params, stats = self._segments[i]
        return nnx.merge(graph, _fill(params, member.params[i]), _fill(stats, member.stats[i]))

    def logits(self, member: Member, x, *, mode: NormMode = "inference", key=None):
        """The whole chain: logits (n, classes) in float32, and the statistics."""
        logits, stats = self.run(member, x, mode=mode, key=key)
        return logits.astype(jnp.float32), stats

    def front(self, member: Member, x, point: int):
        """What travels through stitch point `point`, in inference mode."""
        return self.run(member, x, stop=point + 1)[0]

    def tail(self, member: Member, travelling, point: int, *, mode: NormMode = "inference", key=None):
        """From stitch point `point` to logits in float32, and the statistics."""
        logits, stats = self.run(member, travelling, start=point + 1, mode=mode, key=key)
        return logits.astype(jnp.float32), stats

    def before_activation(self, member: Member, x, point: int):
        """What enters the activation that ends at stitch point `point`, in inference mode; see `activate`."""
        self.require_activation(point)
        x, _ = self.run(member, x.astype(self.dtype), stop=point)
        return self._segment(point, member).before_activation(x, "inference")

    def activate(self, x, point: int):
        """The activation that ends at `point`: of `before_activation` it makes what travels through the point."""
        self.require_activation(point)
        return self._activations[point](x)

    def require_activation(self, point: int) -> None:
        """An InputError where the segment does not end in one activation of all that travels on."""
        if self._activations[point] is None:
            name = self.points[point].name
            raise InputError(f"model: {self.name} has no activation alone before {name}; take a plain chain, as mcnn_k")

    def features(self, member: Member, x, points: tuple[int, ...] | None = None) -> list:
        """What travels through each of `points` (all by default), in one pass in inference mode."""
        points = tuple(range(len(self.points))) if points is None else tuple(points)
        found, start = {}, 0
        for point in sorted(set(points)):
            x, _ = self.run(member, x, start=start, stop=point + 1)
            found[point], start = x, point + 1
        return [found[point] for point in points]


def branch(travelling) -> jax.Array:
    """The features that a stitch acts on: the branch inside a residual block, else what travels itself."""
    return travelling[0] if _is_pair(travelling) else travelling


def replace_branch(travelling, features):
    """What travels, with its branch replaced and its skip, if any, kept."""
    return (features, travelling[1]) if _is_pair(travelling) else features


def _is_pair(travelling) -> bool:
    return isinstance(travelling, tuple) and not isinstance(travelling, LowRankFeatures)


def _fill(abstract: nnx.State, values: PyTree) -> nnx.State:
    """A copy of the abstract state that holds `values`."""
    state = jax.tree.map(lambda leaf: leaf, abstract)
    nnx.replace_by_pure_dict(state, values)
    return state
