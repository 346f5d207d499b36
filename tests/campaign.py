"""How much the campaigns throw at the library: a few inputs by default, all of them with `-m "fuzz or slow"`.

Tests of campaigns carry the marker `fuzz`. conftest.py sets `FULL` before any test module is imported.
"""

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings

FULL = False


def throws(count: int, few: int = 2) -> settings:
    """Settings of a hypothesis test that draws `count` examples in a campaign and `few` by default.

    The examples are the same in every run.
    """
    return settings(
        max_examples=count if FULL else min(few, count),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def some(values: Sequence, key: str, few: int = 2) -> Sequence:
    """Return all values in a campaign, and by default `few` of them, chosen by a hash of `key`."""
    if FULL or len(values) <= few:
        return values
    start = zlib.crc32(key.encode())
    return [values[(start + i) % len(values)] for i in range(few)]


def slow(*values):
    """One case of `pytest.mark.parametrize` that runs with `-m slow` alone."""
    return pytest.param(*values, marks=pytest.mark.slow)
