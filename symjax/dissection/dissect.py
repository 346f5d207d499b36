"""Dissection of the layers of all members of a zoo in several bases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integer, numpy_array, require_finite
from symjax.dissection.overlaps import EXACT, intersection_over_union, overlaps, unit_masks
from symjax.dissection.segmented import SegmentedBatch, SegmentedImages
from symjax.dissection.thresholds import TopQuantile
from symjax.dissection.units import SCORE, best_concepts, unique_detectors
from symjax.errors import InputError
from symjax.network import Network
from symjax.ops import parallel
from symjax.representations import features_of

QUANTILE = 0.005
BATCH, PIXELS = 64, 2**17  # limits on the images of a batch and on the pixels of their masks
CONCEPTS = 32  # the number of masks of a batch is a multiple of this, so that few programs are compiled


@dataclass(frozen=True)
class Dissection:
    """IoU of the units of a layer with all concepts, by member and basis.

    Attributes:
      iou: (members, bases, units, concepts) float64; NaN for units with activations that are not finite.
      thresholds: (members, bases, units), exact top quantiles of the activations.
      names, categories, category: those of the concepts, as in `SegmentedImages`.
    """

    iou: np.ndarray
    thresholds: np.ndarray
    names: tuple[str, ...]
    categories: tuple[str, ...]
    category: np.ndarray

    def labels(self, threshold: float = SCORE) -> tuple[np.ndarray, np.ndarray]:
        """Return the concepts and IoU of all units, (members, bases, units) each; see `best_concepts`."""
        return best_concepts(self.iou, threshold)

    def detectors(self, threshold: float = SCORE) -> np.ndarray:
        """Return the numbers of detected concepts (members, bases); see `unique_detectors`."""
        return unique_detectors(self.iou, threshold)


def dissect(
    network: Network,
    members: Any,
    data: SegmentedImages,
    mean=None,
    std=None,
    *,
    layers: str = "all",
    bases: Mapping[str, Any] | None = None,
    quantile: float = QUANTILE,
    batch_size: int | None = None,
    image_size: int | None = None,
    max_device_memory: float | None = None,
    on_batch: Callable[[], Any] = lambda: None,
) -> dict[str, Dissection]:
    """Dissect layers of stacked members: IoU of thresholded units and concepts, in several bases.

    For the activations x of a pixel, the units in a basis A are the entries of A x. The threshold of a unit is exceeded
    by a fraction `quantile` of its activations on all images. The mask of a unit has the pixels at which its
    activations, interpolated bilinearly to the size of the segmentations, exceed the threshold. The pixels of
    intersections and unions are summed over the images with annotations of the category of the concept.

    The data are read twice, for thresholds and for overlaps. Memory holds one batch, and for each unit the fraction
    `quantile` of its activations.

    Args:
      network: has feature maps (n, h, w, channels) at the layers. Features (n, channels) are treated as maps of one
        pixel, features (n, tokens, channels) as maps of height 1.
      members: stacked members, as in `symjax.representations.features_of`.
      data: images and segmentations.
      mean, std: those by which images are normalized, as in `features_of`.
      layers: comma-separated names of stitch points, or "all".
      bases: {layer: (bases, channels, channels), or (members, bases, channels, channels)}; the default,
        also for layers that are not included, is the identity.
      quantile: fraction of the activations of each unit that are above its threshold.
      batch_size: number of images in a batch; by default up to 64, with 2^17 pixels of masks or fewer.
      image_size: height and width to which images are resized; by default they are not resized.
      max_device_memory: limit in bytes for each device, as in `features_of`; by default all members run at once.
      on_batch: function that is called after each batch of both passes.

    Returns:
      {layer: Dissection}.

    Raises:
      InputError: a layer or an argument is unknown or does not fit.

    Reference: Bau et al. 2017 (arXiv 1704.05796). The published code (NetDissect-Lite) has the same defaults, quantile
    .005 and IoU .04. It counts the pixels of a unit for a category only in images where the mask of the unit contains a
    labeled pixel of the category.

    Example:
      >>> import jax, jax.numpy as jnp, symjax
      >>> from symjax.dissection import composites, dissect
      >>> def apply(channel, x):
      ...     return symjax.stitch_point(x[..., :1] * channel, "red").mean((1, 2))
      >>> net = symjax.Network.from_function(apply, jnp.ones(1), example=jnp.zeros((1, 24, 24, 3)))
      >>> members = jax.tree.map(lambda leaf: leaf[None], net.member(jnp.ones(1)))
      >>> result = dissect(net, members, composites("test", 50)[0], 0.0, 1.0, quantile=0.05)["red"]
      >>> result.iou.shape, result.detectors().tolist()
      ((1, 1, 1, 27), [[1.0]])
    """
    names = [network.points[point].name for point in network.parse_points(layers)]
    batch_size = images_at_a_time(data, batch_size)
    image_size = None if image_size is None else integer("image_size", image_size, 1, 4096)
    options: dict[str, Any] = {
        "layers": ",".join(names),
        "batch_size": batch_size,
        "max_device_memory": max_device_memory,
    }
    if unknown := set(bases or {}) - set(names):
        raise InputError(f"bases: got {', '.join(map(str, unknown))}, expected layers: {', '.join(names)}")

    def features(batch: SegmentedBatch, _: int) -> dict[str, np.ndarray]:
        return features_of(network, members, batch.images, mean, std, **options)

    return _dissect(features, data, bases or {}, quantile, batch_size, image_size, on_batch)


def dissect_activations(
    activations, data: SegmentedImages, *, bases=None, quantile: float = QUANTILE, batch_size: int | None = None
) -> Dissection:
    """Dissect units, given their activations on all images of `data`.

    Args:
      activations: (members, n, h, w, units), for the n images in the order of `data`.
      data: segmentations; the images are not used.
      bases: (bases, units, units), or (members, bases, units, units); by default the identity.
      quantile, batch_size: as in `dissect`.

    Raises:
      InputError: an argument does not fit.

    Example:
      >>> import numpy as np
      >>> from symjax.dissection import SegmentedArrays, dissect_activations
      >>> masks = np.random.default_rng(0).random((20, 4, 4, 2)) < 0.1
      >>> data = SegmentedArrays(np.zeros((20, 4, 4, 1)), masks, ["a", "b"])
      >>> result = dissect_activations(masks[None].astype(float), data, quantile=0.2)
      >>> result.labels()[0].tolist()
      [[[0, 1]]]
    """
    activations = numpy_array("activations", activations)
    if activations.ndim != 5 or activations.shape[1] != len(data) or not activations.size:
        raise InputError(
            f"activations: got shape {activations.shape}, expected (members, {len(data)}, h, w, units), none of them 0"
        )

    batch_size = images_at_a_time(data, batch_size)

    def features(batch: SegmentedBatch, start: int) -> dict[str, np.ndarray]:
        part = activations[:, start : start + batch_size].astype(np.float32)
        missing = len(batch.images) - part.shape[1]  # the last batch is padded
        return {"": np.pad(part, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)]) if missing else part}

    result = _dissect(features, data, {} if bases is None else {"": bases}, quantile, batch_size)
    return result[""]


def images_at_a_time(data: SegmentedImages, batch_size: int | None = None) -> int:
    """Return the number of images in a batch; by default up to 64, with 2^17 pixels of masks or fewer."""
    if batch_size is None:
        batch_size = max(1, min(BATCH, PIXELS // (data.size[0] * data.size[1])))
    return min(integer("batch_size", batch_size, 1), len(data))


def _dissect(
    features, data, bases, quantile, batch_size, image_size=None, on_batch=lambda: None
) -> dict[str, Dissection]:
    """Return {layer: Dissection}; `features` maps a batch and the position of its first image to {layer: maps}."""
    units: dict[str, _Units] = {}
    for batch, start, count in _padded_batches(data, batch_size, image_size):
        for layer, maps in features(batch, start).items():
            if layer not in units:
                units[layer] = _Units(layer, maps, bases.get(layer), len(data), quantile)
            units[layer].add_activations(maps, count)
        on_batch()
    for layer_units in units.values():
        layer_units.start_overlaps(data)
    for batch, start, _ in _padded_batches(data, batch_size, image_size):
        for layer, maps in features(batch, start).items():
            units[layer].add_overlaps(maps, batch)
        on_batch()
    return {layer: layer_units.dissection(data) for layer, layer_units in units.items()}


def _padded_batches(data: SegmentedImages, batch_size: int, image_size: int | None):
    """Yield batches of equal size, the position of their first image, and their number of images without padding.

    Images that are added to the last batch have no concept and no annotation. Concepts are padded to a multiple of
    `CONCEPTS` by masks without pixels.
    """
    start = 0
    for batch in data.batches(batch_size, image_size):
        count, extra = len(batch.images), -len(batch.concepts) % CONCEPTS or CONCEPTS * (not len(batch.concepts))
        missing = batch_size - count
        if missing:
            images = np.concatenate([batch.images, np.repeat(batch.images[-1:], missing, axis=0)])
            annotated = np.pad(batch.annotated, [(0, missing), (0, 0)])
            batch = batch._replace(images=images, annotated=annotated)
        masks = np.pad(batch.masks, [(0, missing), (0, 0), (0, 0), (0, extra)]) if missing or extra else batch.masks
        if masks[..., 0].size > EXACT:
            raise InputError(f"batch_size: got {batch_size}, expected at most {EXACT} pixels of masks in a batch")
        yield batch._replace(masks=masks), start, count
        start += count


class _Units:
    """The units of one layer of all members in all bases: their thresholds, then their overlaps with concepts."""

    def __init__(self, layer: str, maps: np.ndarray, bases: Any, images: int, quantile: float):
        members, channels = len(maps), maps.shape[-1]
        name = f"bases of {layer}" if layer else "bases"
        given = np.eye(channels)[None] if bases is None else numpy_array(name, bases)
        require_finite(name, given)
        shape = given.shape
        if given.ndim == 3:
            given = np.broadcast_to(given, (members, *given.shape))
        if given.ndim != 4 or given.shape[0] != members or given.shape[2:] != (channels, channels) or not given.size:
            expected = f"({members}, bases, {channels}, {channels}), or without the first axis"
            raise InputError(f"{name}: got shape {shape}, expected {expected}")
        self.bases = given.astype(np.float32)
        self.top = TopQuantile(images * int(np.prod(_as_maps(maps).shape[2:4])), quantile)

    def add_activations(self, maps: np.ndarray, count: int) -> None:
        """Add the first `count` images of a batch to the thresholds."""
        rotated = np.moveaxis(self.rotated(maps)[:, :, :count], -1, 2)  # (members, bases, units, n, h, w)
        self.top.update(rotated.reshape(*rotated.shape[:3], -1))

    def rotated(self, maps: np.ndarray) -> np.ndarray:
        """Return the units (members, bases, n, h, w, units); both passes use the same program, so values are equal."""
        return np.asarray(_rotate()((self.bases, _as_maps(maps)), None))

    def start_overlaps(self, data: SegmentedImages) -> None:
        """Compute the thresholds from all activations, and set the counts of pixels to zero."""
        self.thresholds = self.top.thresholds()
        self.common = np.zeros((*self.thresholds.shape, len(data.names)))
        self.pixels = np.zeros((*self.thresholds.shape, len(data.categories)))
        self.concept_pixels = np.zeros(len(data.names))

    def add_overlaps(self, maps: np.ndarray, batch: SegmentedBatch) -> None:
        """Add the pixels of a batch to the counts."""
        shared = batch.masks, batch.annotated
        common, pixels = jax.device_get(_count()((self.rotated(maps), self.thresholds), shared))
        used = len(batch.concepts)
        self.common[..., batch.concepts] += common[..., :used]
        self.pixels += pixels
        self.concept_pixels[batch.concepts] += batch.masks[..., :used].sum(axis=(0, 1, 2))

    def dissection(self, data: SegmentedImages) -> Dissection:
        """Return the result from the counts of all batches."""
        iou = intersection_over_union(self.common, self.pixels[..., data.category], self.concept_pixels)
        iou[~np.isfinite(self.thresholds)] = np.nan
        return Dissection(iou, self.thresholds, data.names, data.categories, data.category)


def _as_maps(features: np.ndarray) -> np.ndarray:
    """Return features (members, n, ..., channels) as maps (members, n, h, w, channels)."""
    if features.ndim > 5:
        raise InputError(f"layers: got features of shape {features.shape[2:]}, expected maps (h, w, channels)")
    return features.reshape(*features.shape[:2], *(1,) * (5 - features.ndim), *features.shape[2:])


@lru_cache
def _rotate():
    def rotate(member, _):
        bases, maps = member
        return jnp.einsum("bvu,nhwu->bnhwv", bases, maps.astype(jnp.float32), precision="highest")

    return parallel.over_members(rotate, parallel.default_execution())


@lru_cache
def _count():
    def count(member, shared):
        masks, annotated = shared
        size = masks.shape[1:3]
        return jax.lax.map(lambda basis: overlaps(unit_masks(*basis, size), masks, annotated), member)

    return parallel.over_members(count, parallel.default_execution())
