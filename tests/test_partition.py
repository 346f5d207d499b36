"""Partitions of a plan among devices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from stitch_helpers import trained

from symjax import models
from symjax.flops import segment_flops
from symjax.ops.parallel import Execution
from symjax.stitching import FitConfig, Plan, parse_families
from symjax.stitching.partition import ImageCounts, cost, count_images, partition

WORK = ImageCounts(front=3, trained=2, closed_form=1)
# Conv, then two convolutions of a quarter of the cost, a dense layer: five segments, four points.
FLOPS = [1.0, 40.0, 40.0, 40.0, 0.5]


def make_plan(points=(0, 1, 2, 3), families="full,identity,rank1,birkhoff,matched", network=None, **config):
    network = network or models.create("mcnn", width=2, channels=3, classes=4)
    return Plan(network, points, parse_families(families), FitConfig(**config), Execution("map", "matmul"))


def stitches(plans):
    return [(p, f) for plan in plans for p, f in itertools.product(plan.points, plan.families)]


def test_cost_of_a_small_plan():
    plan = make_plan(points=(1, 3), families="full,rank1,identity", learning_rates=(0.1, 0.2))
    tails = (40 + 40 + 0.5) + 0.5
    assert cost(plan, FLOPS, WORK) == 3 * 121 + (2 * 2 * 2 + 1) * tails


@pytest.mark.parametrize("parts", range(1, 14))
def test_parts_cover_the_plan_once(parts):
    plan = make_plan()
    result = partition(plan, parts, FLOPS, WORK)
    assert sorted(map(str, stitches(result))) == sorted(map(str, stitches([plan])))
    assert all(part.points and part.families for part in result)
    # 4 points and 5 families: 7, 11 and 13 parts are impossible
    assert len(result) == {7: 6, 11: 10, 13: 12}.get(parts, parts)
    for part in result:
        assert [f for f in plan.families if f in part.families] == list(part.families)


@pytest.mark.parametrize("seed", range(4))
def test_ranges_of_points_have_the_least_possible_cost(seed):
    """Compare with all splits of four points into two or three ranges."""
    flops = list(np.random.RandomState(seed).exponential(size=5))
    plan = make_plan(families="full")
    for parts in (2, 3):
        costs = [
            max(cost(replace(plan, points=plan.points[a:b]), flops, WORK) for a, b in itertools.pairwise((0, *ends, 4)))
            for ends in itertools.combinations((1, 2, 3), parts - 1)
        ]
        assert max(cost(part, flops, WORK) for part in partition(plan, parts, flops, WORK)) == min(costs)


def test_one_stitch_is_not_partitioned():
    plan = make_plan(points=(2,), families="full")
    assert partition(plan, 3, FLOPS, WORK) == [plan]


def test_flops_of_segments_are_those_of_their_convolutions():
    network = models.create("mcnn", width=8, channels=3, classes=10)
    result = segment_flops(network, (32, 32, 3))
    # 3x3 convolutions with padding: border pixels lack some products, so a little under 2 * 9 * c_in * c_out * pixels
    expected = [2 * 9 * a * b * size**2 for a, b, size in ((3, 8, 32), (8, 16, 32), (16, 32, 16), (32, 64, 8))]
    for got, most in zip(result, expected, strict=False):
        assert 0.75 * most < got < 1.4 * most
    assert len(result) == 5 and result[-1] < 0.1 * result[1]


def test_image_counts():
    dataset, _ = trained()
    plan = make_plan(epochs=3, matching_images=10, reestimation_images=20)
    train, evaluated = len(dataset.train), 20 + len(dataset.validation) + len(dataset.test)
    assert count_images(plan, dataset) == ImageCounts(3 * train + evaluated + 20, 2 * 3 * train + evaluated, evaluated)
    closed = make_plan(families="identity", epochs=3, matching_images=10, reestimation_images=20)
    assert count_images(closed, dataset).front == evaluated + 20
