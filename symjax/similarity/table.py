"""The table of all measures."""

from collections.abc import Sequence

from symjax.checks import sequence, short
from symjax.errors import InputError
from symjax.similarity.measure import Measure

MEASURES: dict[str, Measure] = {}
"""Every `Measure` by name."""


def add_measures(measures: Sequence[Measure]) -> None:
    """Add measures of your own to `MEASURES`, so that they can be named in calls and have their title in figures.

    Raises:
        InputError: one of them is not a `Measure`, or a name is taken.
    """
    for measure in sequence("measures", measures, "Measures"):
        if not isinstance(measure, Measure):
            raise InputError(f"measures: got {short(measure)}, expected a Measure")
        if measure.name in MEASURES:
            raise InputError(f"measures: {measure.name} is already in the table")
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
