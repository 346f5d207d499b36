"""Representations of members: features at stitch points, and images of the right range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from align_helpers import EXAMPLES
from stitch_helpers import SEEDS, trained

from symjax.errors import InputError
from symjax.representations import representations


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_representations_are_the_features_of_each_member(batch_size):
    dataset, zoo = trained()
    images = dataset.test.images[:EXAMPLES]
    result = representations(zoo, images, dataset.mean, dataset.std, layers="relu2", batch_size=batch_size)
    assert list(result) == ["relu2"] and result["relu2"].shape[:2] == (len(SEEDS), EXAMPLES)
    normalized = (images - dataset.mean) / dataset.std
    features = jax.jit(lambda member: zoo.network.features(member, np.float32(normalized), ["relu2"])["relu2"])
    for i, seed in enumerate(SEEDS):
        expected = features(zoo.member(seed))
        np.testing.assert_allclose(result["relu2"][i], expected, rtol=1e-5, atol=1e-5)


def test_representations_of_nothing_are_an_error():
    dataset, zoo = trained()
    for images, options, named in (
        (dataset.test.images[:0], {}, "images"),
        (dataset.test.images[0], {}, "images"),
        (dataset.test.images, {"layers": "relu9"}, "relu9"),
        (dataset.test.images, {"batch_size": 0}, "batch_size"),
    ):
        with pytest.raises(InputError, match=named):
            representations(zoo, images, dataset.mean, dataset.std, **options)


def test_images_of_another_range_than_the_networks_are_an_error():
    dataset, zoo = trained()
    images, mean, std = dataset.test.images[:4], dataset.mean, dataset.std
    good = representations(zoo, images, mean, std, layers="relu1")["relu1"]
    in_units = representations(zoo, images / 255, mean / 255, std / 255, layers="relu1")["relu1"]
    np.testing.assert_allclose(in_units, good, rtol=1e-4, atol=1e-5)
    normalized = (images - mean) / std
    for bad, *statistics in (
        (images / 255, mean, std),
        (np.float32(images / 255 + 0.01), mean, std),
        (normalized, mean, std),
        (normalized.astype(jnp.bfloat16), mean, std),
        (images, mean / 255, std / 255),
        (images * 1.0, mean / 255, std / 255),
        (normalized - normalized.max(), mean / 255, std / 255 / 10),
    ):
        with pytest.raises(InputError, match="images: got values from .* not in the units of mean and std"):
            representations(zoo, bad, *statistics)
    plain = representations(zoo, normalized, np.zeros(1), np.ones(1), layers="relu1")["relu1"]  # not normalized again
    np.testing.assert_allclose(plain, good, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0, 1, 0.5, 200.0])
def test_images_of_one_value_are_of_any_range(value):
    dataset, zoo = trained()
    representations(zoo, np.full((2, 8, 8, 1), value), dataset.mean, dataset.std, layers="relu1")
