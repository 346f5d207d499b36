"""One measure on all pairs of many representations: all layers of all models of a zoo, or of two zoos."""

import inspect
import operator
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.birkhoff.checks import is_concrete, scalar
from symjax.checks import can_be_key, labels, one_of, sequence, short
from symjax.errors import InputError
from symjax.similarity import pair_blocks
from symjax.similarity.cca import few_examples
from symjax.similarity.inputs import (
    FewExamplesWarning,
    LayoutWarning,
    channels_last,
    check_layout,
    fault,
    without_offset,
)
from symjax.similarity.measure import Measure
from symjax.similarity.pair_blocks import Zoo
from symjax.similarity.pairwise_result import Pairwise, position
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
    """A measure of all pairs of representations: `values[k, i, l, j]` = fn(layer k of model i, layer l of model j).

    What a measure makes of one representation alone (a kernel matrix, an orthonormal basis, unit norms) is made once
    for each, not once for each pair, and pairs are computed many at a time. The values are those of the measure's own
    function up to rounding; small distances are computed once more, from differences, so that they keep their digits,
    and that of a representation from itself is exactly 0.
    Pairs are spread over all devices. Of a symmetric measure each is computed once. A measure of your own that has no
    such form (`Measure.factor` is None) is called pair by pair, on one device. Maps that meet others of a size that
    does not divide theirs, such as 8 x 8 and 14 x 14, are enlarged and prepared for each two blocks anew, which takes
    that much more memory. Not differentiable: for a loss, take the functions themselves.

    The default of `rcond` in cca, pwcca and fourier_cca is here for each side that for its own width.

    Args:
        representations: from names of layers to arrays (models, n, d) or (models, n, h, w, c), NumPy's or JAX's; d, h,
            w and c may differ from layer to layer.
        measure: a name in `MEASURES`, a `Measure`, or a function, fn(x, y) -> 0-d array, traceable, which is not taken
            for symmetric.
        against: a second set of representations, of the same examples, to compare the first with; None compares the
            first with itself.
        pairs: of models: "all", those of a model with itself among them; or a list of (label, label). Without
            `against`, (i, j) stands for (j, i) as well.
        layers: "all" compares every layer with every layer; "same" a layer with that of the same name alone.
        models, against_models: labels of models, by default 0, 1, ....
        memory: bytes that compared representations may take on each device, about; two representations with what the
            measure makes of them must fit in any case. On the host, what is made of all M L of them lies beside them,
            which `memory` does not bound: M L n^2 numbers for kernel matrices (CKA in Gram form, wreath CKA), otherwise
            at most about twice as many as the representations have.
        devices: to compute on; all local ones by default.
        layout: of maps, "nhwc" or, of arrays (models, n, c, h, w), "nchw"; None takes "nhwc", and warns of what looks
            like the other.
        options: of the measure's function, such as maps="pool".

    Returns:
        `Pairwise`. Where side b is side a, its values have both orders of a pair.

    Raises:
        InputError: arrays, numbers of models or of examples that do not fit together; unknown measure, label or option;
            layers that the measure cannot compare; NaN or infinite entries, by layer and model.
    """
    measure = _known(measure)
    a = _Side("representations", representations, "models", models, layout)
    b = a if against is None else _Side("against", against, "against_models", against_models, layout)
    if a.examples != b.examples:
        raise InputError(f"against: got {b.examples} examples, must be as many as in representations, {a.examples}")
    memory = scalar("memory", memory, "a positive number of bytes", lambda value: 0 < value < np.inf)
    devices = tuple(jax.local_devices()) if devices is None else sequence("devices", devices, "devices")
    if not devices:
        raise InputError("devices: got none, wanted one or more")
    dtype = np.promote_types(a.dtype, b.dtype)
    options = _options(measure, options)
    wanted = _wanted_models(pairs, a, b)
    comparisons = _comparisons(layers, a, b)
    few = {}
    for lines, columns in comparisons:
        for k, m in product(lines, columns):
            if b is not a or k <= m:
                few[k, m] = _checked(measure, a, k, b, m, dtype, options, layers == "same")
    for side in dict.fromkeys((a, b)):
        side.require_in_range(dtype, "translation" in measure.invariances)

    shape = (len(a.layers), len(a.models), len(b.layers), len(b.models))
    values, computed = np.full(shape, np.nan, dtype), np.zeros(shape, bool)
    rows, others = np.flatnonzero(wanted.any(1)), np.flatnonzero(wanted.any(0))  # nothing is made of other models
    named = wanted[np.ix_(rows, others)][None, :, None, :]
    for lines, columns in comparisons if len(rows) else ():
        left = Zoo(tuple(_models(a.arrays[k], rows) for k in lines), dtype, measure.zero_channels)
        right = (
            left if b is a else Zoo(tuple(_models(b.arrays[k], others) for k in columns), dtype, measure.zero_channels)
        )
        mask = np.broadcast_to(named, (len(lines), len(rows), len(columns), len(others)))
        flat = mask.reshape(left.size, right.size)
        if measure.factor is None:
            found = _one_by_one(measure, left, right, flat, options)
        else:
            found, more = _factored(measure, left, right, flat, memory, devices, options)
            few.update({(lines[k], columns[m]): message for (k, m), message in more.items()})
        if measure.kind == "distance" and b is a:
            found = np.where(np.eye(len(found), dtype=bool) & ~np.isnan(found), 0, found)
        here = np.ix_(lines, rows, columns, others)
        values[here], computed[here] = found.reshape(mask.shape), mask
    _warn(measure, a, b, {pair: message for pair, message in few.items() if message})
    return Pairwise(measure.name, values, computed, a.layers, a.models, b.layers, b.models, b is a)


class _Side:
    """One set of representations, checked."""

    def __init__(self, name, representations, models_name, models, layout):
        self.name = name
        if not isinstance(representations, Mapping) or not representations:
            raise InputError(f"{name}: got {type(representations).__name__}, must map names of layers to arrays")
        check_layout(layout)
        self.layers = tuple(representations)
        self.arrays = tuple(_array(f"{name}[{layer!r}]", value, layout) for layer, value in representations.items())
        first = self.arrays[0].shape
        for layer, array in zip(self.layers, self.arrays, strict=True):
            for axis, what in enumerate(("models", "examples")):
                if array.shape[axis] != first[axis]:
                    raise InputError(
                        f"{name}[{layer!r}]: got {array.shape[axis]} {what}, must be as many as in layer "
                        f"{self.layers[0]!r}, {first[axis]}"
                    )
        self.examples = first[1]
        self.models = tuple(range(first[0]) if models is None else labels(models_name, models))
        if len(self.models) != first[0] or len(set(self.models)) != first[0]:
            raise InputError(f"{models_name}: got {self.models}, must be {first[0]} different labels")
        self.dtype = reduce(np.promote_types, (_float_of(array.dtype) for array in self.arrays))

    def require_in_range(self, dtype, translated):
        """Numbers that `dtype` can compute with, less their offset where it would lose them (`without_offset`)."""
        layers = zip(self.layers, self.arrays, strict=True)
        self.arrays = tuple(self._without_offset(layer, array, translated) for layer, array in layers)
        for layer, array in zip(self.layers, self.arrays, strict=True):
            for label, one in zip(self.models, array, strict=True):
                if not jnp.issubdtype(one.dtype, jnp.floating):
                    continue
                largest = float(np.maximum(one.max(), -one.min()))  # without a copy of them all
                if message := fault(largest, dtype):
                    raise InputError(f"{self.name}: layer {layer!r} of model {label!r} {message}")

    def _without_offset(self, layer, array, translated):
        name, models = f"{self.name}: layer {layer!r} of model", list(array)
        kept = [
            without_offset(f"{name} {label!r}", one, translated) for label, one in zip(self.models, models, strict=True)
        ]
        return array if all(map(operator.is_, kept, models)) else np.stack(kept)


def _array(name, value, layout):
    if not is_concrete(value):
        raise InputError(f"{name}: is traced, must be an array of numbers that can be seen")
    value = checks.array(name, value)
    if value.ndim not in (3, 5) or value.size == 0:
        raise InputError(f"{name}: got shape {value.shape}, must be (models, n, d) or (models, n, h, w, c), not empty")
    return channels_last(name, value, layout, 2) if value.ndim == 5 else value


def _models(array, chosen):
    """The models of these numbers; no copy where they are all."""
    return array if len(chosen) == len(array) else array[chosen]


def _float_of(dtype):
    """The dtype in which `representation` computes with an array of `dtype`."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def _known(measure):
    measure = as_measure("measure", measure)
    if isinstance(measure, Measure):
        return measure
    name = getattr(measure, "__name__", type(measure).__name__)
    return Measure(name, measure, "", (-np.inf, np.inf), "similarity", False, frozenset())


def _options(measure, options):
    """Options that the function of `measure` takes, numbers as Python's."""
    known = [name for name in list(inspect.signature(measure.fn).parameters)[2:] if name != "full_output"]
    for name in options:
        if name not in known:
            raise InputError(f"{name}: is no option of {measure.name}; its options are {', '.join(known) or 'none'}")
    numbers = (np.generic, np.ndarray, jax.Array)
    return {
        name: value.item() if isinstance(value, numbers) and value.ndim == 0 else value
        for name, value in options.items()
    }


def _wanted_models(pairs, a, b):
    """Booleans (models a, models b)."""
    if isinstance(pairs, str):
        if pairs != "all":
            raise InputError(f"pairs: got {short(pairs)}, must be 'all' or a list of pairs of models")
        return np.ones((len(a.models), len(b.models)), bool)
    if not isinstance(pairs, Iterable) or isinstance(pairs, Mapping):
        raise InputError(f"pairs: got {short(pairs)}, must be 'all' or a list of pairs of models")
    wanted = np.zeros((len(a.models), len(b.models)), bool)
    for pair in pairs:
        pair = sequence("pairs", pair, "two models")
        if len(pair) != 2:
            raise InputError(f"pairs: got {short(pair)}, must be pairs of models")
        i, j = (position("pairs", label, side.models) for label, side in zip(pair, (a, b), strict=True))
        wanted[i, j] = True
    return wanted | wanted.T if a is b else wanted


def _comparisons(layers, a, b):
    """Sets of layers of a and of b, by number, that are compared with each other."""
    one_of("layers", layers, LAYERS)
    if layers == "all":
        return [(list(range(len(a.layers))), list(range(len(b.layers))))]
    shared = [layer for layer in a.layers if layer in b.layers]
    if not shared:
        raise InputError(f"layers: none of {', '.join(map(repr, a.layers))} is in against, where 'same' asks for it")
    return [([a.layers.index(layer)], [b.layers.index(layer)]) for layer in shared]


def _checked(measure, a, k, b, m, dtype, options, same):
    """Asks the measure's function whether it takes two layers; the message of its `FewExamplesWarning`, or None."""
    shapes = a.arrays[k].shape[1:], b.arrays[m].shape[1:]
    # With types, since True is another option than the 1 that it equals.
    settled = tuple((name, type(value), value) for name, value in sorted(options.items()))
    ask = _asked if can_be_key(settled) else _asked.__wrapped__
    try:
        return ask(measure.fn, shapes, dtype, settled)
    except InputError as error:
        ways = "" if same or shapes[0] == shapes[1] else "; layers='same' compares none of different names"
        raise InputError(f"layers {a.layers[k]!r} (x) and {b.layers[m]!r} (y): {error}{ways}") from error


@lru_cache(maxsize=1024)
def _asked(fn, shapes, dtype, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FewExamplesWarning)
        warnings.simplefilter("ignore", LayoutWarning)  # given before, where it is due
        chosen = {name: value for name, _, value in options}
        value = jax.eval_shape(lambda x, y: fn(x, y, **chosen), *(jax.ShapeDtypeStruct(s, dtype) for s in shapes))
    if getattr(value, "shape", None) != ():
        raise InputError(f"measure: returned {getattr(value, 'shape', type(value).__name__)}, must return a 0-d array")
    return next((str(one.message) for one in caught if issubclass(one.category, FewExamplesWarning)), None)


def _factored(measure, a, b, wanted, memory, devices, options):
    """Values of wanted pairs, and messages of few examples by numbers of layers."""
    shapes = tuple(dict.fromkeys(array.shape[1:] for zoo in (a, b) for array in zoo.arrays))
    factored = measure.factor(shapes, **options)
    sides = [pair_blocks.prepare(factored, zoo, memory, devices) for zoo in ((a,) if b is a else (a, b))]
    (a_blocks, a_widths), (b_blocks, b_widths) = sides[0], sides[-1]
    values = pair_blocks.all_pairs(factored, a, b, wanted, measure.symmetric, devices, (a_blocks, b_blocks))
    if factored.width is None:
        return values, {}
    samples = a_blocks[0].part.data.shape[-1]
    return values, {
        (k, m): few_examples(samples, int(p), int(q)) for k, p in enumerate(a_widths) for m, q in enumerate(b_widths)
    }


def _one_by_one(measure, a, b, wanted, options):
    """By the measure's own function. Of a symmetric one `wanted` is symmetric where a is b."""
    values = np.full(wanted.shape, np.nan, a.dtype)
    once = measure.symmetric and a is b
    with warnings.catch_warnings():
        for given_before in (FewExamplesWarning, LayoutWarning):  # once, for all
            warnings.simplefilter("ignore", given_before)
        for i, j in np.argwhere(np.triu(wanted) if once else wanted):
            values[i, j] = measure.fn(a.one(i), b.one(j), **options)
    return np.where(np.tri(len(values), k=-1, dtype=bool), values.T, values) if once else values


def _warn(measure, a, b, few):
    if few:
        where = ", ".join(f"{a.layers[k]!r} and {b.layers[m]!r}" for k, m in few if b is not a or k <= m)
        message = f"{measure.name}: few examples for layers {where}: {next(iter(few.values()))}"
        warnings.warn(message, FewExamplesWarning, stacklevel=3)
