"""One validated set of representations for `pairwise`."""

import math
import operator
from collections.abc import Mapping
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.checks import is_concrete, labels
from symjax.errors import InputError
from symjax.similarity.channels import common_width, one_width_is_cheaper
from symjax.similarity.inputs import (
    as_map_axes,
    as_matrix,
    channels_last,
    check_layout,
)
from symjax.similarity.number_range import range_problem, subtract_large_offset
from symjax.similarity.pair_blocks import Representations


class PairwiseSide:
    """A validated set of representations: stacks of arrays of one shape, with the layer and the model of each."""

    def __init__(self, name, representations, models_name, models, layout):
        self.name = name
        if not isinstance(representations, Mapping) or not representations:
            raise InputError(
                f"{name}: got {type(representations).__name__}, expected a mapping from names of layers to arrays, or "
                "from models to such mappings"
            )
        check_layout(layout)
        by_model = [isinstance(value, Mapping) for value in representations.values()]
        if any(by_model) and not all(by_model):
            raise InputError(f"{name}: got mappings and arrays, expected all of one kind")
        if all(by_model):
            self._set_models(representations, models_name, models, layout)
        else:
            self._set_stacks(representations, models_name, models, layout)
        dtypes = {x.dtype for stack in self.stacks for x in (stack if isinstance(stack, list) else [stack])}
        self.dtype = reduce(np.promote_types, map(_float_of, dtypes))

    def _set_stacks(self, representations, models_name, models, layout):
        """Take layers of equally many models, each an array (models, n, ...)."""
        self.layers = tuple(representations)
        self.stacks = [
            channels_last_array(f"{self.name}[{layer!r}]", x, layout, True) for layer, x in representations.items()
        ]
        first = self.stacks[0].shape
        for layer, stack in zip(self.layers, self.stacks, strict=True):
            for axis, what in enumerate(("models", "examples")):
                if stack.shape[axis] != first[axis]:
                    raise InputError(
                        f"{self.name}[{layer!r}]: got {stack.shape[axis]} {what}, expected as many as in layer "
                        f"{self.layers[0]!r}, {first[axis]}"
                    )
        self.examples = first[1]
        self.models = tuple(range(first[0]) if models is None else labels(models_name, models))
        if len(self.models) != first[0] or len(set(self.models)) != first[0]:
            raise InputError(f"{models_name}: got {self.models}, expected {first[0]} different labels")
        self.layer_of = [np.full(first[0], layer) for layer in range(len(self.layers))]
        self.model_of = [np.arange(first[0])] * len(self.layers)

    def _set_models(self, representations, models_name, models, layout):
        """Take models of any layers and widths, each a mapping from layers to arrays (n, ...)."""
        if models is not None:
            raise InputError(f"{models_name}: got {models}, expected None, since the keys are the models")
        self.models = tuple(representations)
        self.layers = tuple(dict.fromkeys(layer for layers in representations.values() for layer in layers))
        by_shape, first = {}, None
        for model, (label, layers) in enumerate(representations.items()):
            if not layers:
                raise InputError(f"{self.name}[{label!r}]: got no layer, expected one or more")
            for layer, value in layers.items():
                array = channels_last_array(f"{self.name}[{label!r}][{layer!r}]", value, layout, False)
                first = first or (len(array), label, layer)
                if len(array) != first[0]:
                    raise InputError(
                        f"{self.name}[{label!r}][{layer!r}]: got {len(array)} examples, expected as many as in layer "
                        f"{first[2]!r} of model {first[1]!r}, {first[0]}"
                    )
                by_shape.setdefault(array.shape, []).append((array, self.layers.index(layer), model))
        self.examples = first[0]
        stacks, *index = zip(*(zip(*items, strict=True) for items in by_shape.values()), strict=True)
        self.stacks, (self.layer_of, self.model_of) = [*map(list, stacks)], (list(map(np.array, of)) for of in index)

    @property
    def has_positions(self):
        """Whether an array has tokens or pixels."""
        return any(stack[0].ndim > 2 for stack in self.stacks)

    @property
    def present(self):
        """Booleans (layers, models), true for the layers that a model has."""
        present = np.zeros((len(self.layers), len(self.models)), bool)
        present[np.concatenate(self.layer_of), np.concatenate(self.model_of)] = True
        return present

    def name_of(self, layer, model):
        """Return the name of a representation in messages."""
        return f"{self.name}, layer {self.layers[layer]!r} of model {self.models[model]!r}"

    def shapes(self, layer):
        """Return the different shapes (n, ...) of a layer."""
        return [stack[0].shape for stack, of in zip(self.stacks, self.layer_of, strict=True) if (of == layer).any()]

    def select(self, layers, models, dtype, padded):
        """Return the `Representations` of these layers and models, and the layer and the model of each.

        Row r of stack s is layer `layer_of[s][r]` of model `model_of[s][r]`, and is selected if both are. If `padded`,
        lists of arrays (n, ..., d) with one w = `common_width(d)` are joined: with zeros, all are (n, ..., w). For
        stacks [a, b] of width 12 and [c] of width 13, with w = 16, the result has the one stack [a, b, c]. Lists of all
        widths are joined where this is cheaper.

        Arrays (models, n, ...) of which all models are selected are not copied.
        """
        widths = {}  # {(n, ...): d of each selected array in lists}
        for stack, layer_of, model_of in zip(self.stacks, self.layer_of, self.model_of, strict=True):
            if padded and isinstance(stack, list):
                count = (np.isin(layer_of, layers) & np.isin(model_of, models)).sum()
                widths.setdefault(stack[0].shape[:-1], []).extend([stack[0].shape[-1]] * count)
        joined = {
            axes for axes, of_axes in widths.items() if of_axes and one_width_is_cheaper(of_axes, math.prod(axes))
        }
        parts = {}  # {number of the stack, or (n, ..., w): (arrays, layers, models)}
        for number, (stack, *index) in enumerate(zip(self.stacks, self.layer_of, self.model_of, strict=True)):
            rows = np.flatnonzero(np.isin(index[0], layers) & np.isin(index[1], models))
            if not len(rows):
                continue
            key, shape = number, stack[0].shape
            if isinstance(stack, list):
                width = max(widths[shape[:-1]]) if shape[:-1] in joined else shape[-1]
                key = (*shape[:-1], common_width(width)) if padded else number
                stack = parts[key][0] + [stack[row] for row in rows] if key in parts else [stack[row] for row in rows]
            elif len(rows) < len(stack):
                stack = stack[rows]
            _, layer_of, model_of = parts.get(key, (None, [], []))
            parts[key] = stack, [*layer_of, *index[0][rows]], [*model_of, *index[1][rows]]
        stacks, *index = zip(*parts.values(), strict=True)
        return Representations(stacks, dtype, padded), *map(np.concatenate, index)

    def require_in_range(self, dtype, translation_invariant):
        """Subtract large offsets (`subtract_large_offset`); raise an `InputError` for values that exceed `dtype`."""
        for number, (stack, layer_of, model_of) in enumerate(
            zip(self.stacks, self.layer_of, self.model_of, strict=True)
        ):
            names = [
                f"layer {self.layers[layer]!r} of model {self.models[model]!r}"
                for layer, model in zip(layer_of, model_of, strict=True)
            ]
            arrays = list(stack)
            results = [
                subtract_large_offset(f"{self.name}: {name}", array, translation_invariant)
                for name, array in zip(names, arrays, strict=True)
            ]
            if not all(map(operator.is_, results, arrays)):
                self.stacks[number] = results
            for name, array in zip(names, results, strict=True):
                if not jnp.issubdtype(array.dtype, jnp.floating):
                    continue
                largest = float(np.maximum(array.max(), -array.min()))  # makes no copy of the array
                if message := range_problem(largest, dtype):
                    raise InputError(f"{self.name}: {message} ({name})")

    def reduce(self, samples, mask, translation_invariant):
        """Convert tokens and maps to the matrices that `samples` and `mask` select, as in `as_matrix`."""
        for number, (stack, layer_of) in enumerate(zip(self.stacks, self.layer_of, strict=True)):
            if stack[0].ndim > 2:
                self.stacks[number] = [
                    masked_matrix(mask, samples, translation_invariant, f"{self.name}[{self.layers[layer]!r}]", x)
                    for layer, x in zip(layer_of, stack, strict=True)
                ]


def masked_matrix(mask, samples, translation_invariant, name, x):
    """Return `as_matrix` of an array with channels last, by a mask (n, t) or (n, h, w) of booleans."""
    if x.ndim == 2:
        return x
    of_map = as_map_axes(mask[..., None], 1)[..., 0] if mask.ndim > 1 else mask  # of tokens, maps of height 1
    mask = of_map if of_map.shape == x.shape[:-1] else mask
    return as_matrix(x, name, samples, mask, layout="nhwc", translation_invariant=translation_invariant)


def channels_last_array(name, value, layout, stacked):
    """Return an array (n, d) or (n, h, w, c), with a leading axis of models if `stacked`."""
    if not is_concrete(value):
        raise InputError(f"{name}: got a traced array, expected a concrete one")
    value = checks.array(name, value)
    if value.ndim < 2 + stacked or value.size == 0:
        expected = "(n, d), (n, t, c) or (n, h, w, c)"
        expected = expected.replace("(n", "(models, n") if stacked else expected
        raise InputError(f"{name}: got shape {value.shape}, expected {expected}, not empty")
    if value.ndim == 2 + stacked:
        return value
    return as_map_axes(channels_last(name, value, layout, 1 + stacked), 1 + stacked)


def _float_of(dtype):
    """Return the dtype in which `representation` computes with an array of `dtype`."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
