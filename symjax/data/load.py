"""One function for every source of images."""

import os

from symjax.checks import integer, path
from symjax.data.dataset import Dataset, build
from symjax.data.digits import read_digits
from symjax.data.npz import read_npz
from symjax.data.prepared import read_prepared
from symjax.errors import InputError


def load(
    name: str | os.PathLike,
    *,
    image_size: int | None = None,
    validation: float = 0.1,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Loads an image classification set into memory. Nothing is ever downloaded.

    Args:
        name: "digits" (scikit-learn's, enlarged to 16x16); a path ending in .npz (see `symjax.data.npz`); or an image
            set that tensorflow_datasets has prepared on this machine, such as "cifar10".
        image_size: height and width, in pixels, to resize all images to; default: as they are.
        validation: the fraction of the source's training images to hold out, in [0, 1). Which ones depends on this
            and on seed alone.
        train_size: use this many of the remaining training images. A smaller number gives a prefix of a larger one.
        test_size: use this many of the test images, drawn by seed, likewise; default: all, in the source's order.
        seed: of the cuts, not of any training. Runs to be compared have the same.
        data_dir: the tensorflow_datasets folder; default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        cache_dir: where decoded sets are kept; default $SYMJAX_CACHE, $XDG_CACHE_HOME/symjax or ~/.cache/symjax.

    Raises:
        InputError: an argument, a file or a folder is not as wanted; the message says how.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise InputError(f"name: got {name!r}, wanted the name of a data set or a path ending in .npz.")
    if image_size is not None:
        integer("image_size", image_size, 1, 4096)
    for argument, folder in (("data_dir", data_dir), ("cache_dir", cache_dir)):
        if folder is not None:
            path(argument, folder)
    name = os.fspath(name)
    if name == "digits":
        source = read_digits(image_size)
    elif name.endswith(".npz"):
        source = read_npz(name, image_size)
    else:
        source = read_prepared(name, image_size, data_dir, cache_dir)
    return build(source, validation=validation, train_size=train_size, test_size=test_size, seed=seed)
