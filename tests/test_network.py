"""Networks: fronts and tails, stitch points, modes, keys and errors, for models of any kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from network_helpers import CNN, IMAGES, KEY, LinenResNet, drawn

from symjax.errors import InputError
from symjax.flops import segment_flops
from symjax.network import Network, stitch_point
from symjax.network.low_rank import LowRankFeatures
from symjax.ops.parallel import default_execution, over_members

TOKENS = jax.random.randint(jax.random.key(2), (4, 6), 0, 11)


class Attention(nnx.Module):
    """Flax's own attention on tokens."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, 8, dropout_rate=0.1, decode=False, rngs=rngs)
        self.norm, self.head = nnx.LayerNorm(8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, tokens):
        x = checkpoint_name(self.embed(tokens), "embedding")
        x = checkpoint_name(x + self.attention(self.norm(x)), "attention")
        return self.head(x.mean(1))


def transformer_variables(key, width=8, heads=2, blocks=2):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape) / np.sqrt(shape[0])

    def block(i):
        shapes = {"qkv": (width, 3, heads, width // heads), "out": (width, width)}
        shapes |= {"up": (width, 2 * width), "down": (2 * width, width)}
        return {name: normal(10 * i + j, *shape) for j, (name, shape) in enumerate(shapes.items())}

    variables = {"embed": normal(0, 11, width), "head": normal(5, width, 3)}
    return variables | {"blocks": [block(i + 1) for i in range(blocks)]}


def transformer(variables, tokens, *, train=False, key=None):
    x = variables["embed"][tokens]
    for i, block in enumerate(variables["blocks"]):
        q, k, v = jnp.moveaxis(jnp.einsum("ntd,dshk->ntshk", x, block["qkv"]), 2, 0)
        weights = jax.nn.softmax(jnp.einsum("nthk,nshk->nhts", q, k), axis=-1)
        mixed = jnp.einsum("nhts,nshk->nthk", weights, v).reshape(x.shape)
        x = stitch_point(x + mixed @ block["out"], f"attention{i}")

        @jax.jit
        @jax.checkpoint
        def feed_forward(x, block=block, i=i):
            return x + stitch_point(jax.nn.gelu(x @ block["up"]), f"hidden{i}") @ block["down"]

        x = feed_forward(x)
    if train:
        x = x * jax.random.bernoulli(key, 0.5, x.shape) * 2.0
    return x.mean(1) @ variables["head"]


def equinox_network():
    eqx = pytest.importorskip("equinox")

    class EquinoxCNN(eqx.Module):
        conv: eqx.nn.Conv2d
        mlp: eqx.nn.MLP

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(3, 6, 3, padding=1, key=key)
            self.mlp = eqx.nn.MLP(6, 4, 7, depth=2, key=key)

        def __call__(self, image):
            return self.mlp(jax.nn.relu(self.conv(image.transpose(2, 0, 1))).mean((1, 2)))

    _, static = eqx.partition(EquinoxCNN(KEY), eqx.is_array)

    def apply(params, x):
        model = eqx.combine(params, static)
        maps = jax.vmap(model.conv)(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        features = stitch_point(jax.nn.relu(maps), "conv").mean((1, 2))
        hidden = stitch_point(jax.vmap(lambda v: jax.nn.relu(model.mlp.layers[0](v)))(features), "hidden")
        for layer in model.mlp.layers[1:]:
            hidden = jax.vmap(layer)(hidden)
        return hidden

    return Network.from_function(
        apply, example=IMAGES, init=lambda key: eqx.filter(EquinoxCNN(key), eqx.is_array), name="equinox"
    )


NETWORKS = {
    "nnx": (lambda: Network.from_nnx(CNN, example=IMAGES), IMAGES),
    "nnx by path": (
        lambda: Network.from_nnx(CNN, example=IMAGES, points=["conv2", "shortcut", "dropout"]),
        IMAGES,
    ),
    "attention": (lambda: Network.from_nnx(Attention, example=TOKENS), TOKENS),
    "linen": (lambda: Network.from_linen(LinenResNet(), example=IMAGES), IMAGES),
    "linen by path": (lambda: Network.from_linen(LinenResNet(), example=IMAGES, points=["Conv_1"]), IMAGES),
    "function": (lambda: Network.from_function(transformer, example=TOKENS, init=transformer_variables), TOKENS),
    "equinox": (equinox_network, IMAGES),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "equinox" else ()) for n in NETWORKS])
@pytest.mark.few(3)
def test_front_and_tail_make_the_whole(name):
    make, x = NETWORKS[name]
    network = make()
    member = drawn(network)
    whole = network.apply(member, x)
    features = network.features(member, x)
    assert list(features) == [point.name for point in network.points]
    for point in network.points:
        carried = network.front(member, x, point.name)
        np.testing.assert_array_equal(carried[0], features[point.name])
        assert carried[0].shape == (4, *point.shape)
        assert point.starred == (len(carried) > 1)
        tail = network.tail_of(member, point.name)
        np.testing.assert_array_equal(network.tail(tail, carried, point.name), whole)
        changed = network.tail(tail, (carried[0] * 1.5 + 0.1, *carried[1:]), point.name)
        assert np.abs(changed - whole).max() > 1e-4


def test_points_of_each_kind():
    def names(name):
        return {point.name: point.starred for point in NETWORKS[name][0]().points}

    assert names("nnx") == {"relu1": False, "branch": True, "sum": False}
    assert list(names("nnx by path")) == ["relu1", "shortcut", "conv2", "branch", "dropout", "sum"]
    assert names("function") == {
        "attention0": False,
        "hidden0": True,
        "attention1": False,
        "hidden1": True,
    }
    assert list(names("linen by path")) == ["stem", "Conv_1", "block0*", "block0", "block1*", "block1"]


@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_moments_are_those_of_the_batch(name):
    make, x = NETWORKS[name]
    network = make()
    member = jax.tree.map(lambda leaf: leaf + 0.3, drawn(network))
    _, state = network.apply(member, x, mode="moments", with_state=True)
    if name == "nnx":
        maps, stats = network.to_module(member).conv1(x), state["norm1"]
    else:
        maps, stats = (
            nn.Conv(8, (3, 3)).apply({"params": member.params["Conv_0"]}, x),
            state["batch_stats"]["BatchNorm_0"],
        )
    maps = np.asarray(maps, np.float64)
    np.testing.assert_allclose(stats["mean"], maps.mean((0, 1, 2)), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], maps.var((0, 1, 2)), rtol=2e-5)


def test_members_under_vmap_and_grad():
    network = Network.from_nnx(CNN, example=IMAGES)
    members = jax.jit(jax.vmap(network.init))(jax.random.split(KEY, 3))
    outputs = jax.jit(jax.vmap(network.apply, in_axes=(0, None)))(members, IMAGES)
    one = jax.tree.map(lambda leaf: leaf[1], members)
    np.testing.assert_allclose(outputs[1], jax.jit(network.apply)(one, IMAGES), rtol=1e-5, atol=1e-6)
    front = jax.jit(lambda one: network.front(one, IMAGES, "branch"))(one)

    @jax.jit
    def loss(matrix):
        return (network.tail(one, (front[0] @ matrix.T, *front[1:]), "branch") ** 2).sum()

    slope = jax.jit(jax.grad(loss))(jnp.eye(8))
    step = 1e-2 * jnp.eye(8, k=1)
    np.testing.assert_allclose((loss(jnp.eye(8) + step) - loss(jnp.eye(8) - step)) / 2, (slope * step).sum(), rtol=1e-3)


def test_activations_alone():
    network = Network.from_nnx(CNN, example=IMAGES)
    member = drawn(network)
    module = network.to_module(member)
    z = network.pre_activation(member, IMAGES, "relu1")
    np.testing.assert_allclose(z, module.norm1(module.conv1(IMAGES)), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(network.activation("relu1")(z), network.features(member, IMAGES)["relu1"])
    with pytest.raises(InputError, match="point: got 'sum', expected the output of an elementwise activation"):
        network.activation("sum")
    network = NETWORKS["function"][0]()
    x = jnp.linspace(-3, 3, 4 * 6 * 16).reshape(4, 6, 16)
    np.testing.assert_allclose(network.activation("hidden1")(x), jax.nn.gelu(x), rtol=1e-6)


@pytest.mark.parametrize("activation", [jnp.round, jnp.arcsinh, jnp.arctan, lambda z: z % 1, jax.nn.celu])
def test_activations_of_any_elementwise_operation(activation):
    w, x = jnp.eye(3), jnp.linspace(-3, 3, 6).reshape(2, 3)
    network = Network.from_function(lambda w, x: stitch_point(activation(x @ w), "hidden"), w, example=x)
    np.testing.assert_array_equal(network.pre_activation(network.member(w), x, "hidden"), x @ w)
    np.testing.assert_allclose(network.activation("hidden")(x), activation(x), rtol=1e-6)


def test_several_inputs_and_outputs():
    def apply(variables, x):
        images, context = x
        hidden = stitch_point(jnp.tanh(images @ variables["w"]), "hidden")
        return {"value": hidden @ variables["v"] + context, "norm": (hidden**2).sum(-1)}

    x = (jnp.ones((5, 3)), jnp.arange(5.0)[:, None])
    variables = {"w": jnp.eye(3, 4), "v": jnp.ones((4, 1))}
    network = Network.from_function(apply, variables, example=x)
    member = network.member(variables)
    outputs = network.tail(member, network.front(member, x, "hidden"), "hidden")
    jax.tree.map(np.testing.assert_array_equal, outputs, apply(variables, x))
    assert network.points[0].starred


@pytest.mark.parametrize("depends", [False, True])
def test_tails_that_depend_on_the_size_of_inputs(depends):
    """Behind a global mean nothing that crosses says how large the images were."""

    def apply(w, x):
        mean = jax.nn.relu(x.mean((1, 2)) / (x.shape[1] if depends else 1))
        return stitch_point(mean, "mean") @ w * (x.shape[1] * x.shape[2] if depends else 1)

    w, small, large = jnp.ones((3, 2)), jnp.ones((2, 4, 4, 3)), jnp.ones((2, 8, 8, 3))
    network = Network.from_function(apply, w, example=small)
    member, carried = network.member(w), jnp.ones((2, 3))
    np.testing.assert_array_equal(network.tail(member, (carried,), "mean"), 48 if depends else 3)
    network.apply(member, large)
    calls = [
        lambda: network.tail(member, (carried,), "mean"),
        lambda: network.between(member, (carried,), 0, 1)[0],
    ]
    for call in calls:
        if depends:
            with pytest.raises(
                InputError,
                match=r"carried: got a shape that belongs to inputs float32\[2, 4, 4, 3\] and float32\[2, 8, 8, 3\]",
            ):
                call()
        else:
            np.testing.assert_array_equal(call(), 3)


def test_activations_that_depend_on_the_size_of_inputs():
    def apply(w, x):
        return stitch_point(jnp.tanh((x.mean((1, 2)) @ w) * x.shape[1]), "hidden") @ w.T

    w, small, large = jnp.ones((3, 2)), jnp.ones((2, 4, 4, 3)), jnp.ones((2, 8, 8, 3))
    network = Network.from_function(apply, w, example=small)
    z = jnp.full((2, 2), 0.1)
    np.testing.assert_allclose(network.activation("hidden")(z), np.tanh(0.4), rtol=1e-6)
    network.apply(network.member(w), large)
    with pytest.raises(InputError, match="z: got a shape that belongs to inputs .* the activation at hidden of"):
        network.activation("hidden")(z)


def test_state_of_functions():
    def apply(params, state, x, *, train=False):
        hidden = stitch_point(x @ params["w"], "hidden")
        mean = hidden.mean(0) if train else state["mean"]
        new = {"mean": 0.75 * state["mean"] + 0.25 * mean, "count": state["count"] + 1} if train else state
        return hidden - mean, new

    x = jax.random.normal(KEY, (6, 3))
    state = {"mean": jnp.ones(4), "count": jnp.int32(0)}
    network = Network.from_function(apply, {"w": jnp.eye(3, 4)}, state=state, example=x)
    member = network.member(({"w": jnp.eye(3, 4)}, state))
    carried = network.front(member, x, "hidden")
    for output, new in (
        network.apply(member, x, mode="train", with_state=True),
        network.tail(member, carried, "hidden", mode="train", with_state=True),
    ):
        np.testing.assert_allclose(output.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(new["mean"], 0.75 + 0.25 * carried[0].mean(0), rtol=1e-6)
    _, new = network.apply(member, x, mode="moments", with_state=True)
    np.testing.assert_allclose(new["mean"], carried[0].mean(0), rtol=1e-5, atol=1e-7)


def relu_network(body):
    return Network.from_function(body, {"w": jnp.eye(3)}, example=jnp.ones((2, 3)))


def twice(variables, x):
    return stitch_point(stitch_point(x @ variables["w"], "a") + 1, "a")


def inside_a_scan(variables, x):
    return jax.lax.scan(lambda x, _: (stitch_point(x @ variables["w"], "a"), None), x, length=2)[0]


def unused(variables, x):
    stitch_point(x @ variables["w"], "a")
    return x @ variables["w"]


@pytest.mark.parametrize(
    "body, message",
    [
        (twice, "got two values named 'a'"),
        (inside_a_scan, "got 'a' inside of scan"),
        (unused, "got 'a', which no output depends on"),
    ],
)
def test_points_that_cannot_be(body, message):
    with pytest.raises(InputError, match=message):
        relu_network(body).points  # noqa: B018


def test_errors_name_what_is_wrong():
    network = relu_network(lambda variables, x: stitch_point(x @ variables["w"], "a") * 2)
    member = network.member({"w": jnp.eye(3)})
    with pytest.raises(InputError, match="point: got 'b', expected a stitch point of .*: a"):
        network.front(member, jnp.ones((2, 3)), "b")
    with pytest.raises(
        InputError, match=r"carried: got float32\[5, 4\], expected float32\[5, 3\] for the tail behind a"
    ):
        network.tail(member, (jnp.ones((5, 4)),), "a")
    with pytest.raises(InputError, match="init: got none, expected Network.from_function"):
        network.init(KEY)
    with pytest.raises(InputError, match="x: got shape"):
        network.apply(member, jnp.ones(3))
    with pytest.raises(InputError, match="points: got 'conv7', expected submodules: .*conv1"):
        Network.from_nnx(CNN, example=IMAGES, points=["conv7"])
    with pytest.raises(InputError, match="points: got Dense_O, expected submodules that are called: .*Dense_0"):
        Network.from_linen(LinenResNet(), example=IMAGES, points=["Dense_O"]).points  # noqa: B018
    for value, name in ((jnp.ones(3), "a"), (jnp.ones((2, 3), int), "a"), (jnp.ones((2, 3)), "")):
        with pytest.raises(InputError):
            stitch_point(value, name)


@pytest.mark.parametrize("name", ["nnx", "function"])
def test_keys_of_each_kind(name):
    """A key of the old kind counts as the same one of the new kind, another generator is used as it is."""
    make, x = NETWORKS[name]
    network, old = make(), jax.random.PRNGKey(3)
    member = network.init(old)
    jax.tree.map(np.testing.assert_array_equal, member, network.init(jax.random.key(3)))
    point = network.points[0].name
    carried = network.front(member, x, point)
    for call in (network.apply, lambda *given, **options: network.tail(*given, point, **options)):
        given = x if call == network.apply else carried
        outputs = [call(member, given, mode="train", key=key) for key in (old, jax.random.key(3))]
        np.testing.assert_array_equal(*outputs)
        for key in (3, jnp.ones(2), jax.random.split(KEY, 2)):
            with pytest.raises(InputError, match="key: got .*, expected a key of JAX"):
                call(member, given, mode="train", key=key)
    with pytest.raises(InputError, match="key: got 3"):
        network.init(3)
    other = network.apply(member, x, mode="train", key=jax.random.key(3, impl="rbg"))
    assert np.abs(other - outputs[0]).max() > 1e-3


def test_members_are_made_inside_other_programs():
    network = Network.from_nnx(CNN, example=IMAGES)
    inside = jax.jit(lambda x: network.apply(network.init(KEY), x))(IMAGES)
    np.testing.assert_allclose(inside, network.apply(drawn(network), IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["matmul", "mixed"])
def test_dilated_kernels_no_larger_than_their_stride(form):
    def build(rngs):
        return nnx.Conv(3, 4, (2, 2), strides=2, kernel_dilation=2, padding="VALID", rngs=rngs)

    network = Network.from_nnx(build, example=IMAGES).with_form(form)
    member = drawn(network)
    np.testing.assert_allclose(
        network.apply(member, IMAGES), network.with_form("native").apply(member, IMAGES), rtol=1e-5, atol=1e-5
    )


def test_an_output_that_is_a_point_is_an_array():
    network = Network.from_function(
        lambda w, x: stitch_point(x @ w, "logits"), jnp.ones((4, 8)), example=jnp.ones((2, 4))
    )
    factors = LowRankFeatures(jnp.ones((2, 1)), jnp.ones((8, 1)))
    output = network.tail(network.member(jnp.ones((4, 8))), (factors,), "logits")
    np.testing.assert_array_equal(output, np.ones((2, 8)))


def test_shapes_do_not_keep_the_devices_of_the_program_that_asked_first():
    network = Network.from_function(
        lambda w, x: x @ w, init=lambda key: jax.random.normal(key, (3, 2)), example=IMAGES[:, 0, 0]
    )
    run = over_members(lambda seed, x: network.apply(network.init(jax.random.key(seed)), x), default_execution())
    run(jnp.arange(2), IMAGES[:, 0, 0])
    assert segment_flops(network, (3,)) == [12.0]
