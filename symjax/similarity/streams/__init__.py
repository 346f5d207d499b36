"""Similarity of representations that arrive in batches, in constant memory: `Stream`s, in the style of `optax`.

    stream = cca_stream()
    state = stream.init(x, y)
    for x, y in batches:
        state = stream.update(state, x, y)
    result = stream.finalize(state)

States of different shards can be merged, and `save_stream` and `load_stream` save and load them.
"""

from symjax.similarity.streams.files import load_stream, save_stream
from symjax.similarity.streams.minibatch import cka_stream, wreath_cka_stream
from symjax.similarity.streams.moment_streams import (
    cca_stream,
    permutation_procrustes_stream,
    pls_stream,
    procrustes_stream,
    pwcca_stream,
    svcca_stream,
    wreath_procrustes_stream,
)
from symjax.similarity.streams.pairwise_batches import pairwise_batches
from symjax.similarity.streams.stream import Stream

__all__ = [
    "Stream",
    "cca_stream",
    "cka_stream",
    "load_stream",
    "pairwise_batches",
    "permutation_procrustes_stream",
    "pls_stream",
    "procrustes_stream",
    "pwcca_stream",
    "save_stream",
    "svcca_stream",
    "wreath_cka_stream",
    "wreath_procrustes_stream",
]
