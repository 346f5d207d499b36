"""Compact convolutional transformers in training: recipes, a zoo that learns and is stitched, what is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.settings import ZooSettings
from experiments.stitch import Settings, main
from symjax import models, zoo
from symjax.ops import files
from symjax.training import Recipe
from symjax.zoo import ZooConfig


def test_settings_that_suit():
    """Transformers have defaults of their own, other models keep theirs, and flags change both."""
    recipe = ZooSettings(model="cct2").zoo_config().recipe
    assert (recipe.optimizer, recipe.schedule, recipe.warmup) == ("adamw", "cosine", 0.1)
    assert ZooSettings(model="cct7_3x1", dataset="cifar10").zoo_config().recipe.learning_rate == 5e-4
    assert ZooSettings(model="cct2", schedule="halving", warmup=0.0).zoo_config().recipe.schedule == "halving"
    others = ZooSettings().zoo_config()
    assert others.recipe == Recipe(epochs=10, learning_rate=3e-3, flip=False, translate=1)
    for config in (others, ZooSettings(model="cct2").zoo_config()):
        assert ZooConfig.from_json(config.to_json()) == config
    assert "schedule" in ZooSettings(model="cct2").zoo_config().to_json()["recipe"]


@pytest.mark.slow
def test_a_tiny_one_learns_and_is_stitched(tmp_path, monkeypatch):
    """Digits of 8 x 8: far above chance in a few epochs; a full stitch costs less than one of rank 1."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        model="cct2",
        width=16,
        image_size=8,
        epochs=8,
        learning_rate=1e-2,
        seeds="2",
        pairs="1",
        families="full,rank1",
        stitch_epochs=2,
        train_size=960,
        test_size=200,
    )
    main(settings)
    (out,) = (tmp_path / "runs" / "stitch").iterdir()
    rows = files.read_csv(out / "results.csv")
    assert set(rows.layer) == {"block1", "block2"} and set(rows.family) == {"full", "rank1"}
    assert (rows.clean_accuracy > 70).all()
    penalty = rows.set_index(["layer", "family"]).penalty
    for layer in ("block1", "block2"):
        assert penalty[layer, "full"] + 10 < penalty[layer, "rank1"]
    (folder,) = (tmp_path / "runs" / "zoo").iterdir()
    metrics = zoo.load(folder).metrics
    assert (metrics.groupby("seed").loss.last() < 0.5 * metrics.groupby("seed").loss.first()).all()


@pytest.mark.slow
def test_what_is_dropped_is_part_of_training():
    """A member trains differently where attention weights and branches are dropped."""
    from symjax.data.dataset import Split
    from symjax.training import create_state, pad_batches, train_epoch
    from symjax.training.loop import TrainData

    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 255, (16, 8, 8, 3)).astype(np.uint8), (np.arange(16) % 10).astype(np.int32))
    data = TrainData(split.images, split.labels, np.zeros(3), np.full(3, 255.0), pad_batches(split, 8))
    recipe = Recipe(epochs=2, batch_size=8, flip=False, translate=0)
    trained = []
    for options in ({}, {"attention_dropout": 0.0, "stochastic_depth": 0.0}):
        network = models.create("cct2", width=8, image_size=8, **options)

        @jax.jit
        def run(data, network=network):
            return train_epoch(network, recipe, create_state(network, recipe, 2, jnp.int32(0)), data)[0].member

        trained += [run(data)] if options else [run(data), run(data)]
    first, again, without = (jax.tree.leaves(member) for member in trained)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, without, strict=True))
