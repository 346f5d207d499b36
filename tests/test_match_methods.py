"""Matching by features and by gradients, and the matrices of an element as stitches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from discover_helpers import KEY, on_host
from test_match import element_in, stack

from symjax import InputError, Network, stitch_point
from symjax.alignment import element_stitches, match
from symjax.alignment.gradients import permuting
from symjax.training.task import cross_entropy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4)).astype(np.float32)


def mlp(p, x):
    x = stitch_point(jax.nn.relu(x @ p["w"] + p["b"]), "relu1")
    return jnp.tanh(x @ p["v"]) @ p["out"]  # the second layer has no stitch point


def signed(p, x):
    h = stitch_point(jnp.tanh(x @ p["w"]), "odd")
    return h @ p["out"] + stitch_point(h * h, "even").sum(-1, keepdims=True)


SHAPES = {"w": (4, 6), "b": (6,), "v": (6, 5), "out": (5, 3)}
SIGNED = {"w": (4, 6), "out": (6, 3)}


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def network():
    return Network.from_function(mlp, drawn(SHAPES), example=X[:1])


def difference(a, b):
    return max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


LABELS = np.argmax(np.asarray(mlp(drawn(SHAPES), X)), 1)


@pytest.mark.parametrize(
    ("method", "data", "group"),
    [
        ("activations", X, "largest"),
        ("both", X, "scaled_permutation"),
        ("sinkhorn", None, "scaled_permutation"),
        ("straight_through", (X, LABELS), "permutation"),
    ],
)
def test_methods_recover_planted_elements(method, data, group, network):
    a = network.member(drawn(SHAPES))
    symmetry = network.symmetry(a, X[:2])
    b = symmetry.act(a, element_in(symmetry, group))
    element, info = match(network, a, b, method=method, group=group, data=data, epochs=15)
    assert info.converged and (np.diff(info.objective) <= 1e-6).all()
    assert difference(symmetry.act(b, element), a) < 1e-4 < difference(a, b)
    if method != "straight_through":
        assert info.objective[-1] < 1e-4 and info.gain.keys() == element.keys() == {"relu1", "params"}


def test_correlations_are_those_of_all_features(network):
    """The objective of "activations" is 1 - mean correlation of matched channels, over batches of different means."""
    a, b = (network.member(drawn(SHAPES, seed)) for seed in (0, 1))
    x = X + np.arange(len(X), dtype=np.float32)[:, None] / 100
    element, info = match(network, a, b, method="activations", data=x)
    features = [np.asarray(network.features(member, x)["relu1"], np.float64) for member in (a, b)]
    matched = features[1] @ np.asarray(element["relu1"]).T
    with np.errstate(invalid="ignore"):
        correlations = [np.nan_to_num(np.corrcoef(p, q)[0, 1]) for p, q in zip(features[0].T, matched.T, strict=True)]
    assert info.objective[1] == pytest.approx(1 - np.mean(correlations), abs=1e-5) and info.objective.shape == (2,)


def test_channels_without_variance_are_not_correlated(network):
    """Channels that are constant up to rounding; their exact correlation is 0 by convention."""
    rng, members = np.random.default_rng(1), []
    for seed in (0, 1):
        params = drawn(SHAPES, seed)
        params["w"][:, :4], params["b"][:4] = 0, rng.uniform(0.1, 0.9, 4)
        members.append(network.member(params))
    info = match(network, *members, method="activations", data=X)[1]
    varying = [np.asarray(network.features(member, X)["relu1"], np.float64)[:, 4:] for member in members]
    cross = np.corrcoef(*(values.T for values in varying))[:2, 2:]
    best = max(np.trace(cross), np.trace(cross[::-1]), *cross.ravel())
    assert info.objective[1] == pytest.approx(1 - best / 6, abs=1e-5)


def test_features_that_cannot_be_compared(network):
    a, huge = network.member(drawn(SHAPES)), jax.tree.map(lambda leaf: leaf * np.float32(1e38), drawn(SHAPES))
    for b, x, message in (
        (a, X[:1], "data: got one sample of the features at relu1"),
        (network.member(huge), X, "a, b: got NaN or infinite features at relu1"),
    ):
        with pytest.raises(InputError, match=message):
            match(network, a, b, method="activations", data=x)


def test_restarts_of_activations_improve_spaces_that_no_point_holds():
    """Their weights have local optima."""
    shapes = {"in": (4, 3), **{name: (8, 8) for name in "abc"}, "w": (3, 8), "out": (8, 3)}

    def fn(p, x):
        x = stitch_point(jax.nn.relu(x @ p["in"]), "first") @ p["w"]
        for name in "abc":
            x = jax.nn.relu(x) @ p[name]
        return jax.nn.relu(x) @ p["out"]

    network = Network.from_function(fn, drawn(shapes), example=X[:1])
    members = [network.member(drawn(shapes, seed)) for seed in range(2)]
    symmetry, distances = network.symmetry(members[0], X[:2]), []
    for restarts in (1, 20):
        element, info = match(network, *members, method="activations", data=X, restarts=restarts)
        moved = symmetry.act(members[1], element)
        pairs = zip(jax.tree.leaves(members[0]), jax.tree.leaves(moved), strict=True)
        distances.append(sum(float(((x - y) ** 2).sum()) for x, y in pairs))
    assert info.restart > 0 and distances[1] < distances[0] - 1e-3


def test_signs_are_matched_by_correlations_of_odd_and_of_even_values():
    """Signs of the weights follow from correlations where the value is odd in its channel."""
    network = Network.from_function(signed, drawn(SIGNED), example=X[:1])
    a = network.member(drawn(SIGNED))
    symmetry = network.symmetry(a, X[:2])
    (space,) = symmetry.spaces.values()
    assert space.group == "signed_permutation"
    b = symmetry.act(a, on_host(symmetry.sample(KEY)))
    for method in ("activations", "both"):
        element, info = match(network, a, b, method=method, group="largest", data=X)
        assert difference(symmetry.act(b, element), a) < 1e-5 and info.objective[-1] < 1e-5


def test_learned_permutations_lower_the_loss_at_the_midpoint(network):
    a, b = (network.member(drawn(SHAPES, seed)) for seed in (0, 1))
    symmetry = network.symmetry(a, X[:2])

    def loss(outputs, targets):
        return ((outputs - targets) ** 2).mean()

    targets = (network.apply(a, X) + network.apply(b, X)) / 2
    losses = {}
    for method in ("weights", "straight_through", "sinkhorn"):
        options = {"epochs": 5, "loss": loss, "data": (X, targets)} if method != "weights" else {}
        element, info = match(network, a, b, method=method, **options)
        middle = jax.tree.map(lambda x, y: (x + y) / 2, a, symmetry.act(b, element))
        losses[method] = float(loss(network.apply(middle, X), targets))
        if options:
            assert info.objective[-1] == pytest.approx(losses[method], rel=1e-4)
            assert info.objective.shape == (5,) and (np.diff(info.objective) <= 0).all()
    naive = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    assert max(losses["straight_through"], losses["sinkhorn"]) < float(loss(network.apply(naive, X), targets))


def test_soft_permutations_act_linearly(network):
    a = network.member(drawn(SHAPES))
    symmetry = network.symmetry(a, X[:2])
    element = element_in(symmetry, "permutation")
    close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6)  # noqa: E731
    jax.tree.map(close, permuting(symmetry).act(a, element), symmetry.act(a, element))
    half = {**element, "relu1": (element["relu1"] + np.eye(6)) / 2}
    both = [symmetry.act(a, {**element, "relu1": matrix}) for matrix in (element["relu1"], np.eye(6))]
    expected = (np.asarray(both[0].params["w"]) + np.asarray(both[1].params["w"])) / 2
    close(permuting(symmetry).act(a, half).params["w"], expected)


def test_stacked_members_match_by_every_method(network):
    a = network.member(drawn(SHAPES))
    symmetry = network.symmetry(a, X[:2])
    b = [symmetry.act(a, element_in(symmetry, "permutation", jax.random.key(i))) for i in range(2)]
    for method, data in (("activations", X), ("sinkhorn", None)):
        element, info = match(network, a, stack(b), method=method, data=data, epochs=15)
        assert info.converged.shape == (2,) and info.objective.shape[0] == 2
        for i, member in enumerate(b):
            moved = symmetry.act(member, {name: matrix[i] for name, matrix in element.items()})
            assert difference(moved, a) < 1e-5


@pytest.mark.parametrize("method", ["straight_through", "sinkhorn"])
def test_learned_permutations_of_many_pairs_are_compiled_once(network, method):
    traces = []

    def loss(outputs, targets):
        traces.append(method)
        return cross_entropy(outputs, targets)

    a, counts = network.member(drawn(SHAPES)), []
    for pairs in (1, 3):
        b = stack([network.member(drawn(SHAPES, seed)) for seed in range(1, 1 + pairs)])
        match(network, a, b, method=method, data=(X[:50], LABELS[:50]), loss=loss, epochs=1)
        counts.append(len(traces) - sum(counts))
    assert counts[0] == counts[1]


def test_stitches_of_an_element_beside_others(network):
    """That of the planted element has no penalty, and the identity has one."""
    a = network.member(drawn(SHAPES))
    symmetry = network.symmetry(a, X[:2])
    b = symmetry.act(a, element_in(symmetry, "scaled_permutation"))
    element, _ = match(network, a, b, group="scaled_permutation")
    data = {"train": (X[:200], LABELS[:200]), "test": (X[200:], LABELS[200:])}
    table = element_stitches(network, a, b, element, **data, epochs=1, batch_size=20, families="identity,matched")
    assert table.layer.tolist() == ["relu1"] * 3 and table.clean_accuracy.eq(100).all()
    penalty = table.set_index("family").penalty
    assert penalty["element"] == 0 == penalty["matched"] and penalty["identity"] > 5
    for options, message in (
        ({"at": "relu9"}, "at: got 'relu9', expected a stitch point"),
        ({"element": {}}, "element: got {}, expected matrices by name of space"),
        ({"element": {"relu1": np.eye(5)}, "at": "relu1"}, r"element: got shape \(5, 5\) for relu1"),
    ):
        with pytest.raises(InputError, match=message):
            element_stitches(network, a, b, **{"element": element, **data, **options})
