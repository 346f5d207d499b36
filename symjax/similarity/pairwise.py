"""Evaluate one measure on all pairs of many representations: the layers of the models of one zoo, or of two."""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product

import jax
import numpy as np

from symjax.checks import can_be_key, one_of, scalar, sequence, short
from symjax.errors import InputError
from symjax.similarity import pair_blocks
from symjax.similarity.cca_checks import few_examples_message
from symjax.similarity.inputs import (
    FewExamplesWarning,
    LayoutWarning,
)
from symjax.similarity.measure import Measure
from symjax.similarity.pairwise_result import Pairwise, position
from symjax.similarity.pairwise_side import PairwiseSide
from symjax.similarity.table import as_measure

LAYERS = ("all", "same")


def pairwise(
    representations,
    measure,
    *,
    against=None,
    pairs="all",
    layers="all",
    models=None,
    against_models=None,
    memory=2**31,
    devices=None,
    layout=None,
    **options,
):
    """Evaluate a measure on all pairs of representations.

    `values[k, i, l, j]` = fn(layer k of model i, layer l of model j).

    The computation on a single representation (a kernel matrix, an orthonormal basis, unit norms) runs once per
    representation and not once per pair, and many pairs are computed at a time. Values equal those of the measure's own
    function up to rounding. Small distances are computed again from differences, so that they keep their digits. The
    distance of a representation from itself is exactly 0. Pairs are distributed over all devices. For a symmetric
    measure each pair is computed once.

    A user-defined measure without a split form (`Measure.split` is None) is called pair by pair, on one device. Maps
    whose size does not divide the other side's, such as 8 x 8 and 14 x 14, are enlarged and prepared again for each
    pair of blocks, which needs as much additional memory. Not differentiable: use the measure's function in a loss.

    In cca, pwcca and fourier_cca, the default of `rcond` depends on each side's own width.

    Args:
        representations: mapping from names of layers to arrays (models, n, d) or (models, n, h, w, c), NumPy or JAX.
            The values of d, h, w and c may differ between layers.
        measure: a name in `MEASURES`, a `Measure`, or a traceable function fn(x, y) -> 0-d array, which is treated as
            not symmetric.
        against: a second set of representations of the same examples to compare with; None compares the first set with
            itself.
        pairs: pairs of models: "all", which includes each model with itself, or a list of (label, label). Without
            `against`, (i, j) also stands for (j, i).
        layers: "all" compares every layer with every layer; "same" only layers of equal names.
        models, against_models: labels of models; by default 0, 1, ....
        memory: approximate number of bytes for compared representations on each device. Two prepared representations
            must fit in any case. `memory` does not bound the host's memory, which holds all L layers of M models in
            prepared form: M L n^2 numbers for kernel matrices (CKA in Gram form, wreath CKA), otherwise at most about
            twice the size of the representations.
        devices: devices to compute on; by default all local devices.
        layout: layout of maps, "nhwc", or "nchw" for arrays (models, n, c, h, w). None means "nhwc", with a
            `LayoutWarning` where an array looks like "nchw".
        options: options of the measure's function, such as maps="pool".

    Returns:
        `Pairwise`. For a set compared with itself it contains both orders of each pair.

    Raises:
        InputError: arrays, numbers of models or numbers of examples that do not match; unknown measure, label or
            option; layers that the measure cannot compare; NaN or infinite entries, with their layer and model.

    Example:
        >>> import numpy as np
        >>> from symjax import pairwise
        >>> layers = {"conv1": np.random.default_rng(0).normal(size=(3, 12, 4))}  # 3 models, 12 examples, 4 channels
        >>> result = pairwise(layers, "cka", models=["a", "b", "c"])
        >>> result.values.shape
        (1, 3, 1, 3)
        >>> float(round(result.select(layer_a="conv1", model_a="a", layer_b="conv1", model_b="a"), 4))
        1.0
    """
    measure = _as_measure(measure)
    a = PairwiseSide("representations", representations, "models", models, layout)
    b = a if against is None else PairwiseSide("against", against, "against_models", against_models, layout)
    if a.examples != b.examples:
        raise InputError(f"against: got {b.examples} examples, expected as many as in representations, {a.examples}")
    memory = scalar("memory", memory, "a positive number of bytes", lambda value: 0 < value < np.inf)
    devices = tuple(jax.local_devices()) if devices is None else sequence("devices", devices, "devices")
    if not devices:
        raise InputError("devices: got none, expected one or more")
    dtype = np.promote_types(a.dtype, b.dtype)
    options = _options(measure, options)
    model_mask = _model_mask(pairs, a, b)
    comparisons = _comparisons(layers, a, b)
    messages = {}
    for rows_of_layers, columns in comparisons:
        for k, m in product(rows_of_layers, columns):
            if b is not a or k <= m:
                messages[k, m] = _check_layers(measure, a, k, b, m, dtype, options, layers == "same")
    for side in dict.fromkeys((a, b)):
        side.require_in_range(dtype, "translation" in measure.invariances)

    shape = (len(a.layers), len(a.models), len(b.layers), len(b.models))
    values, computed = np.full(shape, np.nan, dtype), np.zeros(shape, bool)
    rows_used, columns_used = np.flatnonzero(model_mask.any(1)), np.flatnonzero(model_mask.any(0))
    selected = model_mask[np.ix_(rows_used, columns_used)][None, :, None, :]
    for rows_of_layers, columns in comparisons if len(rows_used) else ():
        left = right = a.select(rows_of_layers, rows_used, dtype, measure.zero_channels)
        if b is not a:
            right = b.select(columns, columns_used, dtype, measure.zero_channels)
        mask = np.broadcast_to(selected, (len(rows_of_layers), len(rows_used), len(columns), len(columns_used)))
        flat = mask.reshape(left.size, right.size)
        if measure.split is None:
            block_values = _pair_by_pair(measure, left, right, flat, options)
        else:
            block_values, data_messages = _by_split_measure(measure, left, right, flat, memory, devices, options)
            messages.update({(rows_of_layers[k], columns[m]): message for (k, m), message in data_messages.items()})
        if measure.kind == "distance" and measure.ends_at_equal and b is a:
            block_values = np.where(np.eye(len(block_values), dtype=bool) & ~np.isnan(block_values), 0, block_values)
        place = np.ix_(rows_of_layers, rows_used, columns, columns_used)
        values[place], computed[place] = block_values.reshape(mask.shape), mask
    _warn(measure, a, b, {pair: message for pair, message in messages.items() if message})
    return Pairwise(measure.name, values, computed, a.layers, a.models, b.layers, b.models, b is a)


def _as_measure(measure):
    measure = as_measure("measure", measure)
    if isinstance(measure, Measure):
        return measure
    name = getattr(measure, "__name__", type(measure).__name__)
    return Measure(name, measure, "", (-np.inf, np.inf), "similarity", False, frozenset())


def _options(measure, options):
    """Return the options of the measure's function, with 0-d arrays converted to Python numbers."""
    accepted = [name for name in list(inspect.signature(measure.fn).parameters)[2:] if name != "full_output"]
    for name in options:
        if name not in accepted:
            options_text = ", ".join(accepted) or "none"
            raise InputError(f"{name}: got an unknown option of {measure.name}, expected one of {options_text}")
    numbers = (np.generic, np.ndarray, jax.Array)
    return {
        name: value.item() if isinstance(value, numbers) and value.ndim == 0 else value
        for name, value in options.items()
    }


def _model_mask(pairs, a, b):
    """Return booleans (models a, models b), true for the requested pairs."""
    if isinstance(pairs, str):
        if pairs != "all":
            raise InputError(f"pairs: got {short(pairs)}, expected 'all' or a list of pairs of models")
        return np.ones((len(a.models), len(b.models)), bool)
    if not isinstance(pairs, Iterable) or isinstance(pairs, Mapping):
        raise InputError(f"pairs: got {short(pairs)}, expected 'all' or a list of pairs of models")
    mask = np.zeros((len(a.models), len(b.models)), bool)
    for pair in pairs:
        pair = sequence("pairs", pair, "two models")
        if len(pair) != 2:
            raise InputError(f"pairs: got {short(pair)}, expected pairs of models")
        i, j = (position("pairs", label, side.models) for label, side in zip(pair, (a, b), strict=True))
        mask[i, j] = True
    return mask | mask.T if a is b else mask


def _comparisons(layers, a, b):
    """Return pairs of lists of layer indices, of a and of b, that are compared with each other."""
    one_of("layers", layers, LAYERS)
    if layers == "all":
        return [(list(range(len(a.layers))), list(range(len(b.layers))))]
    shared = [layer for layer in a.layers if layer in b.layers]
    if not shared:
        raise InputError(f"layers: got 'same', expected one of {', '.join(map(repr, a.layers))} in against")
    return [([a.layers.index(layer)], [b.layers.index(layer)]) for layer in shared]


def _check_layers(measure, a, k, b, m, dtype, options, same):
    """Check that the measure accepts two layers; return the message of its `FewExamplesWarning`, or None."""
    shapes = a.arrays[k].shape[1:], b.arrays[m].shape[1:]
    # The cache key contains types, since True == 1 but the options differ.
    typed_options = tuple((name, type(value), value) for name, value in sorted(options.items()))
    trace = _trace_measure if can_be_key(typed_options) else _trace_measure.__wrapped__
    try:
        return trace(measure.fn, shapes, dtype, typed_options)
    except InputError as error:
        hint = "" if same or shapes[0] == shapes[1] else "; layers='same' compares none of different names"
        raise InputError(f"layers {a.layers[k]!r} (x) and {b.layers[m]!r} (y): {error}{hint}") from error


@lru_cache(maxsize=1024)
def _trace_measure(fn, shapes, dtype, options):
    with warnings.catch_warnings(record=True) as warnings_given:
        warnings.simplefilter("always", FewExamplesWarning)
        warnings.simplefilter("ignore", LayoutWarning)  # issued earlier where it applies
        keywords = {name: value for name, _, value in options}
        value = jax.eval_shape(lambda x, y: fn(x, y, **keywords), *(jax.ShapeDtypeStruct(s, dtype) for s in shapes))
    if getattr(value, "shape", None) != ():
        raise InputError(
            f"measure: got a value of {getattr(value, 'shape', type(value).__name__)}, expected a 0-d array"
        )
    return next(
        (str(warning.message) for warning in warnings_given if issubclass(warning.category, FewExamplesWarning)), None
    )


def _by_split_measure(measure, a, b, mask, memory, devices, options):
    """Return values for the pairs in `mask`, and messages about few examples by layer indices."""
    shapes = tuple(dict.fromkeys(array.shape[1:] for side in (a, b) for array in side.arrays))
    split = measure.split(shapes, **options)
    sides = [pair_blocks.prepare(split, side, memory, devices) for side in ((a,) if b is a else (a, b))]
    (a_blocks, a_widths), (b_blocks, b_widths) = sides[0], sides[-1]
    values = pair_blocks.all_pairs(split, a, b, mask, measure.symmetric, devices, (a_blocks, b_blocks))
    if split.num_directions is None:
        return values, {}
    samples = a_blocks[0].prepared.data.shape[-1]
    return values, {
        (k, m): few_examples_message(samples, int(p), int(q))
        for k, p in enumerate(a_widths)
        for m, q in enumerate(b_widths)
    }


def _pair_by_pair(measure, a, b, mask, options):
    """Return values computed by the measure's own function, one pair at a time.

    For a symmetric measure with a is b, `mask` is symmetric.
    """
    values = np.full(mask.shape, np.nan, a.dtype)
    once = measure.symmetric and a is b
    with warnings.catch_warnings():
        for category in (FewExamplesWarning, LayoutWarning):  # issued once for all pairs by the caller
            warnings.simplefilter("ignore", category)
        for i, j in np.argwhere(np.triu(mask) if once else mask):
            values[i, j] = measure.fn(a.array_at(i), b.array_at(j), **options)
    return np.where(np.tri(len(values), k=-1, dtype=bool), values.T, values) if once else values


def _warn(measure, a, b, messages):
    if messages:
        where = ", ".join(f"{a.layers[k]!r} and {b.layers[m]!r}" for k, m in messages if b is not a or k <= m)
        message = f"{measure.name}: few examples for layers {where}: {next(iter(messages.values()))}"
        warnings.warn(message, FewExamplesWarning, stacklevel=3)
