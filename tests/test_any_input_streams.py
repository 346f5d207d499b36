"""Arbitrary batches and saved states of streams: an InputError that names the argument, or a right answer."""

import numpy as np
import pytest
from campaign import throws
from hypothesis import given
from hypothesis import strategies as st
from input_helpers import GOOD, SEEDS, STREAMS, not_a_representation, ordinary, scaled

import symjax
from symjax.errors import InputError

pytestmark = [pytest.mark.fuzz, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]


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
        result = stream.finalize(state)
        value[size] = np.asarray(
            result.correlations if hasattr(result, "correlations") else getattr(result, "x_directions", result)
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
