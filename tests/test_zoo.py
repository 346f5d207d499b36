"""Zoos: members are independent of each other, of the devices and of the execution; arguments."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_models  # noqa: F401
from zoo_helpers import CONFIG, DATASET, SEEDS, assert_close, split, train, trained_reference

from symjax import zoo
from symjax.data.dataset import Source
from symjax.data.splitting import build
from symjax.errors import InputError
from symjax.ops.parallel import Execution
from symjax.training import Recipe
from symjax.zoo import ZooConfig


@pytest.fixture
def reference():
    return trained_reference()[0]


# --- training ---


def test_a_zoo_learns_and_its_metrics_are_complete(reference):
    assert (len(reference), reference.seeds) == (4, SEEDS)
    assert list(reference.metrics.columns) == ["seed", "epoch", "loss", "accuracy", "validation_accuracy"]
    assert reference.metrics.seed.tolist() == np.repeat(SEEDS, 3).tolist()
    assert reference.metrics.epoch.tolist() == [1, 2, 3] * 4
    first, last = (reference.metrics[reference.metrics.epoch == epoch] for epoch in (1, 3))
    assert last.loss.mean() < first.loss.mean()
    assert reference.validation_accuracy.tolist() == last.validation_accuracy.tolist()


def test_test_accuracy_is_counted_over_examples(reference):
    accuracies = zoo.test_accuracy(reference, DATASET)
    images = (DATASET.test.images.astype(np.float32) - DATASET.mean) / DATASET.std
    for seed, accuracy in zip(SEEDS, accuracies, strict=True):
        logits = jax.jit(reference.network.apply)(reference.member(seed), images)
        assert accuracy == pytest.approx(np.mean(np.argmax(logits, -1) == DATASET.test.labels))
    assert accuracies.shape == (4,) and accuracies.mean() > 0.4


def test_a_member_depends_only_on_its_seed(reference, tmp_path):
    alone = train(tmp_path, [3])
    assert_close(alone.member(3), reference.member(3))
    np.testing.assert_allclose(
        alone.metrics.loss, reference.metrics.loss[reference.metrics.seed == 3], atol=1e-4, rtol=1e-4
    )
    leaves = zip(*(jax.tree.leaves(reference.member(seed)) for seed in (2, 3)), strict=True)
    assert np.median([np.abs(a - b).max() for a, b in leaves]) > 0.05


@pytest.mark.slow
def test_two_devices_and_uneven_numbers_are_one_device(reference, tmp_path):
    spread = train(tmp_path, (2, 0, 3), devices=jax.devices()[:2])
    assert spread.seeds == (2, 0, 3)
    for seed in spread.seeds:
        assert_close(spread.member(seed), reference.member(seed))


@pytest.mark.slow
@pytest.mark.parametrize("members", ["vmap", "map"])
@pytest.mark.parametrize("conv", ["native", "matmul"])
def test_every_execution_trains_alike(reference, tmp_path, members, conv):
    other = train(tmp_path, (1, 3), execution=Execution(members=members, conv=conv))
    for seed in (1, 3):
        assert_close(other.member(seed), reference.member(seed), atol=1e-3)


def test_a_diverged_member_is_reported(tmp_path, capsys):
    diverged = train(tmp_path, [7], dataset=dataclasses.replace(DATASET, std=np.full(1, 1e-38, np.float32)))
    assert diverged.metrics.loss.isna().tolist() == [True] * 3
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0] == "warning: the loss of seed 7 became NaN in epoch 1"
    assert len(warnings) == 2  # once when it happens, once when the zoo is loaded
    zoo.load(tmp_path)
    assert "seeds 7 became NaN" in capsys.readouterr().err


# --- arguments ---


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [1.0], [True], ["1"], [2**31]], ids=str)
def test_bad_seeds(seeds, tmp_path):
    with pytest.raises(InputError, match="seeds: got"):
        train(tmp_path / "a", seeds)
    assert not (tmp_path / "a").exists()


def test_bad_sizes_leave_no_folder(tmp_path):
    source = Source("stripes", split(40, 0), split(25, 1), ("a", "b", "c"))
    whole = build(source, validation=0.0, train_size=None, test_size=None, seed=0)
    with pytest.raises(InputError, match="validation: .*without validation images"):
        train(tmp_path / "a", dataset=whole)
    with pytest.raises(InputError, match="batch_size: got 33, expected at most 32, the number of training examples"):
        train(tmp_path / "a", config=ZooConfig("stripes", "tiny", recipe=Recipe(batch_size=33)))
    with pytest.raises(InputError, match=r"image_size: got 8, expected a size that fits deep"):
        train(tmp_path / "a", config=ZooConfig("stripes", "deep", recipe=CONFIG.recipe))
    with pytest.raises(InputError, match="precision: got 'float8'"):
        ZooConfig(precision="float8")
    with pytest.raises(InputError, match="model: got 'perceptron', expected one of .*mcnn"):
        ZooConfig(model="perceptron")
    assert not (tmp_path / "a").exists()


def test_config_goes_to_json_and_back():
    assert ZooConfig.from_json(CONFIG.to_json()) == CONFIG
    assert CONFIG.width == 2
    assert ZooConfig("stripes", "tiny", width=2, recipe=CONFIG.recipe).fingerprint == CONFIG.fingerprint
    assert ZooConfig("stripes", "tiny", width=3, recipe=CONFIG.recipe).fingerprint != CONFIG.fingerprint
    with pytest.raises(InputError, match="got color besides the fields of ZooConfig"):
        ZooConfig.from_json({**CONFIG.to_json(), "color": 1})
