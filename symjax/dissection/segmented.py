"""Images with segmentations of concepts, in batches."""

import abc
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from symjax.checks import integer, numpy_array, sequence, text
from symjax.data.resize import resize
from symjax.errors import InputError


class SegmentedBatch(NamedTuple):
    """A batch of images with the masks of the concepts that occur in it.

    Attributes:
      images: (n, height, width, channels), or other inputs of a network.
      masks: (n, mask height, mask width, k) bool, the pixels of k concepts.
      concepts: (k,), the numbers of these concepts. Other concepts have no pixels in the batch.
      annotated: (n, categories) bool, whether an image has annotations of a category.
    """

    images: np.ndarray
    masks: np.ndarray
    concepts: np.ndarray
    annotated: np.ndarray


class SegmentedImages(abc.ABC):
    """Base class of images with segmentations; a subclass reads batches.

    Attributes:
      names: names of the concepts.
      categories: names of the categories.
      category: (concepts,), the number of the category of each concept.
      size: height and width of the masks.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    category: np.ndarray
    size: tuple[int, int]

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abc.abstractmethod
    def batches(self, batch_size: int, image_size: int | None = None) -> Iterator[SegmentedBatch]:
        """Yield all images in order, `batch_size` at a time; `image_size` resizes them to this height and width."""


class SegmentedArrays(SegmentedImages):
    """Images and masks in memory.

    Args:
      images: (n, height, width, channels); uint8 if they are to be resized.
      masks: (n, mask height, mask width, concepts), bool.
      names: names of the concepts, all different.
      categories: the name of the category of each concept; by default one category for all.
      annotated: (n, categories) bool, whether an image has annotations of a category, by default all True. Categories
        are in the order of their first occurrence in `categories`.

    Raises:
      InputError: lengths or dtypes do not fit, or a mask has pixels in an image that is not annotated for its category.

    Example:
      >>> import numpy as np
      >>> from symjax.dissection import SegmentedArrays
      >>> masks = np.zeros((5, 4, 4, 2), bool)
      >>> data = SegmentedArrays(np.zeros((5, 4, 4, 1), np.uint8), masks, ["red", "striped"], ["color", "texture"])
      >>> [batch.images.shape[0] for batch in data.batches(2)], data.categories
      ([2, 2, 1], ('color', 'texture'))
    """

    def __init__(self, images, masks, names: Sequence[str], categories: Sequence[str] | None = None, annotated=None):
        self.images, self.masks = numpy_array("images", images), numpy_array("masks", masks)
        self.names = tuple(text("names", name) for name in sequence("names", names, "texts"))
        if (
            self.masks.ndim != 4
            or self.masks.dtype != bool
            or len(self.masks) != len(self.images)
            or not self.masks.size
        ):
            given = f"{self.masks.dtype}{list(self.masks.shape)} for {len(self.images)} images"
            raise InputError(f"masks: got {given}, expected bool (n, height, width, concepts), none of them 0")
        if len(self.names) != self.masks.shape[-1] or len(set(self.names)) < len(self.names):
            raise InputError(
                f"names: got {len(set(self.names))} different, expected {self.masks.shape[-1]}, one for each mask"
            )
        each = ("concept",) * len(self.names) if categories is None else sequence("categories", categories, "texts")
        if len(each) != len(self.names):
            raise InputError(f"categories: got {len(each)}, expected {len(self.names)}, one for each concept")
        self.size = self.masks.shape[1:3]
        self.categories = tuple(dict.fromkeys(text("categories", name) for name in each))
        self.category = np.array([self.categories.index(name) for name in each])
        shape = (len(self.images), len(self.categories))
        self.annotated = np.ones(shape, bool) if annotated is None else numpy_array("annotated", annotated)
        if self.annotated.shape != shape or self.annotated.dtype != bool:
            given = f"{self.annotated.dtype}{list(self.annotated.shape)}"
            raise InputError(f"annotated: got {given}, expected bool{list(shape)}, images by categories")
        if (self.masks.any(axis=(1, 2)) & ~self.annotated[:, self.category]).any():
            raise InputError(
                "annotated: got a mask with pixels in an image without annotations of its category, expected none"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, image_size: int | None = None) -> Iterator[SegmentedBatch]:
        batch_size = integer("batch_size", batch_size, 1)
        for start in range(0, len(self), batch_size):
            rows, concepts = slice(start, start + batch_size), np.arange(len(self.names))
            images = self.images[rows] if image_size is None else resize(self.images[rows], image_size)
            yield SegmentedBatch(images, self.masks[rows], concepts, self.annotated[rows])
