"""A small data set and a zoo that trains in seconds, shared by tests."""

import contextlib
from functools import lru_cache

import jax
import numpy as np
import pytest
import tiny_models  # noqa: F401
from stitch_helpers import scratch

from symjax import zoo
from symjax.data.dataset import Source, Split
from symjax.data.splitting import build
from symjax.training import Recipe
from symjax.zoo import ZooConfig
from symjax.zoo.stored import StoredMember

# A model and images that compile and train in seconds.
CONFIG = ZooConfig("stripes", "tiny", recipe=Recipe(epochs=3, batch_size=6, learning_rate=0.03, flip=True, translate=1))
SEEDS = (0, 1, 2, 3)


def split(n, seed):
    rng = np.random.RandomState(seed)
    labels = (np.arange(n) % 3).astype(np.int32)
    rows, columns = np.meshgrid(np.arange(8) // 2 % 2, np.arange(8) // 2 % 2, indexing="ij")
    stripes = np.stack([rows, columns, 0 * rows])[labels][..., None]
    return Split((rng.randint(0, 100, (n, 8, 8, 1)) + 100 * stripes).astype(np.uint8), labels)


def make_dataset(seed=0):
    source = Source("stripes", split(40, seed), split(25, seed + 1), ("a", "b", "c"))
    return build(source, validation=0.2, train_size=None, test_size=None, seed=0)


DATASET = make_dataset()


def train(folder, seeds=SEEDS, config=CONFIG, dataset=DATASET, **settings):
    settings = {"devices": jax.devices()[:1], "progress": False} | settings
    return zoo.train(config, dataset, seeds, folder, **settings)


def assert_close(a, b, atol=1e-4):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def stopped_in_a_save(monkeypatch, save):
    """Save members after every epoch by `save` in place of `StoredMember.save`; it raises a KeyboardInterrupt once."""
    with monkeypatch.context() as patch:
        patch.setattr(zoo.jobs, "SAVING_SHARE", np.inf)
        patch.setattr(StoredMember, "save", save)
        with pytest.raises(KeyboardInterrupt):
            yield


@lru_cache
def trained_reference():
    """Four members trained without interruption on one device, and their folder, which no test writes into."""
    folder = scratch() / "zoo-reference"
    return train(folder), folder


LONG = ZooConfig("stripes", "tiny", recipe=Recipe(epochs=40, batch_size=6, learning_rate=0.03, flip=True, translate=1))


def modification_times(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}
