"""Arbitrary input of measures: an InputError that names the argument, or a right answer.

Tables of functions come from `symjax` and `MEASURES`; a new measure or stream is tested without a line here."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import throws
from hypothesis import example, given
from hypothesis import strategies as st
from input_helpers import (
    FEATURES,
    GOOD,
    OF_MATRICES,
    PUBLIC,
    SEEDS,
    STREAMS,
    TOLERANCE,
    close,
    degenerate,
    not_a_representation,
    ordinary,
    scaled,
    with_one_entry,
)
from kernels import each, names

import symjax
from symjax.errors import InputError
from symjax.similarity import MEASURES

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]
MAY_BE_UNDEFINED = ("cka_rbf", "feature_sampled_cka")  # also for data that are not degenerate
RANGE = (2.0**-102, 2.0**104)  # of largest entries, in which float32 is computed with


# --- the table of what there is ---


FIRST = {name: list(inspect.signature(f).parameters) for name, f in PUBLIC.items()}
PAIRED = {name: f for name, f in PUBLIC.items() if FIRST[name][:2] == ["x", "y"] or FIRST[name][:3] == ["fn", "x", "y"]}
BY_NAME = {  # those with a test of their own here
    *OF_MATRICES,
    *(
        "permutation_matrix",
        "softsort",
        "pca",
        "diagnose",
        "hsic",
        "pairwise",
        "pairwise_batches",
        "error_bars",
        "permutation_test",
    ),
    *("calibrate", "split_half_ceiling", "seed_ceiling", "group_test", "pairwise_batches"),
    *("mean_over_pairs", "group_means", "save_stream", "load_stream", "mean_correlation", "mean_square_correlation"),
    *("bartlett_test", "add_measures"),  # see test_bartlett, test_plugins
}


def test_every_public_function_is_thrown_at():
    assert set(PUBLIC) == set(PAIRED) | set(STREAMS) | BY_NAME
    assert len(PAIRED) > 20 and len(STREAMS) > 8


# --- what is thrown ---


@pytest.mark.parametrize("name", sorted(PAIRED))
@throws(15)
@given(bad=not_a_representation(), left=st.booleans())
def test_what_is_no_representation_is_refused_by_name(name, bad, left):
    f = PAIRED[name]
    extra = (jax.random.key(0),) if "key" in FIRST[name] else ()
    f = partial(f, "cka") if "fn" in FIRST[name] else f
    with pytest.raises(InputError, match="^[xy]: "):
        f(*((bad, GOOD) if left else (GOOD, bad)), *extra)


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if "full_output" in FIRST[name]))
def test_what_is_to_come_out_is_asked_before_anything_is_done(name):
    bad = () if name.endswith("_stream") else (None,) if name in OF_MATRICES else (None, None)
    with pytest.raises(InputError, match="^full_output: got 2"):
        PUBLIC[name](*bad, full_output=2)


# --- measures ---


def value_of(measure, x, y):
    value = measure.fn(x, y)
    assert value.shape == () and value.dtype == jnp.float32
    return float(value)


OF_ANGLES = {"mutual_knn_cosine", "second_order_cosine", "rsa", "rsa_pearson", "rsa_cosine_cov"}


def undefined(measure, x):
    """Whether a measure of x with anything is 0 / 0."""
    x = np.asarray(x, np.float64)
    constant = (x == x[:1]).all() if "translation" in measure.invariances else not x.any()
    return bool(constant and "isotropic_scaling" in measure.invariances)


def end(measure):
    """Return the value of equal representations."""
    return 0.0 if measure.kind == "distance" else measure.range[1]


def alone(measure, x):
    """Return whether a single example differs from all others: U-centering makes the kernel of such data zero.

    Of measures of angles, whether all rows may have one direction.
    """
    x = np.asarray(x)
    if measure.name in OF_ANGLES:
        return np.linalg.matrix_rank(x) < x.shape[1]
    if "cka" not in measure.name and measure.name != "distance_correlation_song":
        return False
    varying = x[:, (x != x[:1]).any(0)]
    share = max((np.delete(varying, i, 0) == varying[i - 1]).all(0).mean() for i in range(len(x)))
    return share > 0.5 if measure.name == "wreath_cka_median" else share == 1  # of most kernels of single neurons


def dropped(measure, x):
    """Return the share of examples at unit norm in directions whose squares are rounding beside the largest ones."""
    if measure.name != "aligned_cosine":
        return 0.0
    x = np.float64(x)[np.asarray(x).any(1)]
    _, s, vt = np.linalg.svd(x, full_matrices=False)
    small = s**2 <= 8 * float(np.finfo(np.float32).eps) * FEATURES**0.5 * s[0] ** 2
    return (((x / np.linalg.norm(x, axis=1, keepdims=True)) @ vt[small].T) ** 2).sum() / len(x)


@each
@throws(8)
@given(seed=SEEDS, powers=st.tuples(st.integers(-149, 125), st.integers(-149, 125)))
@pytest.mark.few(3)
def test_size_is_refused_or_does_not_matter(measure, seed, powers):
    """Data near the limits of floats has the value that it has when scaled to an ordinary size."""
    x, y = ordinary(seed), ordinary(seed + 1)
    if "isotropic_scaling" not in measure.invariances:
        powers = (powers[0], powers[0])
    sides = [scaled(z, power) for z, power in zip((x, y), powers, strict=True)]
    inside = [RANGE[0] <= np.abs(z).max() <= RANGE[1] for z in sides]
    if not all(inside) and all(z.any() for z in sides):
        with pytest.raises(InputError, match="^[xy]: (has|got) (no entry|entries)"):
            measure.fn(*sides)
        return
    expected = value_of(measure, x, y)
    if "isotropic_scaling" not in measure.invariances:
        expected = float(scaled(expected, powers[0]))
        assert close(value_of(measure, *sides) / expected, 1.0)
    elif all(z.any() for z in sides):
        assert close(value_of(measure, *sides), expected)


@each
@throws(4)
@given(seed=SEEDS, powers=st.lists(st.integers(-80, 80), min_size=FEATURES, max_size=FEATURES))
@pytest.mark.few(6)
def test_columns_of_very_different_size(measure, seed, powers):
    x, y = ordinary(seed), ordinary(seed + 1)
    value = value_of(measure, scaled(x, np.array(powers)), y)
    low, high = measure.range
    if measure.name in {*OF_ANGLES, *MAY_BE_UNDEFINED} and math.isnan(value):
        return  # rows are those of one column, up to rounding
    assert low - 1e-6 <= value <= high + 1e-6
    if "positive_diagonal" in measure.invariances:
        assert close(value, value_of(measure, x, y), 2e-4)


@each
@throws(10)
@example(x=GOOD, y=with_one_entry(GOOD, 1, 2))
@example(x=with_one_entry(GOOD, 1), y=ordinary(1))
@given(x=degenerate(), y=degenerate())
@pytest.mark.few(14)
def test_degenerate_columns_give_a_value_or_nan_where_it_is_undefined(measure, x, y):
    value = value_of(measure, x, y)
    if any(undefined(measure, z) for z in (x, y)):
        assert math.isnan(value)
    elif not any(alone(measure, z) for z in (x, y)) and measure.name not in MAY_BE_UNDEFINED:
        assert not math.isnan(value)
    if not math.isnan(value):
        low, high = measure.range
        assert low - 1e-6 <= value <= high + 1e-6
        # Without variance in the examples of a fit, rounding decides on the rotation.
        if measure.symmetric and measure.name != "held_out_procrustes":
            assert close(value_of(measure, y, x), value, 1e-4 if measure.kind == "similarity" else 2e-3)
    same = value_of(measure, x, x)
    if not undefined(measure, x) and not math.isnan(same):
        best = end(measure) - dropped(measure, x)
        assert not measure.ends_at_equal or abs(same - best) < (2e-3 if measure.kind == "distance" else 2e-5)


@each
@throws(6)
@given(seed=SEEDS, dtype=st.sampled_from(["int8", "uint8", "int64", "bool", "float16", "bfloat16", "float64", "list"]))
def test_types_are_taken_for_their_numbers(measure, seed, dtype):
    x, y = ordinary(seed), ordinary(seed + 1)
    given_x = (3 * x).tolist() if dtype == "list" else (3 * x).astype(jnp.dtype(dtype))
    if dtype == "int64":
        given_x = given_x * 2**40  # more than JAX's 32 bits hold
    as_floats = np.asarray(given_x, np.float64).astype(np.float32)
    assert close(value_of(measure, given_x, y), value_of(measure, as_floats, y))


@pytest.mark.parametrize("name", [p for p in names if MEASURES[p.values[0]].range[1] == 1])
@throws(4)
@given(seed=SEEDS)
@pytest.mark.few(4)
def test_fewer_examples_than_neurons(name, seed):
    measure = MEASURES[name]
    examples = max(4, measure.min_examples)
    x, y = (ordinary(s, features=examples + 2, examples=examples) for s in (seed, seed + 1))
    low, high = measure.range
    assert low - 1e-6 <= value_of(measure, x, y) <= high + 1e-6
    assert not measure.ends_at_equal or abs(value_of(measure, x, x) - end(measure)) < 5e-5


@throws(5)
@given(seed=SEEDS, powers=st.tuples(st.integers(-95, 95), st.integers(-95, 95)))
def test_full_results_at_any_size(seed, powers):
    """Directions, means and spectra are those of data of ordinary size, scaled alike."""
    x, y = ordinary(seed), ordinary(seed + 1)
    big_x, big_y = (scaled(z, power) for z, power in zip((x, y), powers, strict=True))
    expected, got = symjax.cca(x, y), symjax.cca(big_x, big_y)
    np.testing.assert_allclose(got.correlations, expected.correlations, atol=TOLERANCE)
    np.testing.assert_allclose(scaled(got.x_mean, -powers[0]), expected.x_mean, rtol=1e-5)
    scores = lambda z, result: (z - result.x_mean) @ result.x_directions  # noqa: E731
    np.testing.assert_allclose(abs(scores(big_x, got)), abs(scores(x, expected)), atol=1e-3)
    expected, got = symjax.pls(x, y), symjax.pls(big_x, big_y)
    np.testing.assert_allclose(abs(got.x_directions), abs(expected.x_directions), atol=1e-4)
    if -100 < sum(powers) < 100:
        np.testing.assert_allclose(scaled(got.covariances, -sum(powers)), expected.covariances, rtol=1e-3)
    expected, got = symjax.pca(x), symjax.pca(big_x)
    np.testing.assert_allclose(got.ratios, expected.ratios, atol=TOLERANCE)
    np.testing.assert_allclose(abs(got.components), abs(expected.components), atol=1e-3)
