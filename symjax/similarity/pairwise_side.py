"""One validated set of representations for `pairwise`."""

import operator
from collections.abc import Mapping
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from symjax import checks
from symjax.checks import is_concrete, labels
from symjax.errors import InputError
from symjax.similarity.inputs import (
    as_map_axes,
    as_matrix,
    channels_last,
    check_layout,
    range_problem,
    subtract_large_offset,
)
from symjax.similarity.pair_blocks import Representations
from symjax.similarity.position_mask import as_mask


class PairwiseSide:
    """A validated set of representations."""

    def __init__(self, name, representations, models_name, models, layout):
        self.name = name
        if not isinstance(representations, Mapping) or not representations:
            raise InputError(
                f"{name}: got {type(representations).__name__}, expected a mapping from names of layers to arrays"
            )
        check_layout(layout)
        self.layers = tuple(representations)
        self.arrays = tuple(_array(f"{name}[{layer!r}]", value, layout) for layer, value in representations.items())
        first = self.arrays[0].shape
        for layer, array in zip(self.layers, self.arrays, strict=True):
            for axis, what in enumerate(("models", "examples")):
                if array.shape[axis] != first[axis]:
                    raise InputError(
                        f"{name}[{layer!r}]: got {array.shape[axis]} {what}, expected as many as in layer "
                        f"{self.layers[0]!r}, {first[axis]}"
                    )
        self.examples = first[1]
        self.models = tuple(range(first[0]) if models is None else labels(models_name, models))
        if len(self.models) != first[0] or len(set(self.models)) != first[0]:
            raise InputError(f"{models_name}: got {self.models}, expected {first[0]} different labels")
        self.dtype = reduce(np.promote_types, (_float_of(array.dtype) for array in self.arrays))

    def select(self, layers, models, dtype, padded):
        """Return the `Representations` of these layers and models; arrays of all models are not copied."""
        arrays = (self.arrays[layer] for layer in layers)
        arrays = (array if len(models) == len(array) else array[models] for array in arrays)
        return Representations(tuple(arrays), dtype, padded)

    def require_in_range(self, dtype, translation_invariant):
        """Subtract offsets that `dtype` would lose (`subtract_large_offset`).

        Raise an `InputError` for values out of range.
        """
        layers = zip(self.layers, self.arrays, strict=True)
        self.arrays = tuple(self._subtract_large_offset(layer, array, translation_invariant) for layer, array in layers)
        for layer, array in zip(self.layers, self.arrays, strict=True):
            for label, model_array in zip(self.models, array, strict=True):
                if not jnp.issubdtype(model_array.dtype, jnp.floating):
                    continue
                largest = float(np.maximum(model_array.max(), -model_array.min()))  # makes no copy of the array
                if message := range_problem(largest, dtype):
                    raise InputError(f"{self.name}: {message} (layer {layer!r} of model {label!r})")

    def reduce(self, samples, mask, translation_invariant):
        """Convert tokens and maps to the matrices that `samples` and `mask` select, as in `as_matrix`."""
        mask = as_mask(mask)

        def matrices(layer, array):
            shape = array.shape[1:-1]
            fitting = mask.reshape(shape) if mask.size == np.prod(shape) and len(mask) == shape[0] else mask
            options = {"layout": "nhwc", "translation_invariant": translation_invariant}
            name = f"{self.name}[{layer!r}]"
            return np.stack([as_matrix(x, name, samples, fitting, **options) for x in array])

        if all(array.ndim == 3 for array in self.arrays):
            raise InputError(f"mask: got one for vectors in {self.name}, expected tokens (models, n, t, c) or maps")
        layers = zip(self.layers, self.arrays, strict=True)
        self.arrays = tuple(array if array.ndim == 3 else matrices(layer, array) for layer, array in layers)

    def _subtract_large_offset(self, layer, array, translation_invariant):
        name, models = f"{self.name}: layer {layer!r} of model", list(array)
        results = [
            subtract_large_offset(f"{name} {label!r}", model_array, translation_invariant)
            for label, model_array in zip(self.models, models, strict=True)
        ]
        return array if all(map(operator.is_, results, models)) else np.stack(results)


def _array(name, value, layout):
    if not is_concrete(value):
        raise InputError(f"{name}: got a traced array, expected a concrete one")
    value = checks.array(name, value)
    if value.ndim < 3 or value.size == 0:
        expected = "(models, n, d), (models, n, t, c) or (models, n, h, w, c), not empty"
        raise InputError(f"{name}: got shape {value.shape}, expected {expected}")
    return value if value.ndim == 3 else as_map_axes(channels_last(name, value, layout, 2), 2)


def _float_of(dtype):
    """Return the dtype in which `representation` computes with an array of `dtype`."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype
