"""Data sets prepared by tensorflow_datasets: small ones written here, and CIFAR-10 if available."""

import io
import json
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

from PIL import Image

from symjax.data import load, prepared
from symjax.errors import InputError

_FEATURES = "tensorflow_datasets.core.features"


def image_feature(shape=(8, 8, 3), dtype="uint8", encoding="png"):
    dimensions = ["-1" if d is None else str(d) for d in shape]
    return {
        "image": {"dtype": dtype, "encodingFormat": encoding, "shape": {"dimensions": dimensions}},
        "pythonClassName": f"{_FEATURES}.image_feature.Image",
    }


def label_feature(classes=3):
    return {
        "classLabel": {"numClasses": str(classes)},
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
    }


def encode(image, encoding):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, encoding)
    return file.getvalue()


def some_images(n=24, shape=(8, 8, 3), seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8))


def prepare(
    folder, splits, features=None, names=("cat", "dog", "eel"), encoding="png", supervised=None, keys=("image", "label")
):
    """Write a data set as tensorflow_datasets does; `splits` is {name: (images, labels)}."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder.mkdir(parents=True)
    set_name = folder.parent.name
    for split, (images, labels) in splits.items():
        path = folder / f"{set_name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image, label in zip(images, labels, strict=True):
            example = tf_example_pb2.Example()
            data = image if isinstance(image, bytes) else encode(image, encoding)
            example.features.feature[keys[0]].bytes_list.value.append(data)
            example.features.feature[keys[1]].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
    features = features or {keys[0]: image_feature(encoding=encoding), keys[1]: label_feature(len(names))}
    (folder / "features.json").write_text(
        json.dumps(
            {"featuresDict": {"features": features}, "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict"}
        )
    )
    (folder / f"{keys[1]}.labels.txt").write_text("\n".join(names) + "\n")
    info = {
        "fileFormat": "array_record",
        "moduleName": "__main__",
        "name": set_name,
        "version": folder.name,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(images))],
            }
            for split, (images, _) in splits.items()
        ],
    }
    if supervised:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in supervised]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))


LABELS = [i % 3 for i in range(24)]
TRAIN, TEST = (some_images(), LABELS), (some_images(seed=1)[:9], LABELS[:9])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Set up an empty tensorflow_datasets folder and an empty cache, without a network."""

    def no_network(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, no_network)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("SYMJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "tfds"


def test_a_set_of_ones_own(root):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    data = load("zoo", validation=0.25)
    assert (data.name, data.class_names, data.image_size, data.channels) == ("zoo", ("cat", "dog", "eel"), 8, 3)
    assert (len(data.train), len(data.validation)) == (18, 6)
    np.testing.assert_array_equal(data.test.images, TEST[0])
    np.testing.assert_array_equal(data.test.labels, TEST[1])
    assert data.test.labels.dtype == np.int32


def test_second_load_decodes_nothing(root, monkeypatch):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    first = load("zoo")
    monkeypatch.setattr(prepared, "_decode_all", None)
    second = load("zoo", seed=0)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, part).images, getattr(second, part).images)
        np.testing.assert_array_equal(getattr(first, part).labels, getattr(second, part).labels)
    assert second.class_names == first.class_names


def test_a_changed_set_is_decoded_again(root):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    load("zoo")
    shutil.rmtree(root / "zoo")
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TRAIN})
    assert len(load("zoo").test) == 24


def test_cache_dir_and_data_dir_arguments(root, tmp_path):
    prepare(tmp_path / "elsewhere" / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    load("zoo", data_dir=tmp_path / "elsewhere", cache_dir=tmp_path / "mine")
    assert len(os.listdir(tmp_path / "mine")) == 1 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("encoding", "channels"), [("png", 1), ("png", 3), ("png", 4), ("jpeg", 1), ("jpeg", 3)])
def test_encodings_and_channels(root, encoding, channels):
    # Smooth images, so that JPEG keeps them nearly as they are.
    ramp = np.add.outer(np.arange(8), np.arange(8))[..., None] * 10 + np.arange(channels) * 20
    images = [(ramp + i).astype(np.uint8) for i in range(24)]
    features = {"image": image_feature((8, 8, channels), encoding=encoding), "label": label_feature()}
    prepare(root / "zoo" / "1.0.0", {"train": (images, LABELS), "test": (images, LABELS)}, features, encoding=encoding)
    data = load("zoo")
    assert data.channels == channels
    difference = np.abs(data.test.images.astype(int) - np.stack(images))
    assert difference.max() <= (0 if encoding == "png" else 40)
    for image, original in zip(data.test.images, images, strict=True):
        expected = Image.open(io.BytesIO(encode(original, encoding)))
        np.testing.assert_array_equal(image.squeeze(), np.asarray(expected))


def test_decoding_agrees_with_pillow():
    image = some_images(1, (32, 24, 3))[0]
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}, {"optimize": True}):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", **options)
        np.testing.assert_array_equal(prepared._decode_image(file.getvalue(), 3), np.asarray(Image.open(file)))


def test_other_keys_are_found(root):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST}, keys=("photo", "animal"))
    np.testing.assert_array_equal(load("zoo").test.images, TEST[0])


def test_supervised_pair_decides_between_keys(root):
    features = {"image": image_feature(), "label": label_feature(), "other": label_feature(), "mask": image_feature()}
    splits = {"train": TRAIN, "test": TEST}
    prepare(root / "zoo" / "1.0.0", splits, features, supervised=("image", "label"))
    assert load("zoo").class_names == ("cat", "dog", "eel")
    prepare(root / "ark" / "1.0.0", splits, features)
    with pytest.raises(InputError, match=r"\['image', 'mask'\] and the class labels \['label', 'other'\]"):
        load("ark")


def test_validation_stands_in_for_test(root):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "validation": TEST})
    np.testing.assert_array_equal(load("zoo").test.images, TEST[0])


def test_images_of_several_sizes(root):
    images = [*some_images(12, (6, 9, 3)), *some_images(12, (12, 8, 3))]
    features = {"image": image_feature((None, None, 3)), "label": label_feature()}
    prepare(root / "zoo" / "1.0.0", {"train": (images, LABELS), "test": (images, LABELS)}, features)
    with pytest.raises(InputError, match="image_size: got none for"):
        load("zoo")
    data = load("zoo", image_size=5)
    assert data.test.images.shape == (24, 5, 5, 3)
    np.testing.assert_array_equal(load("zoo", image_size=5).test.images, data.test.images)
    assert load("zoo", image_size=4).image_size == 4  # another entry


def test_oblong_images(root):
    images = (some_images(24, (6, 9, 3)), LABELS)
    features = {"image": image_feature((6, 9, 3)), "label": label_feature()}
    prepare(root / "zoo" / "1.0.0", {"train": images, "test": images}, features)
    data = load("zoo")
    assert (data.example_shape, data.image_size, data.channels) == ((6, 9, 3), None, 3)
    np.testing.assert_array_equal(data.test.images, images[0])


def test_newest_version_and_named_version(root):
    for version, n in (("1.0.0", 3), ("1.9.0", 6), ("1.10.0", 9)):
        prepare(root / "zoo" / version, {"train": TRAIN, "test": (TEST[0][:n], TEST[1][:n])})
    (root / "zoo" / "2.0.0.incompleteABC").mkdir()
    (root / "zoo" / "3.0.0").mkdir()
    assert len(load("zoo").test) == 9
    assert len(load("zoo:1.0.0").test) == 3
    with pytest.raises(InputError, match=r"expected a version in .*: 1.0.0, 1.9.0, 1.10.0"):
        load("zoo:4.0.0")


def test_configurations(root):
    prepare(root / "zoo" / "big" / "1.0.0", {"train": TRAIN, "test": TEST})
    assert load("zoo").name == load("zoo/big").name == load("zoo/big:1.0.0").name == "zoo"
    prepare(root / "zoo" / "small" / "1.0.0", {"train": TRAIN, "test": TEST})
    with pytest.raises(InputError, match="zoo/big, zoo/small"):
        load("zoo")


def change_records(folder):
    path = next(folder.glob("*-test.array_record*"))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x89PNG") + 40
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)


def cut_records(folder):
    path = next(folder.glob("*-test.array_record*"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_records(folder):
    next(folder.glob("*-test.array_record*")).unlink()


def cut_features(folder):
    path = folder / "features.json"
    path.write_text(path.read_text()[:-20])


BROKEN = {
    "no train": ({"test": TEST}, {}, None, r"with the splits \['test'\], expected 'train'"),
    "no test": ({"train": TRAIN}, {}, None, r"with the splits \['train'\]"),
    "withheld labels": ({"train": TRAIN, "test": (TEST[0], [-1] * 9)}, {}, None, "with labels -1..-1 in 'test'"),
    "no label": ({"train": TRAIN, "test": TEST}, {"features": {"image": image_feature()}}, None, "class labels \\[\\]"),
    "float images": (
        {"train": TRAIN, "test": TEST},
        {"features": {"image": image_feature((8, 8, 1), "float32"), "label": label_feature()}},
        None,
        "images of float32",
    ),
    "not an image": (
        {"train": TRAIN, "test": ([b"nonsense"] * 9, TEST[1])},
        {},
        None,
        "damaged between examples 0 and 8",
    ),
    "changed records": ({"train": TRAIN, "test": TEST}, {}, change_records, "damaged"),
    "records cut short": ({"train": TRAIN, "test": TEST}, {}, cut_records, "damaged"),
    "no records": ({"train": TRAIN, "test": TEST}, {}, remove_records, "damaged"),
    "damaged features": ({"train": TRAIN, "test": TEST}, {}, cut_features, "can read"),
}


@pytest.mark.parametrize(("splits", "options", "damage", "message"), BROKEN.values(), ids=BROKEN)
def test_sets_that_cannot_be_used(root, splits, options, damage, message):
    prepare(root / "zoo" / "1.0.0", splits, **options)
    if damage:
        damage(root / "zoo" / "1.0.0")
    with pytest.raises(InputError, match=message) as caught:
        load("zoo")
    assert "'zoo'" in str(caught.value)


def test_absent_set(root):
    before = time.monotonic()
    with pytest.raises(InputError) as caught:
        load("mnist")
    assert time.monotonic() - before < 10
    message = str(caught.value)
    assert "'mnist'" in message and str(root) in message and "TFDS_DATA_DIR" in message
    assert "tfds.builder('mnist', file_format='array_record').download_and_prepare()" in message
    assert not root.exists()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("cifarr10", "Did you mean 'cifar10'"),
        ("digit", "'digits'"),
        ("zo", "'zoo'"),
        ("hugging face:mnist", "expected 'digits'"),
        ("what ever", "expected 'digits'"),
        ("../zoo", "expected 'digits'"),
        ("mine.npy", "a path ending in .npz"),
    ],
)
def test_unknown_names(root, name, hint):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    with pytest.raises(InputError) as caught:
        load(name)
    assert repr(name) in str(caught.value) and hint in str(caught.value) and ": zoo;" in str(caught.value)


def test_unknown_name_without_tensorflow_datasets(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match="expected 'digits'"):
        load("mnist")
    prepare_without = root / "zoo" / "1.0.0"
    prepare_without.mkdir(parents=True)
    (prepare_without / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        load("zoo")


def test_nothing_is_printed_and_logging_is_left_alone(root):
    prepare(root / "zoo" / "1.0.0", {"train": TRAIN, "test": TEST})
    code = "from symjax.data import load; load('zoo')"
    project = str(pathlib.Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([project, *sys.path])}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == result.stderr == ""
    level = logging.getLogger("absl").level
    load("zoo", image_size=3)
    assert logging.getLogger("absl").level == level


CIFAR = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "/nonexistent"))
needs_cifar = pytest.mark.skipif(
    not list(CIFAR.glob("cifar10/*/dataset_info.json")), reason="needs CIFAR-10, prepared, in TFDS_DATA_DIR"
)


@pytest.fixture(scope="module")
def cifar_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    load("cifar10", cache_dir=folder)
    return folder


@needs_cifar
@pytest.mark.slow
def test_cifar10(cifar_cache):
    before = time.monotonic()
    data = load("cifar10", cache_dir=cifar_cache)
    assert time.monotonic() - before < 5  # 0.3 s on an idle machine
    assert data.train.images.shape == (45_000, 32, 32, 3) and data.validation.images.shape == (5_000, 32, 32, 3)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert data.class_names[:3] == ("airplane", "automobile", "bird") and data.num_classes == 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    labels = np.concatenate([data.train.labels, data.validation.labels])
    assert np.bincount(labels).tolist() == [5000] * 10
    # The published means are those of the whole training set; these images went through JPEG.
    pixels = data.train.images.reshape(-1, 3)
    np.testing.assert_allclose(pixels.mean(0, dtype=np.float64), data.mean, atol=0.5)


@needs_cifar
@pytest.mark.slow
def test_cifar10_decodes_as_tensorflow_datasets_does(cifar_cache):
    import tensorflow_datasets as tfds

    data = load("cifar10", cache_dir=cifar_cache)
    with prepared._quiet():
        examples = tfds.data_source("cifar10", split="test", data_dir=CIFAR)
        for i in range(0, 10_000, 97):
            np.testing.assert_array_equal(data.test.images[i], examples[i]["image"])
            assert data.test.labels[i] == examples[i]["label"]
