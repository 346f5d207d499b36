"""Measures between all layers of all models, of data that arrive in batches, in constant memory."""

from collections.abc import Iterable, Mapping
from functools import partial
from inspect import signature
from itertools import product

import numpy as np

from symjax.checks import can_be_key, one_of, short
from symjax.errors import InputError
from symjax.similarity.inputs import check_samples, representation
from symjax.similarity.pairwise_checks import as_measures, measure_options, trace_measure
from symjax.similarity.pairwise_result import Pairwise
from symjax.similarity.streams.joint import JointMoments, JointSums, PairStates
from symjax.similarity.streams.minibatch import cka_stream, wreath_cka_stream

MOMENTS = (
    *("cca", "cca_mean_square", "cca_distance", "svcca", "svcca_distance", "pwcca", "pwcca_distance", "pls"),
    *("procrustes", "procrustes_distance", "permutation_procrustes", "permutation_procrustes_distance"),
    *("wreath_procrustes", "wreath_procrustes_distance", "shape_distance", "shape_distance_white", "gulp"),
    *("hard_correlation_match", "soft_correlation_match", "soft_matching"),
    *("partial_soft_matching", "eigenspace_overlap"),
)
"""Measures that depend on means and second moments alone."""

ESTIMATORS = {"cka": "song", "cka_gretton": "gretton", "cka_lange": "lange"}
STREAMS = {
    **{name: partial(cka_stream, estimator=estimator) for name, estimator in ESTIMATORS.items()},
    "cka_rbf": partial(cka_stream, kernel="rbf"),
    "wreath_cka": wreath_cka_stream,
    "wreath_cka_median": partial(wreath_cka_stream, reduce="median"),
}
"""{name of another measure: function that returns its stream}."""

_EXAMPLES = 2**15  # number of examples in checks of shapes, enough for all measures


def pairwise_batches(batches, measure, *, layout=None, **options):
    """Evaluate measures between all layers of all models, as `pairwise`, on data that arrive in batches.

    Each batch is dropped after its update. All pairs and measures share one state: the means and second moments of all
    layers together, 3 D^2 numbers for D features in all, updated by a QR, 2 n D^2 operations for n examples. Values are
    computed from it at the end, as in `pairwise`. CKA shares another one, D^2 numbers, updated in about as many
    operations. Only CKA with the kernel "rbf", minibatch CKA and wreath CKA are updated pair by pair. Each number of
    examples in a batch is compiled once.

    Args:
        batches: an iterable of what `capture` returns for a batch: {layer: (n, ...)} of one model, or {model: {layer:
            (n, ...)}} of several, with equally many examples. Models may have different layers of any width.
            `capture_batches` yields such batches.
        measure: one or several names in `MEASURES`: of CKA, of wreath CKA, or of measures that depend on means and
            second moments alone (CCA, SVCCA, PWCCA, PLS, Procrustes, shape distances, GULP and matchings of neurons).
        layout: layout of maps, "nhwc" or "nchw", as in `pairwise`.
        options: options of the measures, such as samples="pool"; of several measures, each takes those that it has.
            For CKA also form="minibatch", as in `cka_stream`.

    Returns:
        `Pairwise`; for several measures {name: `Pairwise`}. `computed` is false where a model has no layer of the name.

    Raises:
        InputError: a measure that needs all examples at once; an unknown option; no batch; layers that the measure
            cannot compare; a batch with other layers or shapes than the first one, or NaN or infinite entries; too few
            examples; more than 16384 features in all.

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
    for name in measure if isinstance(measure, (list, tuple)) else (measure,):
        one_of("measure", name, (*MOMENTS, *STREAMS))
    several, measures = as_measures("measure", measure)
    settings = _settings(measures, options)
    if not isinstance(batches, Iterable):
        raise InputError(f"batches: got {short(batches)}, expected an iterable of batches")
    first = None
    for batch in batches:
        arrays = _arrays(batch, layout)
        if first is None:
            first, states = _shapes(arrays), {}
            parts = {one.name: _parts(one, arrays, states, **settings[one.name]) for one in measures}
        elif _shapes(arrays) != first:
            raise InputError(f"batches: got {_shapes(arrays)}, expected {first} as in the first batch")
        for state in states.values():
            state.update(arrays)
    if first is None:
        raise InputError("batches: got none, expected one or more")
    models, layers = (tuple(dict.fromkeys(key[axis] for key in arrays)) for axis in (0, 1))
    results = {}
    for name, of_measure in parts.items():
        values = np.full((len(layers), len(models)) * 2, np.nan, np.result_type(*(x.dtype for x in arrays.values())))
        computed = np.zeros(values.shape, bool)
        for state, pairs, arguments in of_measure:
            k, i = np.array([(layers.index(layer), models.index(model)) for model, layer in state.keys]).T
            place = k[:, None], i[:, None], k, i
            values[place] = np.where(pairs, state.values(*arguments), values[place])
            computed[place] |= pairs
        results[name] = Pairwise(name, values, computed, layers, models, layers, models, True)
    return results if several else results[measure]


def _settings(measures, options):
    """Return {name of a measure: arguments of `_parts`}."""
    if "mask" in options:
        raise InputError("mask: got one, expected none; capture_batches(samples='pool') leaves masked tokens out")
    form = options.pop("form", "auto") if any(measure.name in ESTIMATORS for measure in measures) else "auto"
    settings = {}
    for measure, of_measure in zip(measures, measure_options(measures, options).values(), strict=True):
        name, stream = measure.name, None
        default = signature(measure.fn).parameters.get("samples")
        samples = check_samples(of_measure.get("samples", default.default if default else "positions"))
        if name in STREAMS:
            stream = STREAMS[name](**of_measure, **({"form": form} if name in ESTIMATORS else {}))
        if name in ESTIMATORS and form != "minibatch" and of_measure.get("kernel", "linear") == "linear":
            stream = of_measure.get("estimator", ESTIMATORS[name])
        settings[name] = {"samples": samples, "stream": stream, "options": of_measure}
    return settings


def _parts(measure, arrays, states, samples, stream, options):
    """Return [(state, pairs of its keys to compute, arguments of its `values`)]; add new states to `states`.

    `stream` is a `Stream` that is updated for each pair, or the estimator of CKA, or None.
    """
    _check(measure, arrays, options)
    if stream is not None and not isinstance(stream, str):
        state = states.setdefault(measure.name, PairStates(arrays, stream, measure.symmetric))
        return [(state, True, ())]
    kind = JointMoments if stream is None else JointSums
    of_matrices = {name: value for name, value in options.items() if name != "samples"}
    arguments = (measure, of_matrices) if stream is None else (stream,)
    sizes = {key: x.shape[1:-1] if samples == "positions" else () for key, x in arrays.items()}
    size_of = {pair: tuple(map(max, *(sizes[key] for key in pair))) for pair in product(sizes, repeat=2)}
    parts = []
    for size in dict.fromkeys(size_of.values()):
        keys = [key for key in arrays if any(size_of[key, other] == size for other in arrays)]
        state = states.setdefault((kind, samples, size), kind(keys, samples, size))
        pairs = np.array([[size_of[a, b] == size for b in keys] for a in keys])
        parts.append((state, pairs, arguments))
    return parts


def _check(measure, arrays, options):
    """Raise an `InputError` for layers that the measure cannot compare."""
    typed_options = tuple((name, type(value), value) for name, value in sorted(options.items()))
    trace = trace_measure if can_be_key(typed_options) else trace_measure.__wrapped__
    shapes = {key: (_EXAMPLES, *x.shape[1:]) for key, x in arrays.items()}
    pairs = {(shapes[a], shapes[b]): (a, b) for a, b in product(arrays, repeat=2)}
    for (left, right), (a, b) in pairs.items():
        try:
            trace(measure.fn, (left, right), np.result_type(*(x.dtype for x in arrays.values())), typed_options)
        except InputError as error:
            raise InputError(f"layers {_names([a])} (x) and {_names([b])} (y): {error}") from error


def _arrays(batch, layout):
    """Return {(model, layer): representation} of a batch."""
    if not isinstance(batch, Mapping) or not batch:
        raise InputError(f"batches: got {short(batch)}, expected mappings from layers, or from models and layers")
    of_models = [isinstance(layers, Mapping) for layers in batch.values()]
    if any(of_models) and not all(of_models):
        raise InputError("batches: got mappings and arrays in one batch, expected all of one kind")
    models = batch if all(of_models) else {0: batch}
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
