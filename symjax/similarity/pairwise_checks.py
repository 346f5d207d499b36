"""Check the arguments of `pairwise`."""

import inspect
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product

import jax
import numpy as np

from symjax.checks import can_be_key, one_of, sequence, short
from symjax.errors import InputError
from symjax.similarity.folds import fold_of_samples
from symjax.similarity.inputs import FewExamplesWarning, LayoutWarning
from symjax.similarity.measure import Measure
from symjax.similarity.pairwise_result import position
from symjax.similarity.table import as_measure

LAYERS = ("all", "same")


def as_measures(name, value):
    """Return whether the value stands for several measures, and them as a list of `Measure`s."""
    several = isinstance(value, Iterable) and not isinstance(value, str)
    measures = [_as_measure(name, item) for item in (sequence(name, value, "measures") if several else (value,))]
    names = [measure.name for measure in measures]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{name}: got {', '.join(names) or 'none'}, expected one or more of different names")
    return several, measures


def _as_measure(argument, value):
    measure = as_measure(argument, value)
    if isinstance(measure, Measure):
        return measure
    name = getattr(measure, "__name__", type(measure).__name__)
    return Measure(
        name=name,
        fn=measure,
        reference="",
        range=(-np.inf, np.inf),
        kind="similarity",
        symmetric=False,
        invariances=frozenset(),
    )


def measure_options(measures, options):
    """Return {name of the measure: its options}, with 0-d arrays converted to Python numbers.

    Layout and mask are arguments of the caller.
    """
    accepted = {
        measure.name: [
            name
            for name in list(inspect.signature(measure.fn).parameters)[2:]
            if name not in ("full_output", "layout", "mask")
        ]
        for measure in measures
    }
    known = dict.fromkeys(name for names in accepted.values() for name in names)
    for name in options:
        if name not in known:
            raise InputError(
                f"{name}: got an unknown option of {', '.join(accepted)}, expected one of {', '.join(known) or 'none'}"
            )
    numbers = (np.generic, np.ndarray, jax.Array)
    options = {
        name: value.item() if isinstance(value, numbers) and value.ndim == 0 else value
        for name, value in options.items()
    }
    return {measure: {name: options[name] for name in names if name in options} for measure, names in accepted.items()}


def samples_of_mask(measures, settings):
    """Return the `samples` by which masked tokens and pixels are reduced, and remove it from the options."""
    values = {}
    for measure in measures:
        parameters = inspect.signature(measure.fn).parameters
        if "mask" not in parameters:
            raise InputError(f"mask: got one for {measure.name}, which has no such option")
        values[measure.name] = settings[measure.name].pop("samples", parameters["samples"].default)
    if len(set(values.values())) > 1:
        raise InputError(f"samples: got None with a mask, expected one value, since defaults differ: {short(values)}")
    return next(iter(values.values()))


def keep_folds(measures, settings, mask):
    """Set the option `folds` to the folds of unmasked positions, so that those of an example stay in one fold."""
    for measure in measures:
        if default := inspect.signature(measure.fn).parameters.get("folds"):
            of_measure = settings[measure.name]
            folds = of_measure.get("folds", default.default)
            of_measure["folds"], _ = fold_of_samples(folds, mask, int(mask.sum()), mask)


def translation_invariant(measures):
    """Return whether adding constants to channels changes none of the measures."""
    return all("translation" in measure.invariances for measure in measures)


def model_mask(pairs, a, b):
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


def layer_groups(layers, a, b):
    """Return pairs of lists of layer indices, of a and of b; all layers of one are compared with all of the other."""
    one_of("layers", layers, LAYERS)
    if layers == "all":
        return [(list(range(len(a.layers))), list(range(len(b.layers))))]
    shared = [layer for layer in a.layers if layer in b.layers]
    if not shared:
        raise InputError(f"layers: got 'same', expected one of {', '.join(map(repr, a.layers))} in against")
    return [([a.layers.index(layer)], [b.layers.index(layer)]) for layer in shared]


def check_layers(measure, a, b, groups, dtype, options):
    """Check that the measure accepts the layers of each group; return messages about few examples by layers."""
    # The cache key contains types, since True == 1 but the options differ.
    typed_options = tuple((name, type(value), value) for name, value in sorted(options.items()))
    trace = trace_measure if can_be_key(typed_options) else trace_measure.__wrapped__
    messages = {}
    for rows, columns in groups:
        for k, m in product(rows, columns):
            if b is a and k > m:
                continue
            for shapes in product(_widest(a.shapes(k), measure), _widest(b.shapes(m), measure)):
                try:
                    message = trace(measure.fn, shapes, dtype, typed_options)
                except InputError as error:
                    more = len(rows) > 1 and shapes[0] != shapes[1]
                    hint = "; layers='same' compares none of different names" if more else ""
                    pair = f"layers {a.layers[k]!r} (x) and {b.layers[m]!r} (y) by {measure.name}"
                    raise InputError(f"{pair}: {error}{hint}") from error
                messages[k, m] = messages.get((k, m)) or message
    return messages


def _widest(shapes, measure):
    """Return the shapes to check; only the widest of those that differ in width alone, for measures of the package.

    These accept any width, and wider representations need more examples.
    """
    if measure.split is None:
        return shapes
    return list({shape[:-1]: shape for shape in sorted(shapes)}.values())


@lru_cache(maxsize=1024)
def trace_measure(fn, shapes, dtype, options):
    """Raise the errors of fn for these shapes; return the message of its `FewExamplesWarning`, or None."""
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
