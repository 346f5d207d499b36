"""Check that given variables are those of a network's model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from symjax.errors import InputError
from symjax.jaxprs import inline
from symjax.network.adapters import require_arrays
from symjax.network.member import Member, leaves_by_path, update
from symjax.network.structure import program_fingerprint
from symjax.network.traced import Traced, shape_of


def checked_member(network: Traced, variables: Any) -> Member:
    """Return the member that holds the variables of a model; see `Network.member`."""
    adapter = network.adapter
    apply = adapter.apply
    if isinstance(variables, Member):
        member = variables
    else:
        member = adapter.to_member(variables)
        require_arrays("variables", member)
        apply = adapter.apply_as_given(variables)
    _check_shapes(network, member)
    expected: Any = jax.tree.structure(network.shapes)
    if apply != adapter.apply or expected != jax.tree.structure(member):
        _check_function(network, apply, member)
        member = update(network.shapes, leaves_by_path(member))
    return member


def _check_shapes(network: Traced, member: Member) -> None:
    expected, given = leaves_by_path(network.shapes), leaves_by_path(member)
    for path in expected | given:
        if path not in given or path not in expected:
            problem = "got none, expected one" if path not in given else "got one, expected none"
            raise InputError(f"variables: {problem} at {path}")
        if jnp.shape(given[path]) != expected[path].shape:
            shapes = f"got shape {jnp.shape(given[path])}, expected {expected[path].shape}"
            raise InputError(f"variables: {shapes} at {path}")


def _check_function(network: Traced, apply: Callable, member: Member) -> None:
    """Raise an InputError if the given model computes another function than the network, in mode "inference"."""
    shapes = jax.tree.map(shape_of, member)
    try:
        given = inline(jax.make_jaxpr(lambda member, x: apply(member, x, "inference", None))(shapes, network.example))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"variables: got a structure with which {network.name} cannot be evaluated ({error}), expected its own"
        ) from None
    if program_fingerprint(given) != program_fingerprint(network.jaxpr(shapes, network.example)):
        raise InputError(
            f"variables: got those of a model that computes another function than {network.name}, expected equal "
            "activations and other static settings"
        )
