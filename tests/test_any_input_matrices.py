"""Arbitrary matrices, kernels and options: an InputError that names the argument, or a right answer."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from campaign import throws
from hypothesis import given
from hypothesis import strategies as st
from input_helpers import (
    EXAMPLES,
    FEATURES,
    GOOD,
    OF_MATRICES,
    PUBLIC,
    SEEDS,
    WRONG,
    close,
    degenerate,
    not_a_representation,
    of_shape,
    scaled,
    with_entry,
)

import symjax
from symjax.errors import InputError

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]

WRONG_MATRICES = {
    "rank": lambda draw: of_shape(draw, [(), (3,)]),
    "not square": lambda draw: of_shape(draw, [(3, 2), (2, 3), (4, 1, 3)]),
    "empty": lambda draw: of_shape(draw, [(0, 0), (2, 0, 0)]),
    "no finite": lambda draw: with_entry(draw, draw(st.sampled_from([np.nan, np.inf, -np.inf])))[:3],
    "complex": WRONG["complex"],
    "objects": WRONG["objects"],
    "text": WRONG["text"],
    "no array": WRONG["no array"],
}


@st.composite
def not_a_matrix(draw):
    bad = WRONG_MATRICES[draw(st.sampled_from(sorted(WRONG_MATRICES)))](draw)
    return (
        bad[:3] if isinstance(bad, np.ndarray) and bad.shape == (EXAMPLES, FEATURES) and bad.dtype.kind in "cO" else bad
    )


def broken(matrix):
    """Whether `not_a_matrix` put its NaN or infinity beyond the three rows that are left."""
    return not (
        isinstance(matrix, np.ndarray)
        and matrix.dtype.kind == "f"
        and matrix.shape == (3, 3)
        and np.isfinite(matrix).all()
    )


@pytest.mark.parametrize("name", OF_MATRICES)
@throws(40)
@given(bad=not_a_matrix().filter(broken))
def test_what_is_no_square_matrix_is_refused(name, bad):
    with pytest.raises(InputError, match="^matrix: "):
        PUBLIC[name](bad)


@throws(15)
@given(seed=SEEDS, power=st.integers(-140, 126), negative=st.booleans(), n=st.sampled_from([4]))
def test_birkhoff_at_any_size(seed, power, negative, n):
    matrix = scaled(np.random.default_rng(seed).random((n, n)).astype(np.float32) + 0.1, power)
    matrix = -matrix if negative else matrix
    projected, info = symjax.projection_birkhoff(matrix, full_output=True)
    assert np.isfinite(projected).all() and (projected >= 0).all()
    assert bool(info.converged) == (float(info.residual) <= 1e-6) and info.residual < 1e-3
    np.testing.assert_allclose(projected.sum(0), 1, atol=1e-3)
    permutation = np.asarray(symjax.nearest_permutation(matrix))
    assert sorted(permutation) == list(range(n))
    if negative:
        with pytest.raises(InputError, match="^matrix: .*negative"):
            symjax.sinkhorn(matrix)
    elif power > -120:
        balanced = symjax.sinkhorn(matrix)
        np.testing.assert_allclose(balanced.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(balanced, symjax.sinkhorn(scaled(matrix, -power)), atol=1e-5)


NO_NUMBER = [None, "1", [1.0, 2.0], np.ones(3), math.nan, 1j, {}]
OPTIONS = {  # function, its bad options
    "projection_birkhoff": (
        lambda **o: symjax.projection_birkhoff(np.eye(3), **o),
        {
            "tol": [*NO_NUMBER, 0, -1],
            "max_iters": [*NO_NUMBER[1:], -1, 0.5],
            "method": ["", None, 3, "Newton", []],
            "init": [3, "ab", (1, 2), (np.ones(2), np.ones(3)), (None, None)],
        },
    ),
    "sinkhorn": (lambda **o: symjax.sinkhorn(np.eye(3), **o), {"num_iters": [*NO_NUMBER, -1, 0.5]}),
    "softsort": (lambda tau: symjax.softsort(np.arange(3.0), tau), {"tau": [*NO_NUMBER, 0, -1, 1e-42]}),
    "cca": (
        partial(symjax.cca, GOOD, GOOD),
        {"rcond": [*NO_NUMBER[1:], -1, 1, math.inf], "samples": ["", None, 3, []]},
    ),
    "cca_similarity": (partial(symjax.cca_similarity, GOOD, GOOD), {"summary": ["", None, 3]}),
    "svcca": (partial(symjax.svcca, GOOD, GOOD), {"variance": [*NO_NUMBER, 0, -1, 1.1, math.inf]}),
    "cka": (
        partial(symjax.cka, GOOD, GOOD),
        {
            "estimator": ["", None, "Song", 3],
            "kernel": ["", None, 3],
            "form": ["", None, 3],
            "samples": ["", None, 3],
            "bandwidth": [*NO_NUMBER, 0, -1, math.inf],
        },
    ),
    "wreath_cka": (partial(symjax.wreath_cka, GOOD, GOOD), {"reduce": ["", None, 3], "estimator": ["", None, 3]}),
    "procrustes": (partial(symjax.procrustes, GOOD, GOOD), {"samples": ["", None, 3]}),
    "error_bars": (
        partial(symjax.error_bars, "cka", GOOD, GOOD, jax.random.key(0)),
        {
            "num_resamples": [*NO_NUMBER, 0, 1, -1, True, 2.0],
            "level": [*NO_NUMBER, 0, 1, -1],
            "batch_size": [*NO_NUMBER[1:], 0, True],
        },
    ),
    "permutation_test": (
        partial(symjax.permutation_test, "cka", GOOD, GOOD, jax.random.key(0)),
        {
            "num_permutations": [*NO_NUMBER, 0, -1, True, 2.0],
            "alternative": ["", "both", 3],
            "batch_size": [*NO_NUMBER[1:], 0],
        },
    ),
    "calibrate": (
        partial(symjax.calibrate, "cka", GOOD, GOOD, jax.random.key(0)),
        {
            "num_permutations": [*NO_NUMBER, 0, -1, True, 2.0],
            "alpha": [*NO_NUMBER, 0, 1, -1],
            "best": [*NO_NUMBER[1:], math.inf],
            "layers": ["", None, 3],
        },
    ),
    "split_half_ceiling": (
        partial(symjax.split_half_ceiling, "cka", GOOD, jax.random.key(0)),
        {"num_splits": [*NO_NUMBER, 0, 1, True, 2.0], "level": [*NO_NUMBER, 0, 1, -1]},
    ),
    "pairwise": (
        partial(symjax.pairwise, {"a": np.stack([GOOD, GOOD])}, "cka"),
        {
            "layers": ["", None, 3],
            "memory": [*NO_NUMBER, 0, -1, True],
            "models": [[1], "a", [1, 1]],
            "pairs": ["", 3, [(0, 5)], ["ab"]],
            "samples": ["", None, 3],
        },
    ),
    "mean_over_pairs": (
        partial(symjax.mean_over_pairs, [1.0, 2.0, 3.0], [[0, 1], [0, 2], [1, 2]]),
        {"level": [*NO_NUMBER, 0, 1]},
    ),
}


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(f, name, value) for f, (_, options) in OPTIONS.items() for name, values in options.items() for value in values],
    ids=lambda part: str(part)[:12],
)
def test_bad_options_are_refused_by_name(function, name, value):
    with pytest.raises(InputError, match=rf"\b{name}\b"):
        OPTIONS[function][0](**{name: value})


@throws(30)
@given(bad=not_a_matrix().filter(broken), left=st.booleans())
def test_hsic_refuses_what_is_no_kernel_matrix(bad, left):
    good = np.eye(5)
    with pytest.raises(InputError, match="^[kl]: "):
        symjax.hsic(*((bad, good) if left else (good, bad)))
    with pytest.raises(InputError, match="^[kl]: "):
        symjax.hsic(np.eye(4), good)


@pytest.mark.parametrize("bad", [1.5, None, "ab", [[1, 2], [3]], [0.5, 1.0], 3, [1j], [None], [2**70]])
def test_permutation_matrix_refuses(bad):
    with pytest.raises(InputError, match="^permutation: "):
        symjax.permutation_matrix(bad)


def test_what_indexes_nothing_makes_a_row_of_zeros():
    for far in (-1, 2, 2**31, 2**32, 2**40 + 1, -(2**40)):
        np.testing.assert_array_equal(symjax.permutation_matrix(np.array([0, far])), [[1, 0], [0, 0]])


@pytest.mark.parametrize("bad", [1.5, None, "ab", [[1, 2], [3]], [1j], [None], [math.nan, 1], [math.inf, 1]])
def test_softsort_refuses(bad):
    with pytest.raises(InputError, match="^scores: "):
        symjax.softsort(bad, 0.1)


@pytest.mark.parametrize("name", ["pca", "diagnose"])
@throws(30)
@given(bad=not_a_representation())
def test_functions_of_one_representation_refuse(name, bad):
    if isinstance(bad, np.ndarray) and bad.ndim in (2, 4) and bad.size and len(bad) > 1 and (bad == 1).all():
        bad = bad[:1]  # another number of examples is no fault here
    with pytest.raises(InputError, match="^x: "):
        PUBLIC[name](bad)


@throws(20)
@given(x=degenerate(), power=st.integers(-90, 90))
def test_degenerate_columns_are_diagnosed(x, power):
    diagnosis = symjax.diagnose(scaled(x, power))
    np.testing.assert_array_equal(diagnosis.dead, ~x.any(0))
    np.testing.assert_array_equal(diagnosis.constant, np.ptp(x, axis=0) == 0)
    live = [i for i in range(FEATURES) if np.ptp(x[:, i]) > 0]
    units = x / np.where(x.any(0), np.linalg.norm(np.float64(x), axis=0), 1)
    duplicate = [
        i in live and any(np.allclose(units[:, i], units[:, j]) for j in live if j < i) for i in range(FEATURES)
    ]
    np.testing.assert_array_equal(diagnosis.duplicate, duplicate)
    centered = np.float64(x)[:, live] - np.float64(x)[:, live].mean(0)
    assert diagnosis.rank == (np.linalg.matrix_rank(centered, rtol=1e-5) if live else 0)


@throws(60)
@given(bad=not_a_representation(), against=st.booleans())
def test_pairwise_refuses(bad, against):
    good = {"a": GOOD[None]}
    if isinstance(bad, np.ndarray):
        bad = bad[None]
        if bad.shape[1:2] > (1,) and bad.size and (bad == 1).all() and not against:
            bad = bad[:, :1]
    with pytest.raises(InputError, match=r"\b(representations|against|x|y)\b"):
        symjax.pairwise(
            *((good, "cka") if against else ({"a": bad}, "cka")), **({"against": {"a": bad}} if against else {})
        )


PAIRS = [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize(
    ("values", "pairs", "named"),
    [
        ([1.0, 2.0], PAIRS, "values"),
        ([1.0, math.nan, 2.0], PAIRS, "values"),
        (["a", "b", "c"], PAIRS, "values"),
        (None, PAIRS, "values"),
        ([1j, 1, 1], PAIRS, "values"),
        ([], np.zeros((0, 2), int), "pairs"),
        ([1.0, 2.0, 3.0], [[0, 0], [0, 2], [1, 2]], "pairs"),
        ([1.0, 2.0, 3.0], [[0, 1], [0, 1], [0, 1]], "pairs"),
        ([1.0, 2.0, 3.0], [[0, 1.5], [0, 2], [1, 2]], "pairs"),
        ([1.0, 2.0, 3.0], None, "pairs"),
        ([1.0, 2.0, 3.0], [[0, 1], [2]], "pairs"),
        ([1.0, 2.0, 3.0], [["a", "b"]] * 3, "pairs"),
    ],
)
def test_means_over_pairs_refuse(values, pairs, named):
    with pytest.raises(InputError, match=f"^{named}: "):
        symjax.mean_over_pairs(values, pairs)
    with pytest.raises(InputError, match="^(pairs|values|values, pairs): "):
        symjax.group_means(
            values, np.zeros((2, 2), int) if len(np.shape(values)) and not np.size(values) else pairs, "aab"
        )


@throws(20)
@given(values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=3, max_size=3))
def test_mean_over_pairs_at_any_size(values):
    result = symjax.mean_over_pairs(values, PAIRS)
    size = max(map(abs, values)) or 1.0
    assert close(float(result.estimate) / size, np.mean(np.float64(values)) / size)
    left_out = np.array([values[2], values[1], values[0]], np.float64) / size  # without models 0, 1, 2
    error = math.sqrt(2 / 3 * np.sum((left_out - left_out.mean()) ** 2))
    if size < 1e15 and (size > 1e-15):
        assert close(float(result.standard_error) / size, error, 1e-5)
