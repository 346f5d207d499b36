"""A measure between all layers of all models, of data that arrive in batches, in constant memory."""

import warnings
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np

from symjax.checks import one_of, short
from symjax.errors import InputError
from symjax.similarity.cca import mean_correlation, mean_square_correlation
from symjax.similarity.inputs import FewExamplesWarning, representation, warn_user
from symjax.similarity.pairwise_result import Pairwise
from symjax.similarity.streams.minibatch import cka_stream, wreath_cka_stream
from symjax.similarity.streams.moment_streams import (
    cca_stream,
    permutation_procrustes_stream,
    procrustes_stream,
    pwcca_stream,
    svcca_stream,
    wreath_procrustes_stream,
)
from symjax.similarity.table import MEASURES


def _itself(value):
    return value


def _complement(value):
    return 1 - value


STREAMS = {
    "cca": (cca_stream, mean_correlation),
    "cca_mean_square": (cca_stream, mean_square_correlation),
    "cca_distance": (cca_stream, lambda result: 1 - mean_correlation(result)),
    "cka": (cka_stream, _itself),
    "cka_gretton": (partial(cka_stream, "gretton"), _itself),
    "cka_lange": (partial(cka_stream, "lange"), _itself),
    "cka_rbf": (partial(cka_stream, kernel="rbf"), _itself),
    "permutation_procrustes": (permutation_procrustes_stream, _itself),
    "procrustes": (procrustes_stream, _itself),
    "pwcca": (pwcca_stream, _itself),
    "pwcca_distance": (pwcca_stream, _complement),
    "svcca": (svcca_stream, _itself),
    "svcca_distance": (svcca_stream, _complement),
    "wreath_cka": (wreath_cka_stream, _itself),
    "wreath_cka_median": (partial(wreath_cka_stream, "median"), _itself),
    "wreath_procrustes": (wreath_procrustes_stream, _itself),
}
"""{name of a measure: (function that returns its stream, function of the stream's result)}."""


def pairwise_batches(batches, measure, *, layout=None, **options):
    """Evaluate a measure between all layers of all models, as `pairwise`, on data that arrive in batches.

    Each batch is dropped after its update. Memory holds one batch and one state of the measure's stream for each pair:
    about 3 (p + q)^2 numbers for p and q features, and a handful for minibatch forms. Batches of one size are compiled
    once for each pair of shapes, not for each pair of layers.

    Args:
        batches: an iterable of what `capture` returns for a batch: {layer: (n, ...)} of one model, or {model: {layer:
            (n, ...)}} of several, with equally many examples. Models may have different layers of any width.
            `capture_batches` yields such batches.
        measure: a name in `MEASURES` that has a stream.
        layout: layout of maps, "nhwc" or "nchw", as in `pairwise`.
        options: options of the stream, such as samples="pool" or form="minibatch".

    Returns:
        `Pairwise`; `computed` is false where a model has no layer of the name.

    Raises:
        InputError: a measure without a stream, or an unknown option; no batch; layers that the measure cannot compare;
            a batch with other layers or shapes than the first one, or NaN or infinite entries.

    Example:
        >>> import numpy as np
        >>> from symjax import pairwise_batches
        >>> def batches():
        ...     rng = np.random.default_rng(0)
        ...     for _ in range(10):
        ...         x = rng.normal(size=(20, 3))
        ...         yield {"relu1": x, "relu2": np.tanh(x[:, :2])}
        >>> result = pairwise_batches(batches(), "cka")
        >>> round(float(result.select(layer_a="relu1", model_a=0, layer_b="relu1", model_b=0)), 3)
        1.0
    """
    one_of("measure", measure, STREAMS)
    make, value_of = STREAMS[measure]
    try:
        stream = make(**options)
    except TypeError as error:
        raise InputError(f"options: got {', '.join(options)}, expected options of {measure}: {error}") from None
    states, update = None, jax.jit(stream.update, donate_argnums=0)
    for batch in batches:
        arrays = _arrays(batch, layout)
        if states is None:
            keys, shapes = list(arrays), _shapes(arrays)
            states = _initial_states(stream, arrays, MEASURES[measure].symmetric)
        elif _shapes(arrays) != shapes:
            raise InputError(f"batches: got {_shapes(arrays)}, expected {shapes} as in the first batch")
        for (a, b), state in states.items():
            states[a, b] = update(state, arrays[a], arrays[b])
    if states is None:
        raise InputError("batches: got none, expected one or more")
    models, layers = (tuple(dict.fromkeys(key[axis] for key in keys)) for axis in (0, 1))
    shape = (len(layers), len(models)) * 2
    dtype = np.result_type(*(array.dtype for array in arrays.values()))
    values, computed = np.full(shape, np.nan, dtype), np.zeros(shape, bool)
    messages = []
    for (a, b), state in states.items():
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always", FewExamplesWarning)
            value = value_of(stream.finalize(state))
        messages += [str(one.message) for one in issued if issubclass(one.category, FewExamplesWarning)]
        (i, k), (j, m) = ((models.index(model), layers.index(layer)) for model, layer in (a, b))
        places = {(k, i, m, j), (m, j, k, i)} if MEASURES[measure].symmetric else {(k, i, m, j)}
        for place in places:
            values[place], computed[place] = np.asarray(value), True
    if messages:
        warn_user(f"{measure}: few examples: {messages[0]}", FewExamplesWarning)
    return Pairwise(measure, values, computed, layers, models, layers, models, True)


def _initial_states(stream, arrays, symmetric):
    """Return {(a, b): state without samples} for all pairs of layers, for symmetric measures in one order."""
    states, keys = {}, list(arrays)
    for i, a in enumerate(keys):
        for b in keys[i:] if symmetric else keys:
            try:
                states[a, b] = stream.init(arrays[a], arrays[b])
            except InputError as error:
                raise InputError(f"layers {_names([a])} (x) and {_names([b])} (y): {error}") from error
    return states


def _arrays(batch, layout):
    """Return {(model, layer): representation} of a batch."""
    if not isinstance(batch, Mapping) or not batch:
        raise InputError(f"batches: got {short(batch)}, expected mappings from layers, or from models and layers")
    models = batch if all(isinstance(layers, Mapping) for layers in batch.values()) else {0: batch}
    arrays = {
        (model, layer): representation(x, f"batches[{layer!r}]", layout=layout, min_examples=1)
        for model, layers in models.items()
        for layer, x in layers.items()
    }
    counts = {len(x) for x in arrays.values()}
    if len(counts) != 1:
        raise InputError(f"batches: got {sorted(counts)} examples in one batch, expected one number in all layers")
    return arrays


def _shapes(arrays):
    return ", ".join(f"{array.dtype}{list(array.shape[1:])} of {_names([key])}" for key, array in arrays.items())


def _names(keys):
    return ", ".join(f"{layer!r} of {model!r}" for model, layer in keys)
