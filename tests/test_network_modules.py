"""Networks of NNX and Linen modules as their users write them: modules, variables, transformations."""

from collections.abc import Callable
from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from network_helpers import CNN, IMAGES, KEY, LinenResNet, drawn

from symjax.errors import InputError
from symjax.network import Member, Network


def test_nnx_modules_come_and_go():
    network, module = Network.from_nnx(CNN, example=IMAGES).with_form("native"), CNN(nnx.Rngs(3))
    member = network.member(module)
    module.eval()
    np.testing.assert_array_equal(network.apply(member, IMAGES), module(IMAGES))
    again = network.to_module(member)
    assert type(again) is CNN
    np.testing.assert_array_equal(again(IMAGES), module(IMAGES))
    with pytest.raises(InputError, match=r"variables: got shape .* at .*conv1"):
        narrow = CNN(nnx.Rngs(3))
        narrow.conv1 = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        network.member(narrow)


class Small(nnx.Module):
    def __init__(self, rngs, activation=nnx.relu, epsilon=1e-5):
        normal = jax.nn.initializers.normal(0.1)  # another function in each module
        self.linear = nnx.Linear(3, 4, kernel_init=lambda *given: normal(*given), rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(4, epsilon=epsilon, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        return self.dropout(self.activation(self.norm(self.linear(x))))


def test_modules_of_another_function_are_refused():
    x = jnp.ones((2, 3))
    network = Network.from_nnx(Small, example=x, points=["norm"])
    for mode in ("train", "eval"):
        module = Small(nnx.Rngs(1))
        getattr(module, mode)()
        member = network.member(module)
        np.testing.assert_array_equal(member.params["linear"]["kernel"], module.linear.kernel[...])
        assert type(module.norm) is nnx.BatchNorm  # the given module is as before
        assert module.norm.use_running_average == (mode == "eval")
    for changes in ({"activation": nnx.gelu}, {"epsilon": 1.0}):
        with pytest.raises(InputError, match="variables: .* another function than Small"):
            network.member(Small(nnx.Rngs(1), **changes))


def test_equal_modules_are_not_traced(monkeypatch):
    network, module = Network.from_nnx(CNN, example=IMAGES, points=["conv2"]), CNN(nnx.Rngs(1))
    monkeypatch.setattr("symjax.network.variables.inline", lambda closed: pytest.fail("traced"))
    network.member(module)
    network.member(network.to_module(network.init(KEY)))


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    weights: jax.Array
    activation: Callable = field(metadata={"static": True})
    note: str = field(default="", metadata={"static": True})


def test_static_fields_of_variables():
    x, weights = jnp.ones((2, 3)), jnp.full((3, 4), 0.5)
    network = Network.from_function(
        lambda layer, x: layer.activation(x @ layer.weights), Layer(weights, jax.nn.relu), example=x, name="layer"
    )
    member = network.member(Layer(weights, jax.nn.relu, note="of the same function"))
    assert member.params.note == ""  # so that members are alike
    np.testing.assert_array_equal(network.apply(member, x), 1.5)
    for given in (Layer(weights, jnp.tanh), Member(Layer(weights, jnp.tanh), {})):
        with pytest.raises(InputError, match="variables: .* another function than layer"):
            network.member(given)

    def fails(layer, x):
        return jax.tree.map(lambda like, w: x @ w, Layer(weights, jax.nn.relu), layer).weights

    network = Network.from_function(fails, Layer(weights, jax.nn.relu), example=x)
    with pytest.raises(InputError, match="variables: got a structure with which fails cannot be evaluated"):
        network.member(Layer(weights, jnp.tanh))


def test_leaves_that_are_no_arrays():
    x, given = jnp.ones((2, 3)), {"w": jnp.ones((3, 4)), "act": jnp.tanh}
    network = Network.from_function(lambda v, x: x @ v["w"], {"w": given["w"]}, example=x)
    with pytest.raises(InputError, match=r"variables: got .* at .*'act'.*expected arrays; equinox.filter"):
        network.member(given)
    with pytest.raises(InputError, match=r"variables: got .* at \['act'\], expected arrays"):
        Network.from_function(lambda v, x: x @ v["w"], given, example=x)
    with pytest.raises(InputError, match=r"init: got .* at \['act'\], expected arrays"):
        Network.from_function(lambda v, x: x @ v["w"], init=lambda key: given, example=x).points  # noqa: B018
    with pytest.raises(InputError, match="example: got 'text', expected arrays"):
        Network.from_function(lambda v, x: x @ v["w"], given["w"], example="text")
    with pytest.raises(InputError, match="x: got 'text', expected arrays"):
        network.apply(network.member({"w": given["w"]}), "text")


def test_frozen_dictionaries_are_dictionaries():
    network = Network.from_linen(LinenResNet(), example=IMAGES)
    variables = network.to_module(network.init(KEY))
    member = network.member(freeze(variables))
    assert jax.tree.structure(member) == jax.tree.structure(network.shapes)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(4)(x))


JittedDense = nn.jit(Dense)


class Jitted(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(2)(JittedDense(name="block")(x))


def test_points_inside_of_jitted_modules():
    """JAX keeps the trace of a module that `flax.linen.jit` wraps, made with the names of another network or none."""
    x = jnp.ones((2, 3))
    member = Network.from_linen(Jitted(), example=x).init(KEY)
    for points in ((), ("block",), ("block.Dense_0", "block"), ("block",), ()):
        network = Network.from_linen(Jitted(), example=x, points=points)
        assert tuple(point.name for point in network.points) == points
        network.apply(member, x, mode="train")
        if points:
            np.testing.assert_array_equal(network.features(member, x)["block"].shape, (2, 4))
    with pytest.raises(
        InputError, match=r"points: got none, expected submodules that are called: block.Dense_0, block, Dense_0"
    ):
        Network.from_linen(Jitted(), example=x, points=["none"]).points  # noqa: B018


def test_training_mode_is_the_modules_own():
    network = Network.from_nnx(CNN, example=IMAGES).with_form("native")
    member = drawn(network)
    module = network.to_module(member)
    module.train()
    module.dropout.deterministic = True
    output, state = network.apply(member, IMAGES, mode="train", with_state=True)
    np.testing.assert_array_equal(output, module(IMAGES))
    jax.tree.map(np.testing.assert_array_equal, state, network.member(module).state)
    random = [network.apply(member, IMAGES, mode="train", key=jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert np.abs(random[0] - random[2]).max() > 1e-3
    assert np.abs(random[0] - output).max() > 1e-3


def test_a_tail_trains_behind_a_front_in_evaluation():
    """By hand: the module with its first batch norm in evaluation mode, the second one in training mode."""
    network = Network.from_nnx(CNN, example=IMAGES)
    member = jax.tree.map(lambda leaf: leaf + 0.1, drawn(network))
    module = network.to_module(member)
    module.norm2.use_running_average = False
    carried = network.front(member, IMAGES, "relu1")
    output, state = network.tail(member, carried, "relu1", mode="train", with_state=True)
    np.testing.assert_allclose(output, module(IMAGES), rtol=1e-6, atol=1e-6)
    expected = network.member(module).state
    np.testing.assert_array_equal(state["norm1"]["mean"], member.state["norm1"]["mean"])
    np.testing.assert_allclose(state["norm2"]["mean"], expected["norm2"]["mean"], rtol=1e-6)
    assert np.abs(state["norm2"]["mean"] - member.state["norm2"]["mean"]).max() > 1e-3
