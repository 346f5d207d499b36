"""Arrays of any shape, type and value at every public function: an InputError that names the argument, or numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from campaign import throws
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays
from public_helpers import COSTLY, FUNCTIONS, MAKES, METHODS, NAMED, PUBLIC, PYTREES, called, kind_of

from symjax import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning"),
    pytest.mark.filterwarnings("ignore::symjax.similarity.NumericalWarning"),
    pytest.mark.filterwarnings("ignore:constrained_layout not applied"),  # matplotlib's, for numbers of 300 digits
]

REAL = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "uint64", "bool"]
UNREAL = ["complex64", "object", "U3", "S3", "M8[D]", "m8[s]", "V4"]


@st.composite
def arrays(draw, good):
    """(whether it is ordinary, an array) in the place of one that does.

    Ordinary are numbers of usual size in a usual shape and type: of them no function may make NaN.
    """
    good = np.asarray(good)
    kind = draw(st.sampled_from(["ordinary", "values", "shape", "type"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if kind == "ordinary" and good.dtype.kind == "f":
        numbers = rng.normal(size=good.shape) * 2.0 ** draw(st.integers(-10, 10))
        return True, numbers.astype(draw(st.sampled_from(["float32", "float64"])))
    if kind == "ordinary":
        return True, rng.permutation(good)
    if kind == "values":
        dtype = draw(st.sampled_from(REAL))
        if dtype == "bfloat16":
            return False, draw(numpy_arrays(np.float32, good.shape)).astype(jnp.bfloat16)
        return False, draw(numpy_arrays(dtype, good.shape))
    if kind == "type":
        return False, np.ones(good.shape, "int8").astype(draw(st.sampled_from(UNREAL)))
    shapes = [(), (0,), (1,), (*good.shape, 1), (1, *good.shape), (*good.shape, 0), good.shape[1:], good.shape[:-1]]
    return False, rng.random(draw(st.sampled_from(shapes)), np.float32)


def places(arguments):
    """(argument, array that does, what puts another in its place): of arrays, of numbers, of the first of several."""
    for argument, good in arguments.items():
        kind = None if argument in PYTREES else kind_of(good)
        if kind == "mapping" and good and kind_of(next(iter(good.values()))) == "array":
            key = next(iter(good))
            yield argument, good[key], lambda array, good=good, key=key: {**good, key: array}
        elif kind == "sequence" and good and kind_of(good[0]) == "array":
            yield argument, good[0], lambda array, good=good: (array, *good[1:])
        elif kind == "array" or (kind == "sequence" and are_numbers(good)):
            yield argument, good, lambda array: array


def are_numbers(values):
    flat = jax.tree.leaves(values)
    return bool(flat) and all(isinstance(value, (int, float)) for value in flat)


def has_nan(result):
    if isinstance(result, pd.DataFrame):
        return bool(result.select_dtypes("number").isna().any(axis=None))
    leaves = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, (float, np.ndarray, np.generic, jax.Array))]
    leaves = [leaf for leaf in leaves if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)]
    return any(bool(jnp.isnan(leaf).any()) for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def throw_at(place, arrays_of_any_kind, call, named, nan):
    """Calls with arrays in this place; an error is to name it, and begin with an argument's name."""

    @throws(10)
    @given(arrays_of_any_kind)
    def throw(drawn):
        ordinary, array = drawn
        try:
            result = call(place(array))
        except InputError as error:
            assert re.match(r"[\w ,\[\]'./-]+: ", str(error)) and re.search(rf"\b({named})\b", str(error)), str(error)
        else:
            assert nan or not ordinary or not has_nan(result)

    throw()


TRAIN = ("zoo.train", "zoo.train_together")  # whichever seeds they are given
MAY_BE_NAN = ("dynamics.epoch_above", "dynamics.convergence_epoch")  # of ordinary numbers, as documented


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [n for n in (*FUNCTIONS, *MAKES, *METHODS) if n not in (*COSTLY, *TRAIN)])
@pytest.mark.few(20)
def test_any_array_is_refused_by_name_or_gives_numbers(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = called(name)
    if name == "extraction.capture_batches":  # nothing is computed before the first batch is requested
        function = lambda **arguments: list(PUBLIC[name](**arguments))  # noqa: E731
    failed = {}
    nan = True if name in MAY_BE_NAN else None
    for argument, good, place in places(arguments):
        nan = has_nan(function(**arguments)) if nan is None else nan
        named = NAMED.get(f"{name}.{argument}", argument)
        try:
            call = lambda value, argument=argument: function(**{**arguments, argument: value})  # noqa: E731
            throw_at(place, arrays(good), call, named, nan)
        except Exception as error:
            notes = " ".join(getattr(error, "__notes__", []))
            failed[argument] = f"{error!r:.300} {notes:.600}"
    assert not failed, "\n" + "\n".join(f"{argument}: {text}" for argument, text in failed.items())
