"""A fingerprint of what a network computes, to detect checkpoints of a model whose code has changed since."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from symjax.jaxprs import CALLS, closed_body
from symjax.network.member import leaves_by_path

if TYPE_CHECKING:
    from symjax.network.network import Network

# Only the bodies of these are hashed, since versions of JAX differ in the functions that they wrap.
_WRAPPERS = {*CALLS, "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint"}


@lru_cache
def structure(network: "Network") -> str:
    """Return a hash of the network, ten hexadecimal digits.

    It depends on the names, shapes and dtypes of parameters and state, and on the operations of the initialization and
    of the forward passes in training and in inference, as JAX traces them for inputs like the network's example.
    Nothing is compiled. The result is the same in every process and under all settings of JAX, but another version of
    JAX may trace other operations.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.enable_x64(False), jax.default_matmul_precision(None):
        programs = [
            network.jaxpr(network.shapes, network.example, mode="train", random=True),
            network.jaxpr(network.shapes, network.example),
        ]
        if network.has_init:
            programs.insert(0, jax.make_jaxpr(network.init)(key))
    return program_fingerprint(*programs, names=list(leaves_by_path(network.shapes)))


def program_fingerprint(*programs: ClosedJaxpr, names: Sequence[str] | None = None) -> str:
    """Return a hash of the operations of jaxprs and of names, ten hexadecimal digits."""
    digest = hashlib.sha256(b"" if names is None else json.dumps(names).encode())
    for program in programs:
        for line in _lines(program):
            digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:10]


def _lines(closed: ClosedJaxpr) -> Iterator[str]:
    """Yield a line for the arguments, a line for each operation, and a line for the results."""
    fresh = map("v{}".format, itertools.count())
    arguments = [f"{next(fresh)}" for _ in closed.jaxpr.invars]
    yield f"takes {' '.join(_type(v.aval) for v in closed.jaxpr.invars)}"
    results = yield from _operations(closed.jaxpr, closed.consts, arguments, fresh)
    yield f"gives {' '.join(results)}"


def _operations(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[str], fresh: Iterator[str]):
    """Yield a line for each operation, with wrappers replaced by their bodies; return the names of the results."""
    constants = [f"{_type(c)} {hashlib.sha256(_numbers(c).tobytes()).hexdigest()}" for c in consts]
    names = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def name(atom) -> str:
        return f"{_type(atom.aval)} {atom.val}" if isinstance(atom, Literal) else names[atom]

    for equation in jaxpr.eqns:
        operands, primitive, params = [name(atom) for atom in equation.invars], equation.primitive.name, equation.params
        if primitive in _WRAPPERS:
            inner = closed_body(equation)
            results = yield from _operations(inner.jaxpr, inner.consts, operands, fresh)
        else:
            results = [next(fresh) for _ in equation.outvars]
            shown = [f"{key}={_shown(params[key])}" for key in sorted(params) if _is_hashed(params[key])]
            types = " ".join(_type(v.aval) for v in equation.outvars)
            yield f"{' '.join(results)}: {types} = {primitive} {' '.join(shown)} of {' '.join(operands)}"
        names.update(zip(equation.outvars, results, strict=True))
    return [name(atom) for atom in jaxpr.outvars]


def _numbers(constant: Any) -> np.ndarray:
    is_key = jnp.issubdtype(constant.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(constant) if is_key else constant)


def _is_hashed(value: Any) -> bool:
    """Return whether to hash a parameter of an operation; unset ones are left out, since older JAX may lack them."""
    return value is not None and value is not False and not callable(value)


def _shown(value: Any) -> str:
    if isinstance(value, Jaxpr):
        value = ClosedJaxpr(value, ())
    if isinstance(value, ClosedJaxpr):
        return f"({'; '.join(_lines(value))})"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _type(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"
