"""At every stitch point of every built-in model, front then tail equals the whole bit by bit."""

import numpy as np
import pytest
from test_models import draw, images

from symjax import models

# One of each kind; others of the same file differ in numbers of layers and channels.
QUICK = ("resnet20", "cct2")
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in models.MODELS
    # Of images; resnet1202 takes minutes to trace.
    if name != "resnet1202" and "channels" in models.MODELS[name].defaults
]


def check(name, **options):
    network = models.create(name, image_size=16, width=12 if "cct" in name else 2, **options)
    member, x = draw(network.shapes), images()
    whole = network.apply(member, x)  # operation by operation: a program of its own would be compiled in other ways
    points = network.points if len(network.points) < 30 else network.points[:: len(network.points) // 8]
    for point in points:
        front = network.front(member, x, point.name)
        np.testing.assert_array_equal(network.tail(member, front, point.name), whole)
        assert point.starred == point.name.endswith("*")
    features = network.features(member, x)
    assert {point: value.shape[1:] for point, value in features.items()} == {p.name: p.shape for p in network.points}


@pytest.mark.parametrize("name", NAMES)
def test_front_and_tail_make_the_whole(name):
    check(name, **({"blocks": (2, 1)} if name in ("resnet20", "resnet18") else {}))


@pytest.mark.parametrize("options", [{"block": "prenorm"}, {"positional_embedding": "sine"}, {"dropout": 0.5}])
@pytest.mark.slow
def test_options_of_transformers(options):
    check("cct2", **options)
