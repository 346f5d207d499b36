"""Stitch families by name. A new one is a class in a file here and one line in `FAMILIES`.

A family is asked for as `name` or `name:number` on the command line, low rank also as `rank4`:
full, rank1, lasso:1e-3, birkhoff, birkhoff:0.01, softsort, orthogonal, identity, matched, least_squares.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from symjax.errors import InputError
from symjax.stitching.families.base import Family as Family
from symjax.stitching.families.closed_form import ClosedForm as ClosedForm
from symjax.stitching.families.free import Full as Full
from symjax.stitching.families.free import Lasso as Lasso
from symjax.stitching.families.free import LowRank as LowRank
from symjax.stitching.families.free import ProximalLasso as ProximalLasso
from symjax.stitching.families.orthogonal import Orthogonal as Orthogonal
from symjax.stitching.families.relu import Birkhoff as Birkhoff
from symjax.stitching.families.relu import PublishedBirkhoff as PublishedBirkhoff
from symjax.stitching.families.relu import SoftSort as SoftSort


@dataclass(frozen=True)
class Entry:
    """How a family is made: its class, and what its number means (None: it takes none)."""

    make: Callable[..., Family]
    number: str | None = None
    about: str = ""


FAMILIES: dict[str, Entry] = {
    "identity": Entry(partial(ClosedForm, kind="identity"), None, "no stitch at all: the untrained baseline"),
    "matched": Entry(partial(ClosedForm, kind="matched"), None, "closed form: G_ReLU-Procrustes between features"),
    "least_squares": Entry(partial(ClosedForm, kind="least_squares"), None, "closed form: linear regression"),
    "full": Entry(Full, None, "any matrix"),
    "rank": Entry(LowRank, "rank", "U V of the given rank"),
    "lasso": Entry(Lasso, "weight", "any matrix, L1 penalty of the given weight"),
    "lasso_proximal": Entry(ProximalLasso, "weight", "any matrix, soft thresholding after each step"),
    "birkhoff": Entry(Birkhoff, "alpha", "G_ReLU over the Birkhoff polytope, our recipe"),
    "birkhoff_published": Entry(PublishedBirkhoff, "alpha", "G_ReLU over the Birkhoff polytope, the published recipe"),
    "softsort": Entry(SoftSort, "tau", "G_ReLU by SoftSort"),
    "orthogonal": Entry(Orthogonal, None, "orthogonal matrices"),
}


def parse_family(text: str) -> Family:
    """The family that `text` names.

    Raises:
      InputError: for an unknown name, a number where none is taken, or one that is not positive.
    """
    text = text.strip()
    match = re.fullmatch(r"rank[:=]?(\d+)", text)
    name, _, number = ("rank", ":", match[1]) if match else text.partition(":")
    known = ", ".join("rank1, rank2, rank4, ..." if key == "rank" else key for key in FAMILIES)
    if name not in FAMILIES or (name == "rank" and not match):
        raise InputError(f"families: {text!r} is unknown; known: {known} (name or name:number)")
    entry = FAMILIES[name]
    if not number:
        return entry.make()
    if entry.number is None:
        raise InputError(f"families: {text!r}: {name} takes no number")
    try:
        value = int(number) if name == "rank" else float(number)
    except ValueError:
        raise InputError(f"families: {text!r}: {number!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise InputError(f"families: {text!r}: {entry.number} must be positive")
    return entry.make(**{entry.number: value})


def parse_families(text: str) -> tuple[Family, ...]:
    """The families of a comma-separated list, without repetition."""
    if not isinstance(text, str):
        raise InputError(f"families: got {text!r}, wanted names with commas between")
    families = [parse_family(part) for part in text.split(",") if part.strip()]
    if not families:
        raise InputError("families: none given")
    return tuple(dict.fromkeys(families))
