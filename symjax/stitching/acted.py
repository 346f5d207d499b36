"""Networks stitched to what a symmetry makes of them: there the right stitch is known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from symjax import parallel, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.groups import Symmetry
from symjax.models import Member, Network
from symjax.stitching.evaluate import evaluate_stitch
from symjax.stitching.fit import FitConfig, Plan, pair_moments
from symjax.stitching.matching import matched
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import pad_batches

KINDS = ("matched", "identity")
BATCH = 32


def stitch_to_acted(
    members: zoo.Zoo,
    dataset: Dataset,
    keys: jax.Array,
    points: tuple[int, ...],
    *,
    matching_images: int = 1024,
    on_row: Callable[[], None] = lambda: None,
    on_member: Callable[[list[dict]], None] = lambda rows: None,
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

    Returns:
      For each member, point and kind of stitch: seed, layer, layer_index, starred, family, clean_accuracy (mean of the
      member and what it became, percent), stitched_accuracy (percent), penalty (percentage points), difference (of
      the stitch from phi(A), relative, over channels that are not dead).

    Raises:
      InputError: a network whose symmetry does not reach one of the points.
    """
    network, symmetry = members.network, check_points(members.network, points)
    elements = _quickly(jax.vmap(symmetry.sample))(keys)
    count = len(dataset.test)
    rows = []
    for starred in (False, True):
        chosen = tuple(point for point in points if network.points[point].starred == starred)
        if not chosen:
            continue
        names = set().union(*(symmetry.spaces_at(p) for p in chosen)) if starred else set(symmetry.spaces)
        element = {name: matrices for name, matrices in elements.items() if name in names}
        acted = _quickly(jax.vmap(symmetry.act))(members.members, element)
        accuracies = [
            zoo.evaluate(network, which, dataset.test, dataset.mean, dataset.std) for which in (members.members, acted)
        ]
        clean = 100 * np.rint(np.asarray(accuracies, np.float64) * count).mean(axis=0) / count
        found = _moments(members, acted, dataset, chosen, matching_images)
        for m, seed in enumerate(members.seeds):
            theirs = []
            a, b = Member(*parallel.take(members.members, m)), Member(*parallel.take(acted, m))
            for point, moments in zip(chosen, parallel.take(found, m), strict=True):
                truth = symmetry.at(point, parallel.take(element, m))
                live = np.asarray(jnp.diagonal(moments.xx) > 0)
                for kind, matrix in {"matched": matched(moments), "identity": jnp.eye(len(live))}.items():
                    stitch = Stitch(matrix, jnp.zeros(len(matrix), matrix.dtype))
                    reached = evaluate_stitch(
                        network, a, b, stitch, b.stats, point, dataset.test, dataset.mean, dataset.std, batch_size=BATCH
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


def check_points(network: Network, points: tuple[int, ...]) -> Symmetry:
    """The network's symmetry; an InputError where it does not reach one of the points."""
    symmetry = Symmetry(network)
    without = [network.points[point].name for point in points if not symmetry.spaces_at(point)]
    if without:
        raise InputError(f"layers: no symmetry of {network.name} acts at {', '.join(without)}")
    return symmetry


def _quickly(fn: Callable) -> Callable:
    """Compiled without optimisation: it runs once."""
    return jax.jit(fn, compiler_options=parallel.compiler_options(optimise=False))


def _moments(members: zoo.Zoo, acted: Member, dataset: Dataset, points: tuple[int, ...], images: int):
    """Per point the moments of features of all members and of what they became, on full batches of training images."""
    batches = pad_batches(dataset.train, BATCH).images
    batches = batches[: max(1, min(images, len(dataset.train)) // batches.shape[1])]
    execution = parallel.default_execution()
    plan = Plan(members.network, points, (), FitConfig(), execution)
    run = parallel.over_members(lambda pair, shared: pair_moments(plan, pair, *shared), execution)
    pairs = Pair(jax.tree.map(jnp.asarray, members.members), acted)
    return jax.device_get(run(pairs, (batches, dataset.mean, dataset.std)))
