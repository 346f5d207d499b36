"""Stitches without training: the identity, and closed forms of the features of both models."""

from dataclasses import dataclass
from typing import ClassVar

from symjax.stitching.families.base import Family


@dataclass(frozen=True)
class ClosedForm(Family):
    """The start matrix named by `kind`: "identity", "matched" or "least_squares"."""

    kind: str = "identity"
    trains: ClassVar[bool] = False

    @property
    def label(self):
        return self.kind

    @property
    def square(self):
        return self.kind != "least_squares"

    @property
    def start(self):
        return self.kind
