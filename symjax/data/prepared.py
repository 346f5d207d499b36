"""Image data sets prepared by tensorflow_datasets on this disk, read without TensorFlow and without a network.

Folders are located here and opened with `tfds.builder_from_directory`. `tfds.data_source` would start a download for a
missing data set, with minutes of retries if there is no network.
"""

import contextlib
import difflib
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shlex
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from symjax.data import cache
from symjax.data.dataset import AUGMENTATION, Source, Split
from symjax.data.resize import stack
from symjax.errors import InputError

_NAME = re.compile(r"(?P<name>[A-Za-z]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO = "dataset_info.json"
_LAYOUT = 1  # version of cache entries; entries of other versions are ignored
_BATCH = 1000  # records read at a time
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_prepared(
    name: str, image_size: int | None, data_dir: str | os.PathLike | None, cache_dir: str | os.PathLike | None
) -> Source:
    """Read the data set `name`. Decoded images are cached for later calls.

    Images are the only `Image` feature and labels the only `ClassLabel` feature, or the supervised pair. Test images
    are those of the split "test", or of "validation" if there is no "test".

    Args:
        name: as in tensorflow_datasets: "name", "name/config", "name:1.2.3". The default version is the newest one.
        image_size: as in `symjax.data.load`.
        data_dir: the tensorflow_datasets folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        cache_dir: the cache folder; default `cache.default_folder()`.

    Raises:
        InputError: the name is unknown; the data set is not on this disk or not for classification; images differ in
            size.
    """
    folder = _find(name, _root(data_dir))
    base = re.split("[/:]", name)[0]
    key = f"{base}-{folder.name}-{image_size or 'native'}-{_fingerprint(folder)}"
    arrays, metadata = cache.cached(cache.cache_folder(cache_dir), key, lambda: _decode_all(name, folder, image_size))
    return Source(
        name=base,
        train=Split(arrays["train_images"], arrays["train_labels"]),
        test=Split(arrays["test_images"], arrays["test_labels"]),
        class_names=tuple(metadata["class_names"]),
        **AUGMENTATION.get(base, {}),
    )


def is_prepared(name: str, data_dir: str | os.PathLike | None) -> bool:
    """Return whether any version of the data set `name` of tensorflow_datasets is on this disk."""
    parsed = _NAME.fullmatch(name)
    folder = _root(data_dir) / parsed["name"] if parsed else None
    return folder is not None and any(map(_versions, (folder, *_folders(folder))))


def _root(data_dir: str | os.PathLike | None) -> pathlib.Path:
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return pathlib.Path(os.path.expanduser(root))


def _find(name: str, root: pathlib.Path) -> pathlib.Path:
    """Return the folder <root>/<name>[/<config>]/<version> of a prepared data set."""
    parsed = _NAME.fullmatch(name)
    if not parsed:
        raise _unknown(name, root)
    folder = root / parsed["name"]
    if parsed["config"]:
        folder /= parsed["config"]
    versions = _versions(folder)
    if not versions and not parsed["config"]:
        configs = [path for path in _folders(folder) if _versions(path)]
        if len(configs) > 1:
            names = ", ".join(f"{parsed['name']}/{path.name}" for path in configs)
            raise InputError(f"name: got {name!r}, expected one of its variants in {folder}: {names}")
        versions = [version for path in configs for version in _versions(path)]
    if parsed["version"]:
        matching = [path for path in versions if path.name == parsed["version"]]
        if versions and not matching:
            existing = ", ".join(path.name for path in versions)
            raise InputError(f"name: got {name!r}, expected a version in {folder}: {existing}")
        versions = matching
    if not versions:
        raise _unknown(name, root)
    return versions[-1]


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _versions(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of completely prepared versions, the newest last."""
    versions = [path for path in _folders(folder) if _VERSION.fullmatch(path.name) and (path / _INFO).is_file()]
    return sorted(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def _unknown(name: str, root: pathlib.Path) -> InputError:
    """Return the error for a name without a prepared folder, with advice or similar names."""
    parsed = _NAME.fullmatch(name)
    registered = _registered()
    if parsed and parsed["name"] in registered:
        return InputError(
            f"name: got {name!r}, expected a data set in {root}. Either set TFDS_DATA_DIR (or data_dir) to a folder "
            "where tensorflow_datasets has prepared it, or prepare it once on a machine with a network and "
            f'TensorFlow by: TFDS_DATA_DIR={shlex.quote(str(root))} python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\""
        )
    available = [path.name for path in _folders(root) if _versions(path) or any(map(_versions, _folders(path)))]
    close = difflib.get_close_matches(name.lower(), ["digits", *available, *registered], n=4)
    hint = f" Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else ""
    return InputError(
        f"name: got {name!r}, expected 'digits', a path ending in .npz, a folder of images, package.module:function, "
        f"or an image set of tensorflow_datasets (in {root}: {', '.join(available) or 'none'}; tfds.list_builders() "
        f"names all).{hint}"
    )


def _registered() -> list[str]:
    """Return the data sets that tensorflow_datasets has registered; none if it is not installed."""
    with _quiet():
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            return []
        return tfds.list_builders(with_community_datasets=False)


def _fingerprint(folder: pathlib.Path) -> str:
    """Return a fingerprint of names, sizes and times of all files."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return hashlib.sha256(json.dumps([_LAYOUT, files]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet():
    """Suppress log messages of tensorflow_datasets and deprecation warnings of its imports."""
    logger = logging.getLogger("absl")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


class _Keys(NamedTuple):
    image: str
    label: str


def _decode_all(name: str, folder: pathlib.Path, image_size: int | None) -> tuple[cache.Arrays, dict]:
    with _quiet():
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise InputError(
                f"name: got {name!r}, expected an installed tensorflow_datasets "
                "(pip install tensorflow-datasets array_record)"
            ) from error
        try:
            builder = tfds.builder_from_directory(folder)
            features = dict(builder.info.features)
            splits = builder.info.splits
        except Exception as error:  # damaged folders raise various types
            raise InputError(
                f"name: got {name!r} in {folder}, expected a folder that tensorflow_datasets can read: {error}"
            ) from error
        keys = _keys(name, features, builder.info.supervised_keys, tfds)
        test = "test" if "test" in splits else "validation"
        if "train" not in splits or test not in splits:
            raise InputError(
                f"name: got {name!r} in {folder} with the splits {sorted(splits)}, expected 'train' and 'test' (or "
                "'validation')"
            )
        channels, class_names = features[keys.image].shape[-1], features[keys.label].names
        arrays: dict[str, np.ndarray] = {}
        for part, split in (("train", "train"), ("test", test)):
            try:
                records = builder.as_data_source(
                    split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
                )
            except Exception as error:
                raise InputError(
                    f"name: got {name!r} in {folder}, stored as {builder.info.file_format}, expected array_record "
                    f"(prepare it with file_format='array_record'): {error}"
                ) from error
            images, labels = _decode_split(f"{name!r} ({split}) in {folder}", records, keys, channels, image_size)
            if labels.min() < 0 or labels.max() >= len(class_names):
                raise InputError(
                    f"name: got {name!r} in {folder} with labels {labels.min()}..{labels.max()} in {split!r}, expected "
                    f"0..{len(class_names) - 1} (labels may be withheld)"
                )
            arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays, {"class_names": list(class_names)}


def _keys(name: str, features: dict[str, Any], supervised: Any, tfds: Any) -> _Keys:
    """Return the keys of image and label: the only features of their kinds, or the supervised pair."""
    images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    if isinstance(supervised, tuple) and len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        images, labels = [supervised[0]], [supervised[1]]
    if len(images) != 1 or len(labels) != 1:
        raise InputError(
            f"name: got {name!r} with the images {sorted(images)} and the class labels {sorted(labels)}, expected "
            "one of each"
        )
    feature = features[images[0]]
    if np.dtype(feature.np_dtype) != np.uint8 or feature.shape[-1] not in _MODES:
        raise InputError(
            f"name: got {name!r} with images of {np.dtype(feature.np_dtype)} and shape {feature.shape}, expected uint8 "
            f"and {sorted(_MODES)} channels"
        )
    return _Keys(images[0], labels[0])


def _decode_split(
    what: str, records: Any, keys: _Keys, channels: int, image_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, height, width, channels) uint8 and labels (n,) int32 of a split; `what` names it in errors."""
    from tensorflow_datasets.proto import tf_example_pb2

    count = len(records)
    if not count:
        raise InputError(f"name: got {what} without examples, expected one or more")
    labels = np.empty(count, np.int32)

    def decoded() -> Iterator[np.ndarray]:
        for start in range(0, count, _BATCH):
            block = range(start, min(start + _BATCH, count))
            try:
                for i, record in zip(block, records.__getitems__(list(block)), strict=True):
                    # Parsed directly, since tensorflow_datasets takes six times as long.
                    values = tf_example_pb2.Example.FromString(record).features.feature
                    labels[i] = values[keys.label].int64_list.value[0]
                    yield _decode_image(values[keys.image].bytes_list.value[0], channels)
            except Exception as error:  # array_record, protobuf and Pillow raise different types
                examples = f"{block[0]} and {block[-1]}"
                raise InputError(f"name: got {what}, which is damaged between examples {examples}: {error}") from error

    return stack(decoded(), count, image_size, what), labels


def _decode_image(data: bytes, channels: int) -> np.ndarray:
    """Decode a JPEG or PNG to (height, width, channels), uint8."""
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    return np.asarray(image).reshape(image.height, image.width, channels)
