"""Accumulators on disk: an interrupted stream goes on where it was, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.similarity.streams.stream import describe_state

_KIND = "kind"


def save_stream(path, stream, state):
    """Writes a state of `stream` to an .npz file, atomically and without pickle, with the kind of the stream.

    Raises:
        InputError: the file cannot be written.
    """
    from symjax.runs import write_npz  # and with it pandas, which similarity does not need otherwise

    write_npz(checks.path("path", path), {_KIND: np.array(stream.kind)} | _leaves_by_path(state))


def load_stream(path, stream, like):
    """The state that `save_stream` wrote, the same bit by bit.

    Args:
        path: of the file.
        stream: a `Stream` of the kind that wrote it.
        like: any state of it with the shapes wanted, such as stream.init(x, y), or its shapes and dtypes.

    Raises:
        InputError: the file is missing or broken, of a stream of another kind, or of other widths or dtypes.
    """
    from symjax.runs import read_npz

    arrays = read_npz(checks.path("path", path))
    kind = str(arrays.pop(_KIND, "no stream"))
    if kind != stream.kind:
        raise InputError(f"path: got a state of {kind} in {path}, expected {stream.kind}")
    expected = _leaves_by_path(like)
    stored = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if stored != {name: (leaf.shape, leaf.dtype) for name, leaf in expected.items()}:
        stored_text = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
        raise InputError(f"path: got {stored_text} in {path}, expected a state {describe_state(like)}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[name]) for name in expected])


def _leaves_by_path(state):
    """Leaves by their place in the state, such as "x.shift"."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
