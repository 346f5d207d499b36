"""Convolution, batch normalization and pooling against NumPy, and the forms of a convolution against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from symjax.network import Network
from symjax.network.low_rank import LowRankFeatures, convolved, materialize
from symjax.network.operations import conv
from symjax.network.operations.conv import Geometry, convolve
from symjax.network.operations.pool import disjoint_max_pool, global_max_pool
from symjax.ops.parallel import FORMS


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def conv2d(x, kernel, *, stride=1, method="native"):
    """Convolution with as many zeros around as keep the size at stride 1."""
    pad = (kernel.shape[0] - 1) // 2
    return convolve(x, kernel, Geometry((stride, stride), ((pad, pad), (pad, pad))), method)


def max_pool(x, size):
    return disjoint_max_pool(x, (1, size, size, 1))


def conv_oracle(x, kernel, stride):
    """The definition, one pixel and tap at a time, in float64."""
    k, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((size - k) // stride + 1 for size in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("nijc,ijcd->nd", window, kernel.astype(np.float64))
    return out


def close(actual, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    assert np.shape(actual) == expected.shape
    assert np.abs(np.asarray(actual, np.float64) - expected).max() <= tolerance * np.abs(expected).max()


def out_and_pullback(x, kernel, g, *, stride, method):
    out, pull = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride=stride, method=method), x, kernel)
    return out, pull(g)


SHAPES = [
    # (h, w), c, d, k, stride
    ((8, 6), 16, 20, 3, 1),
    ((2, 4), 3, 5, 3, 1),
    ((7, 5), 4, 6, 3, 1),
    ((8, 6), 4, 6, 3, 2),
    ((7, 5), 4, 6, 3, 2),
    ((6, 6), 4, 3, 1, 1),
    ((6, 8), 4, 3, 1, 2),
    ((6, 6), 2, 3, 5, 1),
    ((8, 10), 32, 33, 3, 1),  # Winograd's
    ((7, 6), 2, 34, 3, 1),  # from few channels to many
    ((16, 18), 3, 16, 3, 1),  # three neighboring pixels at once
    ((17, 16), 8, 4, 5, 1),  # eight
]


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize(("size", "c", "d", "k", "stride"), SHAPES)
@pytest.mark.few(15)
def test_convolution_and_its_gradients(method, size, c, d, k, stride):
    x, kernel = normal(0, 2, *size, c), normal(1, k, k, c, d)
    expected = conv_oracle(x, kernel, stride)
    g, other_x, other_kernel = normal(2, *expected.shape), normal(3, *x.shape), normal(4, *kernel.shape)
    out, (dx, dkernel) = jax.jit(partial(out_and_pullback, stride=stride, method=method))(x, kernel, g)
    close(out, expected, 2e-6)
    # A bilinear map: <g, conv(x', kernel)> = <dx, x'> for every x', and the same for the kernel.
    scale = np.linalg.norm(g) * np.linalg.norm(out)
    for gradient, other, moved in (
        (dx, other_x, conv_oracle(other_x, kernel, stride)),
        (dkernel, other_kernel, conv_oracle(x, other_kernel, stride)),
    ):
        assert abs(np.vdot(np.asarray(gradient, np.float64), other) - np.vdot(g, moved)) < 1e-5 * scale


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("offset", [False, True])
def test_features_that_are_not_formed_are_convolved_as_if_they_were(offset, stride):
    """Borders too, where the offset meets zeros."""
    coordinates, directions, kernel = normal(0, 2, 6, 5, 2), normal(1, 7, 2), normal(2, 3, 3, 7, 4)
    shift = normal(3, 7) if offset else None
    shift_or_none = None if shift is None else jnp.asarray(shift)
    low_rank = LowRankFeatures(jnp.asarray(coordinates), jnp.asarray(directions), shift_or_none)
    features = coordinates @ directions.T + (0 if shift is None else shift)
    close(materialize(low_rank), features, 1e-6)
    assert materialize(features) is features
    result = jax.jit(lambda x: convolved(partial(conv2d, stride=stride), x, kernel))(low_rank)
    close(result, conv_oracle(features, kernel, stride), 3e-6)


def test_winograd_is_exact_to_float32():
    x, kernel = normal(0, 8, 16, 16, 64), normal(1, 3, 3, 64, 64)
    expected = conv_oracle(x, kernel, 1)
    deviation = np.asarray(jax.jit(partial(conv2d, method="mixed"))(x, kernel), np.float64) - expected
    assert np.sqrt((deviation**2).mean()) < 1e-6 * expected.std()
    assert deviation.any() and "convolution" not in str(jax.make_jaxpr(partial(conv2d, method="mixed"))(x, kernel))
    cotangent = normal(2, *expected.shape)
    _, pullback = jax.vjp(partial(conv2d, method="mixed"), x, kernel)
    with jax.enable_x64(True):
        _, exact = jax.vjp(partial(conv2d, method="native"), np.float64(x), np.float64(kernel))
        expected = [np.asarray(gradient) for gradient in exact(np.float64(cotangent))]
    for gradient, of_float64 in zip(pullback(cotangent), expected, strict=True):
        assert np.sqrt(((np.asarray(gradient) - of_float64) ** 2).mean()) < 1e-6 * of_float64.std()


def test_winograd_of_a_few_images_at_a_time(monkeypatch):
    x, kernel, g = normal(0, 6, 8, 8, 16), normal(1, 3, 3, 16, 16), normal(2, 6, 8, 8, 16)
    _, (_, expected) = out_and_pullback(x, kernel, g, stride=1, method="native")
    for cache, count in ((2**30, 6), (2**16, 2), (1, 1)):
        monkeypatch.setattr(conv, "CACHE", cache)
        assert conv._images_at_once(x, g) == count
        _, (_, gradient) = jax.jit(partial(out_and_pullback, stride=1, method="mixed"))(x, kernel, g)
        close(gradient, expected, 2e-6)


def test_winograd_leaves_bfloat16_to_convolutions():
    x, kernel = jnp.asarray(normal(0, 2, 8, 8, 32), jnp.bfloat16), jnp.asarray(normal(1, 3, 3, 32, 32), jnp.bfloat16)
    forms = [jax.jit(partial(conv2d, method=method))(x, kernel) for method in ("mixed", "native")]
    assert forms[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(*(np.asarray(form, np.float32) for form in forms))


@pytest.mark.parametrize("method", ["native", "matmul", "mixed"])
def test_convolution_under_vmap_over_weights(method):
    x, kernels = normal(0, 3, 2, 4, 4, 3), normal(1, 3, 3, 3, 3, 4)

    def loss(x, kernel):
        return (conv2d(x, kernel, method=method) ** 2).sum()

    gradients = jax.grad(loss, (0, 1))
    together, one = jax.jit(jax.vmap(gradients))(x, kernels), jax.jit(gradients)
    for i in range(3):
        for actual, expected in zip(together, one(x[i], kernels[i]), strict=True):
            close(actual[i], expected, 1e-5)


# --- batch norm ------------------------------------------------------------------------------------------------------


class Normed(nnx.Module):
    """Stock batch norm with parameters and statistics that are not the initial ones."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(4, momentum=0.9, use_fast_variance=False, rngs=rngs)
        for i, variable in enumerate((self.norm.scale, self.norm.bias, self.norm.mean)):
            variable[...] = jnp.asarray(normal(i + 1, 4))
        self.norm.var[...] = jnp.asarray(np.abs(normal(9, 4)) + 0.5)

    def __call__(self, x):
        return self.norm(x)


@pytest.mark.parametrize("form", ["native", "mixed"])
def test_batch_norm_in_every_mode(form):
    x = 3 * normal(5, 16, 8, 8, 4) + 1
    network = Network.from_nnx(Normed, example=x).with_form(form)
    member = network.init(jax.random.key(0))
    bias, scale, mean, var = (
        np.asarray(leaf, np.float64)
        for leaf in (
            *map(member.params["norm"].get, ("bias", "scale")),
            *map(member.state["norm"].get, ("mean", "var")),
        )
    )
    own_mean, own_var = x.astype(np.float64).mean((0, 1, 2)), x.astype(np.float64).var((0, 1, 2))
    for mode, keep in {"inference": 1, "train": 0.9, "moments": 0}.items():
        used = (mean, var) if mode == "inference" else (own_mean, own_var)
        out, state = network.apply(member, jnp.asarray(x), mode=mode, with_state=True)
        close(out, (x - used[0]) / np.sqrt(used[1] + 1e-5) * scale + bias, 1e-6)
        close(state["norm"]["mean"], keep * mean + (1 - keep) * own_mean, 1e-6)
        close(state["norm"]["var"], keep * var + (1 - keep) * own_var, 1e-6)

    g, wide, axes = normal(6, 16, 8, 8, 4), x.astype(np.float64), (0, 1, 2)
    pull = jax.jit(lambda x, g: jax.vjp(lambda x: network.apply(member, x, mode="train"), x)[1](g)[0])
    centered = (wide - wide.mean(axes)) / np.sqrt(wide.var(axes) + 1e-5)
    gain = scale / np.sqrt(wide.var(axes) + 1e-5)
    close(pull(x, g), gain * (g - g.mean(axes) - centered * (g * centered).mean(axes)), 2e-6)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_batch_statistics_where_the_mean_is_large(offset):
    x = (normal(0, 8, 16, 16, 4) + np.float32(offset)).astype(np.float32)
    network = Network.from_nnx(Normed, example=x).with_form("mixed")
    _, state = network.apply(network.init(jax.random.key(0)), x, mode="moments", with_state=True)
    close(state["norm"]["mean"], x.astype(np.float64).mean((0, 1, 2)), 1e-5)
    close(state["norm"]["var"], x.astype(np.float64).var((0, 1, 2)), 1e-5 if offset < 1e4 else 1e-4)


# --- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w", "size"), [(8, 6, 2), (8, 8, 4), (7, 5, 2), (9, 6, 3), (4, 4, 1)])
def test_max_pool_and_its_gradient(h, w, size):
    x = np.random.default_rng(0).permutation(2 * h * w * 3).reshape(2, h, w, 3).astype(np.float32)  # no ties
    g = normal(1, 2, h // size, w // size, 3)
    out, gradient = jax.jit(lambda x, g: (max_pool(x, size), jax.vjp(lambda x: max_pool(x, size), x)[1](g)[0]))(x, g)
    expected, expected_gradient = np.zeros(out.shape), np.zeros(x.shape)
    for n, i, j, c in np.ndindex(out.shape):
        window = x[n, i * size : (i + 1) * size, j * size : (j + 1) * size, c]
        expected[n, i, j, c] = window.max()
        down, right = np.unravel_index(window.argmax(), window.shape)
        expected_gradient[n, i * size + down, j * size + right, c] = g[n, i, j, c]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(gradient, expected_gradient.astype(np.float32))


def test_the_gradient_of_a_maximum_goes_to_the_first_of_a_tie():
    x = jnp.asarray([[0.0, 1.0], [1.0, 1.0]])[None, :, :, None]
    for pool in (partial(max_pool, size=2), global_max_pool):
        gradient = jax.grad(lambda x, pool=pool: 3 * pool(x).sum())(x)
        np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 3], [0, 0]])


@pytest.mark.parametrize("pool", [partial(max_pool, size=2), global_max_pool])
@pytest.mark.parametrize("level", [0, 1, 3])
@pytest.mark.few(3)
def test_no_gradient_of_a_maximum_is_lost_where_the_compiler_rounds_its_input_twice(pool, level):
    """Gradients that look for `x == max(x)` vanish there: this very function lost two thirds of its gradient."""
    x, kernel, gain = normal(0, 4, 8, 8, 3), normal(1, 3, 3, 3, 4), normal(2, 4)

    def fn(x):
        x = jax.nn.relu(conv2d(x, kernel, method="matmul") * gain + 1.1)
        return (pool(x) ** 2).sum()

    compiled = jax.jit(jax.grad(fn)).lower(x).compile({"xla_backend_optimization_level": level})
    with jax.disable_jit():
        expected = jax.grad(fn)(x)
    np.testing.assert_allclose(compiled(x), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 1


def test_max_pool_under_vmap():
    x = jnp.asarray(normal(0, 3, 2, 4, 4, 2))
    gradient = jax.jit(jax.grad(lambda x: (max_pool(x, 2) ** 2).sum()))
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x), jnp.stack([gradient(one) for one in x]))


def test_global_pools():
    x = normal(0, 2, 4, 6, 3)
    np.testing.assert_array_equal(global_max_pool(x), x.max((1, 2)))
