"""Read activations from files: `.npy`, `.npz`, `.safetensors` and HDF5, or folders of these with one file a layer.

Files hold arrays (examples, ...) by name of their layer. An entry or a file named `ids` holds the IDs of the examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symjax import checks
from symjax.activation_files import FORMATS, IDS, readers_of_file, readers_of_folder
from symjax.errors import InputError

__all__ = ["Activations", "align", "load"]


class Activations(Mapping):
    """Arrays (examples, ...) by layer; each use of an array reads it again.

    Args:
      readers: {layer: array, or function without arguments that returns it}.
      ids: IDs of the examples, one for each; None if they are unknown.
      rows: indices of the examples to use, in order; by default all.
      source: where the arrays come from, for messages.

    Raises:
      InputError: a value is neither an array nor a function; a row has no ID. When an array is used: it has other than
        real numbers, fewer than two axes, or another number of examples than `ids`.

    Example:
      >>> import numpy as np
      >>> from symjax.activations import Activations
      >>> layers = Activations({"relu1": np.eye(3)}, ids=["a", "b", "c"], rows=[2, 0])
      >>> list(layers), layers.ids.tolist(), layers["relu1"].tolist()
      (['relu1'], ['c', 'a'], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """

    def __init__(self, readers: Mapping[str, Any], ids: Any = None, rows: Any = None, source: str | None = None):
        if not isinstance(readers, Mapping) or not readers:
            raise InputError(f"readers: got {checks.short(readers)}, expected a mapping from layers to arrays")
        self._source = source or "readers"
        self._readers = {
            layer: reader
            if callable(reader) or isinstance(reader, np.ndarray)
            else checks.array(self._name(layer), reader)
            for layer, reader in readers.items()
        }
        self._all_ids = None if ids is None else _checked_ids(IDS, ids)
        self._rows = None if rows is None else np.array(checks.integers("rows", rows), int)
        if self._all_ids is not None and self._rows is not None and (self._rows >= len(self._all_ids)).any():
            raise InputError(
                f"{self._source}: got {len(self._all_ids)} examples with IDs, expected more than {self._rows.max()}, a "
                "row of `rows`"
            )

    @property
    def ids(self) -> np.ndarray | None:
        """IDs of the examples; None if they are unknown."""
        return self._all_ids if self._all_ids is None or self._rows is None else self._all_ids[self._rows]

    def take(self, rows: Sequence[int]) -> "Activations":
        """Return the activations of these examples."""
        rows = np.array(checks.integers("rows", rows), int)
        return Activations(self._readers, self._all_ids, rows if self._rows is None else self._rows[rows], self._source)

    def batches(self, size: int = 1024) -> Iterator[dict[str, Any]]:
        """Yield {layer: array (at most `size` examples, ...)}, for example for `pairwise_batches`.

        `.npy` files are mapped into memory and not read as a whole; arrays of other files are read once.

        Raises:
          InputError: `size` is not a positive integer, or layers differ in the number of examples.
        """
        size, arrays = checks.integer("size", size, 1), {layer: self._array(layer) for layer in self}
        counts = {layer: len(array) for layer, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"{self._source}: got {counts} examples, expected one number in all layers")
        rows = np.arange(next(iter(counts.values()))) if self._rows is None else self._rows
        for start in range(0, len(rows), size):
            part = slice(start, start + size) if self._rows is None else rows[start : start + size]
            yield {layer: array[part] for layer, array in arrays.items()}

    def __getitem__(self, layer: str):
        array = self._array(layer)
        return array if self._rows is None else array[self._rows]

    def _array(self, layer: str):
        """Return the array of all examples, checked."""
        reader = self._readers[layer]
        name = self._name(layer)
        array = reader() if callable(reader) else reader
        checked = checks.array(name, array)
        array = array if isinstance(array, np.memmap) else checked  # `checked` is a plain view of a file
        shape = array.shape
        if len(shape) < 2:
            hint = "; `layers` selects the entries to read" if callable(reader) else ""
            raise InputError(f"{name}: got shape {shape}, expected (examples, ..., channels){hint}")
        if self._all_ids is not None and len(self._all_ids) != shape[0]:
            raise InputError(f"{name}: got {shape[0]} examples, expected {len(self._all_ids)}, one for each ID")
        if self._all_ids is None and self._rows is not None and len(self._rows) and self._rows.max() >= shape[0]:
            raise InputError(
                f"{name}: got {shape[0]} examples, expected more than {self._rows.max()}, the largest of `rows`"
            )
        return array

    def _name(self, layer: str) -> str:
        return f"{self._source}[{layer!r}]"

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"Activations({', '.join(self)}; {'no' if self.ids is None else len(self.ids)} IDs)"


def load(path: str | Path, *, layers: Sequence[str] | None = None, ids: Sequence | None = None) -> Activations:
    """Open a file or a folder of activations; arrays are read when they are used.

    Args:
      path: a file `.npy` (mapped into memory), `.npz`, `.safetensors` (needs the package safetensors), `.h5` or `.hdf5`
        (needs h5py); or a folder of such files. In a folder, a file with one array is a layer with the name of the
        file, and entries of other files are named file/entry. Layers have the order of an `.npz`; otherwise they are
        sorted by name, "relu2" before "relu10".
      layers: names of the layers, in order; all by default.
      ids: IDs of the examples; by default the entry or the file named "ids" if there is one. All those of a folder must
        be equal.

    Returns:
      `Activations`, a mapping from layers to arrays (examples, ...).

    Raises:
      InputError: the path does not exist, cannot be read, has another suffix, or lacks requested layers or any layer;
        or a package is missing.

    Example:
      >>> import pathlib, tempfile, numpy as np
      >>> from symjax.activations import load
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> for name in ("relu2", "relu10"):
      ...     np.save(folder / f"{name}.npy", np.ones((4, 3)))
      >>> activations = load(folder)
      >>> list(activations), activations["relu10"].shape
      (['relu2', 'relu10'], (4, 3))
    """
    path = checks.path("path", path)
    if not path.exists():
        raise InputError(f"path: got {path}, which does not exist, expected a file or a folder of activations")
    readers = readers_of_folder(path) if path.is_dir() else readers_of_file(path)
    stored = readers.pop(IDS, None)
    if not readers:
        known = ", ".join(FORMATS)
        raise InputError(f"path: got {path}, which holds no layer, expected arrays in files {known}")
    if layers is not None:
        layers = tuple(checks.text("layers", layer) for layer in checks.sequence("layers", layers, "names"))
        if unknown := [layer for layer in layers if layer not in readers]:
            shown = ", ".join(map(repr, list(readers)[:20])) + (", ..." if len(readers) > 20 else "")
            raise InputError(f"layers: got {unknown[0]!r}, expected one of {shown}, those of {path}")
        readers = {layer: readers[layer] for layer in layers}
    if ids is None and stored is not None:
        ids = _checked_ids(f"{path}: ids", stored())
    return Activations(readers, ids, source=str(path))


def align(
    sets: Mapping[Any, Mapping], *, ids: Mapping[Any, Sequence] | None = None, join: str = "equal"
) -> dict[Any, Activations]:
    """Return sets of activations with the same examples in the same order.

    Args:
      sets: {name of the model: {layer: array (examples, ...)}}, such as `Activations`.
      ids: {name of the model: IDs of its examples, or None}, for sets without IDs of their own.
      join: "equal", which requires equal IDs wherever they are known; or "inner", which keeps the examples that all
        sets have, in the order of the first one.

    Raises:
      InputError: IDs differ (the message names the first difference); for "inner", IDs are unknown or repeated, or no
        example is in all sets.

    Example:
      >>> import numpy as np
      >>> from symjax.activations import align
      >>> sets = {"a": {"relu1": np.array([[1], [2], [3]])}, "b": {"relu1": np.array([[30], [10]])}}
      >>> joined = align(sets, ids={"a": [1, 2, 3], "b": [3, 1]}, join="inner")
      >>> joined["a"]["relu1"].tolist(), joined["b"]["relu1"].tolist()
      ([[1], [3]], [[10], [30]])
    """
    if not isinstance(sets, Mapping) or not sets or not all(isinstance(value, Mapping) for value in sets.values()):
        raise InputError(f"sets: got {checks.short(sets)}, expected a mapping from models to mappings of layers")
    checks.one_of("join", join, ("equal", "inner"))
    given = {} if ids is None else ids
    if not isinstance(given, Mapping) or not set(given) <= set(sets):
        raise InputError(f"ids: got {checks.short(ids)}, expected a mapping from models to the IDs of their examples")
    opened = {
        name: value
        if isinstance(value, Activations) and name not in given
        else Activations(value, given.get(name), source=str(name))
        for name, value in sets.items()
    }
    known = {name: value.ids for name, value in opened.items() if value.ids is not None}
    if join == "equal":
        for name in list(known)[1:]:
            _require_equal(next(iter(known)), name, known)
        return opened
    if unknown := [name for name in opened if name not in known]:
        raise InputError(f"ids: got none for {unknown[0]!r}, expected IDs of all sets for join='inner'")
    rows = {name: _row_of_id(name, values) for name, values in known.items()}
    common = [label for label in next(iter(rows.values())) if all(label in row_of for row_of in rows.values())]
    if not common:
        raise InputError("ids: got no ID that is in all sets, expected one or more")
    return {name: value.take([rows[name][label] for label in common]) for name, value in opened.items()}


def _require_equal(first: Any, name: Any, ids: Mapping[Any, np.ndarray]) -> None:
    """Raise an `InputError` that names the first difference of two sets of IDs."""
    left, right = (np.asarray(ids[key], object) for key in (first, name))
    count = min(len(left), len(right))
    differing = np.flatnonzero(left[:count] != right[:count])
    if not len(differing) and len(left) == len(right):
        return
    at = int(differing[0]) if len(differing) else count
    texts = [repr(side[at]) if at < len(side) else "no example" for side in (right, left)]
    raise InputError(
        f"ids: got {texts[0]} at example {at} of {name!r}, expected {texts[1]}, as in {first!r}; join='inner' compares "
        "the examples that all have"
    )


def _row_of_id(name: Any, ids: np.ndarray) -> dict:
    rows = {label: row for row, label in enumerate(ids.tolist())}
    if len(rows) < len(ids):
        labels, counts = np.unique(ids, return_counts=True)
        raise InputError(f"ids: got {labels[counts > 1][0]!r} twice in {name!r}, expected different ones to join")
    return rows


def _checked_ids(name: str, ids: Any) -> np.ndarray:
    """Return IDs as an array (examples,) of integers or strings."""
    ids = np.asarray(ids if hasattr(ids, "dtype") else checks.sequence(name, ids, "IDs"))
    if ids.dtype.kind == "S" or (ids.dtype == object and all(isinstance(label, bytes) for label in ids.flat)):
        ids = np.array([label.decode() for label in ids.tolist()])
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise InputError(
            f"{name}: got {ids.dtype}{list(ids.shape)}, expected integers or strings, one for each example"
        )
    return ids
