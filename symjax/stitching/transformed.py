"""Stitch networks to their transforms by a random symmetry, where the correct stitch is known."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from symjax import zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.network import Member, Network
from symjax.ops import memory, parallel
from symjax.ops.compiler import compiler_options
from symjax.stitching.evaluate import evaluate_stitch
from symjax.stitching.fit import pair_moments
from symjax.stitching.matching import matched
from symjax.stitching.plan import FitConfig, Plan
from symjax.stitching.stitched import Pair, Stitch

KINDS = ("matched", "identity")
BATCH = 32
MATCHING = 1024  # the maximal number of training images for the closed form


def stitch_to_transformed(
    members: zoo.Zoo,
    dataset: Dataset,
    keys: jax.Array,
    points: tuple[int, ...],
    *,
    matching_images: int = MATCHING,
    on_row: Callable[[], None] = lambda: None,
    on_member: Callable[[list[dict]], None] = lambda rows: None,
    max_device_memory: float | None = None,
) -> list[dict]:
    """Transform each member A by a random element g of its symmetry and stitch its front to the tail of the result.

    The correct stitch at a point is the matrix phi(g) of the element there. The `matched` stitch, computed only from
    features of training images, should equal phi(g) and have no penalty; the `identity` shows the effect of the
    transformation. The tail keeps its own batch-norm statistics, which belong to the matched features. At points inside
    residual blocks only these branches are transformed, since the skip connection comes from the front.

    Args:
      members: trained members.
      dataset: their data set.
      keys: a key per member, for its element.
      points: stitch points by index.
      matching_images: the maximal number of training images for the closed form.
      on_row: called after each stitch.
      on_member: called with the new rows of each member, once for points inside residual blocks and once for others.
      max_device_memory: bytes on each device; members go through their passes in groups that need no more. None: all
        members at once. The transformation, which needs only the weights, is not limited.

    Returns:
      For each member, point and kind of stitch a dict with seed, layer, layer_index, starred, family, clean_accuracy
      (the mean of the member and its transform, percent), stitched_accuracy (percent), penalty (percentage points) and
      difference (relative, between the stitch and phi(g), over channels with nonzero features).

    Raises:
      InputError: the symmetry of the network does not act at one of the points, or one member needs more memory.
    """
    network = members.network
    symmetry = check_points(network, points)
    elements = _compile_fast(jax.vmap(symmetry.sample))(keys)
    count = len(dataset.test)
    rows = []
    for starred in (False, True):
        chosen = tuple(point for point in points if network.points[point].starred == starred)
        if not chosen:
            continue
        names = (
            set().union(*(symmetry.spaces_at(network.points[p].name) for p in chosen))
            if starred
            else set(symmetry.spaces)
        )
        element = {name: matrices for name, matrices in elements.items() if name in names}
        transformed = jax.device_get(_compile_fast(jax.vmap(symmetry.act))(members.members, element))
        accuracies = [
            zoo.evaluate(network, stacked, dataset.test, dataset.mean, dataset.std, max_device_memory=max_device_memory)
            for stacked in (members.members, transformed)
        ]
        clean = 100 * np.rint(np.asarray(accuracies, np.float64) * count).mean(axis=0) / count
        moments = _moments(members, transformed, dataset, chosen, matching_images, max_device_memory)
        for m, seed in enumerate(members.seeds):
            member_rows = []
            a, b = Member(*parallel.take(members.members, m)), Member(*parallel.take(transformed, m))
            for point, point_moments in zip(chosen, parallel.take(moments, m), strict=True):
                stitch_point = network.points[point]
                correct = np.asarray(symmetry.at(stitch_point.name, parallel.take(element, m)))
                nonzero = np.asarray(jnp.diagonal(point_moments.xx) > 0)
                for kind, matrix in {"matched": matched(point_moments), "identity": jnp.eye(len(nonzero))}.items():
                    stitch = Stitch(matrix, jnp.zeros(len(matrix), matrix.dtype))
                    accuracy = evaluate_stitch(
                        network, a, b, stitch, b.state, point, dataset.test, dataset.mean, dataset.std, batch_size=BATCH
                    )
                    error = np.linalg.norm(np.asarray(matrix - correct)[:, nonzero])
                    member_rows.append(
                        {
                            "seed": seed,
                            "layer": stitch_point.name,
                            "layer_index": point,
                            "starred": stitch_point.starred,
                            "family": kind,
                            "clean_accuracy": clean[m],
                            "stitched_accuracy": accuracy,
                            "penalty": clean[m] - accuracy,
                            "difference": error / np.linalg.norm(correct[:, nonzero]),
                        }
                    )
                    on_row()
            on_member(member_rows)
            rows += member_rows
    return rows


@lru_cache
def check_points(network: Network, points: tuple[int, ...]) -> Symmetry:
    """Return the symmetry of the network; raise an InputError if it does not act at one of the points."""
    inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.example)
    symmetry = network.symmetry(network.init(jax.random.key(0)), inputs)  # verified on generic values of these shapes
    names = [network.points[point].name for point in points]
    without = [name for name in names if not symmetry.spaces_at(name)]
    if without:
        expected = f"points at which a symmetry of {network.name} acts"
        raise InputError(f"layers: got {', '.join(without)}, expected {expected}")
    return symmetry


def _compile_fast(fn: Callable) -> Callable:
    """Compile without optimizations, for functions that run once."""
    return jax.jit(fn, compiler_options=compiler_options(effort=0))


def transformed_flops(
    network: Network, flops: Sequence[float], dataset: Dataset, points: Sequence[int], matching_images: int = MATCHING
) -> float:
    """Return the operations of `stitch_to_transformed` for one member, given those of the segments of the network."""
    test, total = len(dataset.test), 0.0
    matching = min(matching_images, len(dataset.train))
    for starred in (False, True):
        if chosen := [point for point in points if network.points[point].starred == starred]:
            passes = 2 + len(KINDS) * len(chosen)  # the member, its transform, and stitches
            total += passes * test * sum(flops) + 2 * matching * sum(flops[: max(chosen) + 1])
    return total


def moments_program(
    network: Network, dataset: Dataset, points: Sequence[int], matching_images: int = MATCHING
) -> memory.MemberProgram:
    """Return the program of the feature moments of a member and its transform."""
    plan = Plan(network, tuple(points), (), FitConfig(), parallel.default_execution())
    images = _matching_batches(dataset, matching_images)
    images = jax.ShapeDtypeStruct(images.shape, images.dtype)
    shared = (images, dataset.mean, dataset.std)
    pair = Pair(network.shapes, network.shapes)
    return memory.MemberProgram(lambda pair, shared: pair_moments(plan, pair, *shared), plan.execution, pair, shared)


def _moments(members: zoo.Zoo, transformed: Member, dataset: Dataset, points: tuple[int, ...], images: int, limit):
    """Return per point the feature moments of all members and their transforms, on full batches of training images."""
    run = moments_program(members.network, dataset, points, images).within(limit, tuple(jax.local_devices()))
    shared = (_matching_batches(dataset, images), dataset.mean, dataset.std)
    return run(Pair(members.members, transformed), shared)


def _matching_batches(dataset: Dataset, images: int) -> np.ndarray:
    batch = min(BATCH, len(dataset.train))
    count = max(1, min(images, len(dataset.train)) // batch)
    inputs = dataset.train.images[: count * batch]
    return inputs.reshape(count, batch, *inputs.shape[1:])
