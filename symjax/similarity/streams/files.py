"""Stream states on disk: an interrupted stream continues exactly."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.errors import InputError
from symjax.similarity.streams.stream import describe_state

_KIND = "kind"


def save_stream(path, stream, state):
    """Write a state of `stream` to an .npz file, atomically and without pickle, with the kind of the stream.

    Args:
        path: path of the file.
        stream: the `Stream` of the state.
        state: its state.

    Raises:
        InputError: the file cannot be written.

    Example:
        >>> import tempfile, numpy as np
        >>> from symjax import cca_stream, load_stream, save_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = cca_stream()
        >>> state = stream.init(x, x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_stream(f"{folder}/state.npz", stream, state)
        ...     state = load_stream(f"{folder}/state.npz", stream, like=state)
    """
    from symjax.ops.files import write_npz

    write_npz(checks.path("path", path), {_KIND: np.array(stream.kind)} | _leaves_by_path(state))


def load_stream(path, stream, like):
    """Return the state that `save_stream` wrote, bit by bit.

    Args:
        path: path of the file.
        stream: a `Stream` of the same kind.
        like: any state with the expected shapes, such as stream.init(x, y), or its shapes and dtypes.

    Raises:
        InputError: the file is missing or damaged, or holds a state of another kind, of other widths or of other
            dtypes.

    Example:
        >>> import tempfile, numpy as np
        >>> from symjax import cca_stream, load_stream, save_stream
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> stream = cca_stream()
        >>> state = stream.init(x, x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_stream(f"{folder}/state.npz", stream, state)
        ...     loaded = load_stream(f"{folder}/state.npz", stream, like=state)
        >>> loaded.factors.shape == state.factors.shape
        True
    """
    from symjax.ops.files import read_npz

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
    """Return leaves by their path in the state, such as "x.shift"."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
