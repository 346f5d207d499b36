"""Tables of public functions, and strategies of hypothesis for right and wrong input."""

import inspect
import math

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import symjax

EXAMPLES, FEATURES = 12, 3
TOLERANCE = 2e-5
PUBLIC = {name: value for name, value in vars(symjax).items() if not name.startswith("_") and inspect.isfunction(value)}
STREAMS = {
    name: f for name, f in PUBLIC.items() if name.endswith("_stream") and name not in ("load_stream", "save_stream")
}
OF_MATRICES = ("nearest_permutation", "projection_birkhoff", "sinkhorn")


def ordinary(seed, features=FEATURES, examples=EXAMPLES):
    """Return a nonnegative array whose columns are correlated and differ in scale."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(examples, 2)) @ rng.normal(size=(2, features)) + rng.normal(size=(examples, features))
    return np.float32(np.maximum(mixed + 0.3, 0) + 0.01 * rng.random((examples, features)))


SEEDS = st.integers(0, 2**16)
GOOD = ordinary(0)


@st.composite
def not_a_representation(draw):
    """Draw a value that no measure accepts on either side, with GOOD on the other."""
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
    "rank": lambda draw: of_shape(draw, [(), (12,), (3,)]),
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


def close(a, b, tolerance=TOLERANCE):
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * max(1.0, abs(b))


def scaled(x, power):
    """x times 2^power, without rounding unless it leaves the range of normal numbers."""
    return np.ldexp(np.asarray(x, np.float32), power)


def with_one_entry(x, *columns):
    """Return x with columns that are zero but for the first example."""
    result = x.copy()
    result[1:, columns] = 0
    return result


@st.composite
def degenerate(draw):
    """A representation some of whose columns are constant, duplicated, zero or one number in one place."""
    x = ordinary(draw(SEEDS))
    for column in range(FEATURES):
        kind = draw(st.sampled_from(["as it is", "zero", "constant", "first", "negative", "one entry"]))
        if kind == "one entry":
            x = with_one_entry(x, column)
        elif kind != "as it is":
            x[:, column] = {"zero": 0, "constant": 0.3, "first": x[:, 0], "negative": -x[:, column]}[kind]
    return x
