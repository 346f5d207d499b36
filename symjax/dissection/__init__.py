"""Network dissection: which units of a layer detect which concepts, in the network's own basis and in others.

A unit detects a concept if its largest activations, upsampled to the image, overlap with the pixels of the concept.
All members of a zoo, all layers and all bases are dissected together, in two passes over batches of images.

Bau et al. 2017 (arXiv 1704.05796); rotated bases: Godfrey et al. 2022 (arXiv 2205.14258), section 6.
"""

from symjax.dissection.bases import rotation_powers, special_orthogonal
from symjax.dissection.broden import Broden
from symjax.dissection.composites import composites, load_composites
from symjax.dissection.dissect import Dissection, dissect, dissect_activations
from symjax.dissection.overlaps import intersection_over_union, unit_masks
from symjax.dissection.segmented import SegmentedArrays, SegmentedBatch, SegmentedImages
from symjax.dissection.thresholds import TopQuantile
from symjax.dissection.units import best_concepts, unique_detectors

__all__ = [
    "Broden",
    "Dissection",
    "SegmentedArrays",
    "SegmentedBatch",
    "SegmentedImages",
    "TopQuantile",
    "best_concepts",
    "composites",
    "dissect",
    "dissect_activations",
    "intersection_over_union",
    "load_composites",
    "rotation_powers",
    "special_orthogonal",
    "unique_detectors",
    "unit_masks",
]
