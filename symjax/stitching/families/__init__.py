"""The registry of stitch families. A new family is a class in a module of this package and an entry in `FAMILIES`.

On the command line a family is `name` or `name:value`, a low rank also `rank4`:
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
    """An entry of the registry.

    Attributes:
      make: the class of the family.
      parameter: the name of its hyperparameter; None for a family without one.
      description: one line for help texts.
    """

    make: Callable[..., Family]
    parameter: str | None = None
    description: str = ""


FAMILIES: dict[str, Entry] = {
    "identity": Entry(partial(ClosedForm, kind="identity"), None, "the identity: the untrained baseline"),
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
    """Return the family that `text` names.

    Args:
      text: `name` or `name:value`, such as "birkhoff:0.01"; a low rank also as "rank4".

    Raises:
      InputError: the name is unknown, the family takes no number, or the number is not positive.
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
    if entry.parameter is None:
        raise InputError(f"families: {text!r}: {name} takes no number")
    try:
        value = int(number) if name == "rank" else float(number)
    except ValueError:
        raise InputError(f"families: {text!r}: {number!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise InputError(f"families: {text!r}: {entry.parameter} must be positive")
    return entry.make(**{entry.parameter: value})


def parse_families(text: str) -> tuple[Family, ...]:
    """Return the families of a comma-separated list, without repetitions.

    Args:
      text: names as of the command line, see `FAMILIES`.

    Raises:
      InputError: the list is empty, or one of its entries is not a family.

    Example:
        >>> from symjax.stitching import parse_families
        >>> [family.label for family in parse_families("full,rank2,birkhoff:0.01")]
        ['full', 'rank2', 'birkhoff:0.01']
    """
    if not isinstance(text, str):
        raise InputError(f"families: got {text!r}, expected names with commas between")
    families = [parse_family(part) for part in text.split(",") if part.strip()]
    if not families:
        raise InputError("families: none given")
    return tuple(dict.fromkeys(families))
