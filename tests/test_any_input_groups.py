"""Arbitrary input of groups, dynamics and closed forms of stitches."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from campaign import throws
from hypothesis import given
from hypothesis import strategies as st
from input_helpers import degenerate

from symjax import dynamics, freezing
from symjax.errors import InputError
from symjax.groups import GROUPS, homogeneity_defect, is_intertwiner
from symjax.stitching import feature_moments, least_squares, matched

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "ab",
        3,
        np.ones(3),
        np.ones((2, 3)),
        np.ones((0, 0)),
        [[1, 2], [3]],
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.eye(2) * 1j,
        np.eye(2).astype(object),
        np.eye(2).astype(str),
    ],
    ids=str,
)
def test_groups_refuse_what_is_no_matrix(bad):
    for group in GROUPS.values():
        with pytest.raises(InputError, match="^matrix: "):
            group.contains(bad)
    with pytest.raises(InputError, match="^matrix: "):
        is_intertwiner(jax.nn.relu, bad)


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": 0},
        {"inputs": -5},
        {"inputs": "many"},
        {"inputs": 20.5},
        {"reach": math.nan},
        {"reach": 0},
        {"reach": math.inf},
        {"reach": "far"},
        {"tolerance": math.nan},
        {"tolerance": -1.0},
        {"tolerance": "small"},
    ],
    ids=str,
)
def test_is_intertwiner_refuses(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}: "):
        is_intertwiner(jax.nn.relu, np.eye(2), **options)


@throws(12)
@given(powers=st.tuples(st.integers(-300, 300), st.integers(-300, 300)), swapped=st.booleans())
def test_is_intertwiner_at_any_size(powers, swapped):
    """Positive monomial matrices are in ReLU's group however large and small their entries are; others never."""
    matrix = np.diag(np.ldexp(1.0, np.array(powers)))
    matrix = matrix[::-1] if swapped else matrix
    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    decision = is_intertwiner(relu, matrix)
    assert decision.verdict is True and GROUPS["positive_monomial"].contains(matrix[:1, :1] if not swapped else [[1.0]])
    assert not is_intertwiner(relu, -matrix)


@pytest.mark.parametrize("scales", [0, -1, math.nan, math.inf, "a", None, [1, -1], 1j, [[1], [1, 2]]], ids=str)
def test_homogeneity_defect_refuses(scales):
    with pytest.raises(InputError, match="^scales: "):
        homogeneity_defect(jax.nn.gelu, scales)


@pytest.mark.parametrize(
    ("epochs", "values"),
    [
        ([], []),
        ([1, 2], [1.0]),
        ([2, 1], [1.0, 2.0]),
        ([1, 1], [1.0, 2.0]),
        ([[1, 2]], [1.0, 2.0]),
        ("ab", [1, 2]),
        ([1, 2], ["a", "b"]),
        (None, None),
        ([math.nan, 1], [1, 2]),
    ],
    ids=str,
)
def test_curves_that_are_none(epochs, values):
    for function in (partial(dynamics.epoch_above, level=0.5), dynamics.convergence_epoch):
        with pytest.raises(InputError, match="^(epochs|values): "):
            function(epochs, values)


@throws(60)
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=6), st.floats(0.01, 1))
def test_convergence_lies_within_the_run(values, share):
    epoch = dynamics.convergence_epoch(range(len(values)), values, share)
    assert 0 <= epoch <= len(values) - 1


@pytest.mark.parametrize(
    ("begin", "end"), [(0.5, 0.2), (-1, 1), (0, 1.5), (math.nan, 1), (0, math.nan), (math.inf, math.inf)]
)
def test_schedules_that_are_none(begin, end):
    with pytest.raises(InputError, match="^begin, end: "):
        freezing.linear_schedule(4, 10, begin, end)


@pytest.mark.parametrize(
    "labels",
    [[0, 1], [[0, 1, 0]], [0, 1, 7], [0, -1, 0], [0.5, 1, 0], ["a", "b", "c"], None, [math.nan, 0, 1]],
    ids=str,
)
def test_labels_that_are_none(labels):
    history = {"a": np.arange(6.0).reshape(1, 3, 2)}
    with pytest.raises(InputError, match="^labels: "):
        dynamics.class_correlations(history, labels, ("zero", "one"), [0])


@throws(25)
@given(x=degenerate(), y=degenerate())
def test_closed_forms_of_stitches_are_finite(x, y):
    """Dead and duplicate channels included; a permutation takes each channel once at most."""
    moments = feature_moments(x, y)
    matching, solved = np.asarray(matched(moments)), np.asarray(least_squares(moments))
    assert np.isfinite(matching).all() and np.isfinite(solved).all()
    assert ((matching != 0).sum(0) <= 1).all() and ((matching != 0).sum(1) <= 1).all() and (matching >= 0).all()
    # Least squares with its ridge is no worse than the matching.
    x, y = np.float64(x), np.float64(y)
    objective = lambda matrix: np.sum((y - x @ matrix.T) ** 2) + 1e-5 * np.mean(x**2) * len(x) * np.sum(matrix**2)  # noqa: E731
    assert objective(np.float64(solved)) <= objective(np.float64(matching)) + 1e-5 * np.sum(y**2)
