"""Data sets: loading, splitting, normalization, augmentation and batching.

Importing this package reads no files and does not import tensorflow_datasets, scikit-learn or Pillow.
"""

from symjax.data.augment import augment, normalize
from symjax.data.augment import statistics as statistics
from symjax.data.batching import batches, epoch_indices
from symjax.data.dataset import Dataset, Split
from symjax.data.describe import describe as describe
from symjax.data.describe import describe_shapes as describe_shapes
from symjax.data.load import load
from symjax.data.load import resolve_name as resolve_name

__all__ = ["Dataset", "Split", "augment", "batches", "epoch_indices", "load", "normalize"]
