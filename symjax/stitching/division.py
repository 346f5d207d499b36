"""Dividing a plan among devices: stitches of one pair do not feel each other, so that each device trains its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from symjax.data import Dataset
from symjax.flops import segment_flops
from symjax.stitching.fit import Plan


@dataclass(frozen=True)
class Work:
    """How many images go through what.

    Attributes:
      front: through the front, in training and in evaluation, once for all stitches behind it.
      trained: through a stitch that trains and its tail, passes back counted as passes forth.
      closed: through a stitch that does not train and its tail.
    """

    front: int
    trained: int
    closed: int


def work_of(plan: Plan, dataset: Dataset) -> Work:
    """What `plan` does with a data set's images."""
    config, images = plan.config, len(dataset.train)
    seen = min(config.reestimation_images, images) + len(dataset.validation) + len(dataset.test)
    training = config.epochs * images if plan.trained else 0
    matching = 2 * min(config.matching_images, images)  # through both fronts
    return Work(front=training + seen + matching, trained=2 * training + seen, closed=seen)


def plan_flops(plan: Plan, image: Sequence[int]) -> tuple[list[float], list[float]]:
    """Operations of each segment of A's network and of B's for one image; see `symjax.flops.segment_flops`."""
    flops = segment_flops(plan.network, image)
    return flops, flops if plan.network_b is plan.network else segment_flops(plan.network_b, image)


def divide(
    plan: Plan, parts: int, flops: Sequence[float], work: Work, flops_b: Sequence[float] | None = None
) -> list[Plan]:
    """At most `parts` plans that together are `plan`, the costliest as cheap as it can be.

    Points are cut into stretches and families into sets; every plan has one of either. A device whose points lie early
    need not run the front further than these. Where `parts` plans cannot be had (more parts than stitches, or a prime
    number), the most that can.
    """
    for count in range(parts, 1, -1):
        ways = [
            _cut(plan, stretches, count // stretches, flops, work, flops_b)
            for stretches in range(1, min(count, len(plan.points)) + 1)
            if count % stretches == 0 and count // stretches <= len(plan.families)
        ]
        if ways:
            return min(ways, key=lambda way: max(cost(part, flops, work, flops_b) for part in way))
    return [plan]


def cost(plan: Plan, flops: Sequence[float], work: Work, flops_b: Sequence[float] | None = None) -> float:
    """Floating-point operations of a plan; those of the stitches themselves and of the optimizer are left out.

    `flops` are those of the segments of A's network, `flops_b` those of B's where it is another one.
    """
    flops_b = flops if flops_b is None else flops_b
    trained = len(plan.trained) * len(plan.config.learning_rates)
    images = trained * work.trained + len(plan.closed) * work.closed
    front = sum(flops[: max(at.a for at in plan.junctions) + 1])
    return work.front * front + images * sum(sum(flops_b[at.b + 1 :]) for at in plan.junctions)


def _cut(plan: Plan, stretches: int, sets: int, flops, work, flops_b) -> list[Plan]:
    # Those that train are dealt out first: each set has equally many of them, but for one.
    dealt = [*plan.trained, *plan.closed]
    families = [tuple(family for family in plan.families if family in dealt[i::sets]) for i in range(sets)]
    most = replace(plan, families=families[0])

    @cache
    def best(start: int, stretches: int) -> tuple[float, tuple[int, ...]]:
        """Of the points from `start` on: the cost of the costliest stretch, and where stretches end."""
        if not stretches:
            return 0.0, ()
        total, options = len(plan.points), []
        for end in range(start + 1, total - stretches + 2) if stretches > 1 else [total]:
            here = cost(replace(most, points=plan.points[start:end]), flops, work, flops_b)
            behind, ends = best(end, stretches - 1)
            options.append((max(here, behind), (end, *ends)))
        return min(options)

    ends = best(0, stretches)[1]
    points = [plan.points[a:b] for a, b in zip((0, *ends), ends, strict=False)]
    return [replace(plan, points=some, families=theirs) for some in points for theirs in families]
