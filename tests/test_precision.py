"""Products whose rounding would show in a result ask for float32, which accelerators round to TF32 or bfloat16 unasked.

Seen in what is traced, so that a machine without an accelerator can tell. Networks are left to the backend's default.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxprs_in_params

from symjax import projection_birkhoff
from symjax.birkhoff import projection
from symjax.groups import GROUPS
from symjax.similarity import MEASURES
from symjax.similarity import streams as stream_module
from symjax.stitching import feature_moments, least_squares
from symjax.stitching.families.free import LowRank
from symjax.stitching.families.orthogonal import Orthogonal, newton_schulz, polar

X, Y = (np.float32(np.random.default_rng(seed).normal(size=(12, 2, 2, 3))) for seed in (0, 1))
MATRIX = np.float32(np.random.default_rng(2).normal(size=(5, 5)))


def inexact(fn, *arguments):
    """The products in the program of `fn` that do not ask for the highest precision."""
    return [equation for equation in products(jax.make_jaxpr(fn)(*arguments).jaxpr) if not exact(equation)]


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def exact(equation):
    precision = equation.params["precision"]
    whole = all(jnp.issubdtype(operand.aval.dtype, jnp.integer) for operand in equation.invars)
    return whole or precision in (lax.Precision.HIGHEST, (lax.Precision.HIGHEST,) * 2)


def test_a_product_without_a_precision_shows():
    assert inexact(lambda a: jax.jit(jnp.matmul)(a, a), MATRIX)
    assert inexact(lambda a: jax.vmap(lambda row: row @ a)(a), MATRIX)
    assert not inexact(lambda a: jnp.matmul(a, a, precision="highest"), MATRIX)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.few(5)
def test_measures(name):
    fn = MEASURES[name].fn
    assert not inexact(fn, X, Y)
    assert not inexact(jax.grad(fn, (0, 1)), X, Y)


STREAMS = [name for name in stream_module.__all__ if name.endswith("_stream") and not name.startswith(("load", "save"))]


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name):
    stream = getattr(stream_module, name)()

    def whole(x, y):
        states = [stream.update(stream.init(x, y), x, y) for _ in range(2)]
        return stream.finalize(stream.merge(*states))

    assert not inexact(whole, X, Y)


@pytest.mark.parametrize("method", projection.SOLVERS)
def test_projections(method):
    def value(matrix):
        return (projection_birkhoff(matrix, method=method) ** 2).sum()

    assert not inexact(jax.value_and_grad(value), MATRIX)


def test_closed_forms_of_stitches():
    assert not inexact(lambda x, y: least_squares(feature_moments(x, y)), X, Y)


def test_constraints_of_stitches():
    family = Orthogonal()
    for fn in (polar, newton_schulz, lambda matrix: family.residual({"matrix": matrix})):
        assert not inexact(fn, MATRIX)
    factors = {"left": MATRIX[:, :1], "right": MATRIX[:1]}
    assert not inexact(lambda params: LowRank(1).matrix(params, 1.0), factors)


def test_elements_of_groups():
    for group in GROUPS.values():
        assert not inexact(lambda key, group=group: group.sample(key, 4), jax.random.key(0))
