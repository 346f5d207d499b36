"""Controls of a stitch: fronts that are not related to the tail.

A penalty says little alone, since stitches that are trained for the task can succeed with unrelated fronts (Bansal et
al. 2021; Smith et al. 2025; Balogh and Jelasity 2025). A control is a stitch at the same point, of the same family and
trained in the same way, with another front. A family distinguishes fronts if its controls cost more.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.checks import short
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.training.loop import initial_member

PyTree = Any

RELATED, UNTRAINED, WRONG_LAYER, NOISE, OTHER_LABELS = "related", "untrained", "wrong_layer", "noise", "other_labels"
CONTROLS = (UNTRAINED, WRONG_LAYER, NOISE, OTHER_LABELS)
"""The controls of the command: a front as it is initialized; another point of A; noise around a center for each class;
a front trained on permuted labels."""
TASK, MATCH, PENULTIMATE = OBJECTIVES = ("task", "match", "penultimate")
"""What stitches minimize: the loss of the task, or the mean squared error of features at the point or the last one."""
DEFAULTS = {"control": RELATED, "objective": TASK}
SPREAD = 0.5  # the standard deviation of noise around a center; that of the centers is 1


class Point(NamedTuple):
    """A point of a plan with a control, or with another objective than the loss of the task.

    Attributes:
      a, b: the indices of the points of A and of B.
      control: `RELATED` for the front of A, `WRONG_LAYER`, `NOISE`, or a key of `Pair.controls`.
      objective: one of `OBJECTIVES`.
    """

    a: int
    b: int
    control: str = RELATED
    objective: str = TASK


def label(family: str, control: str = RELATED, objective: str = TASK) -> str:
    """Return the name of a family's stitch among those of a point, such as full, full@noise or full@noise@match."""
    return "@".join([family, *(name for name in (control, objective) if name not in DEFAULTS.values())])


def control_members(network: Network, controls: bool | Mapping[str, Any], seed: int) -> dict[str, Member]:
    """Return the fronts of the argument `controls` of `symjax.stitch` by name, first the untrained one."""
    if not isinstance(controls, (bool, Mapping)):
        raise InputError(f"controls: got {short(controls)}, expected True, False or a mapping of names to variables")
    fronts = {}
    for name, variables in {} if isinstance(controls, bool) else controls.items():
        if not isinstance(name, str) or name in ("", RELATED, WRONG_LAYER, NOISE) or set(name) & set("@/"):
            raise InputError(f"controls: got the name {name!r}, expected another text, without @ and /")
        try:
            fronts[name] = network.member(variables)
        except InputError as error:
            raise InputError(f"controls[{name!r}]: {error}") from None
    if controls is False or UNTRAINED in fronts or not network.has_init:
        return fronts
    return {UNTRAINED: initial_member(network, seed), **fronts}


def cluster_noise(key: jax.Array, x: PyTree, classes: jax.Array, like: tuple) -> tuple:
    """Return noise of the shapes and dtypes of features, in clusters by class: max(c + SPREAD n, 0).

    All entries of the centers c, one for each class, and of n are independent and normal. n depends on the bits of the
    input alone, so an example has the same noise in every pass. Values that are not floats are returned unchanged.

    Args:
      key: raw key data.
      x: inputs (examples, ...).
      classes: (examples,), integers.
      like: arrays (examples, ...).
    """
    keys = [jax.random.fold_in(jax.random.wrap_key_data(key), i) for i in range(2)]
    seeds = sum((_checksums(leaf) for leaf in jax.tree.leaves(x)), jnp.zeros(len(classes), jnp.uint32))

    def noise(i, value):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value

        def example(cls, seed):
            center, deviation = (
                jax.random.normal(jax.random.fold_in(jax.random.fold_in(k, i), number), value.shape[1:], jnp.float32)
                for k, number in zip(keys, (cls, seed), strict=True)
            )
            return jax.nn.relu(center + SPREAD * deviation).astype(value.dtype)

        return jax.vmap(example)(classes.astype(jnp.uint32), seeds)

    return tuple(noise(i, value) for i, value in enumerate(like))


def _checksums(leaf: jax.Array) -> jax.Array:
    """Return a 32-bit sum of the bits of each example; integers, so that the order of the sum does not matter."""
    bits = leaf
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        bits = lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
    return jnp.sum(bits.reshape(len(leaf), -1).astype(jnp.uint32), axis=1, dtype=jnp.uint32)
