"""The table of all measures."""

from collections.abc import Iterable

from symjax.checks import short
from symjax.errors import InputError
from symjax.similarity.measure import Measure

MEASURES: dict[str, Measure] = {}
"""Every `Measure` by name."""


def add_measures(measures: Iterable[Measure]) -> None:
    """Add measures to `MEASURES`; raise a ValueError if a name is taken."""
    for measure in measures:
        if measure.name in MEASURES:
            raise ValueError(f"a measure {measure.name} is already in the table")
        MEASURES[measure.name] = measure


def as_measure(name, value):
    """Return the `Measure` for a name in `MEASURES`; return a `Measure` or a function unchanged.

    Raises:
        InputError: anything else; the message names the argument `name`.
    """
    if isinstance(value, Measure):
        return value
    if isinstance(value, str) and value in MEASURES:
        return MEASURES[value]
    if not callable(value):
        known = ", ".join(MEASURES)
        raise InputError(f"{name}: got {short(value)}, expected one of {known}, a Measure or a function")
    return value
