"""Find the layers of a network whose outputs are scaled by one parameter and shifted by another."""

from typing import NamedTuple

import jax

from symjax.jaxprs import Variable, is_variable
from symjax.network.member import Member
from symjax.network.split import Trace

SAME_ENTRIES = ("broadcast_in_dim", "reshape", "convert_element_type", "copy")


class AffineLayer(NamedTuple):
    """A value z (examples, ..., *units) = f(x) * kernel + bias that is linear in both parameters, unit by unit.

    Attributes:
      kernel, bias: paths of the parameters, whose last dimensions are those of the bias: the units.
      value: the variable z of a trace.
    """

    kernel: str
    bias: str
    value: Variable


def affine_layers(network, member: Member, x) -> list[AffineLayer]:
    """Return dense layers, convolutions and scaled norms with a bias, in program order, for inputs like x.

    Layers with shared parameters are left out.
    """
    trace = network._trace("inference", None, member, x)
    paths: dict[Variable, str] = {v: path for path, v in trace.members.items() if path.startswith(".params")}
    layers = []
    for equation in trace.jaxpr.eqns:
        if equation.primitive.name != "add":
            continue
        for product, shift in (equation.invars, equation.invars[::-1]):
            bias: Variable = _parameter(trace, paths, shift)
            value: Variable = equation.outvars[0]
            kernel = None if bias is None or not is_variable(product) else _kernel(trace, paths, product)
            if kernel is not None and _ends_with(bias.aval.shape, value, kernel):
                layers.append(AffineLayer(paths[kernel], paths[bias], value))
    return layers


def affine_values(network, member: Member, x, number: int) -> jax.Array:
    """Return the output of an affine layer given by its number."""
    trace = network._trace("inference", None, member, x)
    value = affine_layers(network, member, x)[number].value
    return network._run(trace, trace.data, (value,), jax.tree.leaves(x), member)[0]


def _parameter(trace: Trace, paths, v: Variable):
    """Return the parameter that a variable broadcasts along leading dimensions; None if anything else reads it."""
    copies = []
    while is_variable(v) and v not in paths:
        copies.append(v)
        i = trace.producers.get(v)
        if i is None or trace.jaxpr.eqns[i].primitive.name not in SAME_ENTRIES:
            return None
        operands: list[Variable] = trace.jaxpr.eqns[i].invars
        v = operands[0]
    is_single = is_variable(v) and len(trace.readers[v]) == 1
    return v if is_single and _ends_with(v.aval.shape, *copies) else None


def _kernel(trace: Trace, paths, v: Variable):
    """Return the parameter that scales a value unit by unit, along its last dimensions."""
    i = trace.producers.get(v)
    if i is None:
        return None
    equation = trace.jaxpr.eqns[i]
    name, operands = equation.primitive.name, list[Variable](equation.invars)
    if name in SAME_ENTRIES and operands[0].aval.shape == v.aval.shape:
        return _kernel(trace, paths, operands[0])
    if name == "mul":
        own = [_parameter(trace, paths, operand) for operand in operands]
        deeper = [operand for operand in operands if is_variable(operand)]
        return next(filter(None, [*own, *(_kernel(trace, paths, operand) for operand in deeper)]), None)
    if name not in ("dot_general", "conv_general_dilated"):
        return None
    kernel = _parameter(trace, paths, operands[1])
    if kernel is None:
        return None
    if name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        in_place = numbers.rhs_spec[0] == kernel.aval.ndim - 1 and numbers.out_spec[1] == v.aval.ndim - 1
        return kernel if in_place else None
    (_, contracted), (_, batch) = equation.params["dimension_numbers"]
    return kernel if sorted((*contracted, *batch)) == list(range(len(contracted) + len(batch))) and not batch else None


def _ends_with(shape: tuple, *variables: Variable) -> bool:
    """Return whether the last dimensions of all variables are these."""
    return len(shape) > 0 and all(v.aval.shape[-len(shape) :] == shape for v in variables)
