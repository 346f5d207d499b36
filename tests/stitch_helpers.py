"""Helpers of the stitching tests: a tiny zoo, trained once per process, and a symmetry that acts on a network."""

import atexit
import shutil
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np
import tiny_models  # noqa: F401

from experiments.stitch import Settings
from symjax import zoo
from symjax.network import Member

SEEDS = (0, 1, 2)
TRAIN, TEST = 90, 37  # 72 images to train on, 18 to validate


def images(n: int, seed: int):
    """Faint stripes, four kinds of them, in noise: learned quickly, not perfectly."""
    rng = np.random.RandomState(seed)
    labels = (np.arange(n) % 4).astype(np.int64)
    across, down = np.meshgrid(np.arange(8) // 2 % 2, np.arange(8) // 2 % 2, indexing="ij")
    stripes = np.stack([across, down, across ^ down, 0 * down])[labels][..., None]
    return (rng.randint(0, 150, (n, 8, 8, 1)) + 100 * stripes).astype(np.uint8), labels


@lru_cache
def scratch() -> Path:
    """A folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix="symjax-stitch-tests-"))
    atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    return folder


def write_npz(path: Path) -> Path:
    (x, y), (x_test, y_test) = images(TRAIN, 0), images(TEST, 1)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


def flags(folder: Path) -> list[str]:
    """Of commands on the tiny zoo that `zoo_folder` holds."""
    values = {"dataset": folder / "stripes.npz", "model": "stitch_tiny", "seeds": len(SEEDS), "epochs": 6}
    values |= {"batch-size": 12, "learning-rate": 0.02, "translate": 1, "validation": 0.2, "zoo": folder / "zoo"}
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def settings(**others) -> Settings:
    """The settings that `flags` stand for."""
    folder = scratch()
    values = {"dataset": str(folder / "stripes.npz"), "model": "stitch_tiny", "seeds": str(len(SEEDS)), "epochs": 6}
    values |= {"batch_size": 12, "learning_rate": 0.02, "translate": 1, "validation": 0.2, "zoo": folder / "zoo"}
    return Settings(**values | others)


@lru_cache
def trained():
    """(data set, zoo of three members)."""
    write_npz(scratch() / "stripes.npz")
    chosen = settings()
    config, dataset = chosen.zoo_config(), chosen.load_dataset()
    devices = jax.devices()[:1]
    return dataset, zoo.train(config, dataset, SEEDS, chosen.zoo, devices=devices, progress=False)


def acted(member: Member, layer: int, permutation, scaling) -> Member:
    """The same function, its hidden channels of `layer` moved and scaled: y_i = scaling_i x_permutation(i)."""
    params, state = jax.tree.map(np.array, tuple(member))
    kernel = params["convs"][layer]["kernel"]
    kernel[...] = kernel[..., permutation]
    for values, factor in ((params["norms"][layer], scaling), (state["norms"][layer], 1)):
        for array in values.values():
            array[...] = factor * array[permutation]
    after = params["convs"].get(layer + 1, params["dense"])["kernel"]
    after[...] = np.take(after, permutation, axis=-2) / scaling[:, None]
    return Member(params, state)
