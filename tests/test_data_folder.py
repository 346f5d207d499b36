"""Image data sets in folders of the user."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from symjax.data import load
from symjax.data.resize import resize
from symjax.errors import InputError

RNG = np.random.default_rng(0)


def picture(height=4, width=4, channels=3):
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def save(path, image, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(image.squeeze())
    (made.convert(mode) if mode else made).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Write two classes of three training images and one test image; return the images by their paths."""
    monkeypatch.setenv("SYMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 3), ("test", 1)):
        for name in ("dog", "cat"):
            for i in range(count):
                save(tmp_path / "pets" / part / name / f"{i}.png", picture())
    return tmp_path / "pets"


def read(root, part, name):
    return np.stack([np.asarray(Image.open(path)) for path in sorted((root / part / name).iterdir())])


def test_classes_are_folders_in_sorted_order(root):
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / ".hidden").mkdir()
    data = load(root, validation=0)
    assert (data.name, data.class_names, data.example_shape, data.input_dtype) == (
        "pets",
        ("cat", "dog"),
        (4, 4, 3),
        "u1",
    )
    assert len(data.train) == 6 and data.mean.shape == (3,)
    for label, name in enumerate(data.class_names):
        np.testing.assert_array_equal(data.test.images[data.test.labels == label], read(root, "test", name))
    (root / "train" / "cat" / "notes.txt").unlink()
    cats = data.train.images[data.train.labels == 0]
    assert sorted(map(bytes, cats)) == sorted(map(bytes, read(root, "train", "cat")))


def test_jpeg_and_palettes_and_resizing(root):
    save(root / "train" / "cat" / "4.JPG", picture(6, 9))
    save(root / "train" / "dog" / "5.jpeg", picture(3, 5))
    save(root / "test" / "dog" / "6.png", picture(), "P")
    save(root / "test" / "dog" / "7.png", picture(channels=1))
    save(root / "test" / "dog" / "8.png", picture(channels=4))
    with pytest.raises(
        InputError, match=r"image_size: got none for .*train, with images of \(4, 4\) and \(6, 9\) pixels"
    ):
        load(root)
    data = load(root, image_size=5, validation=0)
    assert data.train.images.shape == (8, 5, 5, 3) and data.test.images.shape == (5, 5, 5, 3)
    np.testing.assert_array_equal(data.test.images[0], resize(read(root, "test", "cat"), 5)[0])


def test_gray_and_oblong_images(root):
    for path in root.rglob("*.png"):
        save(path, picture(4, 6, 1))
    data = load(root)
    assert (data.example_shape, data.image_size) == ((4, 6, 1), None)
    save(root / "test" / "dog" / "0.png", picture(4, 6))  # one in color
    assert load(root).example_shape == (4, 6, 3)


def test_later_calls_read_the_cache_until_a_file_changes(root, monkeypatch):
    images = load(root).test.images
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        np.testing.assert_array_equal(load(root).test.images, images)
    save(root / "test" / "cat" / "1.png", picture())
    assert len(load(root).test) == 3


def test_names_of_folders(root, monkeypatch):
    for name in ("pets", "./pets", str(root), pathlib.Path("pets")):
        assert load(name).name == "pets"
    monkeypatch.chdir(root)
    assert load(".").name == "pets"
    prepared = root.parent / "tfds" / "pets" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    monkeypatch.chdir(root.parent)
    with pytest.raises(InputError, match="can read"):  # that of tensorflow_datasets, which is not whole
        load("pets")
    assert load("./pets").name == load(pathlib.Path("pets")).name == "pets"


def test_a_class_without_test_images(root):
    (root / "test" / "cat" / "0.png").unlink()
    assert load(root).num_classes == 2 and load(root).test.labels.tolist() == [1]


def refused(root, message):
    with pytest.raises(InputError, match=message):
        load(root)


def test_folders_that_are_not_cut_into_parts(root):
    refused(
        root / "train",
        "train without a folder 'train', expected images in .*/train/<class>/ and .*/test/<class>/, .png",
    )
    (root / "test").rename(root / "validation")
    refused(root, "without a folder 'test'")


def test_folders_without_images(root):
    (root / "train" / "eel").mkdir()
    refused(root, "train with folders without images: eel, expected")
    (root / "train" / "eel").rmdir()
    (root / "test" / "eel").mkdir()
    save(root / "test" / "eel" / "0.png", picture())
    refused(root, r"with classes \['eel'\] in test only, expected classes of train: \['cat', 'dog'\]")
    for path in (root / "test").rglob("*.png"):
        path.unlink()
    refused(root, "test with no folders with images")


def test_folders_that_cannot_be_read(root, monkeypatch):
    def denied(path):
        raise PermissionError(f"Permission denied: {path}")

    monkeypatch.setattr(pathlib.Path, "iterdir", denied)
    refused(root, "name: got .*pets, which cannot be read .Permission denied")


def test_files_that_are_no_images(root):
    (root / "train" / "cat" / "0.png").write_bytes(b"hello")
    refused(root, "cat/0.png, expected an image that Pillow can read")
    path = root / "train" / "cat" / "0.png"
    save(path, picture(40, 40))
    path.write_bytes(path.read_bytes()[:-500])
    refused(root, "cat/0.png, expected an image that Pillow can read")
    Image.fromarray(RNG.integers(0, 2**16, (4, 4)).astype(np.uint16)).save(path)
    refused(root, "cat/0.png of mode I;16, expected 8 bits per channel")
