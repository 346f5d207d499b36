"""Any inputs and targets: mappings, user loaders, and data sets without images."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.data import Dataset, Split, augment, describe, describe_shapes, load, normalize, statistics
from symjax.data.dataset import Source, with_augmentation
from symjax.data.splitting import PUBLISHED_STATISTICS
from symjax.errors import InputError

RNG = np.random.default_rng(0)
CLASSES = {"y_train": np.arange(20) % 3, "y_test": np.arange(6) % 3}
KEEP = {"normalize": False}


def mapping(shape, dtype=np.float32, **changes):
    """Return normally distributed floats or integers up to 1000: 20 training and 6 test examples."""
    draw = RNG.normal if np.dtype(dtype).kind == "f" else lambda size: RNG.integers(0, 1000, size)
    return (
        {f"x_{part}": draw(size=(n, *shape)).astype(dtype) for part, n in (("train", 20), ("test", 6))}
        | CLASSES
        | changes
    )


def pixels(shape, dtype=np.uint8, **changes):
    return mapping(shape, np.uint8, **changes) | {
        f"x_{part}": RNG.integers(0, 256, (n, *shape)).astype(dtype) for part, n in (("train", 20), ("test", 6))
    }


INPUTS = {
    "one number": (mapping(()), (), "float32"),
    "features": (mapping((5,)), (5,), "float32"),
    "float64": (mapping((5,), np.float64), (5,), "float32"),
    "float16": (mapping((5,), np.float16), (5,), "float16"),
    "tokens": (mapping((7,), np.int64), (7,), "int32"),
    "tokens of uint16": (mapping((7,), np.uint16), (7,), "uint16"),
    "bytes": (pixels((7,)), (7,), "uint8"),
    "videos": (pixels((2, 4, 4, 3)), (2, 4, 4, 3), "uint8"),
    "sequences": (mapping((6, 4)) | KEEP, (6, 4), "float32"),
    "sequences of tokens": (mapping((6, 6), int) | KEEP, (6, 6), "int32"),
    "float images": (mapping((4, 4, 3)) | KEEP, (4, 4, 3), "float32"),
    "maps": (mapping((4, 4, 9)) | KEEP, (4, 4, 9), "float32"),
    "images as they are": (pixels((4, 4, 3)) | KEEP, (4, 4, 3), "uint8"),
}


@pytest.mark.parametrize(("arrays", "shape", "dtype"), INPUTS.values(), ids=INPUTS)
def test_inputs_that_stay_as_they_are(arrays, shape, dtype):
    data = load(arrays, validation=0.25)
    assert (data.name, data.example_shape, str(data.input_dtype), data.num_classes) == ("arrays", shape, dtype, 3)
    assert data.mean is None and data.std is None
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 5, 6)
    np.testing.assert_array_equal(data.test.images, arrays["x_test"].astype(dtype))
    assert normalize(data.test.images, data.mean, data.std).dtype == data.input_dtype
    image = len(shape) == 3
    assert (data.image_size, data.channels) == ((4, shape[-1]) if image else (None, None))


@pytest.mark.parametrize("form", [np.asarray, jnp.asarray, lambda x: x.tolist()])
def test_a_mapping_is_read_as_an_npz_file(form, tmp_path):
    arrays = pixels((4, 4, 3))
    np.savez(tmp_path / "arrays.npz", **arrays)
    expected, data = load(tmp_path / "arrays.npz"), load({key: form(value) for key, value in arrays.items()})
    assert describe(data) == describe(expected)
    np.testing.assert_array_equal(data.test.images, expected.test.images)
    assert data.mean.shape == (3,) and data.train.labels.dtype == np.int32


def test_options_in_an_npz_file(tmp_path):
    arrays = mapping((6, 4), y_train=np.ones((20, 2)), y_test=np.ones((6, 2)))
    np.savez(tmp_path / "mine.npz", **arrays, normalize=False, class_names=np.array([], str), more=1)
    data = load(tmp_path / "mine.npz")
    assert (data.example_shape, data.num_classes, data.train.labels.shape) == ((6, 4), None, (18, 2))


def test_bfloat16():
    arrays = pixels((4, 4, 1), np.float32)
    arrays |= {key: jnp.asarray(arrays[key] / 256, jnp.bfloat16) for key in ("x_train", "x_test")}
    kept = load(arrays | KEEP)
    assert kept.input_dtype == jnp.bfloat16 and len(describe(kept)["digest"]) == 16
    expected = load(arrays | {key: np.asarray(arrays[key], np.float32) for key in ("x_train", "x_test")})
    np.testing.assert_array_equal(load(arrays).test.images, expected.test.images)


def test_oblong_images():
    arrays = pixels((4, 6, 3))
    data = load(arrays)
    assert (data.example_shape, data.image_size, data.channels, data.mean.shape) == ((4, 6, 3), None, 3, (3,))
    assert load(arrays, image_size=5).image_size == 5
    gray = {key: value[..., 0] if key[0] == "x" else value for key, value in arrays.items()}
    assert load(gray | {"normalize": True}).example_shape == (4, 6, 1)
    assert load(gray, image_size=5).example_shape == (5, 5, 1)


def test_given_class_names():
    data = load(mapping((5,), class_names=["a", "b", "c", "d"]))
    assert (data.num_classes, data.class_names) == (4, tuple("abcd"))
    np.testing.assert_array_equal(data.test.labels, CLASSES["y_test"])
    at_positions = {"y_train": np.arange(60).reshape(20, 3) % 4, "y_test": np.arange(18).reshape(6, 3) % 4}
    data = load(mapping((3,), int, class_names=["a", "b", "c", "d"], **at_positions))
    np.testing.assert_array_equal(data.test.labels, at_positions["y_test"])
    assert (data.num_classes, data.test.labels.dtype) == (4, np.int32)


@pytest.mark.parametrize(
    ("shape", "dtype", "held"), [((), np.float64, "float32"), ((2, 3), np.float32, "float32"), ((7,), int, "int32")]
)
def test_targets_that_are_no_classes(shape, dtype, held):
    targets = {f"y_{part}": RNG.normal(size=(n, *shape)).astype(dtype) for part, n in (("train", 20), ("test", 6))}
    data = load(mapping((5,), class_names=(), **targets), train_size=4, test_size=2)
    assert (data.num_classes, data.class_names, data.train.labels.shape) == (None, (), (4, *shape))
    assert str(data.test.labels.dtype) == held and len(data.test) == 2
    assert describe_shapes(data) | {"example_shape": [5], "classes": None, "target_shape": list(shape)} == (
        describe_shapes(data)
    )


def with_value(value, shape=(5,), dtype=np.float32):
    arrays = mapping(shape, dtype)
    arrays["x_test"] = arrays["x_test"].copy()
    arrays["x_test"].flat[0] = value
    return arrays


REFUSED = {
    "a key less": ({"x_train": np.ones(3)}, r"y_train, x_test, y_test: got only \['x_train'\], expected all of"),
    "a key more": (mapping((5,), normalise=False), "normalise: got an unknown key, expected x_train, .*normalize"),
    "normalize": (mapping((5,), normalize="no"), "normalize: got 'no', expected True or False"),
    "normalize no images": (mapping((5,), normalize=True), r"x_train: got shape \(20, 5\), expected images"),
    "class names": (mapping((5,), class_names="abc"), "class_names: got 'abc', expected a sequence of names"),
    "too few names": (mapping((5,), class_names=["a"]), "labels: got 0 to 2, expected 0 to 0"),
    "gray or sequences": (
        mapping((6, 4)),
        r"x_train: got shape \(20, 6, 4\), which may be images or .*normalize=False",
    ),
    "float images": (mapping((4, 4, 3)), "x_train: got floats up to .*; or normalize=False"),
    "16 bits": (mapping((4, 4, 1), np.uint16), r"x_train: got values up to 9\d\d, expected values in 0..255; or norm"),
    "maps": (mapping((4, 4, 9)), r"x_train: got shape .*1 to 4 channels on the last axis, or normalize=False"),
    "NaN": (with_value(np.nan), "x_test: got NaN or infinite"),
    "infinite": (with_value(np.inf, (4, 4)) | KEEP, "x_test: got NaN or infinite"),
    "too large": (
        with_value(1e300, dtype=np.float64),
        "x_test: got values out of range, expected values that float32 can hold",
    ),
    "huge tokens": (
        with_value(2**40, dtype=int),
        "x_test: got integers from .* to 1099511627776, expected values that int32",
    ),
    "two types": (
        mapping((5,), x_test=np.ones((6, 5), int)),
        "x_test: got dtype int32, expected that of x_train, float32",
    ),
    "two shapes": (
        mapping((5,), x_test=np.ones((6, 4))),
        r"x_test: got examples of shape \(4,\), expected that of x_train",
    ),
    "masked": (mapping((5,), x_test=np.ma.masked_all((6, 5))), "x_test: got masked entries"),
    "truth values": (mapping((5,), x_train=np.ones((20, 5), bool)), "x_train: got dtype bool.*integers or floats"),
    "text": (mapping((5,), x_train=["a"] * 20), "x_train: got dtype <U1"),
    "no array": (mapping((5,), x_train={}), "x_train: got {}, expected an array|x_train: got dtype object"),
    "one number": (mapping((5,), y_train=3), r"y_train: got dtype int64, shape \(\)"),
    "lengths": (mapping((5,), y_test=np.zeros(5, int)), "x_test: got 6 inputs for 5 targets"),
    "nothing": (mapping((5,), x_test=np.ones((0, 5))), "x_test: got no values"),
    "float targets": (mapping((5,), y_train=np.ones(20)), r"y_train: got dtype float64, expected .*class_names=\(\)"),
    "token targets": (mapping((5,), y_train=np.ones((20, 7), int)), r"y_train: got shape .*class_names=\(\)"),
    "targets of two shapes": (
        mapping((5,), class_names=(), y_train=np.ones((20, 2)), y_test=np.ones(6)),
        r"y_test: got examples of shape \(\), expected that of y_train, \(2,\)",
    ),
}


@pytest.mark.parametrize(("arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_mappings(arrays, message):
    with pytest.raises(InputError, match=message):
        load(arrays)


def test_traced_arrays_are_refused():
    with pytest.raises(InputError, match="x_train: got a traced value"):
        jax.jit(lambda x: load(mapping((5,), x_train=x)).train.images)(jnp.ones((20, 5)))


def test_only_images_are_resized():
    with pytest.raises(InputError, match=r"image_size: got 8 for inputs float32\[20, 5\], expected uint8 images"):
        load(mapping((5,)), image_size=8)
    assert load(mapping((4, 4, 3)) | KEEP, image_size=4).image_size == 4


# --- a Dataset and loaders ---


def own_dataset(**changes):
    data = load(pixels((4, 4, 3)), validation=0.25)
    return dataclasses.replace(data, name="own", mean=np.ones(3, np.float32), std=np.ones(3, np.float32), **changes)


def test_a_dataset_keeps_its_parts_and_statistics():
    own = own_dataset()
    data = load(own, train_size=4, test_size=2, image_size=6, validation=0.5)
    assert (data.name, len(data.train), len(data.validation), len(data.test), data.image_size) == ("own", 4, 5, 2, 6)
    np.testing.assert_array_equal(data.mean, own.mean)
    np.testing.assert_array_equal(load(own, train_size=4).train.images, own.train.images[:4])
    np.testing.assert_array_equal(load(own).test.images, own.test.images)
    with pytest.raises(
        InputError, match="train_size: got 16, expected 1 to 15, the number of training examples of 'own'"
    ):
        load(own, train_size=16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to a folder that is not on the module path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("mine", None)
    sys.modules.pop("mine.sets", None)


def test_a_loader_in_the_current_folder(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "sets.py").write_text(
        "import numpy as np\n"
        "def tokens(seed, image_size=None, other=3):\n"
        "    y = np.arange(8) % 2\n"
        "    return {'x_train': np.full((8, 3), seed), 'y_train': y, 'x_test': np.full((8, 3), other), 'y_test': y}\n"
    )
    data = load("mine.sets:tokens", seed=5)
    assert (data.name, data.num_classes, data.example_shape) == ("mine.sets:tokens", 2, (3,))
    assert (data.train.images == 5).all() and (data.test.images == 3).all()


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", made)
    return made


def test_loaders_return_datasets_and_sources_too(module):
    arrays = pixels((4, 4, 3))
    split = Split(arrays["x_train"], arrays["y_train"])
    module.dataset = own_dataset
    module.source = lambda: Source("raw", split, split, ("a", "b", "c"))
    module.sized = lambda image_size=None: pixels((image_size, image_size, 1))
    assert load("mine:dataset").name == "own"
    assert load("mine:source", image_size=3).image_size == 3 and load("mine:source").mean.shape == (3,)
    assert load("mine:sized", image_size=7).image_size == 7


def test_refused_loaders(module):
    module.count = 3
    module.path = lambda path: None
    module.list = lambda: [1]
    module.bad = lambda: mapping((5,), y_train=np.ones(3, int))
    for name, message in {
        "nowhere.sets:load": "name: got 'nowhere.sets:load', and nowhere.sets cannot be imported .*current folder",
        "mine:nothing": "name: got 'mine:nothing', expected an attribute of mine, which has no nothing",
        "mine:count": "name: got mine:count, which is 3, expected a function",
        "mine:path": "name: got mine:path, which cannot be called .*'path'.*expected a function .*image_size and seed",
        "mine:list": r"name: got \[1\] from mine:list, expected a Dataset, or a mapping",
        "mine:bad": "name: mine:bad, x_train: got 20 inputs for 3 targets",
    }.items():
        with pytest.raises(InputError, match=message):
            load(name)


def test_an_error_inside_of_a_loader_is_shown_as_it_is(module):
    module.load = lambda: {}["missing"]
    with pytest.raises(KeyError, match="missing"):
        load("mine:load")


def test_published_statistics_are_for_images_of_as_many_channels():
    split = Split(np.zeros((9, 2, 2, 1), np.uint8), np.zeros(9, int))
    data = load(Source("cifar10", split, split, ("a",)))
    assert "cifar10" in PUBLISHED_STATISTICS and data.mean.tolist() == [0]


# --- what a Dataset refuses, and what is done to its inputs ---


def test_inconsistent_datasets():
    data = load(mapping((5,)))
    other = Split(np.ones((2, 4)), np.zeros(2, int))
    for changes, message in (
        ({"test": other}, r"images: got float32\[2, 4\], expected as in train, float32\[18, 5\]"),
        ({"test": Split(np.ones((2, 5), int), np.zeros(2, int))}, r"images: got int32\[2, 5\]"),
        ({"test": Split(np.ones((2, 5)), np.zeros((2, 1)))}, r"labels: got float32\[2, 1\], expected as in train"),
        ({"mean": np.ones(5)}, "mean, std: got only one of them"),
        ({"mean": np.ones(3), "std": np.ones(3)}, r"mean: got .* for \(5,\) channels"),
        ({"flip": True}, r"flip, translate: got flip=True, translate=0 for float32\[18, 5\], expected uint8 images"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(data, **changes)
    floats = Split(np.ones((2, 5)), np.ones(2))
    with pytest.raises(InputError, match=r"labels: got float32\[2\], expected integers .*class_names=\(\)"):
        Dataset("mine", floats, floats, floats, ("a", "b"), None, None)


@dataclasses.dataclass(frozen=True)
class Augmented:
    flip: bool | None = None
    translate: int | None = None


def test_augmentation_is_for_uint8_images():
    data = load(mapping((4, 4, 3)) | KEEP)
    assert with_augmentation(Augmented(), data) == Augmented(False, 0)
    with pytest.raises(InputError, match=r"flip, translate: got flip=False, translate=2 for float32\[18, 4, 4, 3\]"):
        with_augmentation(Augmented(translate=2), data)
    assert with_augmentation(Augmented(True), load(pixels((4, 6, 3)))) == Augmented(True, 0)


def test_without_statistics_and_augmentation_inputs_pass_unchanged():
    tokens = jnp.arange(6).reshape(2, 3)
    assert normalize(tokens, None, None) is tokens
    assert statistics(None, None, (3,)) == [None, None]
    assert augment(jax.random.key(0), tokens, flip=False, translate=0) is tokens
    with pytest.raises(InputError, match="mean: got"):
        normalize(tokens, None, 1.0)


# --- identity ---


def test_descriptions_of_images_are_those_of_stored_zoos():
    expected = {"name": "digits", "image_size": 16, "channels": 1, "classes": 10}
    expected |= {"train_images": 1212, "validation_images": 135, "digest": "589fb3084b81ff4e"}
    assert describe(load("digits")) == expected


def test_descriptions_of_other_inputs():
    arrays = mapping((5,))
    data = load(arrays)
    described = describe(data)
    assert json.loads(json.dumps(described)) == described
    assert {
        "example_shape": [5],
        "input_dtype": "float32",
        "classes": 3,
        "train_images": 18,
    }.items() <= described.items()
    assert "image_size" not in described
    arrays["x_train"] = arrays["x_train"] + 1
    assert describe(load(arrays))["digest"] != described["digest"]
    assert describe_shapes(load(pixels((4, 6, 3))))["example_shape"] == [4, 6, 3]
