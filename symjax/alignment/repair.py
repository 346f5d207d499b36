"""Statistics of the units of merged networks: batch statistics computed anew, and REPAIR.

A unit of a network on the line between two others has a smaller variance than in both ends (Jordan et al. 2022,
arXiv 2211.08403). A network with batch norm has its running statistics computed anew, which restores the variance.
Any other network has the outputs of its dense layers, convolutions and scaled norms rescaled and shifted, so that each
unit has the mean and the standard deviation interpolated between those of the ends.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.alignment.evaluation import BATCH, Examples, examples_of, over_items
from symjax.alignment.inputs import stacked
from symjax.checks import numpy_array
from symjax.data import normalize
from symjax.errors import InputError, renamed
from symjax.network import Member, Network
from symjax.network.affine import affine_layers, affine_values
from symjax.network.member import leaves_by_path, update
from symjax.ops import parallel
from symjax.ops.memory import check_limit
from symjax.training.evaluation import pool_moments


def repair(
    network: Network,
    merged: Any,
    ends: Any = None,
    data: Any = None,
    *,
    weights=None,
    examples: int | None = None,
    max_device_memory: float | None = None,
) -> Member:
    """Return a merged network with the statistics of its units computed anew, on training inputs.

    A network with running statistics has these computed for the merged network, pooled exactly over batches (a reset).
    Another network is corrected layer by layer in program order, except the last one: with mean m and deviation s of a
    unit in the merged network, and the weighted means m', s' of those in the ends, kernel and bias of the unit become
    kernel s' / s and (bias - m) s' / s + m'. Units without variance are only shifted.

    Args:
      network: the network.
      merged: the member, or members with a leading axis.
      ends: the networks that were merged, with a leading axis of k ends before that of `merged`; not needed by a
        network with running statistics.
      data: a `symjax.data.Dataset`, or a mapping of arrays as `symjax.data.load` takes it; training inputs are used.
      weights: (k,), the share of each end, from 0 and with sum 1; equal by default.
      examples: the number of training inputs; all by default. Those beyond full batches of 256 are left out.
      max_device_memory: bytes on each device; stacked members are repaired in groups that need no more.

    Raises:
      InputError: members of another structure, or not finite; no ends for a network without running statistics.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.alignment import repair
      >>> def mlp(p, x):
      ...     return jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] + p["c"]
      >>> one = {"w": jnp.ones((1, 2)), "b": jnp.zeros(2), "v": jnp.ones((2, 2)), "c": jnp.zeros(2)}
      >>> net = symjax.Network.from_function(mlp, one, example=np.ones((1, 1), np.float32))
      >>> x = np.arange(8, dtype=np.float32)[:, None]
      >>> data = {"x_train": x, "y_train": np.arange(8) % 2, "x_test": x, "y_test": np.arange(8) % 2}
      >>> ends = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), net.member(one))
      >>> half = net.member({**one, "w": one["w"] / 2})
      >>> repair(net, half, ends, data).params["w"].tolist()
      [[1.0, 1.0]]
    """
    merged, is_stacked = stacked("merged", network, merged)
    check_limit(max_device_memory)
    train, limit = examples_of(data, BATCH, examples).train, max_device_memory
    if has_statistics(network):
        repaired = over_items(network, reset, merged, train, limit=limit)
    else:
        if ends is None:
            raise InputError("ends: got none, expected the merged networks, since this one has no running statistics")
        with renamed(members="ends"):
            count = parallel.count_members(ends)
        ends = [stacked("ends", network, jax.tree.map(lambda leaf: leaf[i], ends))[0] for i in range(count)]  # noqa: B023
        numbers = [parallel.count_members(members) for members in (ends[0], merged)]
        if numbers[0] != numbers[1]:
            given = f"{numbers[0]} members for each of {count} ends"
            raise InputError(f"ends: got {given}, expected {numbers[1]} as in merged")
        weights = np.full(count, 1 / count) if weights is None else numpy_array("weights", weights).astype(float)
        if weights.shape != (count,) or not np.isclose(weights.sum(), 1) or (weights < 0).any():
            raise InputError(f"weights: got {weights.tolist()}, expected {count} numbers from 0 with sum 1")
        moments = [over_items(network, moments_of, end, train, limit=limit) for end in ends]
        targets = jax.tree.map(lambda *parts: sum(w * p for w, p in zip(weights, parts, strict=True)), *moments)
        targets = jax.tree.map(lambda leaf: leaf.astype(np.float32), targets)
        repaired = over_items(network, _rescale, (merged, targets), train, limit=limit)
    return repaired if is_stacked else parallel.take(repaired, 0)


def has_statistics(network: Network) -> bool:
    """Return whether the network has state of real numbers, such as batch statistics."""
    return any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(network.shapes.state))


def reset(network: Network, member: Member, train: Examples) -> Member:
    """Return the member with the running statistics of its own features, inside of a program."""
    key = jax.random.key(0) if network.needs_key else None

    def state(images):
        x = normalize(images, train.mean, train.std)
        return network.apply(member, x, mode="moments", key=key, with_state=True)[1]

    return member._replace(state=pool_moments(lax.map(state, train.batches.images)))


def moments_of(network: Network, member: Member, train: Examples) -> list:
    """Return mean and standard deviation of the units of each affine layer but the last."""
    x = normalize(train.batches.images[0], train.mean, train.std)
    count = len(affine_layers(network, member, x)) - 1
    return [_layer_moments(network, member, train, number) for number in range(count)]


def _layer_moments(network, member, train, number):
    def moments(images):
        x = normalize(images, train.mean, train.std)
        layer = affine_layers(network, member, x)[number]
        units = leaves_by_path(member)[layer.bias].shape
        z = affine_values(network, member, x, number)
        z = z.reshape(-1, *units).astype(jnp.float32)
        return {"mean": z.mean(0), "var": z.var(0)}

    pooled = pool_moments(lax.map(moments, train.batches.images))
    return pooled["mean"], jnp.sqrt(pooled["var"])


def rescale(network: Network, member: Member, targets: list, train: Examples) -> Member:
    """Return the member whose affine layers have these means and deviations, inside of a program."""
    layers = affine_layers(network, member, normalize(train.batches.images[0], train.mean, train.std))
    for number, ((mean, deviation), layer) in enumerate(zip(targets, layers, strict=False)):
        own_mean, own_deviation = _layer_moments(network, member, train, number)
        constant = own_deviation <= 1e-6 * (jnp.abs(own_mean) + own_deviation.max())
        factor = jnp.where(constant, 1, deviation / jnp.where(constant, 1, own_deviation))
        leaves = leaves_by_path(member)
        kernel, bias = leaves[layer.kernel], leaves[layer.bias]
        shifted = (bias - own_mean) * factor + mean
        new = {layer.kernel: (kernel * factor).astype(kernel.dtype), layer.bias: shifted.astype(bias.dtype)}
        member = update(member, new)
    return member


def _rescale(network: Network, item: tuple, train: Examples) -> Member:
    member, targets = item
    return rescale(network, member, targets, train)
