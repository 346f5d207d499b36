"""Loading, splitting and resizing of image data sets."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from symjax.data import load
from symjax.data.dataset import Source, Split
from symjax.data.digits import _read
from symjax.data.resize import resize
from symjax.data.splitting import PUBLISHED_STATISTICS, build, split_indices
from symjax.errors import InputError


def numbered_source(n=200, name="numbers"):
    """Return a source whose training image i is filled with the value i, so that images are identifiable."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3)).copy()
    labels = (np.arange(n) % 10).astype(np.int32)
    split = Split(images, labels)
    return Source(name, split, Split(images[:50], labels[:50]), tuple("abcdefghij"))


def identities(split):
    return split.images[:, 0, 0, 0].tolist()


DEFAULTS = {"validation": 0.1, "train_size": None, "test_size": None, "seed": 0}


def test_import_is_light():
    code = (
        "import sys, symjax.data;"
        "print([m for m in ('tensorflow_datasets', 'tensorflow', 'sklearn', 'PIL') if m in sys.modules])"
    )
    project = pathlib.Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1347])
@pytest.mark.parametrize("validation", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_two_parts_are_disjoint_and_together_everything(n, validation, seed):
    train, held_out = split_indices(n, validation, seed)
    assert len(held_out) == round(validation * n)
    assert sorted([*train, *held_out]) == list(range(n))


def test_split_is_the_same_everywhere():
    # Published results name this split: it may never change.
    assert split_indices(10, 0.3, 0)[1].tolist() == [2, 8, 4]


def test_validation_does_not_depend_on_the_other_sizes():
    whole = build(numbered_source(), **DEFAULTS)
    small = build(numbered_source(), **DEFAULTS | {"train_size": 30, "test_size": 7})
    assert identities(small.validation) == identities(whole.validation)
    assert identities(small.train) == identities(whole.train)[:30]
    assert not set(identities(whole.train)) & set(identities(whole.validation))
    assert (len(whole.train), len(whole.validation), len(small.test)) == (180, 20, 7)


def test_labels_stay_with_their_images():
    data = build(numbered_source(), **DEFAULTS | {"test_size": 20})
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0] % 10, split.labels)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32


def test_smaller_test_is_prefix_of_larger_and_seeds_differ():
    tests = [build(numbered_source(), **DEFAULTS | {"test_size": k}).test for k in (5, 40, 50)]
    assert identities(tests[0]) == identities(tests[1])[:5] == identities(tests[2])[:5]
    other = build(numbered_source(), **DEFAULTS | {"seed": 1})
    assert identities(other.validation) != identities(build(numbered_source(), **DEFAULTS).validation)


def test_whole_test_part_is_in_the_sources_order():
    assert identities(build(numbered_source(), **DEFAULTS).test) == list(range(50))


def test_statistics_are_those_of_the_training_part():
    data = build(numbered_source(), **DEFAULTS)
    pixels = data.train.images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-6)
    assert data.mean.dtype == data.std.dtype == np.float32
    whole = numbered_source().train.images.reshape(-1, 3).astype(np.float64)
    assert not np.allclose(data.mean, whole.mean(0))


def test_published_statistics_win():
    data = build(numbered_source(name="cifar10"), **DEFAULTS)
    np.testing.assert_allclose(data.mean, PUBLISHED_STATISTICS["cifar10"][0], rtol=1e-6)
    np.testing.assert_allclose(data.std, PUBLISHED_STATISTICS["cifar10"][1], rtol=1e-6)


def test_constant_channel_has_unit_std():
    split = Split(np.full((10, 2, 2, 1), 7, np.uint8), np.zeros(10, np.int32))
    data = build(Source("gray", split, split, ("a",)), **DEFAULTS)
    assert data.mean.tolist() == [7] and data.std.tolist() == [1]


def test_splits_are_read_only_but_the_given_arrays_are_not():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32)
    split = Split(images, labels)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 1
    images[0] = 1


def test_masked_and_other_images_are_no_split():
    images, labels = np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32)
    with pytest.raises(InputError, match="images: got masked entries"):
        Split(np.ma.array(images, mask=images == 0), labels)
    with pytest.raises(InputError, match="labels: got masked entries"):
        Split(images, np.ma.array(labels, mask=[True, False]))
    for wrong in (images.astype(bool), images.astype(str), images * 1j, np.uint8(3), images.astype("M8[s]")):
        with pytest.raises(InputError, match=r"images: got dtype .*expected integers or floats of shape \(n, ...\)"):
            Split(wrong, labels)
    with pytest.raises(InputError, match="images, labels: got 2 and 1"):
        Split(images, labels[:1])


def test_labels_are_positions_in_class_names():
    split = Split(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 500_000], np.int32))
    with pytest.raises(InputError, match="labels: got 0 to 500000, expected 0 to 1"):
        build(Source("gaps", split, split, ("a", "b")), **DEFAULTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 1.0}, r"validation: got 1.0, expected a fraction"),
        ({"validation": -0.1}, r"validation: got -0.1"),
        ({"validation": float("nan")}, r"validation: got nan"),
        ({"validation": "0.1"}, r"validation: got '0.1' \(str\), expected a number"),
        ({"validation": 0.999}, r"examples left to train on"),
        ({"train_size": 181}, r"train_size: got 181, expected 1 to 180"),
        ({"train_size": 0}, r"train_size: got 0"),
        ({"train_size": 2.0}, r"train_size: got 2.0 \(float\), expected an integer"),
        ({"test_size": 51}, r"test_size: got 51, expected 1 to 50"),
        ({"test_size": True}, r"test_size: got True"),
        ({"seed": -1}, r"seed: got -1"),
        ({"seed": None}, r"seed: got None"),
    ],
)
def test_bad_sizes(change, message):
    with pytest.raises(InputError, match=message):
        build(numbered_source(), **DEFAULTS | change)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "16"])
def test_bad_image_size(size):
    with pytest.raises(InputError, match="image_size"):
        load("digits", image_size=size)


@pytest.mark.parametrize("name", ["", None, 3])
def test_bad_name(name):
    with pytest.raises(InputError, match="name: got"):
        load(name)


def test_digits():
    data = load("digits")
    assert (data.name, data.num_classes, data.image_size, data.channels) == ("digits", 10, 16, 1)
    assert data.class_names == tuple("0123456789")
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert 0.24 < len(data.test) / 1797 < 0.26
    assert data.train.images.max() == 255 and data.train.images.min() == 0
    counts = np.bincount(data.test.labels)
    assert counts.min() >= 43 and counts.max() <= 46
    np.testing.assert_array_equal(load("digits", seed=3).test.images, data.test.images)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    pixels, labels = _read()
    np.testing.assert_array_equal(pixels, load_digits().data)
    np.testing.assert_array_equal(labels, load_digits().target)


def test_digits_without_enlarging():
    data = load("digits", image_size=8, validation=0)
    assert data.train.images.shape[1:] == (8, 8, 1) and len(data.validation) == 0


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="scikit-learn"):
        load("digits")


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 16), ((32, 32), 12), ((5, 9), 7), ((1, 1), 3), ((30, 40), 16)])
def test_resize_agrees_with_jax(shape, size):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape, 2), np.uint8)
    expected = jax.image.resize(images.astype(np.float32), (3, size, size, 2), "linear")
    got = resize(images, size)
    assert got.dtype == np.uint8
    assert np.abs(got - np.asarray(expected)).max() <= 0.501


def test_resize_in_several_chunks_and_of_nothing():
    images = np.random.default_rng(0).integers(0, 256, (1025, 2, 2, 1), np.uint8)
    np.testing.assert_array_equal(resize(images, 3)[1020:], resize(images[1020:], 3))
    assert resize(images, 2) is images
    assert resize(images[:0], 3).shape == (0, 3, 3, 1)
