"""The rewrite rule: replaced operations against the operations themselves, values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from symjax import jaxprs
from symjax.network import rewrite
from symjax.network.low_rank import LowRankFeatures, materialize
from symjax.ops.parallel import FORMS


def normal(seed, *shape, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def rewritten(fn, form="mixed"):
    """`fn` evaluated with the rule."""

    def run(*arguments):
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*arguments)
        results = rewrite.evaluate(closed, jax.tree.leaves(arguments), form)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def names(fn, *arguments, form="mixed"):
    """Names of the operations that are left, inner ones included."""
    return {inner.primitive.name for inner in jaxprs.equations(jax.make_jaxpr(rewritten(fn, form))(*arguments).jaxpr)}


def with_gradients(fn):
    """Values, and a pullback of weights that differ from element to element."""

    def run(*arguments):
        out, pull = jax.vjp(fn, *arguments)
        return out, pull(jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype))

    return run


def assert_close(actual, expected, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-30)


def conv(strides=1, padding="SAME", dilation=1, layout=("NHWC", "HWIO", "NHWC"), **params):
    def fn(x, kernel):
        count = kernel.ndim - 2
        return lax.conv_general_dilated(
            x, kernel, np.broadcast_to(strides, count), padding, rhs_dilation=np.broadcast_to(dilation, count),
            dimension_numbers=layout, **params
        )  # fmt: skip

    return fn


CONVOLUTIONS = {
    "stride 1": (conv(), (2, 5, 4, 3), (3, 3, 3, 4)),
    "stride 2": (conv(2), (2, 6, 5, 3), (3, 3, 3, 4)),
    "stride 2, padding 1": (conv(2, [(1, 1), (1, 1)]), (2, 6, 6, 5), (3, 3, 5, 4)),
    "strides 1 and 3, valid": (conv((1, 3), "VALID"), (2, 5, 9, 5), (3, 3, 5, 4)),
    "asymmetric padding": (conv(1, [(0, 2), (1, 0)]), (2, 5, 6, 5), (3, 2, 5, 4)),
    "5 x 4, valid": (conv(1, "VALID"), (2, 7, 6, 5), (5, 4, 5, 4)),
    "dilated": (conv(1, [(2, 2), (1, 0)], (2, 1)), (2, 6, 5, 5), (3, 2, 5, 4)),
    "dilated, strided": (conv(2, "SAME", 2), (2, 7, 6, 5), (3, 3, 5, 4)),
    "1 x 1": (conv(), (2, 4, 3, 5), (1, 1, 5, 4)),
    "1 x 1, stride 2": (conv(2), (2, 5, 4, 5), (1, 1, 5, 4)),
    "patches with a rest": (conv(2, "VALID"), (2, 5, 7, 3), (2, 2, 3, 4)),
    "patches with padding": (conv((3, 2), [(1, 1), (0, 1)]), (2, 5, 5, 3), (2, 2, 3, 4)),
    "channels first": (conv(1, "SAME", layout=("NCHW", "OIHW", "NCHW")), (2, 5, 6, 4), (3, 5, 3, 3)),
    "mixed layouts": (conv(2, "SAME", layout=("NCHW", "HWIO", "NHWC")), (2, 5, 6, 4), (3, 3, 5, 2)),
    "one axis": (conv(1, "SAME", layout=("NHC", "HIO", "NHC")), (2, 6, 5), (3, 5, 4)),
    "one axis, channels first, strided": (conv(2, [(2, 1)], layout=("NCH", "OIH", "NCH")), (2, 5, 7), (4, 5, 4)),
    "few channels to many": (conv(1, [(2, 1), (0, 1)]), (2, 5, 4, 3), (3, 3, 3, 33)),
    "Winograd": (conv(), (1, 8, 8, 32), (3, 3, 32, 32)),
}


@pytest.fixture(scope="module", params=["matmul", "mixed"])
def convolutions(request):
    """Results of all convolutions in one program: name -> (rewritten, native)."""
    with jax.enable_x64(True):
        arguments = {name: (normal(0, *x), normal(1, *kernel)) for name, (_, x, kernel) in CONVOLUTIONS.items()}

        def run(arguments, change):
            return {name: with_gradients(change(CONVOLUTIONS[name][0]))(*args) for name, args in arguments.items()}

        results = jax.jit(partial(run, change=partial(rewritten, form=request.param)))(arguments)
        return results, jax.jit(partial(run, change=lambda fn: fn))(arguments)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.few(18)
def test_convolutions_and_their_gradients(convolutions, name):
    actual, expected = convolutions
    assert_close(actual[name], expected[name], 1e-13)


def test_which_convolutions_are_replaced():
    for fn, x, kernel in CONVOLUTIONS.values():
        x, kernel = jnp.zeros(x), jnp.zeros(kernel)
        assert "conv_general_dilated" not in names(fn, x, kernel, form="matmul")
        assert (
            jax.make_jaxpr(rewritten(fn, "native"))(x, kernel).eqns[0].params
            == jax.make_jaxpr(fn)(x, kernel).eqns[0].params
        )
    x, kernel = jnp.zeros((2, 4, 4, 4)), jnp.zeros((3, 3, 4, 4))
    halves = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    kept = {
        "depthwise": (conv(feature_group_count=4), x, kernel[:, :, :1]),
        "grouped": (conv(feature_group_count=2), x, kernel[:, :, :2]),
        "groups of examples": (conv(batch_group_count=2), x, kernel),
        "dilated input": (conv(1, [(1, 1)] * 2, lhs_dilation=(2, 2)), x, kernel),
        "negative padding": (conv(1, [(-1, 1), (0, 0)]), x, kernel),
        "padding beyond the kernel": (conv(1, [(3, 1), (0, 0)]), x, kernel),
        "three axes": (conv(layout=("NDHWC", "DHWIO", "NDHWC")), x[None], kernel[None]),
        "other type of the output": (conv(preferred_element_type=jnp.float32), *halves),
    }
    for fn, *arguments in kept.values():
        assert "conv_general_dilated" in names(fn, *arguments, form="matmul")


def test_an_explicit_precision_is_kept():
    x, kernel = jnp.zeros((2, 4, 4, 4)), jnp.zeros((3, 3, 4, 4))
    for form in ("matmul", "mixed"):
        for shape in ((3, 3), (1, 1)):
            fn = with_gradients(rewritten(conv(precision="highest"), form))
            jaxpr = jax.make_jaxpr(fn)(x, kernel[: shape[0], : shape[1]]).jaxpr
            precisions = [eqn.params["precision"] for eqn in jaxprs.equations(jaxpr) if "precision" in eqn.params]
            assert precisions and set(precisions) == {(lax.Precision.HIGHEST,) * 2}


# --- pooling ---------------------------------------------------------------------------------------------------------

POOLS = {
    "2 x 2": (partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)), (2, 6, 4, 3)),
    "2 x 3 with a rest": (partial(nnx.max_pool, window_shape=(2, 3), strides=(2, 3)), (2, 5, 8, 3)),
    "3 x 3, stride 2": (partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"), (2, 6, 5, 3)),
    "3 x 3, padding 1": (
        partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))), (2, 6, 7, 3),
    ),
    "3 x 2, stride 1": (partial(nnx.max_pool, window_shape=(3, 2), strides=(1, 1)), (2, 5, 6, 3)),
    "windows that leave gaps": (partial(nnx.max_pool, window_shape=(1, 2), strides=(2, 3)), (2, 5, 8, 3)),
    "channels first": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"), (2, 3, 4, 6),
    ),
    "all pixels": (lambda x: x.max((1, 2)), (2, 4, 5, 3)),
}  # fmt: skip


def test_maxima_and_their_gradients():
    arguments = {name: np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.float32)
                 for name, (_, shape) in POOLS.items()}  # fmt: skip

    @jax.jit
    def both(arguments):
        fns = {name: (with_gradients(rewritten(fn)), with_gradients(fn)) for name, (fn, _) in POOLS.items()}
        return {name: (fast(arguments[name]), native(arguments[name])) for name, (fast, native) in fns.items()}

    for name, (actual, expected) in both(arguments).items():
        np.testing.assert_array_equal(actual[0], expected[0])
        assert_close(actual, expected, 1e-6)  # where windows overlap, gradients are added in another order
        assert not names(POOLS[name][0], arguments[name]) & {"reduce_window_max", "reduce_window", "reduce_max"} or (
            name == "all pixels"
        )


def test_a_maximum_of_ones_own_gets_the_gradient_that_lax_lacks():
    x = jnp.asarray(normal(0, 2, 4, 6, 3, dtype=np.float32))

    def fn(x, maximum, start=-jnp.inf):
        return lax.reduce_window(x, start, maximum, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    own = with_gradients(rewritten(lambda x: fn(x, lambda a, b: lax.max(a, b))))
    jax.tree.map(np.testing.assert_array_equal, own(x), with_gradients(lambda x: fn(x, lax.max))(x))
    assert "reduce_window" in names(lambda x: fn(x, lax.max, 0.0), x)  # what starts higher is another function
    assert "reduce_window" in names(lambda x: fn(x, lambda a, b: lax.max(b, b)), x)


def test_the_first_of_a_tie_gets_the_gradient_in_windows():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 6, 6, 2)), jnp.float32)
    for name in ("2 x 2", "3 x 3, stride 2", "3 x 3, padding 1"):
        fn = POOLS[name][0]
        jax.tree.map(np.testing.assert_array_equal, with_gradients(rewritten(fn))(x), with_gradients(fn)(x))


# --- scales and shifts of channels -----------------------------------------------------------------------------------


def test_scales_and_shifts_of_channels_are_collected():
    def normalize(x, mean, factor, bias):
        return bias + (x - mean) * factor

    def several(x, mean, factor, bias):
        centered = x - mean
        return jnp.stack([normalize(x, mean, factor, bias), centered, jnp.tanh(centered), mean - x, factor * x])

    with jax.enable_x64(True):
        arguments = normal(0, 2, 32, 32, 3), *(normal(i, 3) for i in (1, 2, 3))
        pulls = [jax.make_jaxpr(with_gradients(rewritten(normalize, form)))(*arguments) for form in FORMS]
        native, matmul, mixed = (str(pull).count("reduce_sum[") for pull in pulls)
        assert native == matmul == mixed + 1
        pulls = [jax.jit(with_gradients(rewritten(several, form)))(*arguments) for form in ("mixed", "native")]
        assert_close(*pulls, 1e-13)


def test_values_far_from_zero_keep_their_digits():
    """The difference from a mean that is given is exact in float32."""

    def normalize(x, mean, factor, bias):
        return (x - mean) * factor + bias

    x, *channels = (np.float32(normal(i, *shape)) for i, shape in enumerate([(2, 32, 32, 3), (3,), (3,), (3,)]))
    arguments = np.float32(x + 1e5), np.float32(channels[0] + 1e5), *channels[1:]
    with jax.enable_x64(True):
        exact = with_gradients(normalize)(*map(np.float64, arguments))
        exact = jax.tree.map(np.float32, exact)
    for form in ("native", "mixed"):
        assert_close(jax.jit(with_gradients(rewritten(normalize, form)))(*arguments), exact, 1e-5)


# --- whole networks --------------------------------------------------------------------------------------------------


class CNN(nnx.Module):
    """Strides, a rematerialized block, a repeated block in a scan, batch normalization and pooling."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_fast_variance=False, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), strides=(2, 2), rngs=rngs)
        self.repeated = nnx.Param(0.1 * rngs.normal((2, 3, 3, 8, 8)))
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), (3, 3), (2, 2), padding="SAME")
        x = jax.checkpoint(lambda x, kernel: jnp.tanh(conv(2)(x, kernel)))(x, self.second.kernel[...])
        x = lax.scan(lambda x, kernel: (x + jnp.tanh(conv()(x, kernel)), None), x, self.repeated[...])[0]
        return self.head(x.max((1, 2)))


def cnn(dtype):
    module = CNN(nnx.Rngs(0))
    module.train()
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params, rest = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, rest))

    def loss(params, rest, x):
        module = nnx.merge(graph, params, rest)
        out = module(x)
        return (jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(dtype) * out).sum(), nnx.state(
            module, nnx.BatchStat
        )

    return loss, params, rest, jnp.asarray(normal(2, 4, 17, 16, 3), dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
@pytest.mark.few(1)
def test_a_network_of_stock_layers(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        loss, params, rest, x = cnn(jnp.dtype(dtype))
        left = names(loss, params, rest, x, form="matmul")
        assert "conv_general_dilated" not in left and "reduce_window_max" not in left
        assert {"scan"} <= left and left & jaxprs.REMATERIALIZATIONS
        gradients = [
            jax.jit(jax.grad(fn, (0, 2), has_aux=True))(params, rest, x)
            for fn in (rewritten(loss), rewritten(loss, "native"))
        ]  # the statistics too
        assert_close(*gradients, tolerance)


def test_bfloat16_keeps_its_type_and_is_close():
    def fn(x, kernel):
        return conv(2)(nnx.max_pool(conv()(x, kernel), (2, 2), (2, 2)).mean((0, 1, 2)) * x, kernel)

    x, kernel = (jnp.asarray(normal(i, *shape), jnp.bfloat16) for i, shape in enumerate([(2, 32, 32, 5), (3, 3, 5, 5)]))
    actual, expected = (jax.jit(with_gradients(form))(x, kernel) for form in (rewritten(fn), fn))
    assert_close(actual, expected, 0.02)


def test_vmap_map_and_shard_map_around_the_evaluation():
    kernels, x = (
        jnp.asarray(normal(0, 4, 3, 3, 3, 5, dtype=np.float32)),
        jnp.asarray(normal(1, 2, 6, 6, 3, dtype=np.float32)),
    )

    def loss(kernel, x):
        return (nnx.max_pool(conv()(x, kernel), (2, 2), (2, 2)) ** 2).sum()

    expected = jax.jit(jax.vmap(jax.grad(loss), (0, None)))(kernels, x)
    gradient = jax.grad(rewritten(loss))
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("members",))
    members, everywhere = PartitionSpec("members"), PartitionSpec()

    def mapped(kernels, x):
        return lax.map(lambda kernel: gradient(kernel, x), kernels)

    sharded = jax.shard_map(mapped, mesh=mesh, in_specs=(members, everywhere), out_specs=members, check_vma=False)
    for lifted in (jax.vmap(gradient, (0, None)), mapped, sharded):
        assert_close(jax.jit(lifted)(kernels, x), expected, 1e-5)


def test_custom_derivatives_stay_their_authors():
    @jax.custom_vjp
    def fn(x, kernel):
        return conv()(x, kernel)

    fn.defvjp(lambda x, kernel: (fn(x, kernel), (x, kernel)), lambda saved, g: (7 * saved[0], 5 * saved[1]))
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    dx, dkernel = jax.grad(lambda *arguments: rewritten(fn)(*arguments).sum(), (0, 1))(x, kernel)
    assert (dx == 7).all() and (dkernel == 5).all()


# --- low-rank features -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.few(3)
def test_low_rank_features_enter_weights_and_are_materialized_elsewhere(form, offset):
    features = LowRankFeatures(normal(0, 2, 6, 4, 2), normal(1, 5, 2), normal(2, 5) if offset else None)
    kernel, matrix = normal(3, 3, 3, 5, 4), normal(4, 7, 5)
    consumers = [
        lambda x: conv(2)(x, kernel),
        lambda x: conv(1, "SAME", layout=("NHWC", "OIHW", "NCHW"))(x, kernel.transpose(3, 2, 0, 1)),
        lambda x: jnp.einsum("nhwc,dc->nhwd", x, matrix),
        lambda x: jnp.einsum("dc,nhwc->dnhw", matrix, x),
        lambda x: conv(1, feature_group_count=5)(x, kernel[:, :, :1, :1].repeat(5, 3)),
        lambda x: jax.checkpoint(lambda x: jnp.tanh(x).sum())(checkpoint_name(x, "a")),
        lambda x: jnp.sin(x),
    ]
    with jax.enable_x64(True), jax.disable_jit():
        for fn in consumers:
            closed = jax.make_jaxpr(fn)(np.zeros(features.shape))
            results = rewrite.evaluate(closed, [jax.tree.map(jnp.asarray, features)], form)
            assert_close(results, [fn(jnp.asarray(materialize(features)))], 1e-13)


def test_low_rank_features_are_not_materialized_for_convolutions_and_products():
    features = LowRankFeatures(jnp.zeros((2, 6, 4, 1)), jnp.zeros((50, 1)), jnp.zeros(50))
    for fn in (lambda x: conv()(x, jnp.zeros((3, 3, 50, 3))), lambda x: x @ jnp.zeros((50, 3))):
        closed = jax.make_jaxpr(fn)(jnp.zeros(features.shape))
        jaxpr = jax.make_jaxpr(lambda x, closed=closed: rewrite.evaluate(closed, [x], "native"))(features).jaxpr
        assert all(v.aval.size < 2 * 6 * 4 * 50 for equation in jaxprs.equations(jaxpr) for v in equation.outvars)
