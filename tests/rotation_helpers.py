"""Zoos and compiled retraining programs, shared by the tests of rotations."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models  # noqa: F401
from stitch_helpers import scratch, settings, write_npz

from symjax import zoo
from symjax.ops import parallel
from symjax.rotation import Retraining, RotationCase, RotationPlan
from symjax.training import Recipe

CASES = [RotationCase(kind, repeat) for kind in ("none", "g_relu", "orthogonal") for repeat in (0, 1)]


@lru_cache
def trained(model="rotate_tiny"):
    write_npz(scratch() / "stripes.npz")
    chosen = settings(model=model)
    config, dataset = chosen.zoo_config(), chosen.load_dataset()
    folder = scratch() / model
    return dataset, zoo.train(config, dataset, (0, 1), folder, devices=jax.devices()[:1], progress=False)


def plan_of(trained_zoo, points=(0,), *, epochs=2, rate=0.01, **others):
    recipe = Recipe(epochs=epochs, batch_size=12, learning_rate=rate, flip=False, translate=0)
    return RotationPlan(trained_zoo.network, points, recipe, parallel.default_execution(), **others)


@lru_cache
def program(model="rotate_tiny", points=(0,), epochs=4, rate=0.02, start="continue"):
    """Cached, so that tests with equal arguments share compiled programs."""
    dataset, trained_zoo = trained(model)
    return Retraining(plan_of(trained_zoo, points, epochs=epochs, rate=rate, start=start), dataset)


def key(seed=0):
    return jax.random.key(seed)


def accuracy_of(trained_zoo, dataset, member, one, point) -> float:
    """Return the accuracy in percent of one batch, by the public functions of the network."""
    images = np.float32((dataset.test.images - dataset.mean) / dataset.std)
    rotated = np.asarray(trained_zoo.network.pre_activation(member, images, point)) @ one.matrix.T
    traveling = (trained_zoo.network.activation(point)(jnp.asarray(rotated)),)
    logits = trained_zoo.network.tail(one.tail, traveling, point)
    return 100 * float(np.mean(np.argmax(np.asarray(logits), -1) == dataset.test.labels))
