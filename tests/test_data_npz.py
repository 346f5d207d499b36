"""Image data sets in .npz files of the user."""

import numpy as np
import pytest

from symjax.data import load
from symjax.errors import InputError

RNG = np.random.default_rng(0)
GOOD = {
    "x_train": RNG.integers(0, 256, (30, 8, 8, 3), np.uint8),
    "y_train": (np.arange(30) % 3).astype(np.uint8),
    "x_test": RNG.integers(0, 256, (12, 8, 8, 3), np.uint8),
    "y_test": (np.arange(12) % 3).astype(np.uint8),
}


def save(folder, **changes):
    path = folder / "mine.npz"
    np.savez(path, **{key: value for key, value in (GOOD | changes).items() if value is not None})
    return path


def floats(**changes):
    """Return images in 0..1, with a few pixels of one part changed to a value."""
    parts = {key: GOOD[key] / 255 for key in ("x_train", "x_test")}
    for key, value in changes.items():
        parts[key][0, :2, 0, 0] = value
    return parts


def by_label(split):
    return sorted(map(bytes, split.images))


def test_good_file(tmp_path):
    data = load(save(tmp_path), validation=0)
    assert (data.name, data.num_classes, data.image_size, data.channels) == ("mine", 3, 8, 3)
    np.testing.assert_array_equal(data.test.images, GOOD["x_test"])
    np.testing.assert_array_equal(data.test.labels, GOOD["y_test"])
    assert by_label(data.train) == sorted(map(bytes, GOOD["x_train"]))
    assert data.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "changes",
    [
        {key: GOOD[key] / 255 for key in ("x_train", "x_test")},
        {key: (GOOD[key] / 255).astype(np.float32) for key in ("x_train", "x_test")},
        {key: GOOD[key].astype(np.float32) for key in ("x_train", "x_test")},
        {key: GOOD[key].astype(np.int64) for key in ("x_train", "x_test")},
        {"y_train": GOOD["y_train"][:, None], "y_test": GOOD["y_test"].astype(np.int64)[:, None]},
    ],
    ids=["float64 in 0..1", "float32 in 0..1", "float32 in 0..255", "int64", "labels (n, 1)"],
)
def test_equivalent_forms(tmp_path, changes):
    expected = load(save(tmp_path))
    got = load(save(tmp_path, **changes))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(got, part).images, getattr(expected, part).images)
        np.testing.assert_array_equal(getattr(got, part).labels, getattr(expected, part).labels)
        assert getattr(got, part).images.dtype == np.uint8 and getattr(got, part).labels.dtype == np.int32


def test_gray_images_get_a_channel_axis(tmp_path):
    data = load(save(tmp_path, x_train=GOOD["x_train"][..., 0], x_test=GOOD["x_test"][..., 0]))
    assert data.train.images.shape[1:] == (8, 8, 1)


def test_oblong_images_are_resized_when_asked(tmp_path):
    path = save(tmp_path, x_train=GOOD["x_train"][:, :6], x_test=GOOD["x_test"][:, :6])
    assert load(path, image_size=5).train.images.shape[1:] == (5, 5, 3)
    data = load(path)
    assert (data.example_shape, data.image_size, data.channels) == ((6, 8, 3), None, 3)


def with_nan():
    x = GOOD["x_train"].astype(np.float32)
    x[3, 0, 0, 0] = np.nan
    return {"x_train": x, "x_test": GOOD["x_test"].astype(np.float32)}


@pytest.mark.parametrize(("value", "level"), [(1 + 1e-6, 255), (1.0019, 255), (-0.0019, 0), (1.0, 255)])
def test_floats_that_rounding_brought_out_of_range_are_still_in_0_to_1(tmp_path, value, level):
    data = load(save(tmp_path, **floats(x_train=value, x_test=value)), validation=0)
    expected = GOOD["x_test"].copy()
    expected[0, :2, 0, 0] = level
    np.testing.assert_array_equal(data.test.images, expected)


def test_dark_floats_in_0_to_255(tmp_path):
    """Most pixels are black; the others determine the value of white."""
    x = np.where(GOOD["x_train"] > 200, GOOD["x_train"], 0)
    data = load(save(tmp_path, x_train=x * 1.0, x_test=GOOD["x_test"] * 1.0), validation=0)
    assert by_label(data.train) == sorted(map(bytes, x))


def test_class_numbers_with_gaps_are_renumbered(tmp_path):
    numbers = np.array([0, 500_000, 1_000_000])
    data = load(save(tmp_path, **{key: numbers[GOOD[key]] for key in ("y_train", "y_test")}), validation=0)
    assert data.class_names == ("0", "500000", "1000000") and data.num_classes == 3
    np.testing.assert_array_equal(data.test.labels, GOOD["y_test"])
    assert data.train.labels.dtype == np.int32


MALFORMED = {
    "no x_test": ({"x_test": None}, "x_test: got only .*expected all of"),
    "no labels": ({"y_test": None, "y_train": None}, "y_train, y_test: got only"),
    "lengths": ({"y_train": GOOD["y_train"][:-1]}, "x_train: got 30 inputs for 29 targets"),
    "rank of images": ({"x_train": GOOD["x_train"][0, 0]}, r"x_train: got shape \(8, 3\)"),
    "rank of labels": ({"y_test": np.eye(12, dtype=int)}, r"y_test: got shape \(12, 12\)"),
    "channels first": ({"x_train": np.zeros((30, 3, 8, 8), np.uint8)}, "x_train: .*1 to 4 channels on the last axis"),
    "NaN": (with_nan(), "x_train: got NaN"),
    "infinite": ({"x_test": np.full((12, 8, 8, 3), np.inf)}, "x_test: got NaN or infinite"),
    "negative pixels": ({"x_test": np.full((12, 8, 8, 3), -1)}, "x_test: got values down to -1"),
    "large pixels": (
        {"x_test": np.full((12, 8, 8, 3), 256)},
        "x_test: got values up to 256, expected values in 0..255",
    ),
    "two float ranges": (
        {"x_train": GOOD["x_train"] / 255, "x_test": GOOD["x_test"] * 1.0},
        r"x_test: got values up to 255, expected values in 0..1, as in x_train",
    ),
    "over 1": (floats(x_train=1.1), r"x_train: got values up to 1.1, expected values in 0..1 \(clip"),
    "over 1 in x_test": (floats(x_test=1.1), "x_test: got values up to 1.1, expected values in 0..1, as in"),
    "under 0": (floats(x_train=-0.1), r"x_train: got values down to -0.1, expected values in 0..1 \(clip"),
    "neither range": (floats(x_train=3.0), r"x_train: got floats up to 3, most .*numpy.clip"),
    "normalized": ({key: GOOD[key] / 51 - 2.5 for key in ("x_train", "x_test")}, "x_train: .*undo a normalization"),
    "two kinds": ({"x_test": GOOD["x_test"] / 255}, "x_test: got dtype float64, expected the kind of x_train"),
    "boolean images": ({"x_train": GOOD["x_train"] > 9}, "x_train: got dtype bool"),
    "text images": ({"x_train": np.array(["a"] * 30)}, "x_train: got dtype <U1"),
    "complex images": ({"x_train": GOOD["x_train"] * 1j}, "x_train: got dtype complex128"),
    "float labels": ({"y_train": GOOD["y_train"] * 1.0}, "y_train: got dtype float64, expected integers"),
    "negative labels": ({"y_train": GOOD["y_train"].astype(int) - 1}, "y_train: got labels from -1 to 1"),
    "huge labels": ({"y_train": GOOD["y_train"].astype(np.int64) + 2**40}, "y_train: got labels from"),
    "unseen labels": ({"y_test": np.full(12, 7)}, r"y_test: got labels that are missing from y_train: \[7\]"),
    "empty train": ({"x_train": GOOD["x_train"][:0], "y_train": GOOD["y_train"][:0]}, "x_train: got no values"),
    "empty labels": ({"y_test": GOOD["y_test"][:0]}, "y_test: got no labels"),
    "no width": ({"x_test": np.zeros((12, 8, 0, 3), np.uint8)}, "x_test: got no values"),
    "other test images": ({"x_test": np.zeros((12, 9, 9, 3), np.uint8)}, r"x_test: got examples of shape \(9, 9, 3\)"),
    "pickled": ({"x_train": np.array([{}] * 30, object)}, "cannot be read .*allow_pickle|cannot be read .*[Oo]bject"),
}


@pytest.mark.parametrize(("changes", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_files(tmp_path, changes, message):
    path = save(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("how", ["absent", "folder", "not a zip", "a bare .npy", "empty", "cut short", "flipped bits"])
def test_unreadable_files(tmp_path, how):
    path = tmp_path / "other.npz"
    whole = save(tmp_path).read_bytes()
    if how == "folder":
        path.mkdir()
    elif how == "a bare .npy":
        with path.open("wb") as file:
            np.save(file, GOOD["x_train"])
    elif how != "absent":
        middle = len(whole) // 4
        damaged = whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 50]) + whole[middle + 50 :]
        path.write_bytes(
            {"not a zip": b"hello", "empty": b"", "cut short": whole[: len(whole) // 2], "flipped bits": damaged}[how]
        )
    with pytest.raises(
        InputError, match="which does not exist" if how in ("absent", "folder") else "cannot be read"
    ) as caught:
        load(str(path))
    assert str(path) in str(caught.value)
