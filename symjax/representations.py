"""What the members of a zoo make of images, layer by layer: what similarity measures compare."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data, parallel
from symjax.checks import array, flag, integer, is_concrete
from symjax.errors import InputError
from symjax.memory import MemoryEstimate, check_limit, estimate_memory, num_bytes
from symjax.network import Member, Network

if TYPE_CHECKING:  # training a zoo may look at representations
    from symjax.zoo import Zoo

__all__ = ["features_of", "representations"]

BATCH = 64  # images that go through the members at a time
NORMALISED = 16.0  # what values of normalised images stay below


def representations(zoo: "Zoo", images, mean, std, **options):
    """The features of all members of a zoo at stitch points, in inference mode: `features_of` its network and members.

    Args:
      zoo: the members.
      images, mean, std, options: as of `features_of`.

    Returns:
      From each layer's name to a NumPy array (members, n, h, w, c), members in the order of `zoo.seeds`.
    """
    return features_of(zoo.network, zoo.members, images, mean, std, **options)


def features_of(
    network: Network,
    members: Member,
    images,
    mean,
    std,
    *,
    layers="all",
    pool: bool = False,
    batch_size: int = BATCH,
    devices=None,
    max_device_memory: float | None = None,
):
    """The features of stacked members at stitch points, in inference mode.

    Args:
      network: what the members are.
      members: parameters and statistics with a leading axis: those of a zoo, or one network at moments of its training.
      images: (n, height, width, channels) as a data set stores them, in 0..255 and before normalisation; or in any
        other unit that `mean` and `std` are in. Other inputs (n, ...) where these are None.
      mean, std: of the data set, by which images are normalised; None for inputs that are not.
      layers: names of stitch points with commas between, or "all".
      pool: give the mean over pixels or tokens, float32 (members, n, c), in place of maps.
      batch_size: images that go through the members at a time.
      devices: that members spread over; all local ones by default.
      max_device_memory: bytes on each device; members go in groups that need no more (`need`). By default all at once.

    Returns:
      From each layer's name to a NumPy array (members, n, ..., c); inside a residual block the branch without the
      skip. This lies in the host's memory: members x n x the sum of the layers' sizes numbers.

    Raises:
      InputError: an unknown layer; images of another rank, none, or of another range than `mean` and `std`, such as
        0..1 or normalised ones beside those of 0..255; memory that does not hold one member.
    """
    images = np.asarray(array("images", images))
    example = network.example.shape[1:] if hasattr(network.example, "shape") else None
    if example is not None and (images.ndim != len(example) + 1 or not len(images)):
        wanted = "height, width, channels" if len(example) == 3 else ", ".join(map(str, example))
        raise InputError(f"images: got shape {images.shape}, wanted (n, {wanted})")
    mean, std = data.statistics(mean, std, images.shape[-1:])
    if mean is not None:
        _require_units(images, mean, std)
    batch_size, pool = integer("batch_size", batch_size, 1), flag("pool", pool)
    check_limit(max_device_memory)
    points = network.parse_points(layers)
    devices = tuple(jax.local_devices() if devices is None else devices)
    batch_size, size = min(batch_size, len(images)), None
    if max_device_memory is not None:
        needed = need(network, images.shape[1:], points, pool=pool, batch_size=batch_size)
        size = len(devices) * needed.max_members(max_device_memory)
    run = parallel.in_groups(_features(network, points, pool, devices), size)
    count, found = parallel.count_members(members), None
    (cut,), _ = data.batches((images,), batch_size)
    for i, batch in enumerate(cut):
        features = run(members, (batch, mean, std))
        if found is None:
            found = [np.empty((count, len(images), *of_point.shape[2:]), of_point.dtype) for of_point in features]
        for whole, part in zip(found, features, strict=True):
            place = whole[:, i * len(batch) : (i + 1) * len(batch)]
            place[:] = part[:, : place.shape[1]]
    return {network.points[point].name: whole for point, whole in zip(points, found, strict=True)}


def as_maps(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return features as similarity measures take them: (members, n, c), or maps (members, n, h, w, c).

    Tokens (members, n, t, c) become maps of height 1; of more than two axes between examples and channels all but the
    last become the height.
    """
    return {
        layer: x if x.ndim in (3, 5) else x.reshape(*x.shape[:2], -1, *x.shape[-2:]) for layer, x in features.items()
    }


def _require_units(images: np.ndarray, mean: jax.Array, std: jax.Array) -> None:
    """Raises an `InputError` where images are plainly not in the units of what they are to be normalised by.

    Images of one value and normalisation by 0 and 1, which is none, pass. So do integers that are small: black images.
    """
    if not (is_concrete(mean) and is_concrete(std)) or (np.all(mean == 0) and np.all(std == 1)):
        return
    least, most, centre, spread = (float(x) for x in (images.min(), images.max(), np.max(mean), np.max(std)))
    floats = jnp.issubdtype(images.dtype, jnp.floating) and least < most
    small = floats and spread > 4 and (most < 1.5 or (least < -0.5 and most < NORMALISED))
    # Statistics of images in 0..1; of images in 0..255 they are so small where hardly a pixel is not black.
    large = 0 <= centre < 1 and spread < 1 and (most > NORMALISED or least < centre - 5 * spread)
    if small or large:
        raise InputError(
            f"images: got values from {least:g} to {most:g}, which are not in the units of mean and std (up to "
            f"{centre:g} and {spread:g}); wanted images as the data set stores them, in 0..255 and not normalised, and "
            "its mean and std"
        )


def need(
    network: Network,
    image: Sequence[int],
    points: Sequence[int],
    *,
    pool: bool = False,
    batch_size: int = BATCH,
    dtype=np.uint8,
) -> MemoryEstimate:
    """The device memory that `features_of` takes of inputs of this shape and type; compiles its program."""
    return _need(network, jax.ShapeDtypeStruct((batch_size, *image), dtype), tuple(points), pool)


@lru_cache
def _need(network: Network, images: jax.ShapeDtypeStruct, points: tuple[int, ...], pool: bool) -> MemoryEstimate:
    return estimate_memory(
        _features_of(network, points, pool), parallel.default_execution(), *_abstract(network, images)
    )


def bytes_per_image(
    network: Network, image: Sequence[int], points: Sequence[int], *, pool: bool = False, dtype=np.uint8
) -> int:
    """Of what `features_of` gives of one member, for one input of this shape and type at these points."""
    images = jax.ShapeDtypeStruct((1, *image), dtype)
    return num_bytes(jax.eval_shape(_features_of(network, tuple(points), pool), *_abstract(network, images)))


def _abstract(network: Network, images: jax.ShapeDtypeStruct):
    """Shapes of one member, and of what members share for these inputs."""
    channels = normalization(network, images)
    return network.shapes, (images, channels, channels)


def normalization(network: Network, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
    """Shape and type of the mean, and of the deviation, by which inputs of this shape and type are normalised.

    None where the network takes inputs as they are.
    """
    (example,) = jax.tree.leaves(network.example)
    as_they_are = jax.dtypes.canonicalize_dtype(example.dtype) == images.dtype
    return None if as_they_are else jax.ShapeDtypeStruct(images.shape[-1:], np.float32)


@lru_cache(maxsize=8)
def _features(network: Network, points: tuple[int, ...], pool: bool, devices: tuple):
    """Remembered, so that the same process does not compile it again."""
    return parallel.over_members(_features_of(network, points, pool), parallel.default_execution(), devices=devices)


def _features_of(network: Network, points: tuple[int, ...], pool: bool):
    """The features of one member of images that all share."""

    def features(member, shared):
        images, mean, std = shared
        found = list(network.features(member, data.normalize(images, mean, std), points).values())
        # A mean in bfloat16 would be rounded to 8 bits before anything is compared.
        return [x.mean(tuple(range(1, x.ndim - 1)), dtype=jnp.float32) for x in found] if pool else found

    return features
