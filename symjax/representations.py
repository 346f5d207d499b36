"""What the members of a zoo make of images, layer by layer: what similarity measures compare."""

from functools import lru_cache

import jax
import numpy as np

from symjax import data, parallel
from symjax.errors import InputError
from symjax.models import Network, branch
from symjax.zoo import Zoo


def representations(zoo: Zoo, images, mean, std, *, layers="all", batch_size: int = 64, devices=None):
    """The features of all members at stitch points, in inference mode.

    Args:
      zoo: the members.
      images: (n, height, width, channels) as a data set stores them, before normalisation.
      mean, std: of the data set, by which images are normalised.
      layers: names of stitch points with commas between, or "all".
      batch_size: images that go through the members at a time.
      devices: that members spread over; all local ones by default.

    Returns:
      From each layer's name to a NumPy array (members, n, h, w, c), members in the order of `zoo.seeds`; inside a
      residual block the branch without the skip. This lies in the host's memory: members x n x the sum of the layers'
      sizes numbers.

    Raises:
      InputError: an unknown layer, images of another rank or none.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: got shape {images.shape}, wanted (n, height, width, channels)")
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, wanted a positive number")
    points = zoo.network.parse_points(layers)
    run = _features(zoo.network, points, tuple(jax.local_devices() if devices is None else devices))
    found = None
    (cut,), _ = data.batches((images,), min(batch_size, len(images)))
    for i, batch in enumerate(cut):
        features = jax.device_get(run(zoo.members, (batch, mean, std)))
        if found is None:
            found = [np.empty((len(zoo), len(images), *of_point.shape[2:]), of_point.dtype) for of_point in features]
        for whole, part in zip(found, features, strict=True):
            place = whole[:, i * len(batch) : (i + 1) * len(batch)]
            place[:] = part[:, : place.shape[1]]
    return {zoo.network.points[point].name: whole for point, whole in zip(points, found, strict=True)}


@lru_cache(maxsize=8)
def _features(network: Network, points: tuple[int, ...], devices: tuple):
    """Remembered, so that the same process does not compile it again."""

    def features(member, shared):
        images, mean, std = shared
        return [branch(x) for x in network.features(member, data.normalize(images, mean, std), points)]

    return parallel.over_members(features, parallel.default_execution(), devices=devices)
