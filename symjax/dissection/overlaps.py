"""Masks of units, and their overlaps with concepts."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.checks import integers, numpy_array, real
from symjax.errors import InputError

EXACT = 2**24  # float32 represents all integers up to this


def unit_masks(activations, thresholds, size: tuple[int, int]) -> jax.Array:
    """Return the pixels at which units exceed their thresholds: U(a) > T with the bilinear interpolation U.

    The interpolation uses half-pixel centers. Pixels beyond the outermost centers have the nearest value. The
    comparison is strict, so that a unit that is zero everywhere has an empty mask.

    Args:
      activations: (n, h, w, units).
      thresholds: (units,).
      size: height and width of the masks, in pixels.

    Returns:
      (n, height, width, units), bool.

    Raises:
      InputError: shapes do not fit.

    Reference: Bau et al. 2017 (arXiv 1704.05796), section 2.

    Example:
      >>> import numpy as np
      >>> from symjax.dissection import unit_masks
      >>> unit_masks(np.array([0, 1]).reshape(1, 1, 2, 1), np.array([0.5]), (1, 4))[0, 0, :, 0].tolist()
      [False, False, True, True]
    """
    activations, thresholds = real("activations", activations), real("thresholds", thresholds)
    if activations.ndim != 4 or thresholds.shape != activations.shape[-1:]:
        shapes = f"{activations.shape} and {thresholds.shape}"
        raise InputError(f"activations, thresholds: got shapes {shapes}, expected (n, h, w, units) and (units,)")
    lengths = integers("size", size, 1)
    if len(lengths) != 2:
        raise InputError(f"size: got {lengths}, expected (height, width)")
    height, width = lengths
    shape = (activations.shape[0], height, width, activations.shape[-1])
    return jax.image.resize(activations, shape, "linear", antialias=False) > thresholds


def overlaps(unit: jax.Array, concepts: jax.Array, annotated: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the common pixels of units and concepts (units, concepts), and the pixels of units (units, categories).

    The pixels of a unit are counted for each category in the images with annotations of the category. The float32
    counts are exact if all images together have at most `EXACT` pixels.

    Args:
      unit: masks (n, height, width, units), bool.
      concepts: masks (n, height, width, concepts), bool.
      annotated: (n, categories), bool.
    """
    unit, concepts, annotated = (array.astype(jnp.float32) for array in (unit, concepts, annotated))
    common = unit.reshape(-1, unit.shape[-1]).T @ concepts.reshape(-1, concepts.shape[-1])
    return common, jnp.sum(unit, axis=(1, 2)).T @ annotated


def intersection_over_union(common, unit_pixels, concept_pixels) -> np.ndarray:
    """Return |U and C| / |U or C|, the intersection over union of unit masks U and concepts C over all images.

    Args:
      common: (..., units, concepts), number of pixels in both masks.
      unit_pixels: (..., units, concepts), number of pixels of the unit's mask in the images with annotations of the
        concept's category; (..., units, 1) if all images have annotations of all categories.
      concept_pixels: (concepts,), number of pixels of the concept.

    Returns:
      (..., units, concepts), float64, in [0, 1]; 0 if both masks are empty.

    Raises:
      InputError: shapes do not fit, or a number of common pixels exceeds that of the unit or the concept.

    Reference: Bau et al. 2017 (arXiv 1704.05796), equation 1.

    Example:
      >>> from symjax.dissection import intersection_over_union
      >>> intersection_over_union([[2, 0]], [[4]], [3, 5])
      array([[0.4, 0. ]])
    """
    arrays = {"common": common, "unit_pixels": unit_pixels, "concept_pixels": concept_pixels}
    common, unit, concept = (_counts(name, value) for name, value in arrays.items())
    try:
        fits = common.ndim >= 2 and np.broadcast_shapes(common.shape, unit.shape, concept.shape) == common.shape
    except ValueError:
        fits = False
    if not fits:
        shapes = f"{common.shape}, {unit.shape} and {concept.shape}"
        expected = "(..., units, concepts), the same or (..., units, 1), and (concepts,)"
        raise InputError(f"common, unit_pixels, concept_pixels: got shapes {shapes}, expected {expected}")
    if (common > np.minimum(unit, concept)).any():
        message = "common: got more pixels than unit_pixels or concept_pixels, expected at most as many"
        raise InputError(message)
    union = unit + concept - common
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def _counts(name: str, value) -> np.ndarray:
    """Return numbers of pixels as float64."""
    counts = numpy_array(name, value).astype(np.float64)
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError(f"{name}: got negative, NaN or infinite entries, expected numbers of pixels")
    return counts
