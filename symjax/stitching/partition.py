"""Partition a plan among devices. Stitches of one pair are independent, so each device can train its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from symjax.data import Dataset
from symjax.flops import segment_flops
from symjax.stitching.controls import MATCH, NOISE, RELATED, TASK, WRONG_LAYER
from symjax.stitching.plan import Plan


@dataclass(frozen=True)
class ImageCounts:
    """The numbers of images that pass through the parts of the stitched networks.

    Attributes:
      front: through the front, in training and evaluation; it is shared by all stitches.
      trained: through a stitch that trains and its tail; a backward pass counts as a forward pass.
      closed_form: through a stitch that does not train and its tail.
    """

    front: int
    trained: int
    closed_form: int


def count_images(plan: Plan, dataset: Dataset) -> ImageCounts:
    """Return how many images of a data set pass through the parts of the networks of `plan`."""
    config, images = plan.config, len(dataset.train)
    evaluation = min(config.reestimation_images, images) + len(dataset.validation) + len(dataset.test)
    training = config.epochs * images if plan.trained else 0
    matching = 2 * min(config.matching_images, images)  # through both fronts
    return ImageCounts(training + evaluation + matching, 2 * training + evaluation, evaluation)


def plan_flops(plan: Plan, image: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return the operations per image of each segment of A's network and of B's; see `symjax.flops.segment_flops`."""
    flops = segment_flops(plan.network, image)
    return flops, flops if plan.network_b is plan.network else segment_flops(plan.network_b, image)


def partition(
    plan: Plan, parts: int, flops: Sequence[float], images: ImageCounts, flops_b: Sequence[float] | None = None
) -> list[Plan]:
    """Return at most `parts` plans that together are `plan`, with the least possible cost of the most expensive part.

    Points are split into ranges and families into sets; each part combines one range with one set. A device with early
    points runs the front only that far. If `parts` plans are impossible (more parts than stitches, or a prime number),
    the number of plans is the largest possible one.

    Args:
      plan: the plan.
      parts: the maximal number of plans.
      flops, flops_b: as returned by `plan_flops`; `flops_b` is `flops` by default.
      images: as returned by `count_images`.
    """
    for count in range(parts, 1, -1):
        partitions = [
            _partition(plan, ranges, count // ranges, flops, images, flops_b)
            for ranges in range(1, min(count, len(plan.points)) + 1)
            if count % ranges == 0 and count // ranges <= len(plan.families)
        ]
        if partitions:
            return min(partitions, key=lambda plans: max(cost(part, flops, images, flops_b) for part in plans))
    return [plan]


def cost(plan: Plan, flops: Sequence[float], images: ImageCounts, flops_b: Sequence[float] | None = None) -> float:
    """Return the floating-point operations of a plan, without those of the stitches and of the optimizer.

    Fronts of controls, and B's own features if an objective needs them, count as fronts. Arguments as in `partition`.
    """
    flops_b = flops if flops_b is None else flops_b
    trained, fronts, total = len(plan.trained) * len(plan.config.learning_rates), dict[str, int](), 0.0
    for junction in plan.junctions:
        if junction.control != NOISE:
            member = RELATED if junction.control == WRONG_LAYER else junction.control
            fronts[member] = max(fronts.get(member, 0), junction.a)
        full_tail = len(plan.closed_form) * images.closed_form
        full_tail += trained * (images.closed_form if junction.objective == MATCH else images.trained)
        total += full_tail * sum(flops_b[junction.b + 1 :])
    feature_flops_b = sum(flops_b) if any(junction.objective != TASK for junction in plan.junctions) else 0
    return images.front * (feature_flops_b + sum(sum(flops[: last + 1]) for last in fronts.values())) + total


def _partition(plan: Plan, ranges: int, sets: int, flops, images, flops_b) -> list[Plan]:
    # Families that train are distributed first, so that their numbers in the sets differ by at most one.
    order = [*plan.trained, *plan.closed_form]
    families = [tuple(family for family in plan.families if family in order[i::sets]) for i in range(sets)]
    largest = replace(plan, families=families[0])

    @cache
    def best(start: int, ranges: int) -> tuple[float, tuple[int, ...]]:
        """Return the cost of the most expensive range of the points from `start` on, and the ends of the ranges."""
        if not ranges:
            return 0.0, ()
        total, options = len(plan.points), []
        for end in range(start + 1, total - ranges + 2) if ranges > 1 else [total]:
            first = cost(replace(largest, points=plan.points[start:end]), flops, images, flops_b)
            rest, ends = best(end, ranges - 1)
            options.append((max(first, rest), (end, *ends)))
        return min(options)

    ends = best(0, ranges)[1]
    points = [plan.points[a:b] for a, b in zip((0, *ends), ends, strict=False)]
    return [replace(plan, points=point_range, families=family_set) for point_range in points for family_set in families]
