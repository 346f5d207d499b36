"""The registry of stitch families, and their names on the command line."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symjax import checks
from symjax.errors import InputError, did_you_mean
from symjax.imports import import_named
from symjax.stitching.families.base import Family

FAMILIES: dict[str, type[Family]] = {}
"""Every registered stitch family by name."""

_IMPORT_NAME = re.compile(r"([\w.]+:[^\W\d]\w*)(?::(.*))?")  # package.module:Name or package.module:Name:number


def register_family(
    name: str,
    description: str = "",
    *,
    title: str = "",
    color: str | Mapping[float, str] | None = None,
    grid: Sequence[float] = (),
) -> Callable[[type[Family]], type[Family]]:
    """Return a decorator that registers a subclass of `Family`.

    Args:
      name: its name in results and on the command line: letters, digits and underscores.
      description: one line for help texts.
      title: its name in figures; by default `name`.
      color: its color in figures, or {hyperparameter: color}; by default one of a neutral palette.
      grid: hyperparameters to choose from by validation.

    Raises:
      InputError: an argument is invalid, another family has the name, or the class is not a `Family`.

    Example:
        >>> from dataclasses import dataclass
        >>> from symjax.stitching import FAMILIES, Family, parse_families, register_family
        >>> @register_family("scaled", "any matrix, penalty on its norm", color="#006d2c", grid=(0.1, 1))
        ... @dataclass(frozen=True)
        ... class Scaled(Family):
        ...     weight: float = 0.1
        ...
        ...     def penalty(self, params, progress):
        ...         return self.weight * (params["matrix"] ** 2).sum()
        >>> [family.label for family in parse_families("scaled,scaled:0.5")]
        ['scaled', 'scaled:0.5']
        >>> del FAMILIES["scaled"]
    """
    if not re.fullmatch(r"[^\W\d]\w*", checks.text("name", name)):
        raise InputError(f"name: got {checks.short(name)}, expected letters, digits and underscores")
    checks.text("description", description, empty=True)
    checks.text("title", title, empty=True)
    if not (color is None or isinstance(color, (str, Mapping))):
        raise InputError(f"color: got {checks.short(color)}, expected a color of matplotlib or a mapping to colors")
    grid = checks.sequence("grid", grid, "numbers")

    def add(family: type[Family]) -> type[Family]:
        if not (isinstance(family, type) and issubclass(family, Family)):
            raise InputError(f"family: got {checks.short(family)}, expected a subclass of Family")
        known = FAMILIES.get(name, family)
        if (known.__module__, known.__qualname__) != (family.__module__, family.__qualname__):
            raise InputError(f"name: a family {name} is already registered")
        family.name, family.description, family.title = name, description, title or name
        family.color, family.grid = color, grid
        FAMILIES[name] = family
        return family

    return add


def find_family(label: str) -> tuple[type[Family], str] | None:
    """Return the registered family that a label names, and its number as text or ""; None for an unknown name."""
    for name, family in FAMILIES.items():
        pattern = rf"{name}[:=]?(\d+)" if family.is_counted() else rf"{name}(?::(.*))?"
        if match := re.fullmatch(pattern, label):
            return family, match[1] or ""
    return None


def _command_line_name(family: type[Family]) -> str:
    """Return how a family is written on the command line."""
    if family.is_counted():
        return ", ".join([f"{family.name}{number}" for number in family.grid or (1, 2)] + ["..."])
    field = family.parameter()
    return family.name if field is None else f"{family.name}[:{field.name}]"


def family_names() -> str:
    """Return how every family is written, for messages."""
    return ", ".join([*map(_command_line_name, FAMILIES.values()), "or package.module:Name for your own"])


def family_help() -> str:
    """Return every family with its description, for help texts."""
    known = [f"{_command_line_name(family)} ({family.description or family.title})" for family in FAMILIES.values()]
    return "; ".join([*known, "or package.module:Name[:number] for your own"])


def parse_family(text: str) -> Family:
    """Return the family that `text` names.

    Args:
      text: `name` or `name:value`, such as "birkhoff:0.01"; a low rank as "rank4"; for a family of your own
        "package.module:Name" or "package.module:Name:value", where `Name` is a subclass of `Family`, a function that
        returns a family, or a family.

    Raises:
      InputError: the name is unknown, the family takes no number, or the number is not valid for it.
    """
    text = text.strip()
    if known := find_family(text):
        return _make(text, *known)
    imported = _IMPORT_NAME.fullmatch(text)
    if imported is None or text.partition(":")[0] in FAMILIES:
        raise InputError(f"families: got {text!r}{did_you_mean(text, FAMILIES)}, expected one of {family_names()}")
    return _make(text, import_named("families", imported[1]), imported[2] or "")


def _make(text: str, make: type[Family] | Callable[..., Family] | Family, number: str) -> Family:
    """Return the family, with the number that the text gives."""
    if isinstance(make, Family) and not number:
        return make
    family_class = make if isinstance(make, type) and issubclass(make, Family) else None
    if not callable(make) or (number and family_class is not None and family_class.parameter() is None):
        raise InputError(f"families: got {text!r}, expected {text.removesuffix(f':{number}')} without a number")
    try:
        counted = family_class is not None and family_class.is_counted()
        values = [int(number) if counted else float(number)] if number else []
    except ValueError:
        raise InputError(f"families: got {text!r}, expected a number instead of {number!r}") from None
    try:
        family: Any = make(*values)
    except InputError as error:
        raise InputError(f"families: got {text!r}; {error}") from None
    except Exception as error:  # user code can raise anything
        raise InputError(f"families: got {text!r}, which cannot be built ({type(error).__name__}: {error})") from error
    if not isinstance(family, Family):
        raise InputError(
            f"families: got {text!r}, which is {checks.short(family)}, expected a Family or a function that returns one"
        )
    return family


def parse_families(families: str | Family | Sequence[str | Family]) -> tuple[Family, ...]:
    """Return families by their names, without repetitions.

    Args:
      families: comma-separated names, as on the command line (see `FAMILIES`), a family, or a sequence of both. A
        family of your own is a `Family`, or "package.module:Name".

    Raises:
      InputError: there are none, or one of them is not a family.

    Example:
        >>> from symjax.stitching import parse_families
        >>> [family.label for family in parse_families("full,rank2,birkhoff:0.01")]
        ['full', 'rank2', 'birkhoff:0.01']
    """
    if isinstance(families, str):
        families = [part for part in families.split(",") if part.strip()]
    elif isinstance(families, Family):
        families = [families]
    result = []
    for family in checks.sequence("families", families, "families or their names"):
        if not isinstance(family, (str, Family)):
            raise InputError(f"families: got {checks.short(family)}, expected a Family or its name")
        result.append(parse_family(family) if isinstance(family, str) else family)
    if not result:
        raise InputError("families: got none, expected one or more")
    return tuple(dict.fromkeys(result))
