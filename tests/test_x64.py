"""What trains and measures runs where JAX's 64-bit types are on, and agrees with what it is without them."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow

import symjax
from symjax import Network, stitch_point
from symjax.stitching.families import FAMILIES

ONE = {"devices": jax.devices()[:1]}
EVERY_FAMILY = ",".join("rank2" if name == "rank" else name for name in FAMILIES)


def mlp(weights, x):
    hidden = stitch_point(jax.nn.relu(x @ weights["first"]), "relu1")
    return stitch_point(jax.nn.relu(hidden @ weights["second"]), "relu2") @ weights["last"]


def draw(seed):
    rng = np.random.RandomState(seed)
    shapes = {"first": (5, 4), "second": (4, 4), "last": (4, 3)}
    return {name: rng.randn(*shape).astype(np.float32) for name, shape in shapes.items()}


def data():
    x = np.random.RandomState(0).randn(60, 5).astype(np.float32)
    return x, np.argmax(x[:, :3], axis=1)


@lru_cache
def stitched(x64: bool, optimizer: str = "adam", dtype=np.float32, families: str = EVERY_FAMILY):
    with jax.enable_x64(x64):
        weights = [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), draw(seed)) for seed in (0, 1)]
        network = Network.from_function(mlp, weights[0], example=jnp.zeros((1, 5), dtype))
        x, y = data()
        x = x.astype(dtype)
        return symjax.stitch(
            *((network, one) for one in weights), "relu1", families=families, train=(x, y), test=(x, y), **ONE,
            epochs=2, batch_size=12, eval_batch_size=20, validation=0.2, optimizer=optimizer, bias=True,
            learning_rates=(1e-2, 3e-2),
        )  # fmt: skip


SOME = "full,orthogonal"  # a plain family and one with a projection, for what does not depend on the family


@pytest.mark.parametrize(
    ("optimizer", "dtype", "families"),
    [
        ("adam", np.float32, EVERY_FAMILY),
        ("adam", np.float64, SOME),
        slow("sgd", np.float32, EVERY_FAMILY),
        slow("adam", np.float64, EVERY_FAMILY),
    ],
)
@pytest.mark.few(1)
def test_every_family_is_the_same_with_64_bit_types(optimizer, dtype, families):
    """Stitches are float32 and agree, for networks of both precisions."""
    single, double = stitched(False, optimizer, families=families), stitched(True, optimizer, dtype, families)
    assert single.stitches.keys() == double.stitches.keys() and len(single.stitches) == len(families.split(","))
    for key, stitch in single.stitches.items():
        for a, b in zip(jax.tree.leaves(stitch), jax.tree.leaves(double.stitches[key]), strict=True):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str(key))
    np.testing.assert_allclose(single.curves.loss, double.curves.loss, rtol=1e-4)
    assert single.table.learning_rate.equals(double.table.learning_rate)
