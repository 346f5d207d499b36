"""Weight matching by discovered symmetries: planted elements, optima by enumeration, invariances, and wrong input."""

from itertools import permutations

import campaign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from discover_helpers import INPUTS, KEY, on_host
from test_discover_transformers import SHAPES, transformer
from test_models import draw

from symjax import InputError, Network
from symjax.alignment import api, balance, match, task
from symjax.groups import discover
from symjax.models import MODELS, create


def mlp(p, x, activation=jax.nn.relu):
    return activation(activation(x @ p["w"] + p["b"]) @ p["v"]) @ p["out"]


def residual(p, x):
    x = jax.nn.relu(x @ p["enter"])
    x = jax.nn.relu(x + jax.nn.relu(x @ p["a"]) @ p["b"])
    return (x + jax.nn.relu(x @ p["c"]) @ p["d"]) @ p["leave"]


def tied(p, x):
    """The same matrix in two layers: the stream is on both of its dimensions."""
    x = jax.nn.relu(x @ p["w"])
    return jax.nn.relu((x := jax.nn.relu(x + x @ p["h"])) + x @ p["h"]) @ p["o"]


CHAIN = {"w": (4, 8), "b": (8,), "v": (8, 7), "out": (7, 3)}
SQUARE = {"w": (4, 4), "b": (4,), "v": (4, 4), "out": (4, 4)}
RESIDUAL = {"enter": (4, 8), "a": (8, 6), "b": (6, 8), "c": (8, 6), "d": (6, 8), "leave": (8, 3)}
TRANSFORMER = {**SHAPES, "q": (8, 6), "k": (8, 6), "v": (8, 6)}
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 5))


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def element_in(symmetry, group, key=KEY):
    """A random element of the largest group, or its permutations and positive scales alone."""
    element = on_host(symmetry.sample(key))
    rng = np.random.default_rng(int(jax.random.key_data(key)[-1]))
    for name, matrix in element.items() if group != "largest" else ():
        monomial = symmetry.spaces[name].group in ("permutation", "signed_permutation", "positive_monomial", "monomial")
        matrix = np.abs(matrix) if monomial else np.eye(len(matrix))[rng.permutation(len(matrix))]
        scaled = group == "scaled_permutation" and monomial
        element[name] = matrix if scaled else (matrix > 0).astype(float)
    return element


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def defects(symmetry, a, b, element):
    """The largest differences of stacked parameters after the alignment, relative to the largest parameter."""
    for i in range(len(next(iter(element.values())))):
        first, second = (jax.tree.map(lambda leaf: leaf[i], tree) for tree in (a, b))  # noqa: B023
        moved = symmetry.act(second, {name: np.asarray(matrices[i], np.float64) for name, matrices in element.items()})
        pairs = list(zip(jax.tree.leaves(first), jax.tree.leaves(moved), strict=True))
        yield max(np.abs(x - y).max() for x, y in pairs) / max(np.abs(x).max() for x, _ in pairs)


CASES = {
    "chain": (mlp, CHAIN, INPUTS),
    "signs": (lambda p, x: mlp(p, x, jnp.tanh), CHAIN, INPUTS),
    "powers": (lambda p, x: mlp(p, x, lambda z: z**3), CHAIN, INPUTS),
    "linear": (lambda p, x: mlp(p, x, lambda z: z), SQUARE, INPUTS),
    "residual": (residual, RESIDUAL, INPUTS),
    "tied": (tied, {"w": (4, 6), "h": (6, 6), "o": (6, 3)}, INPUTS),
    "heads": (transformer, TRANSFORMER, TOKENS),
}


@pytest.fixture(scope="module")
def symmetries():
    known = {}

    def symmetry(case):
        if case not in known:
            fn, shapes, x = CASES[case]
            known[case] = discover(fn, drawn(shapes), x)
        return known[case]

    return symmetry


@pytest.mark.parametrize("group", ["permutation", "scaled_permutation", "largest"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.few(6)
def test_planted_elements_are_recovered(case, group, symmetries):
    """100 of 100 draws from a single start, for chains, residual streams and heads (20 by default)."""
    with jax.enable_x64(True):
        symmetry, shapes = symmetries(case), CASES[case][1]
        draws = [
            drawn(shapes, seed) for seed in range(20 if case in ("linear", "heads") and not campaign.FULL else 100)
        ]
        if case == "powers":  # weights of few scales: third powers of these would overflow float64's digits
            draws = [jax.tree.map(lambda leaf: np.sign(leaf) * np.abs(leaf) ** 0.1, draw) for draw in draws]
        elements = [element_in(symmetry, group, jax.random.key(i)) for i in range(len(draws))]
        a, b = stack(draws), stack([symmetry.act(p, g) for p, g in zip(draws, elements, strict=True)])
        element, info = match(symmetry, a, b, group=group)
        largest = np.array(list(defects(symmetry, a, b, element)))
    assert info.converged.all() and (np.diff(info.objective) <= 1e-12 * info.objective[:, :1] + 1e-9).all()
    assert (largest < 1e-9).mean() == 1, largest
    assert symmetry.contains({name: np.asarray(matrices[0]) for name, matrices in element.items()})


def tiny(name):
    """Options of a small network of each kind, and inputs."""
    defaults, rng = MODELS[name].defaults, np.random.default_rng(0)
    if "channels" not in defaults:  # tokens
        options = {"width": 4, "embedding": 3} if "cell" in defaults else {"width": 8, "layers": 1, "length": 6}
        return {**options, "classes": 5, "example": jax.ShapeDtypeStruct((2, 6), jnp.int32)}, rng.integers(0, 5, (2, 6))
    options = {"width": 2, "image_size": 32, "classes": 3}
    if "blocks" in defaults:
        options |= {"width": 3, "blocks": tuple(1 for _ in defaults["blocks"])}
    if "heads" in defaults:
        options |= {"width": 2 * defaults["heads"], "layers": 1}
    return options, rng.normal(size=(2, 32, 32, 3)).astype(np.float32)


KINDS = {(MODELS[name].build, str({**MODELS[name].defaults, **tiny(name)[0]})): name for name in reversed(MODELS)}


@pytest.mark.parametrize(
    "name", ["mcnn_k", *map(slow, sorted({*KINDS.values()} - {"mcnn_k", "awd_lstm"}))]
)  # tied weights of awd_lstm leave no symmetry
def test_planted_elements_of_every_model(name):
    options, x = tiny(name)
    network = create(name, **options)
    real = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    a = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if real(leaf) else leaf, draw(network.shapes))
    symmetry = network.symmetry(a, x)
    with jax.enable_x64(True):
        b = symmetry.act(a, on_host(symmetry.sample(KEY)))
        element, info = match(symmetry, a, b, group="largest")
        moved = symmetry.act(b, on_host(element))
    assert info.converged and sum(np.abs(x - y).max() for x, y in _leaves(a, b)) > 0.1
    assert max(np.abs(x - y).max() for x, y in _leaves(a, moved)) < 1e-9


def _leaves(a, b):
    return list(zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True))


@pytest.mark.slow
def test_planted_elements_of_resnet20():
    """git-re-basin's issue 8 reports 10 of 100."""
    network, x = create("resnet20", width=4, image_size=16, classes=3), np.ones((2, 16, 16, 3), np.float32)
    draws = [jax.tree.map(np.float64, network.init(jax.random.key(seed))) for seed in range(100)]
    symmetry = network.symmetry(draws[0], x)
    moved = [symmetry.act(a, on_host(symmetry.sample(jax.random.key(i)))) for i, a in enumerate(draws)]
    element, info = match(network, stack(draws), stack(moved), group="scaled_permutation")
    assert (np.array(list(defects(symmetry, stack(draws), stack(moved), element))) < 1e-4).sum() >= 95
    assert info.converged.all() and (info.objective[:, -1] < 1e-6).all()


def test_the_optimum_of_all_permutations(symmetries):
    """With restarts the objective is the least of all pairs of permutations, and is the distance of the parameters."""
    shapes = {"w": (4, 4), "b": (4,), "v": (4, 3), "out": (3, 3)}
    symmetry = discover(mlp, drawn(shapes), INPUTS)
    a, b = stack([drawn(shapes, seed) for seed in range(8)]), stack([drawn(shapes, 100 + seed) for seed in range(8)])
    element, info = match(symmetry, a, b, restarts=3)
    assert info.converged.all() and (np.diff(info.objective) <= 1e-9).all()
    for i in range(8):
        first, second = ({name: leaf[i] for name, leaf in tree.items()} for tree in (a, b))
        moved = symmetry.act(second, {name: np.asarray(matrix[i]) for name, matrix in element.items()})
        assert _distance(first, moved) == pytest.approx(info.objective[i, -1])
        best = min(
            _distance(first, symmetry.act(second, {"w": np.eye(4)[list(p)], "v": np.eye(3)[list(q)]}))
            for p in permutations(range(4))
            for q in permutations(range(3))
        )
        assert info.objective[i, -1] == pytest.approx(best)


def test_restarts_find_better_optima(symmetries):
    a, b = (stack([drawn(RESIDUAL, 2 * seed + k) for seed in range(10)]) for k in range(2))
    once, often = (match(symmetries("residual"), a, b, restarts=count)[1] for count in (1, 8))
    assert (often.objective[:, -1] <= once.objective[:, -1] + 1e-9).all() and often.restart.any()
    assert once.converged.all() and (np.diff(once.objective) <= 1e-9).all() and (np.diff(often.objective) <= 1e-9).all()


def _distance(a, b):
    return sum(((x - y) ** 2).sum() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_the_published_counterexample():
    """Two optima that no permutation connects (Ainsworth et al. 2023, appendix A.6): the match is the best of four."""
    leaky = lambda z: jax.nn.leaky_relu(z, 0.01)  # noqa: E731
    fn = lambda p, x: leaky(leaky(x @ p["w"] + p["b"]) @ p["v"] + p["c"]) @ p["out"]  # noqa: E731
    turn, out = np.diag([1.0, -1.0]), -np.ones((2, 1))
    a = {"w": turn, "b": np.array([1.0, 0]), "v": -turn, "c": np.array([1.0, 0]), "out": out}
    b = {"w": -turn, "b": np.array([0.0, 1]), "v": turn, "c": np.array([0.0, 1]), "out": out}
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    symmetry = discover(fn, a, x[:3])
    assert {space.group for space in symmetry.spaces.values()} == {"positive_monomial"}
    accuracy = lambda p: ((np.asarray(fn(p, x))[:, 0] >= 0) == (x >= 0).all(1)).mean()  # noqa: E731
    turned = [
        symmetry.act(b, {"w": np.eye(2)[list(p)], "v": np.eye(2)[list(q)]})
        for p in ((0, 1), (1, 0))
        for q in ((0, 1), (1, 0))
    ]
    middle = [accuracy(jax.tree.map(lambda u, v: (u + v) / 2, a, other)) for other in turned]
    assert accuracy(a) > 0.95 and accuracy(b) > 0.95 and max(middle) < 0.9
    element, info = match(symmetry, a, b)
    assert info.objective[-1] == pytest.approx(min(_distance(a, other) for other in turned)) and info.converged


def test_recovery_falls_with_noise(symmetries):
    """All channels are matched without noise, hardly more than by chance under much noise."""
    symmetry, shares = symmetries("residual"), []
    draws = [drawn(RESIDUAL, seed) for seed in range(20)]
    elements = [element_in(symmetry, "permutation", jax.random.key(i)) for i in range(20)]
    for noise in (0, 1, 2, 30):
        rng = np.random.default_rng(0)
        b = [symmetry.act(a, g) for a, g in zip(draws, elements, strict=True)]
        b = [jax.tree.map(lambda leaf: leaf + noise * rng.normal(size=leaf.shape), p) for p in b]  # noqa: B023
        element, _ = match(symmetry, stack(draws), stack(b))
        planted = {name: np.stack([g[name].T for g in elements]) for name in element}
        shares.append(np.mean([(np.asarray(element[name]) * planted[name]).sum(2).mean() for name in element]))
    assert shares[0] == 1 and (np.diff(shares) < 0).all() and shares[1] > 0.9 and shares[-1] < 0.3, shares


@pytest.mark.parametrize("case", ["chain", "heads"])
def test_the_alignment_does_not_depend_on_the_scales_of_either(case, symmetries):
    """match(h a, k b) = h match(a, b) k^-1, so that a line between a and the aligned b is moved by h as a whole."""
    with jax.enable_x64(True):
        symmetry, shapes = symmetries(case), CASES[case][1]
        a, b = drawn(shapes), drawn(shapes, 1)
        first, second = (on_host(symmetry.sample(jax.random.key(i))) for i in range(2))
        direct = symmetry.act(b, on_host(match(symmetry, a, b, group="largest")[0]))
        moved_a, moved_b = symmetry.act(a, first), symmetry.act(b, second)
        element, info = match(symmetry, moved_a, moved_b, group="largest")
        again = symmetry.act(symmetry.act(moved_b, on_host(element)), on_host(symmetry.inverse(first)))
    assert info.objective[-1] == pytest.approx(match(symmetry, a, b, group="largest")[1].objective[-1], rel=1e-6)
    if case == "chain":  # local optima of heads depend on the order of steps
        assert _distance(direct, again) < 1e-12
    plain = match(symmetry, moved_a, moved_b)[1].objective[-1]
    assert plain != pytest.approx(match(symmetry, a, b)[1].objective[-1], rel=0.1)


def test_balanced_parameters_have_the_least_norm(symmetries):
    """Against scales and matrices near the identity, which raise the norm to second order; and in closed form."""
    for case in ("chain", "heads", "powers"):
        symmetry, (_, shapes, _) = symmetries(case), CASES[case]
        leaves = {name: leaf[None] for name, leaf in drawn(shapes).items()}
        blocks = task_blocks(symmetry)
        before = sum((leaf**2).sum() for leaf in leaves.values())
        total, converged = balance.balance(leaves, blocks)
        least = sum((leaf**2).sum() for leaf in leaves.values())
        assert converged.all() and least < before
        rng = np.random.default_rng(0)
        for name in total:
            space = symmetry.spaces[name]
            step = 1e-4 * rng.normal(size=(space.size, space.size))
            step = step if space.group == "general_linear" else np.diag(np.diagonal(step))
            near = symmetry.act({n: leaf[0] for n, leaf in leaves.items()}, {name: np.eye(space.size) + step})
            assert 0 < sum((leaf**2).sum() for leaf in near.values()) / least - 1 < 1e-5
    symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["v"], drawn({"w": (4, 5), "v": (5, 3)}), INPUTS)
    leaves = {name: leaf[None] for name, leaf in drawn({"w": (4, 5), "v": (5, 3)}).items()}
    ratio = np.linalg.norm(leaves["v"][0], axis=1) / np.linalg.norm(leaves["w"][0], axis=0)
    total, _ = balance.balance(leaves, task_blocks(symmetry))
    np.testing.assert_allclose(total["w"][0], np.diag(np.sqrt(ratio)), rtol=1e-12)


def task_blocks(symmetry):
    from symjax.alignment.spaces import blocks_of

    return blocks_of(symmetry, "largest", symmetry.shapes)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("chunk", [1, api.CHUNK])
def test_stacked_pairs_are_those_alone(chunk, restarts, symmetries, monkeypatch):
    """In one part, or each pair in a part of its own and parts in threads."""
    monkeypatch.setattr(api, "CHUNK", chunk)
    options = {"group": "scaled_permutation", "key": KEY, "restarts": restarts}
    symmetry = symmetries("residual")
    a, b = drawn(RESIDUAL), stack([drawn(RESIDUAL, seed) for seed in (1, 2, 3)])
    element, info = match(symmetry, a, b, **options)
    assert info.objective.shape[0] == 3 and info.converged.shape == (3,)
    assert [*info.gain] == [*element] == [*symmetry.spaces] != sorted(element)
    for i in range(3):
        alone, of_one = match(symmetry, a, {n: leaf[i] for n, leaf in b.items()}, **options)
        assert of_one.objective[-1] == pytest.approx(info.objective[i, -1])
        for name in element:
            np.testing.assert_allclose(alone[name], element[name][i], rtol=1e-6)
        assert max(of_one.gain.values()) > 0


@pytest.mark.parametrize("single", [0, 1])
def test_a_stack_of_one_network_is_paired_with_all(symmetries, single):
    sides = [stack([drawn(RESIDUAL)]), stack([drawn(RESIDUAL, seed) for seed in (1, 2)])]
    expected = [side if i else {name: leaf[0] for name, leaf in side.items()} for i, side in enumerate(sides)]
    element, info = match(symmetries("residual"), *(sides[:: 1 - 2 * single]), key=KEY)
    alone, of_alone = match(symmetries("residual"), *(expected[:: 1 - 2 * single]), key=KEY)
    np.testing.assert_array_equal(info.objective, of_alone.objective)
    for name in element:
        np.testing.assert_array_equal(element[name], alone[name])


def test_what_does_not_converge_is_reported(symmetries, monkeypatch):
    symmetry, a, b = symmetries("residual"), drawn(RESIDUAL), drawn(RESIDUAL, 1)
    monkeypatch.setattr(task, "MAX_SWEEPS", 0)
    element, info = match(symmetry, a, b)
    assert not info.converged and info.objective.shape == (1,) and symmetry.contains(element)
    monkeypatch.undo()
    monkeypatch.setattr(balance, "MAX_SWEEPS", 1)
    assert match(symmetry, a, b)[1].converged and not match(symmetry, a, b, group="scaled_permutation")[1].converged


def test_dead_channels_keep_their_scale(symmetries):
    symmetry, a = symmetries("chain"), drawn(CHAIN)
    a["w"][:, 2] = a["b"][2] = 0
    element, info = match(symmetry, a, drawn(CHAIN, 1), group="scaled_permutation")
    assert info.converged and symmetry.contains(element)
    same, _ = match(symmetry, a, a, group="scaled_permutation")
    np.testing.assert_allclose(same["w"], np.eye(8), atol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_permutations_of_parameters_of_any_size(size, symmetries):
    """Products of their entries vanish or overflow in float32."""
    symmetry, a = symmetries("chain"), jax.tree.map(lambda leaf: np.float32(size * leaf), drawn(CHAIN))
    planted = element_in(symmetry, "permutation")
    element, _ = match(symmetry, a, symmetry.act(a, planted))
    assert all((element[name] == matrix.T).all() for name, matrix in planted.items())


def test_wrong_input_is_refused(symmetries):
    symmetry, a = symmetries("chain"), drawn(CHAIN)
    network = Network.from_function(mlp, a, example=INPUTS)
    tokens = Network.from_function(lambda p, x: p["w"][x], {"w": np.ones((3, 2))}, example=np.zeros((1, 4), np.int32))
    member = network.member(a)
    for call, message in (
        (lambda: match(symmetry, a, {"w": a["w"]}), "b: got another structure, expected that of the network"),
        (lambda: match(symmetry, a, a | {"b": np.ones(9)}), r"b: got shape \(9,\) at b, expected \(8,\), or one more"),
        (lambda: match(symmetry, a | {"b": np.full(8, np.nan)}, a), "a: got NaN or infinite entries at b"),
        (lambda: match(network, a, member), "a: got another structure, expected a member"),
        (lambda: match(mlp, a, a), "network: got <function mlp.*expected a Network, or a Symmetry"),
        (lambda: match(symmetry, a, a, method="cosine"), "method: got 'cosine', expected one of weights, activations"),
        (lambda: match(symmetry, a, a, group="orthogonal"), "group: got 'orthogonal', expected one of permutation"),
        (lambda: match(symmetry, a, a, restarts=0), "restarts: got 0"),
        (lambda: match(symmetry, stack([a, a]), stack([a] * 3)), "a, b: got 2 and 3 stacked networks"),
        (lambda: match(symmetry, jax.tree.map(lambda leaf: leaf[None][:0], a), a), "a: got 0 stacked networks"),
        (lambda: match(symmetry, a | {"b": np.ones(8, complex)}, a), "a: got complex128 at b, expected real numbers"),
        (lambda: match(network, member, member, method="sinkhorn", loss="mse"), "loss: got 'mse', expected a function"),
        (lambda: match(tokens, *2 * [tokens.member({"w": np.ones((3, 2))})]), "data: got None, expected inputs"),
        (
            lambda: match(symmetry, a, a, method="both", data=INPUTS),
            "network: got a Symmetry, expected a Network for method",
        ),
        (
            lambda: match(discover(lambda p, x: x * p["w"], {"w": np.ones(4)}, INPUTS), *2 * [{"w": np.ones(4)}]),
            "network: got one without",
        ),
        (lambda: match(network, member, member, method="sinkhorn", group="largest"), "group: got 'largest'"),
        (lambda: match(network, member, member, method="activations"), "data: got None, expected inputs for method"),
        (
            lambda: match(network, member, member, method="both", data=np.ones((3, 5))),
            r"data: got inputs of shape \(3, 5\)",
        ),
        (lambda: match(network, member, member, method="both", data=np.full((3, 4), np.nan)), "data: got NaN"),
        (lambda: match(network, member, member, method="both", data=INPUTS), "method: got one that compares features"),
        (
            lambda: match(network, member, member, method="straight_through", data=INPUTS),
            r"data: got .*expected \(inputs",
        ),
        (
            lambda: match(network, member, member, method="sinkhorn", data=(INPUTS, np.ones(2))),
            "data: got .*equally many inputs and targets",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
