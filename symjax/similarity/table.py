"""The table `MEASURES`."""

from collections.abc import Sequence

from symjax.checks import sequence, short
from symjax.errors import InputError, did_you_mean
from symjax.similarity.measure import Measure

MEASURES: dict[str, Measure] = {}
"""Every `Measure` by name."""


def add_measures(measures: Sequence[Measure]) -> None:
    """Add measures of your own to `MEASURES`, so that they can be named in calls and have their title in figures.

    Raises:
        InputError: one of them is not a `Measure`, or a name is taken.

    Example:
        >>> import jax.numpy as jnp
        >>> from symjax.similarity import MEASURES, Measure, add_measures, pairwise
        >>> def mean_gap(x, y):
        ...     return jnp.abs(x.mean() - y.mean())
        >>> add_measures([Measure(
        ...     name="mean_gap", fn=mean_gap, reference="own", range=(0.0, float("inf")), kind="distance",
        ...     symmetric=True, invariances=frozenset())])
        >>> layers = {"relu1": jnp.arange(24.0).reshape(2, 4, 3)}
        >>> pairwise(layers, "mean_gap").values[0, 0, 0].tolist()
        [0.0, 12.0]
        >>> del MEASURES["mean_gap"]
    """
    for measure in sequence("measures", measures, "Measures"):
        if not isinstance(measure, Measure):
            raise InputError(f"measures: got {short(measure)}, expected a Measure")
        if measure.name in MEASURES:
            raise InputError(f"measures: got the name {measure.name}, which is in MEASURES, expected another one")
        MEASURES[measure.name] = measure


def one_measure_of_each_kind():
    """Return the names of `MEASURES` without distances that order pairs as a similarity in the table does."""
    return [name for name in MEASURES if name.removesuffix("_distance") not in MEASURES.keys() - {name}]


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
        got = f"{short(value)}{did_you_mean(value, MEASURES)}"
        raise InputError(f"{name}: got {got}, expected one of {', '.join(MEASURES)}, a Measure or a function")
    return value
