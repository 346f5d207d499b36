"""Data sets and what training does to them: loading, splitting, normalising, augmenting, batching.

Importing this package reads no file and imports neither tensorflow_datasets, scikit-learn nor Pillow.
"""

from symjax.data.augment import augment, normalize
from symjax.data.augment import statistics as statistics
from symjax.data.batching import batches, epoch_indices
from symjax.data.dataset import Dataset, Split
from symjax.data.describe import describe as describe
from symjax.data.describe import describe_shapes as describe_shapes
from symjax.data.load import load
from symjax.data.load import located as located

__all__ = ["Dataset", "Split", "augment", "batches", "epoch_indices", "load", "normalize"]
