"""Exact quantiles of activations that arrive in batches."""

import math

import numpy as np

from symjax.checks import integer, numpy_array, scalar
from symjax.errors import InputError


class TopQuantile:
    """The threshold of each unit that a fraction `quantile` of its activations exceeds, from batches of activations.

    With k = floor(quantile * total), the threshold is the (k + 1)-th largest activation. If no other activation is
    equal to it, k activations are larger, otherwise k or fewer. The result is exact: the k + 1 largest activations of
    each unit are kept.

    Args:
      total: number of activations of each unit in all batches together.
      quantile: fraction of the activations above the threshold, above 0 and below 1.

    Raises:
      InputError: `total` or `quantile` is out of range, or k is 0.

    Reference: Bau et al. 2017 (arXiv 1704.05796), section 2.

    Example:
      >>> import numpy as np
      >>> from symjax.dissection import TopQuantile
      >>> top = TopQuantile(total=8, quantile=0.25)
      >>> top.update(np.array([[1, 7, 3, 5]]))
      >>> top.update(np.array([[2, 8, 4, 6]]))
      >>> top.thresholds()
      array([6])
    """

    def __init__(self, total: int, quantile: float):
        self.total = integer("total", total, 1, 2**62)
        quantile = scalar("quantile", quantile, "a share above 0 and under 1", lambda value: 0 < value < 1)
        self.above = math.floor(quantile * self.total + 1e-9)  # 0.29 * 100 is a little less than 29
        if not self.above:
            raise InputError(
                f"quantile: got {quantile}, expected at least one of {total} activations above the threshold"
            )
        self.count = 0
        self._largest: np.ndarray | None = None

    def update(self, activations) -> None:
        """Add a batch of activations (..., n); the units (...) are the same in all batches.

        Raises:
          InputError: the units differ from those of earlier batches, or there are more than `total` activations.
        """
        activations = numpy_array("activations", activations)
        if not activations.ndim or (self._largest is not None and activations.shape[:-1] != self._largest.shape[:-1]):
            units = "..." if self._largest is None else ", ".join(map(str, self._largest.shape[:-1]))
            raise InputError(f"activations: got shape {activations.shape}, expected ({units}, n)")
        self.count += activations.shape[-1]
        if self.count > self.total:
            raise InputError(f"activations: got {self.count} for each unit, expected {self.total}, the total")
        if self._largest is not None:
            activations = np.concatenate([self._largest, activations], axis=-1)
        kept = self.above + 1
        if activations.shape[-1] > kept:
            activations = np.partition(activations, -kept, axis=-1)[..., -kept:]
        self._largest = activations.copy()

    def thresholds(self) -> np.ndarray:
        """Return the thresholds (...); NaN for a unit with a NaN activation.

        Raises:
          InputError: fewer than `total` activations were added.
        """
        if self._largest is None or self.count < self.total:
            raise InputError(f"activations: got {self.count} for each unit, expected {self.total}, the total")
        return self._largest.min(axis=-1)
