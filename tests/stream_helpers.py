"""Data of a few shapes, so that few programs are compiled, and streams fed with it."""

import numpy as np

N, X_WIDTH, Y_WIDTH = 60, 5, 4


def data(n=N, x_width=X_WIDTH, y_width=Y_WIDTH, seed=0, offset=0.5):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    return tuple(
        np.float32((latent @ rng.normal(size=(3, d)) + 0.5 * rng.normal(size=(n, d))) * np.linspace(0.5, 2, d) + offset)
        for d in (x_width, y_width)
    )


def maps_of(n, seed=0):
    """Return maps of two pixels; as matrices they have the shapes of `data`, so that programs are compiled once."""
    return tuple(z.reshape(n, 1, 2, -1) for z in data(2 * n, seed=seed))


def fed(stream, x, y, sizes, state=None):
    """The state after batches of these sizes."""
    state = stream.init(x, y) if state is None else state
    start = 0
    for size in sizes:
        state = stream.update(state, x[start : start + size], y[start : start + size])
        start += size
    assert start == len(x)
    return state
