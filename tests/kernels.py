"""Parametrization over measures: by default one of each implementation, with `-m slow` all."""

from functools import partial

import pytest

from symjax.similarity import MEASURES


def is_variant(name: str) -> bool:
    """Return whether a measure is another measure with an option, or the distance that belongs to a similarity."""
    return isinstance(MEASURES[name].fn, partial) or name.removesuffix("_distance") in MEASURES.keys() - {name}


def parameters(value=lambda name: name):
    """One parameter for each measure, `value` of its name; those of variants are slow."""
    return [pytest.param(value(name), marks=pytest.mark.slow if is_variant(name) else (), id=name) for name in MEASURES]


names = parameters()
each = pytest.mark.parametrize("measure", parameters(MEASURES.get))
