"""What the members of a zoo make of images, layer by layer: what similarity measures compare."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data, parallel
from symjax.errors import InputError
from symjax.models import Member, Network, branch
from symjax.zoo import Zoo


def representations(
    zoo: Zoo, images, mean, std, *, layers="all", pool: bool = False, batch_size: int = 64, devices=None
):
    """The features of all members of a zoo at stitch points, in inference mode: `features_of` its network and members.

    Returns:
      From each layer's name to a NumPy array (members, n, h, w, c), members in the order of `zoo.seeds`.
    """
    settings = {"layers": layers, "pool": pool, "batch_size": batch_size, "devices": devices}
    return features_of(zoo.network, zoo.members, images, mean, std, **settings)


def features_of(
    network: Network,
    members: Member,
    images,
    mean,
    std,
    *,
    layers="all",
    pool: bool = False,
    batch_size: int = 64,
    devices=None,
):
    """The features of stacked members at stitch points, in inference mode.

    Args:
      network: what the members are.
      members: parameters and statistics with a leading axis: those of a zoo, or one network at moments of its training.
      images: (n, height, width, channels) as a data set stores them, before normalisation.
      mean, std: of the data set, by which images are normalised.
      layers: names of stitch points with commas between, or "all".
      pool: give the mean over pixels, float32 (members, n, c), in place of maps.
      batch_size: images that go through the members at a time.
      devices: that members spread over; all local ones by default.

    Returns:
      From each layer's name to a NumPy array (members, n, h, w, c); inside a residual block the branch without the
      skip. This lies in the host's memory: members x n x the sum of the layers' sizes numbers.

    Raises:
      InputError: an unknown layer, images of another rank or none.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise InputError(f"images: got shape {images.shape}, wanted (n, height, width, channels)")
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, wanted a positive number")
    points = network.parse_points(layers)
    run = _features(network, points, pool, tuple(jax.local_devices() if devices is None else devices))
    count, found = parallel.count_members(members), None
    (cut,), _ = data.batches((images,), min(batch_size, len(images)))
    for i, batch in enumerate(cut):
        features = jax.device_get(run(members, (batch, mean, std)))
        if found is None:
            found = [np.empty((count, len(images), *of_point.shape[2:]), of_point.dtype) for of_point in features]
        for whole, part in zip(found, features, strict=True):
            place = whole[:, i * len(batch) : (i + 1) * len(batch)]
            place[:] = part[:, : place.shape[1]]
    return {network.points[point].name: whole for point, whole in zip(points, found, strict=True)}


@lru_cache(maxsize=8)
def _features(network: Network, points: tuple[int, ...], pool: bool, devices: tuple):
    """Remembered, so that the same process does not compile it again."""

    def features(member, shared):
        images, mean, std = shared
        found = [branch(x) for x in network.features(member, data.normalize(images, mean, std), points)]
        # A mean in bfloat16 would be rounded to 8 bits before anything is compared.
        return [x.mean(tuple(range(1, x.ndim - 1)), dtype=jnp.float32) for x in found] if pool else found

    return parallel.over_members(features, parallel.default_execution(), devices=devices)
