"""Networks stitched to what a symmetry makes of them: there the right stitch is known."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from symjax import memory, parallel, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.groups import Discovered
from symjax.network import Member, Network
from symjax.stitching.evaluate import evaluate_stitch
from symjax.stitching.fit import FitConfig, Plan, pair_moments
from symjax.stitching.matching import matched
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import pad_batches

KINDS = ("matched", "identity")
BATCH = 32
MATCHING = 1024  # training images that the closed form sees, at most


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
    """Acts on each member with a random element of its symmetry and stitches its front to the tail of the result.

    The `matched` stitch, found from features on training images alone, should be phi(A) itself and cost nothing; the
    `identity` shows what acting did. The tail's batch-norm statistics are its own, since matched features are what they
    belong to. At stitch points inside of residual blocks only such branches are acted on: the skip there is the
    front's.

    Args:
      members: trained.
      dataset: what they were trained on.
      keys: a key per member, for its element.
      points: stitch points by index.
      matching_images: how many training images the closed form sees, at most.
      on_row: called after each stitch.
      on_member: called with the new rows of each member, once for points inside of residual blocks and once for others.
      max_device_memory: bytes on each device; members go through their passes in groups that need no more. By default
        all at once. Acting itself, which needs the weights alone, is not bounded.

    Returns:
      For each member, point and kind of stitch: seed, layer, layer_index, starred, family, clean_accuracy (mean of the
      member and what it became, percent), stitched_accuracy (percent), penalty (percentage points), difference (of
      the stitch from phi(A), relative, over channels that are not dead).

    Raises:
      InputError: a network whose symmetry does not reach one of the points; memory that does not hold one member.
    """
    network = members.network
    symmetry = check_points(network, points)
    elements = _quickly(jax.vmap(symmetry.sample))(keys)
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
        acted = jax.device_get(_quickly(jax.vmap(symmetry.act))(members.members, element))
        options = {"max_device_memory": max_device_memory}
        accuracies = [
            zoo.evaluate(network, which, dataset.test, dataset.mean, dataset.std, **options)
            for which in (members.members, acted)
        ]
        clean = 100 * np.rint(np.asarray(accuracies, np.float64) * count).mean(axis=0) / count
        found = _moments(members, acted, dataset, chosen, matching_images, max_device_memory)
        for m, seed in enumerate(members.seeds):
            theirs = []
            a, b = Member(*parallel.take(members.members, m)), Member(*parallel.take(acted, m))
            for point, moments in zip(chosen, parallel.take(found, m), strict=True):
                truth = symmetry.at(network.points[point].name, parallel.take(element, m))
                live = np.asarray(jnp.diagonal(moments.xx) > 0)
                for kind, matrix in {"matched": matched(moments), "identity": jnp.eye(len(live))}.items():
                    stitch = Stitch(matrix, jnp.zeros(len(matrix), matrix.dtype))
                    reached = evaluate_stitch(
                        network, a, b, stitch, b.state, point, dataset.test, dataset.mean, dataset.std, batch_size=BATCH
                    )
                    off = np.linalg.norm(np.asarray(matrix - truth)[:, live]) / np.linalg.norm(
                        np.asarray(truth)[:, live]
                    )
                    where = network.points[point]
                    theirs.append(
                        {
                            "seed": seed,
                            "layer": where.name,
                            "layer_index": point,
                            "starred": where.starred,
                            "family": kind,
                            "clean_accuracy": clean[m],
                            "stitched_accuracy": reached,
                            "penalty": clean[m] - reached,
                            "difference": off,
                        }
                    )
                    on_row()
            on_member(theirs)
            rows += theirs
    return rows


@lru_cache
def check_points(network: Network, points: tuple[int, ...]) -> Discovered:
    """Return the network's symmetry; an InputError where it does not reach one of the points."""
    inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.example)
    symmetry = network.symmetry(network.init(jax.random.key(0)), inputs)  # verified on generic values of these shapes
    names = [network.points[point].name for point in points]
    without = [name for name in names if not symmetry.spaces_at(name)]
    if without:
        raise InputError(f"layers: no symmetry of {network.name} acts at {', '.join(without)}")
    return symmetry


def _quickly(fn: Callable) -> Callable:
    """Compiled without optimisation: it runs once."""
    return jax.jit(fn, compiler_options=parallel.compiler_options(effort=0))


def transformed_flops(
    network: Network, flops: Sequence[float], dataset: Dataset, points: Sequence[int], matching_images: int = MATCHING
) -> float:
    """Floating-point operations of `stitch_to_transformed` for one member; `flops` are those of the network's segments."""
    test, total = len(dataset.test), 0.0
    matching = min(matching_images, len(dataset.train))
    for starred in (False, True):
        if chosen := [point for point in points if network.points[point].starred == starred]:
            passes = 2 + len(KINDS) * len(chosen)  # the member, what it becomes, and stitches
            total += passes * test * sum(flops) + 2 * matching * sum(flops[: max(chosen) + 1])
    return total


def moments_memory(
    network: Network, dataset: Dataset, points: Sequence[int], matching_images: int = MATCHING
) -> memory.Need:
    """The device memory that the features of a member and of what it becomes take; compiles the program."""
    images = jax.ShapeDtypeStruct(_matching(dataset, matching_images).shape, np.uint8)
    shared = (images, dataset.mean, dataset.std)
    return memory.need_of(
        _moments_of(network, points), parallel.default_execution(), Pair(network.shapes, network.shapes), shared
    )


def _moments(members: zoo.Zoo, acted: Member, dataset: Dataset, points: tuple[int, ...], images: int, limit):
    """Per point the moments of features of all members and of what they became, on full batches of training images."""
    network, size = members.network, None
    if limit is not None:
        size = jax.local_device_count() * moments_memory(network, dataset, points, images).fitting(limit)
    run = parallel.over_members(_moments_of(network, points), parallel.default_execution())
    shared = (_matching(dataset, images), dataset.mean, dataset.std)
    return parallel.in_groups(run, size)(Pair(members.members, acted), shared)


def _moments_of(network: Network, points: Sequence[int]):
    plan = Plan(network, tuple(points), (), FitConfig(), parallel.default_execution())
    return lambda pair, shared: pair_moments(plan, pair, *shared)


def _matching(dataset: Dataset, images: int) -> np.ndarray:
    batches = pad_batches(dataset.train, BATCH).images
    return batches[: max(1, min(images, len(dataset.train)) // batches.shape[1])]
