"""Labels of units, and the number of concepts that they detect."""

import numpy as np

from symjax.checks import numpy_array, scalar
from symjax.errors import InputError

SCORE = 0.04
"""IoU above which a unit counts as a detector (Bau et al. 2017)."""


def best_concepts(iou, threshold: float = SCORE) -> tuple[np.ndarray, np.ndarray]:
    """Return the concept with the largest IoU for each unit, and this IoU.

    Args:
      iou: (..., units, concepts), in [0, 1].
      threshold: units whose largest IoU does not exceed it have no label.

    Returns:
      (concept, best), (..., units) each. `concept` (int64) is the number of the concept, the first one if several have
      the same IoU, and -1 for a unit without label. `best` is the largest IoU, also for units without label. If an IoU
      is NaN, they are -1 and NaN.

    Raises:
      InputError: `iou` has fewer than two axes or no concepts; the threshold is not in [0, 1).

    Reference: Bau et al. 2017 (arXiv 1704.05796), section 2.

    Example:
      >>> from symjax.dissection import best_concepts
      >>> best_concepts([[0.2, 0.5], [0.01, 0.02]])
      (array([ 1, -1]), array([0.5 , 0.02]))
    """
    iou = numpy_array("iou", iou)
    threshold = scalar("threshold", threshold, "an IoU from 0 and under 1", lambda value: 0 <= value < 1)
    if iou.ndim < 2 or not iou.shape[-1]:
        raise InputError(f"iou: got shape {iou.shape}, expected (..., units, concepts) with 1 concept or more")
    best = iou.max(axis=-1)
    return np.where(best > threshold, iou.argmax(axis=-1), -1), best


def unique_detectors(iou, threshold: float = SCORE) -> np.ndarray:
    """Return the number of concepts that are the label of one unit or more.

    Args:
      iou, threshold: as in `best_concepts`.

    Returns:
      (...) float, integers; NaN if an IoU is NaN.

    Raises:
      InputError: as in `best_concepts`.

    Reference: Bau et al. 2017 (arXiv 1704.05796), section 3.

    Example:
      >>> from symjax.dissection import unique_detectors
      >>> float(unique_detectors([[0.2, 0.5], [0.01, 0.02], [0.1, 0.3]]))
      1.0
    """
    labels, best = best_concepts(iou, threshold)
    concepts = np.arange(np.shape(iou)[-1])
    counts = (labels[..., None] == concepts).any(axis=-2).sum(axis=-1)
    return np.where(np.isnan(best).any(axis=-1), np.nan, counts)
