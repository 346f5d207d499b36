"""Small models that tests register, on 8 x 8 images."""

from symjax.models.myrtle import Myrtle
from symjax.models.registry import register

CHAIN = {"multiples": (1, 2), "pools": (2, 2)}

register(
    {
        "tiny": {**CHAIN, "width": 2},
        "deep": {"multiples": (1, 2), "pools": (4, 4), "width": 2},
        "stitch_tiny": {**CHAIN, "width": 4},
        "stitch_twin": {**CHAIN, "width": 4},
        "rotate_tiny": {**CHAIN, "width": 4, "norm": False},
        "rotate_tiny_sigmoid": {**CHAIN, "width": 4, "norm": False, "activation": "sigmoid"},
        "rotate_tiny_norm": {**CHAIN, "width": 4},
    }
)(Myrtle)
