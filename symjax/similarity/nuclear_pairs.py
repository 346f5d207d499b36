"""Pairs of a measure whose value follows from a nuclear norm, on the host.

Few networks of many widths take longer to compile for than to compare. Here products and decompositions of all widths
need no compilation, and zero channels take no time.
"""

from functools import lru_cache

import jax
import numpy as np

from symjax.ops.compiler import compiler_options
from symjax.similarity.nuclear_norm import host_nuclear_norms

MOST_PAIRS = 256  # at once
MAX_PRODUCT = 2**24  # largest number of entries of their products


def on_host(dtype, devices) -> bool:
    """Return whether `values` applies: float32 on CPU."""
    return dtype == np.float32 and all(device.platform == "cpu" for device in devices)


def values(split, a, b, mask) -> np.ndarray:
    """Return values (k, l) for two stacks of `Prepared` at one map size; entries outside of `mask` are arbitrary.

    `SplitMeasure.nuclear` is true.
    """
    left, right = ([_nonzero_channels(data) for data in np.asarray(side.data)] for side in (a, b))
    pairs, norms = np.argwhere(mask), np.zeros(mask.shape, np.float32)
    step = min(MOST_PAIRS, max(1, MAX_PRODUCT // (a.data.shape[1] * b.data.shape[1])))
    for start in range(0, len(pairs), step):
        some = pairs[start : start + step]
        norms[tuple(some.T)] = host_nuclear_norms([left[i] @ right[j].T for i, j in some])
    return np.array(_finish(split)(norms, a.aux, b.aux))


def _nonzero_channels(data):
    """Return the channels (p, samples) of data (channels, samples) or (channels, n, h, w) that are not zero."""
    channels = data.reshape(len(data), -1)
    return channels[channels.any(1)]


@lru_cache(maxsize=64)
def _finish(split):
    def all_pairs(norms, a, b):
        of_row = jax.vmap(split.finish, (0, None, 0))
        return jax.vmap(of_row, (0, 0, None))(norms, a, b)

    return jax.jit(all_pairs, compiler_options=compiler_options(0))
