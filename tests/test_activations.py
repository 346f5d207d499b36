"""Files of activations: formats, names, order, IDs, damaged and missing files, and what is read."""

import json
import struct
import sys

import ml_dtypes
import numpy as np
import pytest

from symjax import InputError
from symjax.activations import Activations, align, load

RNG = np.random.default_rng(0)
ARRAYS = {name: RNG.normal(size=(5, 3)).astype(np.float32) for name in ("relu2", "relu10")}
IDS = np.array(["e", "d", "c", "b", "a"])


def write(path):
    """Write ARRAYS and IDs in the format of the suffix."""
    if path.suffix == ".npz":
        np.savez(path, **ARRAYS, ids=IDS)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file({**ARRAYS, "ids": np.arange(5)}, path)
    elif path.suffix in (".h5", ".hdf5"):
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in {**ARRAYS, "ids": IDS.astype("S1")}.items():
                file[name] = array
    else:
        path.mkdir()
        for name, array in {**ARRAYS, "ids": IDS}.items():
            np.save(path / f"{name}.npy", array)
        (path / "notes.txt").write_text("not a layer")
    return path


@pytest.mark.parametrize("name", ["folder", "a.npz", "a.safetensors", "a.h5", "a.hdf5"])
def test_arrays_are_read_as_written(name, tmp_path):
    activations = load(write(tmp_path / name))
    assert list(activations) == ["relu2", "relu10"] and len(activations) == 2
    assert activations.ids.tolist() == (list(range(5)) if name == "a.safetensors" else IDS.tolist())
    for layer, array in ARRAYS.items():
        assert activations[layer].dtype == np.float32
        np.testing.assert_array_equal(activations[layer], array)
    one = load(tmp_path / name, layers=["relu10"], ids=range(5)).take([4, 0])
    assert list(one) == ["relu10"] and one.ids.tolist() == [4, 0]
    np.testing.assert_array_equal(one["relu10"], ARRAYS["relu10"][[4, 0]])


def test_a_file_is_mapped_and_not_read(tmp_path):
    np.save(tmp_path / "conv1.npy", ARRAYS["relu2"])
    activations = load(tmp_path / "conv1.npy")
    assert list(activations) == ["conv1"] and activations.ids is None
    assert isinstance(activations["conv1"], np.memmap)


def test_batches_of_files(tmp_path):
    for name, array in ARRAYS.items():
        np.save(tmp_path / f"{name}.npy", array)
    activations = load(tmp_path)
    batches = list(activations.batches(2))
    for name, array in ARRAYS.items():
        assert [len(batch[name]) for batch in batches] == [len(array[i : i + 2]) for i in range(0, len(array), 2)]
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), array)
    assert isinstance(batches[0]["relu2"], np.memmap)
    (batch,) = activations.take([2, 0]).batches()
    np.testing.assert_array_equal(batch["relu2"], ARRAYS["relu2"][[2, 0]])
    with pytest.raises(InputError, match="size: got 0"):
        next(activations.batches(0))


def test_files_with_several_layers_in_a_folder(tmp_path):
    np.savez(tmp_path / "block1.npz", **ARRAYS, ids=IDS)
    np.savez(tmp_path / "block2.npz", only=ARRAYS["relu2"], ids=IDS)
    np.save(tmp_path / "ids.npy", IDS)
    activations = load(tmp_path)
    assert list(activations) == ["block1/relu2", "block1/relu10", "block2"] and activations.ids.tolist() == list(IDS)
    np.savez(tmp_path / "block2.npz", only=ARRAYS["relu2"], ids=IDS[::-1])
    with pytest.raises(InputError, match="^path: got other IDs in block2.npz than in block1.npz of .*same examples"):
        load(tmp_path)
    assert load(tmp_path, ids=IDS).ids.tolist() == list(IDS)


def test_half_precision(tmp_path):
    array = ARRAYS["relu2"].astype(ml_dtypes.bfloat16)
    np.save(tmp_path / "b.npy", array)  # as two bytes of unknown type
    np.savez(tmp_path / "c.npz", b=array)
    for name in ("b.npy", "c.npz"):
        read = load(tmp_path / name)["b"]
        assert read.dtype == ml_dtypes.bfloat16 and (read == array).all()


def test_half_precision_of_safetensors(tmp_path):
    """The file is written here, byte by byte, in the published format: the size of the header, the header, the data."""
    pytest.importorskip("safetensors")
    array = ARRAYS["relu2"].astype(ml_dtypes.bfloat16)
    header = json.dumps({"relu1": {"dtype": "BF16", "shape": array.shape, "data_offsets": [0, array.nbytes]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + array.tobytes())
    read = load(tmp_path / "a.safetensors")["relu1"]
    assert read.dtype == ml_dtypes.bfloat16 and (read == array).all()


@pytest.mark.parametrize("package", ["safetensors", "h5py"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / {"safetensors": "a.safetensors", "h5py": "a.h5"}[package]
    path.touch()
    with pytest.raises(InputError, match=f"^path: got .*, which needs the package {package}, .*pip install {package}"):
        load(path)


def test_mistakes(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "bad.npz").write_bytes(b"PK")
    (tmp_path / "bad.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "labels.npz", labels=np.arange(5), relu1=ARRAYS["relu2"], ids=IDS[:4])
    np.savez(tmp_path / "floats.npz", relu1=ARRAYS["relu2"], ids=np.ones(5))
    (tmp_path / "empty").mkdir()
    twice = write(tmp_path / "twice")
    np.savez(twice / "relu2.npz", x=ARRAYS["relu2"])
    for wrong, path, options in [
        ("^path: got .*none, which does not exist", "none", {}),
        ("^path: got .*a.csv, expected a folder or a file .npy, .npz", "a.csv", {}),
        ("^path: got .*empty, which holds no layer", "empty", {}),
        ("^path: got .*bad.npz, which cannot be read .*, expected a .npz file", "bad.npz", {}),
        ("^path: got .*bad.npy, which cannot be read .*, expected a .npy file", "bad.npy", {}),
        ("^path: got .*objects.npy, which cannot be read .*, expected a .npy file", "objects.npy", {}),
        ("^path: got two files of the layer 'relu2'", "twice", {}),
        ("^layers: got 'relu7', expected one of 'labels', 'relu1'", "labels.npz", {"layers": ["relu7"]}),
        ("ids: got float64.5., expected integers or strings", "floats.npz", {}),
    ]:
        with pytest.raises(InputError, match=wrong):
            load(tmp_path / path, **options)
    labels = load(tmp_path / "labels.npz")
    with pytest.raises(InputError, match=r"labels.npz\['labels'\]: got shape \(5,\), expected .*`layers` selects"):
        labels["labels"]
    with pytest.raises(InputError, match="got 5 examples, expected 4, one for each ID"):
        labels["relu1"]
    with pytest.raises(InputError, match="got 5 examples, expected more than 7"):
        Activations(ARRAYS, rows=[7])["relu2"]
    with pytest.raises(InputError, match="^readers: got 5 examples with IDs, expected more than 7, a row of `rows`"):
        Activations(ARRAYS, IDS, [0, 7])
    for array, message in (
        (1j * ARRAYS["relu2"], "complex64, expected real numbers"),
        (ARRAYS["relu2"].astype(str), "<U.*, expected real numbers"),
        (np.ma.masked_less(ARRAYS["relu2"], 1), "masked entries, expected none"),
    ):
        with pytest.raises(InputError, match=rf"^readers\['x'\]: got {message}"):
            Activations({"x": array})["x"]


def test_unequal_ids_are_an_error_that_names_the_first_one():
    a, b = Activations(ARRAYS, IDS), Activations(ARRAYS, ["e", "d", "x", "y", "a"])
    assert align({"a": a, "b": ARRAYS})["b"]["relu2"] is ARRAYS["relu2"]  # unknown IDs
    assert align({"a": a, "b": a}, ids={"b": list(IDS)})["b"].ids.tolist() == IDS.tolist()
    with pytest.raises(InputError, match="^ids: got 'x' at example 2 of 'b', expected 'c', as in 'a'; join='inner'"):
        align({"a": a, "b": b})
    with pytest.raises(InputError, match="^ids: got no example at example 3 of 'b', expected 'b', as in 'a'"):
        align({"a": a, "b": a.take([0, 1, 2])})
    with pytest.raises(InputError, match="^ids: got 0 at example 0 of 'b', expected 'e'"):
        align({"a": a, "b": Activations(ARRAYS, range(5))})


def test_inner_join():
    a = Activations(ARRAYS, IDS)
    joined = align({"a": a, "b": a.take([4, 2, 0])}, join="inner")
    for activations in joined.values():
        assert activations.ids.tolist() == ["e", "c", "a"]
        np.testing.assert_array_equal(activations["relu10"], ARRAYS["relu10"][[0, 2, 4]])
    with pytest.raises(InputError, match="^ids: got none for 'b', expected IDs of all sets"):
        align({"a": a, "b": ARRAYS}, join="inner")
    with pytest.raises(InputError, match="^ids: got .*'e'.* twice in 'b'"):
        align({"a": a, "b": a.take([0, 0])}, join="inner")
    with pytest.raises(InputError, match="^ids: got no ID that is in all sets"):
        align({"a": a, "b": Activations(ARRAYS, list("vwxyz"))}, join="inner")
    with pytest.raises(InputError, match="^join: got 'outer'"):
        align({"a": a}, join="outer")
