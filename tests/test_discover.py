"""Symmetries derived from the jaxpr alone, against the known ones of planted networks and of every model."""

import doctest
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from discover_helpers import INPUTS, KEY, LAYERS, check, close, drawn_params, groups_of
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from test_models import draw

from symjax.errors import InputError
from symjax.groups import INTERTWINERS, discover
from symjax.groups.discovery import labels, search
from symjax.models import create

# --- the built-in models ---


STAGES = {f"block{stage}.{block}*": 2 ** (stage + 1) for stage in (1, 2, 3) for block in (1, 2, 3)}
SPACES = {
    "mcnn": {"relu1": 4, "relu2": 8, "relu3": 16, "relu4": 32},
    "resnet20": {"stem": 4, **STAGES, "block2.1": 4, "block3.1": 8},  # and the new channels of padded shortcuts
}


@pytest.mark.parametrize("name", ["mcnn", slow("resnet20")])
def test_spaces_of_chains_and_residual_streams(name):
    """Each space scales and permutes channels; the stream is one space, but for channels that a shortcut adds."""
    network = create(name, width=4, image_size=16, classes=3)
    member, x = network.init(KEY), jax.random.normal(KEY, (3, 16, 16, 3))
    symmetry = network.symmetry(member, x)
    assert {space.name: space.size for space in symmetry.spaces.values()} == SPACES[name]
    assert all(space.verified and space.group == "positive_monomial" for space in symmetry.spaces.values())
    element = symmetry.sample(KEY)
    acted = symmetry.act(member, element)
    run = jax.jit(lambda member: (network.apply(member, x), network.features(member, x)))
    (logits, before), (same, after) = run(member), run(acted)
    np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)
    for point in network.points:
        matrix = symmetry.at(point.name, element)
        np.testing.assert_allclose(after[point.name], before[point.name] @ matrix.T, rtol=1e-3, atol=1e-4)
        assert np.abs(after[point.name] - before[point.name]).max() > 1e-3


@pytest.mark.slow
def test_streams_of_many_layers():
    """The scaling of the stream has exponents for 168 axes."""
    network = create("resnet56", width=4, image_size=8)
    symmetry = network.symmetry(network.init(KEY), np.zeros((2, 8, 8, 3), np.float32))
    stream = symmetry.spaces["stem"]
    assert (stream.group, stream.verified, len(stream.axes)) == ("positive_monomial", True, 168)


@pytest.mark.parametrize(
    "name", ["cct2", *map(slow, ("resnet20", "mcnn", "mcnn_k_sigmoid", "scnn", "resnet18", "cct7_7x2"))]
)
@pytest.mark.slow
def test_the_function_stays_and_features_change_by_exactly_a(name):
    """In float64, all spaces at once and each alone, and with an element that carries noise."""
    options = {"blocks": (1, 1)} if name.startswith("resnet") else {}
    width = 12 if name.startswith("cct") else 2
    with jax.enable_x64(True):
        network = create(name, width=width, image_size=16, classes=3, dtype=jnp.float64, **options).with_form("native")
        member, x = draw(network.shapes, dtype=jnp.float64), jax.random.normal(KEY, (2, 16, 16, 3))
        symmetry = network.symmetry(member, x)
        element = symmetry.sample(KEY)
        assert symmetry.contains(element) and all(space.verified for space in symmetry.spaces.values())
        run = jax.jit(lambda member: (network.apply(member, x), network.features(member, x)))
        logits, before = run(member)
        close = partial(np.testing.assert_allclose, rtol=0, atol=1e-9 * np.abs(logits).max())
        moved, after = run(symmetry.act(member, element))
        close(moved, logits)
        for point in network.points:
            new = np.asarray(before[point.name]) @ np.asarray(symmetry.at(point.name, element)).T
            np.testing.assert_allclose(after[point.name], new, rtol=0, atol=1e-9 * np.abs(new).max())
        for space in list(element)[:4]:
            close(run(symmetry.act(member, {space: element[space]}))[0], logits)
        rng = np.random.default_rng(0)
        noisy = {space: np.asarray(m) + 1e-9 * rng.choice([-1, 1], m.shape) for space, m in element.items()}
        assert symmetry.contains(noisy)
        difference = np.abs(run(symmetry.act(member, noisy))[0] - logits).max() / np.abs(logits).max()
        assert difference < 1e-9  # entries that are noise do not act
        back = symmetry.act(symmetry.act(member, element), symmetry.inverse(element))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), back, member)


# --- planted networks ---


def two_layers(activation):
    def fn(params, x):
        before = checkpoint_name(x @ params["w"] + params["b"], "before")
        return checkpoint_name(activation(before), "after") @ params["v"]

    return fn


@pytest.mark.parametrize("name", [name for name, row in INTERTWINERS.items() if row.offset is None])
def test_two_layers_have_the_group_of_their_activation(name):
    row, fn = INTERTWINERS[name], two_layers(INTERTWINERS[name].activation)
    symmetry = discover(fn, LAYERS, INPUTS)
    assert groups_of(symmetry) == {"before": (6, row.group.name)}
    check(symmetry, fn, LAYERS, INPUTS)
    with jax.enable_x64(True):
        element = symmetry.sample(KEY)
        np.testing.assert_allclose(symmetry.at("before", element), element["before"], rtol=1e-12)
        np.testing.assert_allclose(symmetry.at("after", element), row.phi(element["before"]), rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "group"),
    [
        (jax.nn.softplus, "permutation"),
        (jax.nn.silu, "permutation"),
        (lambda x: jax.nn.gelu(x, approximate=True), "permutation"),
        (jnp.tanh, "signed_permutation"),
        (jnp.abs, "positive_monomial"),  # and signs, which go another power than sizes
        (lambda x: jnp.clip(x, -1, 1), "signed_permutation"),
    ],
)
def test_no_more_than_the_group_of_an_activation(activation, group):
    symmetry = discover(two_layers(activation), LAYERS, INPUTS)
    assert groups_of(symmetry) == {"before": (6, group)}
    assert not symmetry.contains({"before": np.diag([1.0, 2, 3, 4, 5, 6]) @ np.ones((6, 6))})


def test_residual_blocks_share_a_stream():
    params = drawn_params(enter=(4, 6), a=(6, 5), b=(5, 6), c=(6, 7), d=(7, 6), leave=(6, 3))

    def fn(p, x):
        x = checkpoint_name(jax.nn.relu(x @ p["enter"]), "stream")
        x = jax.nn.relu(x + checkpoint_name(jax.nn.relu(x @ p["a"]), "inner") @ p["b"])
        return (x + jnp.tanh(x @ p["c"]) @ p["d"]) @ p["leave"]

    symmetry = discover(fn, params, INPUTS)
    expected = {"stream": (6, "positive_monomial"), "inner": (5, "positive_monomial"), "c": (7, "signed_permutation")}
    assert groups_of(symmetry) == expected
    assert symmetry.spaces_at("inner") == ("inner",) and symmetry.spaces_at("stream") == ("stream",)
    exponents = {axis.path: axis.exponent for axis in symmetry.spaces["stream"].axes}
    assert exponents == {"enter": 1, "a": -1, "b": 1, "c": -1, "d": 1, "leave": -1}
    check(symmetry, fn, params, INPUTS)


SHAPES = {"table": (11, 8), "positions": (5, 8), "scale": (8,), "bias": (8,), "out": (6, 8), "up": (8, 9)}


class ConvNet(nnx.Module):
    """As its user would write it: padding, batch norm, a convolution for each channel, a shortcut padded with zeros."""

    def __init__(self, rngs):
        self.conv1, self.norm = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.each = nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs)
        self.dense, self.head = nnx.Linear(54, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = checkpoint_name(nnx.relu(self.norm(self.conv1(x))), "narrow")
        short = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 1)))
        x = checkpoint_name(nnx.relu(self.conv2(x) + short), "wide")
        x = checkpoint_name(nnx.relu(self.each(x)).reshape(len(x), -1), "flat")
        return self.head(nnx.relu(self.dense(x)))


def test_stock_layers_of_flax():
    module = ConvNet(nnx.Rngs(0))
    module.eval()
    graph, state = nnx.split(module)
    fn, images = lambda state, x: nnx.merge(graph, state)(x), np.ones((1, 6, 6, 3), np.float32)
    symmetry = discover(fn, state, images)
    sizes = {"narrow": 4, "wide": 2, "dense/kernel": 5}
    assert groups_of(symmetry) == {name: (size, "positive_monomial") for name, size in sizes.items()}
    assert symmetry.spaces_at("wide") == ("narrow", "wide") == symmetry.spaces_at("flat")
    exponents = {axis.path.removesuffix("/value"): axis.exponent for axis in symmetry.spaces["narrow"].axes}
    assert exponents["norm/scale"] == exponents["norm/bias"] == 1
    assert exponents["conv1/kernel"] == exponents["norm/mean"] == exponents["norm/var"] == 0
    check(symmetry, fn, state, images)


def test_concatenated_and_shared_channels():
    params = drawn_params(a=(4, 5), b=(5, 6), c=(11, 3))

    def fn(p, x):
        x = jax.nn.relu(x @ p["a"])
        return checkpoint_name(jnp.concatenate([x, jax.nn.relu(x @ p["b"])], -1), "both") @ p["c"]

    symmetry = discover(fn, params, INPUTS)
    assert groups_of(symmetry) == {"both": (5, "positive_monomial"), "b": (6, "positive_monomial")}
    assert symmetry.spaces_at("both") == ("both", "b")
    check(symmetry, fn, params, INPUTS)


def test_casts_to_float32_are_widened():
    def fn(p, x):
        hidden = jax.jit(jax.nn.relu)(x.astype(jnp.float32) @ p["w"].astype(jnp.float32) + 1.5)
        return jax.checkpoint(lambda h: (h * np.float32(0.3)) @ p["v"].astype(jnp.bfloat16))(hidden)

    assert groups_of(discover(fn, {"w": LAYERS["w"], "v": LAYERS["v"]}, INPUTS)) == {"w": (6, "permutation")}


def test_channels_inside_loops_stay():
    def fn(p, x):
        x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), jax.nn.relu(x @ p["a"]) @ p["b"], p["loop"])
        return x @ p["v"]

    params = drawn_params(a=(4, 5), b=(5, 6), loop=(2, 6, 6), v=(6, 3))
    symmetry = discover(fn, params, INPUTS)
    assert groups_of(symmetry) == {"a": (5, "positive_monomial")}


def test_spaces_that_labels_propose_wrongly_are_not_verified(monkeypatch):
    """An operation whose labels are wrong: what verification rejects is reported, and never acted with."""
    monkeypatch.setattr(labels, "ELEMENTWISE", labels.ELEMENTWISE | {"cumsum"})
    symmetry = discover(two_layers(lambda x: jnp.cumsum(x, -1)), LAYERS, INPUTS)
    assert not symmetry.spaces["before"].verified and symmetry.sample(KEY) == {}
    assert "not verified" in repr(symmetry)
    with pytest.raises(InputError, match="got 'before', which changes the function"):
        symmetry.act(LAYERS, {"before": np.eye(6)})


def test_under_jit_and_vmap():
    fn = two_layers(jax.nn.relu)
    symmetry = discover(fn, LAYERS, INPUTS)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), LAYERS)
    elements = jax.jit(jax.vmap(symmetry.sample))(jax.random.split(KEY, 2))
    moved = jax.jit(jax.vmap(symmetry.act))(members, elements)
    alone = symmetry.act(jax.tree.map(lambda leaf: leaf[1], members), {"before": elements["before"][1]})
    close(jax.tree.map(lambda leaf: leaf[1], moved), alone, 1e-6)
    assert jax.tree.map(lambda leaf: leaf.dtype, moved) == jax.tree.map(lambda leaf: leaf.dtype, members)
    kept = symmetry.act(LAYERS, {"before": np.asarray(elements["before"][0])})
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in kept.values())


def test_what_callers_may_get_wrong():
    fn = two_layers(jax.nn.relu)
    symmetry = discover(fn, LAYERS, INPUTS)
    for call, message in (
        (lambda: symmetry.act(LAYERS, {"relu9": np.eye(6)}), "got 'relu9', expected names of spaces: before"),
        (
            lambda: symmetry.act(LAYERS, {"before": np.eye(5)}),
            r"element: got shape \(5, 5\) for before, expected \(6, 6\)",
        ),
        (lambda: symmetry.act({"w": LAYERS["w"]}, {}), "params: got another structure"),
        (lambda: symmetry.act(LAYERS | {"b": np.ones(7)}, {}), "params: got another structure or other shapes"),
        (lambda: symmetry.sample(KEY, ["nothing"]), "got 'nothing', expected names of spaces"),
        (lambda: symmetry.at("middle", {}), "got 'middle', expected a named value of the function: before, after"),
        (lambda: discover(fn, {"w": np.arange(3)}, INPUTS), "params: got no floating-point"),
        (lambda: discover(lambda p, x: jnp.argmax(x @ p["w"]), LAYERS, INPUTS), "fn: got no floating-point"),
        (lambda: discover(fn, LAYERS, INPUTS[:0]), "fn: got no floating-point output for these inputs"),
        (lambda: discover(two_layers(lambda x: jnp.log(-jnp.abs(x))), LAYERS, INPUTS), "fn: got NaN"),
        (lambda: discover(fn, LAYERS | {"b": np.full(6, np.inf)}, INPUTS), "fn: got NaN or infinite"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert not symmetry.contains({"before": -np.eye(6)}) and symmetry.contains({"before": 2 * np.eye(6)})


def test_the_example_of_the_docstring():
    assert doctest.testmod(search).attempted and not doctest.testmod(search).failed


@pytest.mark.slow
def test_the_example_of_the_page(capsys):
    page = (Path(__file__).parents[1] / "docs" / "discovery.md").read_text(encoding="utf-8")
    code, printed = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", page, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed
