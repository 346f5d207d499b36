"""Whatever is thrown at a public function: an InputError that names the argument, or a right answer.

Tables of functions come from `symjax` and `MEASURES`; a new measure or stream is thrown at without a line here.
"""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import throws
from hypothesis import given
from hypothesis import strategies as st
from kernels import each, names

import symjax
from symjax import dynamics, freezing
from symjax.errors import InputError
from symjax.groups import GROUPS, homogeneity_defect, is_intertwiner
from symjax.similarity import MEASURES
from symjax.stitching import feature_moments, least_squares, matched

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]

EXAMPLES, FEATURES = 12, 3
TOLERANCE = 2e-5
RANGE = (2.0**-102, 2.0**104)  # of largest entries, in which float32 is computed with


# --- the table of what there is ---

PUBLIC = {name: value for name, value in vars(symjax).items() if not name.startswith("_") and inspect.isfunction(value)}
FIRST = {name: list(inspect.signature(f).parameters) for name, f in PUBLIC.items()}
PAIRED = {name: f for name, f in PUBLIC.items() if FIRST[name][:2] == ["x", "y"] or FIRST[name][:3] == ["fn", "x", "y"]}
STREAMS = {
    name: f for name, f in PUBLIC.items() if name.endswith("_stream") and name not in ("load_stream", "save_stream")
}
OF_MATRICES = ("nearest_permutation", "projection_birkhoff", "sinkhorn")
BY_NAME = {  # those with a test of their own here
    *OF_MATRICES,
    *("permutation_matrix", "softsort", "pca", "diagnose", "hsic", "pairwise", "error_bars", "permutation_test"),
    *("mean_over_pairs", "group_means", "save_stream", "load_stream", "mean_correlation", "mean_square_correlation"),
}


def test_every_public_function_is_thrown_at():
    assert set(PUBLIC) == set(PAIRED) | set(STREAMS) | BY_NAME
    assert len(PAIRED) > 20 and len(STREAMS) > 8


# --- what is thrown ---


def ordinary(seed, features=FEATURES, examples=EXAMPLES):
    """Nonnegative, of columns that correlate and differ in scale; no accident makes anything agree."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(examples, 2)) @ rng.normal(size=(2, features)) + rng.normal(size=(examples, features))
    return np.float32(np.maximum(mixed + 0.3, 0) + 0.01 * rng.random((examples, features)))


SEEDS = st.integers(0, 2**16)
GOOD = ordinary(0)


@st.composite
def not_a_representation(draw):
    """Something that no measure takes on either side, beside GOOD on the other."""
    kind = draw(st.sampled_from(sorted(WRONG)))
    return WRONG[kind](draw)


def with_entry(draw, value):
    x = ordinary(draw(SEEDS))
    x[draw(st.integers(0, EXAMPLES - 1)), draw(st.integers(0, FEATURES - 1))] = value
    return x


def of_shape(draw, shapes):
    return np.ones(
        draw(st.sampled_from(shapes)), draw(st.sampled_from(["float32", "float64", "int32", "bool", "float16"]))
    )


WRONG = {
    "rank": lambda draw: of_shape(draw, [(), (12,), (12, 3, 1), (12, 1, 1, 3, 1)]),
    "empty": lambda draw: of_shape(draw, [(0, 3), (12, 0), (12, 0, 2, 3), (12, 2, 2, 0), (0, 0)]),
    "examples": lambda draw: of_shape(draw, [(1, 3), (11, 3), (13, 3), (1, 2, 2, 3), (24, 3)]),
    "no finite": lambda draw: with_entry(draw, draw(st.sampled_from([np.nan, np.inf, -np.inf]))),
    "too large": lambda draw: with_entry(draw, draw(st.floats(2.0**105, 3.4e38)) * draw(st.sampled_from([1, -1]))),
    "too small": lambda draw: ordinary(draw(SEEDS)) * np.float32(2.0 ** -draw(st.integers(115, 140))),
    "beyond float32": lambda draw: (
        np.float64(ordinary(draw(SEEDS))) * 10.0 ** draw(st.sampled_from([-300, -60, 50, 300]))
    ),
    "complex": lambda draw: ordinary(draw(SEEDS)) * 1j,
    "objects": lambda draw: draw(
        st.sampled_from([ordinary(1).astype(object), np.full((12, 3), None), np.full((12, 3), {})])
    ),
    "text": lambda draw: draw(st.sampled_from([ordinary(1).astype(str), "x", b"x", np.full((12, 3), "1")])),
    "dates": lambda draw: np.zeros((12, 3), "datetime64[D]"),
    "no array": lambda draw: draw(
        st.sampled_from([None, {}, {"x": 1}, object(), [[1, 2], [3]], [[10**30] * 3] * 12, jnp.sum])
    ),
}


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


def close(a, b, tolerance=TOLERANCE):
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * max(1.0, abs(b))


def value_of(measure, x, y):
    value = measure.fn(x, y)
    assert value.shape == () and value.dtype == jnp.float32
    return float(value)


def undefined(measure, x):
    """Whether a measure of x with anything is 0 / 0."""
    x = np.asarray(x, np.float64)
    if "translation" in measure.invariances:
        return bool((x == x[:1]).all())
    return not x.any() and "isotropic_scaling" in measure.invariances


def alone(measure, x):
    """Whether one example differs from all others, of which U-centring a kernel leaves nothing."""
    x = np.asarray(x)
    return "cka" in measure.name and any((np.delete(x, i, 0) == x[i - 1]).all() for i in range(len(x)))


def scaled(x, power):
    """x times 2^power, without rounding unless it leaves the range of normal numbers."""
    return np.ldexp(np.asarray(x, np.float32), power)


@each
@throws(8)
@given(seed=SEEDS, powers=st.tuples(st.integers(-149, 125), st.integers(-149, 125)))
@pytest.mark.few(3)
def test_size_is_refused_or_does_not_matter(measure, seed, powers):
    """What is as large or small as floats can be, as it is when brought to an ordinary size."""
    x, y = ordinary(seed), ordinary(seed + 1)
    if "isotropic_scaling" not in measure.invariances:
        powers = (powers[0], powers[0])
    sides = [scaled(z, power) for z, power in zip((x, y), powers, strict=True)]
    inside = [RANGE[0] <= np.abs(z).max() <= RANGE[1] for z in sides]
    if not all(inside) and all(z.any() for z in sides):
        with pytest.raises(InputError, match="^[xy]: has (no entry|entries)"):
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
    assert low - 1e-6 <= value <= high + 1e-6
    if "positive_diagonal" in measure.invariances:
        assert close(value, value_of(measure, x, y), 2e-4)


@st.composite
def degenerate(draw):
    """A representation some of whose columns are constant, duplicated, zero or one number in one place."""
    x = ordinary(draw(SEEDS))
    for column in range(FEATURES):
        kind = draw(st.sampled_from(["as it is", "zero", "constant", "first", "negative", "one entry"]))
        if kind == "one entry":
            x[1:, column] = 0
        elif kind != "as it is":
            x[:, column] = {"zero": 0, "constant": 0.3, "first": x[:, 0], "negative": -x[:, column]}[kind]
    return x


@each
@throws(10)
@given(x=degenerate(), y=degenerate())
def test_degenerate_columns_give_a_value_or_nan_where_it_is_undefined(measure, x, y):
    value = value_of(measure, x, y)
    if any(undefined(measure, z) for z in (x, y)):
        assert math.isnan(value)
    elif not any(alone(measure, z) for z in (x, y)) and measure.name != "cka_rbf":
        assert not math.isnan(value)
    if not math.isnan(value):
        low, high = measure.range
        assert low - 1e-6 <= value <= high + 1e-6
        if measure.symmetric:
            assert close(value_of(measure, y, x), value, 1e-4 if measure.kind == "similarity" else 2e-3)
    same = value_of(measure, x, x)
    if not undefined(measure, x) and not math.isnan(same):
        best = 0.0 if measure.kind == "distance" else measure.range[1]
        assert abs(same - best) < (2e-3 if measure.kind == "distance" else 2e-5)


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


@pytest.mark.parametrize("name", [p for p in names if MEASURES[p.values[0]].kind == "similarity"])
@throws(4)
@given(seed=SEEDS)
@pytest.mark.few(4)
def test_fewer_examples_than_neurons(name, seed):
    measure = MEASURES[name]
    x, y = (ordinary(s, features=6, examples=4) for s in (seed, seed + 1))
    low, high = measure.range
    assert low - 1e-6 <= value_of(measure, x, y) <= high + 1e-6
    assert abs(value_of(measure, x, x) - high) < 5e-5


@throws(5)
@given(seed=SEEDS, powers=st.tuples(st.integers(-95, 95), st.integers(-95, 95)))
def test_full_results_at_any_size(seed, powers):
    """Directions, means and spectra are those of ordinary data, times what was multiplied with."""
    x, y = ordinary(seed), ordinary(seed + 1)
    big_x, big_y = (scaled(z, power) for z, power in zip((x, y), powers, strict=True))
    expected, got = symjax.cca(x, y), symjax.cca(big_x, big_y)
    np.testing.assert_allclose(got.correlations, expected.correlations, atol=TOLERANCE)
    np.testing.assert_allclose(scaled(got.x_mean, -powers[0]), expected.x_mean, rtol=1e-5)
    scores = lambda z, found: (z - found.x_mean) @ found.x_directions  # noqa: E731
    np.testing.assert_allclose(abs(scores(big_x, got)), abs(scores(x, expected)), atol=1e-3)
    expected, got = symjax.pls(x, y), symjax.pls(big_x, big_y)
    np.testing.assert_allclose(abs(got.x_directions), abs(expected.x_directions), atol=1e-4)
    if -100 < sum(powers) < 100:
        np.testing.assert_allclose(scaled(got.covariances, -sum(powers)), expected.covariances, rtol=1e-3)
    expected, got = symjax.pca(x), symjax.pca(big_x)
    np.testing.assert_allclose(got.ratios, expected.ratios, atol=TOLERANCE)
    np.testing.assert_allclose(abs(got.components), abs(expected.components), atol=1e-3)


# --- streams ---


@pytest.mark.parametrize("name", sorted(STREAMS))
@throws(10)
@given(bad=not_a_representation(), left=st.booleans())
def test_streams_refuse_what_is_no_batch(name, bad, left):
    stream = STREAMS[name]()
    state = stream.init(GOOD, GOOD)
    if np.shape(bad) == (1, 3) if isinstance(bad, np.ndarray) else False:
        bad = bad[0]  # one example is a batch
    with pytest.raises(InputError, match="^[xy]: "):
        stream.update(state, *((bad, GOOD) if left else (GOOD, bad)))


@pytest.mark.parametrize("name", sorted(STREAMS))
@throws(2)
@given(seed=SEEDS, power=st.integers(-95, 95))
@pytest.mark.few(2)
def test_streams_at_any_size(name, seed, power):
    """As the same batches at an ordinary size; or NaN, where squares of entries leave the range."""
    stream = STREAMS[name]()
    value = {}
    for size in (0, power):
        state = stream.init(GOOD, GOOD)
        for batch in (seed, seed + 2):
            state = stream.update(state, scaled(ordinary(batch), size), scaled(ordinary(batch + 1), size))
        found = stream.finalize(state)
        value[size] = np.asarray(
            found.correlations if hasattr(found, "correlations") else getattr(found, "x_directions", found)
        )
    np.testing.assert_allclose(abs(value[power]), abs(value[0]), atol=2e-4)


@pytest.mark.parametrize("what", ["no file", "folder", "text", "other stream", "other width", "pickle", "cut short"])
def test_states_that_cannot_be_loaded(what, tmp_path):
    stream, path = symjax.cca_stream(), tmp_path / "state.npz"
    state = stream.init(GOOD, GOOD)
    symjax.save_stream(path, symjax.cka_stream() if what == "other stream" else stream, state)
    if what in ("no file", "folder"):
        path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("state")
    elif what == "pickle":
        np.savez(path, **{"x.shift": np.array([{}], object)})
    elif what == "cut short":
        path.write_bytes(path.read_bytes()[:-40])
    like = stream.init(GOOD[:, :2], GOOD) if what == "other width" else state
    with pytest.raises(InputError, match="state.npz"):
        symjax.load_stream(path, stream, like)


# --- matrices ---

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
    "cca": (partial(symjax.cca, GOOD, GOOD), {"rcond": [*NO_NUMBER[1:], -1, 1, math.inf], "maps": ["", None, 3, []]}),
    "cca_similarity": (partial(symjax.cca_similarity, GOOD, GOOD), {"summary": ["", None, 3]}),
    "svcca": (partial(symjax.svcca, GOOD, GOOD), {"variance": [*NO_NUMBER, 0, -1, 1.1, math.inf]}),
    "cka": (
        partial(symjax.cka, GOOD, GOOD),
        {
            "estimator": ["", None, "Song", 3],
            "kernel": ["", None, 3],
            "form": ["", None, 3],
            "maps": ["", None, 3],
            "bandwidth": [*NO_NUMBER, 0, -1, math.inf],
        },
    ),
    "wreath_cka": (partial(symjax.wreath_cka, GOOD, GOOD), {"reduce": ["", None, 3], "estimator": ["", None, 3]}),
    "procrustes": (partial(symjax.procrustes, GOOD, GOOD), {"maps": ["", None, 3]}),
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
    "pairwise": (
        partial(symjax.pairwise, {"a": np.stack([GOOD, GOOD])}, "cka"),
        {
            "layers": ["", None, 3],
            "memory": [*NO_NUMBER, 0, -1, True],
            "models": [[1], "a", [1, 1]],
            "pairs": ["", 3, [(0, 5)], ["ab"]],
            "maps": ["", None, 3],
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
    found = symjax.diagnose(scaled(x, power))
    np.testing.assert_array_equal(found.dead, ~x.any(0))
    np.testing.assert_array_equal(found.constant, np.ptp(x, axis=0) == 0)
    live = [i for i in range(FEATURES) if np.ptp(x[:, i]) > 0]
    units = x / np.where(x.any(0), np.linalg.norm(np.float64(x), axis=0), 1)
    duplicate = [
        i in live and any(np.allclose(units[:, i], units[:, j]) for j in live if j < i) for i in range(FEATURES)
    ]
    np.testing.assert_array_equal(found.duplicate, duplicate)
    centred = np.float64(x)[:, live] - np.float64(x)[:, live].mean(0)
    assert found.rank == (np.linalg.matrix_rank(centred, rtol=1e-5) if live else 0)


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
    found = symjax.mean_over_pairs(values, PAIRS)
    size = max(map(abs, values)) or 1.0
    assert close(float(found.estimate) / size, np.mean(np.float64(values)) / size)
    left_out = np.array([values[2], values[1], values[0]], np.float64) / size  # without models 0, 1, 2
    error = math.sqrt(2 / 3 * np.sum((left_out - left_out.mean()) ** 2))
    if size < 1e15 and (size > 1e-15):
        assert close(float(found.standard_error) / size, error, 1e-5)


# --- groups, dynamics, stitches ---


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
    found = is_intertwiner(relu, matrix)
    assert found.verdict is True and GROUPS["positive_monomial"].contains(matrix[:1, :1] if not swapped else [[1.0]])
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
    found, solved = np.asarray(matched(moments)), np.asarray(least_squares(moments))
    assert np.isfinite(found).all() and np.isfinite(solved).all()
    assert ((found != 0).sum(0) <= 1).all() and ((found != 0).sum(1) <= 1).all() and (found >= 0).all()
    # Least squares is no worse than the matching.
    residual = lambda matrix: np.sum((np.float64(y) - np.float64(x) @ np.float64(matrix).T) ** 2)  # noqa: E731
    assert residual(solved) <= residual(found) + 1e-3 * np.sum(np.float64(y) ** 2)
