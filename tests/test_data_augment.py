"""Normalization and augmentation on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.settings import ZooSettings
from symjax.data import augment as eager_augment
from symjax.data import load, normalize
from symjax.data.dataset import AUGMENTATION, with_augmentation
from symjax.errors import InputError
from symjax.stitching import FitConfig
from symjax.training import Recipe
from symjax.zoo import ZooConfig

KEY = jax.random.key(0)
augment = jax.jit(eager_augment, static_argnames=("flip", "translate"))


def noise(n=64, height=6, width=5, channels=3):
    return np.random.default_rng(0).normal(size=(n, height, width, channels)).astype(np.float32)


def moved(image, down, right, fill):
    """Shift an image with NumPy, pixel by pixel."""
    out = np.empty_like(image)
    height, width, _ = image.shape
    for i in range(height):
        for j in range(width):
            inside = 0 <= i - down < height and 0 <= j - right < width
            out[i, j] = image[i - down, j - right] if inside else fill
    return out


def recognize(image, result, translate, flip, fill):
    """Return all (down, right, mirrored) that turn `image` into `result`."""
    span = range(-translate, translate + 1)
    candidates = [(d, r, f) for d in span for r in span for f in ((False, True) if flip else (False,))]
    matches = []
    for d, r, f in candidates:
        shifted = moved(image, d, r, fill)
        if np.array_equal(shifted[:, ::-1] if f else shifted, result):
            matches.append((d, r, f))
    return matches


def test_each_image_is_a_shift_and_a_mirror_image_of_itself():
    images, fill = noise(), np.array([1.0, 2.0, 3.0], np.float32)
    results = np.asarray(augment(KEY, images, fill=fill))
    matches = [recognize(image, result, 2, True, fill) for image, result in zip(images, results, strict=True)]
    assert all(len(one) == 1 for one in matches)
    assert {one[0][2] for one in matches} == {False, True}


def test_flip_only():
    images = noise()
    results = np.asarray(augment(KEY, images, translate=0))
    same = [np.array_equal(a, b) for a, b in zip(images, results, strict=True)]
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, results, strict=True)]
    assert all(np.logical_xor(same, mirrored))
    assert 16 < sum(same) < 48


def test_translate_only_covers_all_shifts_evenly():
    n, t = 4000, 2
    # One bright pixel in the middle: its place is the shift.
    images = np.zeros((n, 7, 7, 1), np.float32)
    images[:, 3, 3] = 1
    results = np.asarray(augment(KEY, images, flip=False, translate=t))
    rows, columns = np.argmax(results.sum((2, 3)), 1) - 3, np.argmax(results.sum((1, 3)), 1) - 3
    counts = np.zeros((2 * t + 1, 2 * t + 1))
    np.add.at(counts, (rows + t, columns + t), 1)
    expected = n / counts.size
    assert np.sum((counts - expected) ** 2 / expected) < 60  # chi-squared, 24 degrees of freedom: p < 1e-4


def test_flips_and_shifts_are_independent_of_each_other():
    n = 4000
    images = np.zeros((n, 5, 9, 1), np.float32)
    images[:, 2, 2] = 1  # left of the middle: its side tells the flip
    columns = np.argmax(np.asarray(augment(KEY, images, translate=1)).sum((1, 3)), 1)
    counts = np.bincount(columns, minlength=9)
    assert counts[[0, 4, 8]].sum() == 0
    np.testing.assert_allclose(counts[[1, 2, 3, 5, 6, 7]], n / 6, rtol=0.15)


def test_translation_larger_than_the_image():
    images = noise(200, 2, 2, 1)
    results = np.asarray(augment(KEY, images, flip=False, translate=3, fill=9.0))
    assert all(recognize(a, b, 3, False, 9.0) for a, b in zip(images, results, strict=True))


def test_key_decides():
    images = noise()
    np.testing.assert_array_equal(augment(KEY, images), augment(KEY, images))
    assert not np.array_equal(augment(KEY, images), augment(jax.random.key(1), images))


def test_nothing_to_do_is_the_identity():
    images = noise()
    np.testing.assert_array_equal(augment(KEY, images, flip=False, translate=0), images)


def test_constant_images_of_the_fill_value_stay():
    fill = np.array([1.0, -2.0, 0.5], np.float32)
    images = np.broadcast_to(fill, (8, 5, 5, 3))
    np.testing.assert_array_equal(augment(KEY, images, fill=fill), images)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.uint8])
def test_dtype_stays_under_jit_and_strict_promotion(dtype):
    images = jnp.asarray(noise() * 20 + 100).astype(dtype)
    fill = np.array([125.3, 123.0, 113.9], np.float32)
    with jax.numpy_dtype_promotion("strict"):
        result = augment(KEY, images, fill=fill)
    assert result.dtype == dtype and result.shape == images.shape


def test_jit_changes_nothing():
    np.testing.assert_array_equal(augment(KEY, noise()), eager_augment(KEY, noise()))


def test_vmap_over_seeds_is_each_seed_alone():
    images, keys = noise(8), jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(augment, in_axes=(0, None)))(keys, images)
    for key, result in zip(keys, together, strict=True):
        np.testing.assert_array_equal(result, augment(key, images))


@pytest.mark.parametrize("translate", [-1, 1.5, True, None])
def test_bad_translate(translate):
    with pytest.raises(InputError, match="translate: got"):
        eager_augment(KEY, noise(), translate=translate)


def test_bad_images():
    with pytest.raises(InputError, match=r"images: got shape \(6, 5, 3\)"):
        augment(KEY, noise()[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_normalize(dtype, tolerance):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3), np.uint8)
    mean, std = np.array([125.3, 123.0, 113.9], np.float32), np.array([51.6, 50.8, 51.3], np.float32)
    with jax.numpy_dtype_promotion("strict"):
        result = jax.jit(normalize, static_argnames="dtype")(images, mean, std, dtype=dtype)
    assert result.dtype == dtype
    expected = (images.astype(np.float64) - mean) / std
    np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


def test_normalized_training_part_has_mean_0_and_std_1():
    data = load("digits")
    x = np.asarray(normalize(data.train.images, data.mean, data.std), np.float64)
    assert abs(x.mean()) < 1e-5 and abs(x.std() - 1) < 1e-5


# --- which sets ask for it ---


def test_data_sets_ask_for_augmentation_and_own_data_do_not(tmp_path):
    images = np.zeros((30, 8, 8, 3), np.uint8)
    path = tmp_path / "cifar10.npz"
    np.savez(path, x_train=images, y_train=np.arange(30) % 3, x_test=images, y_test=np.arange(30) % 3)
    digits, own = load("digits"), load(path)
    assert (digits.flip, digits.translate, own.flip, own.translate) == (False, 1, False, 0)
    assert AUGMENTATION["cifar10"] == AUGMENTATION["cifar100"] == {"flip": True, "translate": 2}
    for unset in (Recipe(), FitConfig()):
        for dataset in (digits, own):
            resolved = with_augmentation(unset, dataset)
            assert (resolved.flip, resolved.translate) == (dataset.flip, dataset.translate)
        chosen = dataclasses.replace(unset, flip=True, translate=3)
        assert with_augmentation(chosen, own) is chosen
        assert with_augmentation(dataclasses.replace(unset, translate=3), own).flip is False
    asking = dataclasses.replace(own, flip=True, translate=2)
    assert ZooConfig("own.npz").document(asking)["recipe"]["flip"] is True
    assert ZooConfig("own.npz").document(own)["recipe"]["translate"] == 0


def test_commands_ask_as_data_sets_do():
    def recipe(dataset, **flags):
        chosen = ZooSettings(dataset=dataset, **flags).zoo_config().recipe
        return chosen.flip, chosen.translate

    assert recipe("digits") == (False, 1) and recipe("cifar10") == recipe("cifar100:3.0.2") == (True, 2)
    assert recipe("digits/own.npz") == recipe("svhn_cropped") == (False, 0)
    assert recipe("own.npz", flip=True, translate=4) == (True, 4)


@pytest.mark.parametrize("wrong", [{"flip": 1}, {"translate": -1}, {"translate": None}, {"flip": None}])
def test_bad_augmentation_of_a_data_set(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        dataclasses.replace(load("digits"), **wrong)
