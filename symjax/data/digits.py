"""The handwritten digits of scikit-learn: real images that need no download."""

import importlib.util
import pathlib

import numpy as np

from symjax.data.dataset import AUGMENTATION, Source, Split
from symjax.data.resize import resize
from symjax.errors import InputError

DEFAULT_SIZE = 16
TEST_FRACTION = 0.25
_TEST_SEED = 0


def read_digits(image_size: int | None) -> Source:
    """Return 1797 images of the digits 0 to 9, one channel, enlarged from 8x8 to `image_size` (default 16).

    Values 0..16 are scaled to 0..255. The test part is a fixed quarter of each class.

    Raises:
        InputError: scikit-learn is not installed.

    Reference: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
    """
    pixels, labels = _read()
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    images = resize(images, DEFAULT_SIZE if image_size is None else image_size)
    test = _stratified(labels)
    return Source(
        name="digits",
        train=Split(images[~test], labels[~test]),
        test=Split(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        **AUGMENTATION["digits"],
    )


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (1797, 64) in 0..16 and labels (1797,), int32."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("name: got 'digits', expected an installed scikit-learn (pip install scikit-learn)")
    file = pathlib.Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if file.is_file():  # avoids the import of scikit-learn, which takes seconds
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data, digits.target.astype(np.int32)


def _stratified(labels: np.ndarray) -> np.ndarray:
    """Return a mask (n,) that is True for TEST_FRACTION of each class, chosen with a fixed seed."""
    order = np.random.RandomState(_TEST_SEED).permutation(len(labels))
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        mask[members[: round(TEST_FRACTION * len(members))]] = True
    return mask
