"""Stitches without training: the identity, and closed forms of the features of both models."""

from dataclasses import dataclass
from typing import ClassVar

from symjax.stitching.families.base import Family
from symjax.stitching.families.registry import register_family


@dataclass(frozen=True)
class ClosedForm(Family):
    """The start matrix."""

    trains: ClassVar[bool] = False


@register_family("identity", "the untrained baseline", title="identity (no stitch)", color="#4d4d4d")
@dataclass(frozen=True)
class Identity(ClosedForm):
    """The identity matrix."""

    start: ClassVar[str] = "identity"
    square: ClassVar[bool] = True


@register_family(
    "matched",
    "closed form: G_ReLU-Procrustes between features",
    title="$G_{\\mathrm{ReLU}}$ matched (closed form)",
    color="#f6c667",
)
@dataclass(frozen=True)
class Matched(ClosedForm):
    """The element of G_ReLU that `symjax.stitching.matched` returns."""

    start: ClassVar[str] = "matched"
    square: ClassVar[bool] = True


@register_family(
    "least_squares",
    "closed form: linear regression",
    title="least squares (closed form)",
    color="#b8b8b8",
)
@dataclass(frozen=True)
class LeastSquares(ClosedForm):
    """The matrix that `symjax.stitching.least_squares` returns."""

    start: ClassVar[str] = "least_squares"
