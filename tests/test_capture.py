"""`symjax.capture` of models of each kind."""

import types

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import symjax
from symjax import InputError, capture

RNG = np.random.default_rng(0)
X = np.float32(RNG.standard_normal((5, 6)))


class Net(nnx.Module):
    def __init__(self, rngs, dtype=jnp.float32):
        self.first = nnx.Linear(6, 4, rngs=rngs, dtype=dtype)
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs, dtype=dtype), nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(4, 4, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        x = symjax.stitch_point(nnx.relu(self.norm(self.first(x))), "relu1")
        return self.second(self.second(self.dropout(x)))


def test_nnx_by_name_and_by_path():
    net = Net(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState))))
    points = capture(net, [X[:3], X[3:]], ["first", "relu1", "second", "second#1"])
    assert list(points) == ["first", "relu1", "second", "second#1"]
    first = net.first(X)
    relu = nnx.relu(first / np.float32(np.sqrt(1 + net.norm.epsilon)))
    expected = {"first": first, "relu1": relu, "second": net.second(relu), "second#1": net.second(net.second(relu))}
    for name, array in expected.items():
        np.testing.assert_allclose(points[name], array, atol=2e-6, err_msg=name)
    assert list(capture(net, X)) == ["relu1"]
    assert not net.norm.use_running_average and not net.dropout.deterministic  # still in training mode
    after = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    with pytest.raises(InputError, match="points: got 'relu9', expected some of relu1, first, norm, dropout, second"):
        capture(net, X, ["relu9"])


def test_several_models_and_half_precision():
    half = capture([Net(nnx.Rngs(0), jnp.bfloat16), Net(nnx.Rngs(1))], [X])
    assert list(half) == [0, 1] and half[0]["relu1"].dtype == jnp.bfloat16
    assert symjax.cka(half[0]["relu1"], half[1]["relu1"]).dtype == np.float32
    named = capture({"a": Net(nnx.Rngs(0))}, X)
    assert list(named) == ["a"] and symjax.pairwise_batches([named], "cka").models_a == ("a",)


def test_linen_with_sown_values():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            x = nn.Dense(3)(x)
            self.sow("intermediates", "sown", 2 * x)
            return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))

    variables = Linen().init(jax.random.key(0), X)
    points = capture((Linen(), variables), X)
    dense = X @ variables["params"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(points["Dense_0"], dense, atol=1e-6)
    np.testing.assert_allclose(points["sown"], 2 * dense, atol=2e-6)
    assert points["Dense_1"].shape == (5, 2)
    with pytest.raises(InputError, match="expected a pair with its variables"):
        capture(Linen(), X)


def test_equinox_is_called_on_examples():
    conv = eqx.nn.Conv2d(1, 3, 2, key=jax.random.key(0))
    layers = [conv, eqx.nn.Dropout(0.5), eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(12, 2, key=jax.random.key(1))]
    images = np.float32(RNG.standard_normal((5, 1, 3, 3)))
    points = capture(eqx.nn.Sequential(layers), images, layout="nchw")
    expected = np.moveaxis(jax.vmap(conv)(images), 1, -1)
    np.testing.assert_allclose(points["layers.0"], expected, atol=1e-6)
    np.testing.assert_allclose(points["layers.1"], expected, atol=1e-6)
    np.testing.assert_allclose(
        points["layers.3"], jax.vmap(eqx.nn.Sequential(layers[2:]))(jax.vmap(conv)(images)), atol=1e-6
    )


def test_functions_and_networks():
    def model(weights, x):
        return symjax.stitch_point(jnp.tanh(x @ weights), "hidden")[:, :1]

    weights = np.float32(RNG.standard_normal((6, 3)))
    network = symjax.Network.from_function(model, weights, example=X)
    for given in ((model, weights), (network, weights), lambda x: model(weights, x)):
        np.testing.assert_allclose(capture(given, X)["hidden"], np.tanh(X @ weights), atol=1e-6)
    for given, message in (
        (lambda x: x, "without named values"),
        (3, "model: got 3"),
        (types.SimpleNamespace, "model: got <class .*, expected an instance"),
        (network, "expected a pair"),
    ):
        with pytest.raises(InputError, match=message):
            capture(given, X)
    for given in (Net(nnx.Rngs(0)), (model, weights), (network, weights)):
        with pytest.raises(InputError, match=r"^batches: got a batch float32\[5, 7\] .*\(TypeError: dot_general"):
            capture(given, np.ones((5, 7), np.float32))
    for batches, message in (([], "none"), (X.tolist(), "type list"), ([[X, X]], "type list"), (range(2), "type int")):
        with pytest.raises(InputError, match=f"batches: .*{message}"):
            capture((model, weights), batches)


class Hugging:
    """A stand-in for a Hugging Face model."""

    def __call__(self, input_ids, attention_mask=None, output_hidden_states=False):
        states = (np.float32(input_ids)[..., None] * np.arange(1, 4), -np.float32(input_ids)[..., None] * np.ones(4))
        return types.SimpleNamespace(hidden_states=states if output_hidden_states else None)


def test_hidden_states_and_attention_masks():
    def batch(*rows):
        ids = np.array(rows)
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(int)}

    batches = [batch([3, 5, 0], [7, 8, 9]), batch([2, 0])]
    pooled = capture(Hugging(), batches, samples="pool")
    np.testing.assert_allclose(pooled["hidden_states.0"], np.outer([4, 8, 2], [1, 2, 3]))
    np.testing.assert_allclose(capture(Hugging(), batches, samples="last")["hidden_states.1"][:, 0], [-5, -9, -2])
    with pytest.raises(InputError, match="attention_mask: got no token of example 1 of a batch"):
        capture(Hugging(), batch([3, 0], [0, 0]), samples="pool")
    with pytest.raises(InputError, match="expected batches padded to one length"):
        capture(Hugging(), batches)
    with pytest.raises(InputError, match="got 'hidden_states.7', expected some of hidden_states.0, hidden_states.1"):
        capture(Hugging(), batches[:1], ["hidden_states.7"])


def test_pytorch():
    torch = pytest.importorskip("torch")
    layers = (torch.nn.Conv2d(1, 3, 2), torch.nn.ReLU(inplace=True), torch.nn.BatchNorm2d(3), torch.nn.Flatten())
    model = torch.nn.Sequential(*layers, torch.nn.Linear(12, 2))
    model[2].eval()
    images = np.float32(RNG.standard_normal((5, 1, 3, 3)))
    points = capture(model, [images[:2], torch.from_numpy(images[2:])])
    with torch.no_grad():
        conv = model[0](torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(points["0"], np.moveaxis(conv, 1, -1), atol=1e-6)  # before ReLU in place
    assert points["1"].shape == (5, 2, 2, 3) and points["1"].min() == 0 and points["4"].shape == (5, 2)
    assert model.training and not model[2].training and not any(m._forward_hooks for m in model.modules())
    assert capture(model, images, ["0"], layout="nhwc")["0"].shape == (5, 3, 2, 2)
    assert capture(model.bfloat16(), torch.from_numpy(images).bfloat16(), ["4"])["4"].dtype == np.float32
    with pytest.raises(InputError, match="points: got 'conv', expected some of 0, 1, 2, 3, 4"):
        capture(model, torch.from_numpy(images).bfloat16(), ["conv"])


def test_names_in_code_that_repeat_or_equal_paths_and_values_that_are_no_features():
    class Tied(nnx.Module):
        def __init__(self, rngs):
            self.first, self.cell = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 6, rngs=rngs)

        def __call__(self, x):
            x = symjax.stitch_point(2 * self.first(x), "first")
            for _ in range(2):
                x = symjax.stitch_point(jnp.tanh(x), "tanh")
            checkpoint_name((x**2).mean(), "loss")
            return jax.lax.scan(lambda x, _: (self.cell(x), None), x, None, length=2)[0]

    net = Tied(nnx.Rngs(0))
    points = capture(net, X)
    assert list(points) == ["first", "tanh", "tanh#1"]
    np.testing.assert_allclose(points["tanh#1"], np.tanh(np.tanh(2 * net.first(X))), atol=1e-6)
    with pytest.raises(InputError, match="points: got 'loss', expected some of first, tanh, tanh#1$"):
        capture(net, X, ["loss"])
    with pytest.raises(InputError, match="points: got none"):
        capture(net, X, [])


def test_stitch_points_of_a_function_of_one_example():
    def model(x):
        return symjax.stitch_point(jnp.tanh(x), "tanh")

    class Module(eqx.Module):
        def __call__(self, x):
            return model(x)

    for each in (Module(), jax.vmap(model)):
        np.testing.assert_allclose(capture(each, X)["tanh"], np.tanh(X), atol=1e-6)
    with pytest.raises(InputError, match=r"x: got float32\[6\] at stitch point 'sum'"):
        _ = symjax.Network.from_function(lambda w, x: symjax.stitch_point(x.sum(0), "sum"), {}, example=X).points
