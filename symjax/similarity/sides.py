"""Check the arguments x and y of functions that resample or permute examples."""

from collections.abc import Mapping

import jax.numpy as jnp

from symjax.checks import any_array, one_of
from symjax.errors import InputError
from symjax.similarity.inputs import as_matrix, on_device_of, representation
from symjax.similarity.measure import Measure


def function_of(measure):
    return measure.fn if isinstance(measure, Measure) else measure


def checked_sides(measure, x, y, samples, layout, mask, *, min_examples=2, mappings=False):
    """Return both sides as mappings from names of arguments to representations of one dtype.

    With `mappings`, the sides may be mappings from layers to arrays. If `samples` is given, tokens and maps are reduced
    to a vector for each example.
    """
    if samples is not None:
        one_of("samples", samples, ("pool", "flatten", "first", "last"))
    if mask is not None and samples in (None, "flatten"):
        raise InputError(f"samples: got {samples!r} with a mask, expected 'pool', 'first' or 'last'")
    translation_invariant = isinstance(measure, Measure) and "translation" in measure.invariances
    options = {"layout": layout, "translation_invariant": translation_invariant, "min_examples": min_examples}
    sides = []
    for name, side in (("x", x), ("y", y)):
        layers = mappings and isinstance(side, Mapping)
        if layers and not side:
            raise InputError(f"{name}: got an empty mapping, expected at least one layer")
        sides.append({f"{name}[{k!r}]": z for k, z in side.items()} if layers else {name: side})
    masked = [k for side in sides for k, z in side.items() if mask is not None and any_array(k, z).ndim > 2]
    if mask is not None and not masked:
        raise InputError("mask: got one for vectors (n, d), expected tokens (n, t, c) or maps")

    def converted(name, z):
        if samples is None:
            return representation(z, name, **options)
        return as_matrix(z, name, samples, mask if name in masked else None, **options)

    sides = [{name: converted(name, z) for name, z in side.items()} for side in sides]
    by_name = {**sides[0], **sides[1]}
    first = next(iter(by_name))
    for name, z in by_name.items():
        if len(z) != len(by_name[first]):
            raise InputError(f"{name}: got {len(z)} examples, expected as many as in {first}, {len(by_name[first])}")
    dtype = jnp.result_type(*by_name.values())
    return [{name: on_device_of(by_name[first], z.astype(dtype)) for name, z in side.items()} for side in sides]
