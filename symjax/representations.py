"""Features of the members of a zoo at its layers, the input of similarity measures."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data
from symjax.checks import array, integer, is_concrete
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops import parallel
from symjax.ops.memory import MemberProgram, check_limit, num_bytes
from symjax.similarity.inputs import as_map_axes, check_samples, matrix_of

if TYPE_CHECKING:  # the zoo package imports this module
    from symjax.zoo import Zoo

__all__ = ["features_of", "representations"]

BATCH = 64  # images in a batch
MAX_NORMALIZED = 16.0  # bound of values of normalized images


def representations(zoo: "Zoo", images, mean, std, **options):
    """Return the features of all members of a zoo at stitch points, in inference mode, as `features_of` does.

    Args:
      zoo: the members.
      images, mean, std, options: as in `features_of`.

    Returns:
      {layer name: NumPy array (members, n, ..., c)}, members in the order of `zoo.seeds`.

    Raises:
      InputError: as in `features_of`.

    Example:
      >>> import jax.numpy as jnp, numpy as np, pandas as pd, symjax
      >>> from symjax.representations import representations
      >>> def scale(params, x):
      ...     return symjax.stitch_point(x * params["w"], "scaled")
      >>> x = np.eye(2, dtype=np.float32)
      >>> net = symjax.Network.from_function(scale, init=lambda key: {"w": jnp.ones(2)}, example=x)
      >>> members = symjax.network.Member({"w": jnp.array([[1.0, 1.0], [2.0, 3.0]])}, {})
      >>> zoo = symjax.zoo.Zoo(symjax.zoo.ZooConfig("mine", net), net, (0, 1), members, pd.DataFrame())
      >>> representations(zoo, x, None, None)["scaled"][1].tolist()
      [[2.0, 0.0], [0.0, 3.0]]
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
    samples: str = "positions",
    batch_size: int = BATCH,
    devices=None,
    max_device_memory: float | None = None,
):
    """Return the features of stacked members at stitch points, in inference mode.

    Args:
      network: the network of the members.
      members: parameters and state with a leading axis: members of a zoo, or one network at several epochs.
      images: (n, height, width, channels), not normalized, in the units of `mean` and `std`, such as 0..255; or other
        inputs (n, ...) if these are None.
      mean, std: (channels,) or scalars, by which images are normalized; None for inputs without normalization.
      layers: comma-separated names of stitch points, or "all".
      samples: "positions" for the features at all pixels or tokens; "pool", their mean, float32 (members, n, c);
        "first" or "last", one of them; "flatten", (members, n, d).
      batch_size: number of images in a batch.
      devices: the devices over which members are sharded; by default all local ones.
      max_device_memory: bytes on each device; members run in groups that need no more. By default all run at once.

    Returns:
      {layer name: NumPy array (members, n, ..., c)} in the memory of the host. Points inside a residual block give the
      branch without the shortcut.

    Raises:
      InputError: a layer is unknown; images have another rank, are empty, or are not in the units of `mean` and `std`,
        such as images in 0..1 with statistics of 0..255; the memory does not hold one member.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> from symjax.representations import features_of
      >>> def mlp(params, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"]
      >>> params = {"hidden": jnp.stack([jnp.eye(3), 2 * jnp.eye(3)]), "out": jnp.ones((2, 3, 2))}
      >>> first = jax.tree.map(lambda leaf: leaf[0], params)
      >>> net = symjax.Network.from_function(mlp, first, example=np.zeros((1, 3), np.float32))
      >>> members = symjax.network.Member(params, {})
      >>> features_of(net, members, np.array([[1.0, -1.0, 2.0]], np.float32), None, None)["relu1"].tolist()
      [[[1.0, 0.0, 2.0]], [[2.0, 0.0, 4.0]]]
    """
    images = np.asarray(array("images", images))
    example = network.example.shape[1:] if hasattr(network.example, "shape") else None
    if example is not None and (images.ndim != len(example) + 1 or not len(images)):
        expected = "height, width, channels" if len(example) == 3 else ", ".join(map(str, example))
        raise InputError(f"images: got shape {images.shape}, expected (n, {expected})")
    mean, std = data.statistics(mean, std, images.shape[-1:])
    if mean is not None:
        _require_units(images, mean, std)
    batch_size, samples = integer("batch_size", batch_size, 1), check_samples(samples)
    check_limit(max_device_memory)
    points = network.parse_points(layers)
    devices = tuple(jax.local_devices() if devices is None else devices)
    batch_size = min(batch_size, len(images))
    dtype = jax.dtypes.canonicalize_dtype(images.dtype)
    program = features_program(network, images.shape[1:], points, samples=samples, batch_size=batch_size, dtype=dtype)
    run = program.within(max_device_memory, devices)
    count = parallel.count_members(members)
    results: list[np.ndarray] = []
    (image_batches,), _ = data.batches((images,), batch_size)
    for i, batch in enumerate(image_batches):
        features = run(members, (batch, mean, std))
        if not results:
            results = [np.empty((count, len(images), *array.shape[2:]), array.dtype) for array in features]
        for result, part in zip(results, features, strict=True):
            rows = result[:, i * len(batch) : (i + 1) * len(batch)]
            rows[:] = part[:, : rows.shape[1]]
    return {network.points[point].name: result for point, result in zip(points, results, strict=True)}


def at_positions(x: jax.Array, samples: str, mask=None) -> jax.Array:
    """Return features (n, ..., c) unchanged for "positions"; otherwise reduced to (n, d), as measures do."""
    if samples == "positions" or x.ndim == 2:
        return x
    if samples == "pool":  # a mean in bfloat16 would be rounded to 8 bits
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return matrix_of(as_map_axes(x, 1), samples, mask)


def as_maps(features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reshape features for similarity measures, to (members, n, c) or maps (members, n, h, w, c).

    Tokens (members, n, t, c) become maps of height 1. Of three or more axes between examples and channels, the last one
    becomes the width and the others the height.
    """
    return {layer: x if x.ndim == 3 else as_map_axes(x, 2) for layer, x in features.items()}


def _require_units(images: np.ndarray, mean: jax.Array, std: jax.Array) -> None:
    """Raise an `InputError` if images are clearly not in the units of `mean` and `std`.

    Constant images and statistics 0 and 1 are accepted, and so are small integers (black images).
    """
    if not (is_concrete(mean) and is_concrete(std)) or (np.all(mean == 0) and np.all(std == 1)):
        return
    least, most, center, spread = (float(x) for x in (images.min(), images.max(), np.max(mean), np.max(std)))
    floats = jnp.issubdtype(images.dtype, jnp.floating) and least < most
    small = floats and spread > 4 and (most < 1.5 or (least < -0.5 and most < MAX_NORMALIZED))
    # Statistics of images in 0..1. Images in 0..255 have such statistics only if nearly all pixels are black.
    large = 0 <= center < 1 and spread < 1 and (most > MAX_NORMALIZED or least < center - 5 * spread)
    if small or large:
        raise InputError(
            f"images: got values from {least:g} to {most:g}, which are not in the units of mean and std (up to "
            f"{center:g} and {spread:g}), expected images as the data set stores them, in 0..255 and not normalized"
        )


def features_program(
    network: Network,
    image: Sequence[int],
    points: Sequence[int],
    *,
    samples: str = "positions",
    batch_size: int = BATCH,
    dtype=np.uint8,
) -> MemberProgram:
    """Return the program of `features_of` for inputs of this shape and dtype."""
    return _features_program(network, jax.ShapeDtypeStruct((batch_size, *image), dtype), tuple(points), samples)


@lru_cache(maxsize=8)
def _features_program(network: Network, images: jax.ShapeDtypeStruct, points: tuple[int, ...], samples: str):
    """Cached, so that a process compiles the program once."""

    def features(member, shared):
        images, mean, std = shared
        arrays = network.features(member, data.normalize(images, mean, std), points).values()
        return [at_positions(x, samples) for x in arrays]

    channels = normalization(network, images)
    return MemberProgram(features, parallel.default_execution(), network.shapes, (images, channels, channels))


def bytes_per_image(
    network: Network, image: Sequence[int], points: Sequence[int], *, samples: str = "positions", dtype=np.uint8
) -> int:
    """Return the bytes of the features of one member at these points, for one input of this shape and dtype."""
    program = features_program(network, image, points, samples=samples, batch_size=1, dtype=dtype)
    return num_bytes(jax.eval_shape(program.fn, program.member, program.shared))


def normalization(network: Network, images: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | None:
    """Return the shape and dtype of mean and std; None if the network takes such inputs without normalization."""
    (example,) = jax.tree.leaves(network.example)
    unchanged = jax.dtypes.canonicalize_dtype(example.dtype) == images.dtype
    return None if unchanged else jax.ShapeDtypeStruct(images.shape[-1:], np.float32)
