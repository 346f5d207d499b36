"""Intertwiner groups: the table against numbers, and the action on the weights of every registered model."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr, softmax
from symjax.models.wiring import Space, Wiring
from test_models import drawn, images

from symjax.errors import InputError
from symjax.groups import GELU_SLOPE, GROUPS, INTERTWINERS, Symmetry, homogeneity_defect, is_intertwiner, polynomial
from symjax.models import MODELS, Network, branch, create

KEY = jax.random.key(3)
SIZE = 5


def sampled(group, seed=0, size=SIZE):
    with jax.enable_x64(True):
        return np.asarray(GROUPS[group].sample(jax.random.fold_in(KEY, seed), size))


# --- the table ---


@pytest.mark.parametrize("name", INTERTWINERS)
def test_phi_is_what_the_table_says(name):
    """s(A x) = phi(A) s(x) + c in NumPy, for members, and phi is a homomorphism."""
    row = INTERTWINERS[name]
    first, then = sampled(row.group.name), sampled(row.group.name, 1)
    x = np.random.default_rng(0).normal(size=(50, SIZE))
    with jax.enable_x64(True):
        offset = 0 if row.offset is None else np.asarray(row.offset(first))
        image = np.asarray(row.phi(first))
        np.testing.assert_allclose(row.activation(x @ first.T), row.activation(x) @ image.T + offset, atol=1e-12)
        both = np.asarray(row.phi(row.group.compose(first, then)))
        np.testing.assert_allclose(both, np.asarray(row.phi(then)) @ image, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(row.phi(row.group.inverse(first)), np.linalg.inv(image), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", INTERTWINERS)
@pytest.mark.parametrize("group", GROUPS)
def test_numbers_decide_what_the_table_says(name, group):
    """A random matrix of each group: in the activation's own exactly if it commutes."""
    row, matrix = INTERTWINERS[name], sampled(group)
    found = is_intertwiner(row.activation, matrix, offset=row.offset is not None)
    assert found.verdict is row.group.contains(matrix) and not found.trouble
    if found:
        assert found.defect < 1e-13
        with jax.enable_x64(True):
            np.testing.assert_allclose(found.matrix, row.phi(matrix), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found.offset, 0 if row.offset is None else row.offset(matrix), atol=1e-9)
    else:
        assert found.defect > 0.01


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_groups(name):
    group = GROUPS[name]
    first, then = sampled(name), sampled(name, 1)
    assert not np.array_equal(first, then)
    np.testing.assert_array_equal(first, sampled(name))
    with jax.enable_x64(True):
        both, back = np.asarray(group.compose(first, then)), np.asarray(group.inverse(first))
        np.testing.assert_array_equal(group.identity(SIZE), np.eye(SIZE))
    np.testing.assert_allclose(both, then @ first, rtol=1e-14)
    np.testing.assert_allclose(back @ first, np.eye(SIZE), atol=1e-13)
    for matrix in (np.eye(SIZE), first, then, both, back):
        assert group.contains(matrix)
    for matrix in (np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE)), np.diag([1.0, 1, 1, 1, 0])):
        assert not group.contains(matrix)


def test_groups_contain_each_other_as_they_should():
    within = {name: {other for other in GROUPS if GROUPS[other].contains(sampled(name))} for name in GROUPS}
    assert within["permutation"] == set(GROUPS)
    assert within["signed_permutation"] == {"signed_permutation", "monomial", "orthogonal", "general_linear"}
    assert within["positive_monomial"] == {"positive_monomial", "monomial", "general_linear"}
    assert within["monomial"] == {"monomial", "general_linear"}
    assert within["orthogonal"] == {"orthogonal", "general_linear"}
    assert within["general_linear"] == {"general_linear"}
    assert not GROUPS["permutation"].contains(sampled("permutation") * 1.001)
    assert GROUPS["permutation"].contains(sampled("permutation") + 1e-9)


@pytest.mark.parametrize("name", [name for name in GROUPS if GROUPS[name].monomial])
def test_noise_that_is_tolerated_is_not_inverted(name):
    """Small entries in place of zeros: the inverse is that of the element without them."""
    group, exact = GROUPS[name], sampled(name)
    noisy = exact + np.random.default_rng(0).choice([-1e-9, 1e-9], exact.shape)
    assert group.contains(noisy)
    with jax.enable_x64(True):
        back = np.asarray(group.inverse(noisy))
    np.testing.assert_allclose(back, np.linalg.inv(exact), rtol=1e-6, atol=1e-12)
    assert group.contains(back) and ((back != 0) == (exact.T != 0)).all()


def test_samples_are_spread():
    positive = np.stack([sampled("positive_monomial", seed, 8) for seed in range(40)])
    entries = positive[positive != 0]
    logs = np.log(entries)
    assert len(entries) == 320 and abs(logs.mean() + 0.5) < 0.2 and abs(logs.std() - 1) < 0.15
    assert (np.argmax(positive[:, 0] != 0, axis=-1)[:, None] == np.arange(8)).any(axis=0).all()


# --- deciding ---


def test_any_activation_can_be_asked():
    assert is_intertwiner(np.tanh, sampled("signed_permutation"))
    assert not is_intertwiner(np.tanh, sampled("positive_monomial"))
    assert not is_intertwiner(jax.nn.silu, sampled("positive_monomial"))
    assert is_intertwiner(np.abs, sampled("monomial"))  # |d x| = |d| |x|
    np.testing.assert_allclose(is_intertwiner(np.abs, sampled("monomial")).matrix, abs(sampled("monomial")), atol=1e-12)
    assert is_intertwiner(lambda x: 3 * x, sampled("general_linear"))
    one_sided = is_intertwiner(lambda x: jax.nn.leaky_relu(x, 0.99), np.diag([1.0, -1.0]))
    assert one_sided.verdict is False and 1e-3 < one_sided.defect < 1e-1
    assert is_intertwiner(jax.nn.sigmoid, -np.eye(2)).verdict is False
    assert is_intertwiner(jax.nn.sigmoid, -np.eye(2), offset=True).verdict is True


@pytest.mark.parametrize("name", ["relu", "sigmoid", "sigmoid_bias", "power3", "rbf"])
def test_activations_of_less_than_float64(name):
    """float32 decides up to its rounding, and says so; 16 bits only decide against."""
    row = INTERTWINERS[name]
    for seed in range(3):
        for group in ("permutation", "signed_permutation", "positive_monomial", "general_linear"):
            matrix = sampled(group, seed)
            member = row.group.contains(matrix)
            for dtype, wanted in ((jnp.float32, True), (jnp.bfloat16, None)):
                short = lambda x, dtype=dtype: row.activation(jnp.asarray(x, dtype))  # noqa: E731
                found = is_intertwiner(short, matrix, offset=row.offset is not None)
                if member or dtype == jnp.float32:
                    assert found.verdict is (wanted if member else False), (group, seed, found)
                    assert (f"gives {jnp.dtype(dtype)}" in found.trouble) is member
                else:
                    assert found.verdict is not True


def test_a_verdict_holds_within_reach():
    matrix = np.diag([1.0, 2.0, 3.0])
    clipped = lambda x: np.clip(x, 0, 1000)  # noqa: E731
    assert is_intertwiner(clipped, matrix).verdict is True
    assert is_intertwiner(clipped, matrix, reach=3000).verdict is False
    assert is_intertwiner(clipped, np.eye(3)[[1, 2, 0]], reach=3000).verdict is True
    asked = []
    is_intertwiner(lambda x: asked.append(np.abs(x).max()) or x, np.eye(3), reach=7)
    np.testing.assert_allclose(asked, 7)


def test_polynomials_of_any_degree():
    row, matrix = polynomial(5), sampled("monomial")
    np.testing.assert_allclose(is_intertwiner(row.activation, matrix).matrix, matrix**5, rtol=1e-9, atol=1e-9)


def test_trouble_is_told():
    singular = is_intertwiner(np.tanh, np.diag([1.0, 0.0]))
    assert singular.verdict is False and "singular" in singular.trouble and singular.condition == np.inf
    flat = is_intertwiner(np.ones_like, np.eye(3))
    assert flat.verdict is None and "1 of 3" in flat.trouble and not flat
    with np.errstate(invalid="ignore"):
        broken = is_intertwiner(np.sqrt, np.eye(3))
    assert broken.verdict is None and "NaN" in broken.trouble and np.isnan(broken.defect)


@pytest.mark.parametrize(
    ("activation", "matrix", "options", "named"),
    [
        (np.tanh, np.ones((2, 3)), {}, "matrix: got shape"),
        (np.tanh, np.array([[np.nan]]), {}, "matrix: has NaN"),
        (np.tanh, np.array([[1j]]), {}, "matrix: got complex"),
        (lambda x: x[:1], np.eye(2), {}, "activation: made"),
        (np.tanh, np.eye(2), {"inputs": 3}, "inputs: got 3"),
        (np.tanh, np.eye(2), {"reach": 0}, "reach: got 0"),
        (lambda x: x > 0, np.eye(2), {}, "activation: gave bool"),
    ],
)
def test_bad_arguments(activation, matrix, options, named):
    with pytest.raises(InputError, match=named):
        is_intertwiner(activation, matrix, **options)


# --- homogeneity ---


def test_homogeneity_of_gelu():
    """Against Monte Carlo at a moderate scale, and the closed slope at large ones."""
    gelu = INTERTWINERS["gelu"].activation
    x = np.random.default_rng(0).normal(size=400_000)
    with jax.enable_x64(True):
        sampled = np.sqrt(np.mean((np.asarray(gelu(3 * x)) - 3 * np.asarray(gelu(x))) ** 2))
    assert abs(homogeneity_defect(gelu, 3.0) / sampled - 1) < 0.01
    slopes = homogeneity_defect(gelu, [1, 30, 1000]) / [1, 30, 1000]
    assert slopes[0] == 0 and slopes[1] < GELU_SLOPE
    assert abs(slopes[2] - GELU_SLOPE) < 1e-7 and round(GELU_SLOPE, 4) == 0.1268 and abs(GELU_SLOPE - 0.1267) < 1e-4


def test_homogeneous_activations_have_none():
    for name in ("relu", "leaky_relu", "identity"):
        assert homogeneity_defect(INTERTWINERS[name].activation, [0.1, 7.0]).max() < 1e-14
    with pytest.raises(InputError, match="scales"):
        homogeneity_defect(np.tanh, [1.0, -1.0])


# --- the action on weights ---

# Op by op each shape compiles once; the fewest models that show every kind of layer are always tested.
QUICK = ("mcnn", "mcnn_k", "mcnn_sigmoid", "mcnn_k_sigmoid", "scnn", "resnet20", "resnet18", "cct2", "cct2_sine")
MODEL_NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in MODELS
    if "tiny" not in name and "nodrop" not in name and name not in ("cct2_3x2", "cct4_3x2", "cct6_3x1", "cct7_3x1")
]


def width_of(name):
    """The narrowest that all models can have: 12 channels divide among any number of heads."""
    return 12 if name.startswith("cct") else 4 if name.startswith("cw") else 2


def acted_on(name, seed=0):
    network = create(name, width=width_of(name), image_size=16, dtype=jnp.float64)
    member = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), drawn(network, seed))
    if len(network.points) > 20:  # hundreds of random residual blocks multiply rounding to no end
        ends = [i > 0 and network.points[i - 1].starred for i in range(len(network.points) + 1)]
        params = zip(ends, member.params, strict=True)
        params = (jax.tree.map(lambda a, end=end: a / 10 if end and a.ndim > 1 else a, part) for end, part in params)
        member = member._replace(params=tuple(params))
    symmetry = Symmetry(network)
    element = symmetry.sample(KEY)
    return network, symmetry, member, element, symmetry.act(member, element)


def largest(array):
    return np.abs(np.asarray(array)).max()


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.few(3)
def test_the_function_stays_and_features_change_by_exactly_a(name):
    """In float64, op by op: a program of the deepest would take minutes to compile."""
    with jax.enable_x64(True):
        network, symmetry, member, element, moved = acted_on(name)
        assert symmetry.contains(element)
        x = jnp.asarray(images(2), jnp.float64)
        points = range(len(network.points))
        before, after = network.features(member, x), network.features(moved, x)
        # `run`, since `logits` and `tail` give float32
        logits = [network.run(m, f[-1], start=points[-1] + 1)[0] for m, f in ((member, before), (moved, after))]
        assert logits[0].dtype == jnp.float64 and largest(logits[0]) > 1e-3
        assert largest(logits[1] - logits[0]) <= 1e-10 * largest(logits[0])
        for point in points:
            old, new = branch(before[point]), branch(after[point])
            matrix = np.asarray(symmetry.at(point, element))
            np.testing.assert_allclose(new, old @ matrix.T, rtol=0, atol=1e-10 * largest(new))
            if symmetry.spaces_at(point):  # with sine positions there are none
                assert largest(new - old) > 1e-3 * largest(old)  # something did happen


def inside_block(params, x, heads):
    """What an encoder block makes of its tokens, and its MLP's hidden units, in NumPy."""
    x = np.asarray(x).reshape(len(x), -1, x.shape[-1])

    def dense(name, x):
        part = params["attention"][name] if name in params["attention"] else params[name]
        return x @ part["kernel"] + part.get("bias", 0)

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * params[name]["scale"] + params[name]["bias"]

    seen = norm("norm1", x)
    split = lambda y: np.moveaxis(y.reshape(*y.shape[:2], heads, -1), 2, 1)  # noqa: E731
    query, key, value = (split(dense(name, seen)) for name in ("query", "key", "value"))
    weights = softmax(query @ np.swapaxes(key, -1, -2) / np.sqrt(query.shape[-1]), axis=-1)
    x = x + dense("write", np.moveaxis(weights @ value, 1, 2).reshape(x.shape))
    pre = dense("expand", norm("norm2", x))
    hidden = pre * ndtr(pre)  # GELU
    return x + dense("contract", hidden), hidden


@pytest.mark.parametrize(
    ("name", "heads"), [("cct2", 2), ("cct2_sine", 2), pytest.param("cct6", 4, marks=pytest.mark.slow)]
)
def test_hidden_units_of_transformers_change_by_exactly_a(name, heads):
    """Between stitch points, so in NumPy; what it makes of a whole block is what the network makes of it."""
    with jax.enable_x64(True):
        network, symmetry, member, element, moved = acted_on(name)
        features = [network.features(m, jnp.asarray(images(2), jnp.float64)) for m in (member, moved)]
    for block in range(2, len(network.points) + 1):
        hidden = []
        for m, theirs in zip((member, moved), features, strict=True):
            params = jax.tree.map(np.asarray, m.params[block - 1])
            out, inner = inside_block(params, theirs[block - 2], heads)
            wanted = np.asarray(theirs[block - 1])
            np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=0, atol=1e-12 * largest(wanted))
            hidden.append(inner)
        matrix = np.asarray(element[f"block{block}/mlp"])
        np.testing.assert_allclose(hidden[1], hidden[0] @ matrix.T, rtol=1e-10)
        assert largest(hidden[1] - hidden[0]) > 1e-3 * largest(hidden[0])  # something did happen


@pytest.mark.parametrize("name", ["mcnn", "resnet20", "resnet18", "cct2"])
@pytest.mark.few(2)
def test_acting_is_a_group_action(name):
    with jax.enable_x64(True):
        _, symmetry, member, element, moved = acted_on(name)
        other = symmetry.sample(jax.random.key(9))
        steps = symmetry.act(moved, other)
        at_once = symmetry.act(member, symmetry.compose(element, other))
        back = symmetry.act(moved, symmetry.inverse(element))
    for actual, wanted in ((at_once, steps), (back, member)):
        jax.tree.map(lambda a, w: np.testing.assert_allclose(a, w, rtol=1e-10, atol=1e-13), actual, wanted)


def test_every_space_matters_and_no_other_matrix_will_do():
    """Each space alone keeps the function; a sign flip, a rotation or an untied stream changes it."""
    with jax.enable_x64(True):
        network, symmetry, member, element, _ = acted_on("resnet20")
        x = jnp.asarray(images(2), jnp.float64)

        def change(member_):
            return largest(network.run(member_, x)[0] - network.run(member, x)[0])

        for name in symmetry.spaces:
            moved = symmetry.act(member, {name: element[name]})
            assert change(moved) < 1e-10
            assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (member, moved)), strict=True))
        flipped = {"block1.1*": -np.eye(2)}
        assert not symmetry.contains(flipped) and change(symmetry.act(member, flipped)) > 1e-3
        half = symmetry.act(member, {"stem": element["stem"]})
        untied = member._replace(params=(half.params[0], *member.params[1:]))
        assert change(untied) > 1e-3


@pytest.mark.parametrize("name", ["mcnn", "resnet20", "cct2"])
def test_an_element_with_noise_acts_as_without(name):
    """mCNN has norms and their statistics, resnet20 tied streams, cct2 permutations and general matrices."""
    with jax.enable_x64(True):
        network, symmetry, member, element, moved = acted_on(name)
        rng = np.random.default_rng(0)
        noisy = {space: np.asarray(m) + 1e-9 * rng.choice([-1, 1], m.shape) for space, m in element.items()}
        assert symmetry.contains(noisy)
        x = jnp.asarray(images(2), jnp.float64)
        logits = [network.run(m, x)[0] for m in (member, moved, symmetry.act(member, noisy))]
        assert 1e-14 < largest(logits[2] - logits[0]) / largest(logits[0]) < 1e-6
        back = symmetry.act(moved, symmetry.inverse(noisy))
        point = network.points[0].name
        image = symmetry.at(point, noisy)
        assert largest(image - symmetry.at(point, element)) < 1e-8
    jax.tree.map(lambda a, w: np.testing.assert_allclose(a, w, rtol=1e-5, atol=1e-6), back, member)


@pytest.mark.slow
def test_padding_shortcuts_keep_the_old_channels_apart():
    symmetry = Symmetry(create("resnet20", width=4))
    assert symmetry.spaces_at("stem") == symmetry.spaces_at("block1.3") == ("stem",)
    assert symmetry.spaces_at("block3.2") == ("stem", "block2.1*/new", "block3.1*/new")
    assert symmetry.spaces_at("block2.2*") == ("block2.2*",)
    matrix = np.asarray(symmetry.at("block2.1", symmetry.sample(KEY))) != 0
    new, old = [0, 1, 6, 7], [2, 3, 4, 5]  # two zero channels on either side
    assert not matrix[np.ix_(new, old)].any() and not matrix[np.ix_(old, new)].any()
    projected = Symmetry(create("resnet18", width=4))
    assert projected.spaces_at("block2.2") == ("block2.1*/shortcut",)


def test_transformers_inside():
    """Each kind of space alone keeps the function; the MLP's hidden units are permuted, heads turned by any matrix."""
    with jax.enable_x64(True):
        network, symmetry, member, element, _ = acted_on("cct2")
        x = jnp.asarray(images(2), jnp.float64)
        wanted = network.run(member, x)[0]
        for name, matrix in element.items():
            moved = symmetry.act(member, {name: matrix})
            assert largest(network.run(moved, x)[0] - wanted) < 1e-10 * largest(wanted), name
        groups = {name.split("/")[1].rstrip("12"): symmetry.row(name).group.name for name in symmetry.spaces}
        scaled = {"block1/mlp": 1.1 * np.asarray(element["block1/mlp"])}
        assert not symmetry.contains(scaled)
        assert largest(network.run(symmetry.act(member, scaled), x)[0] - wanted) > 1e-4 * largest(wanted)
    assert groups == {
        "tokens": "positive_monomial",
        "stream": "permutation",
        "mlp": "permutation",
        "scores": "general_linear",
        "values": "general_linear",
    }
    assert symmetry.spaces_at("block2") == ("block1/stream",)
    assert Symmetry(create("cct2_sine", width=4)).spaces_at("block2") == ()


@pytest.mark.slow
def test_members_side_by_side():
    """Under jit and vmap, in float32: the elements have a member axis too."""
    network = create("mcnn", width=2)
    symmetry = Symmetry(network)
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), drawn(network, 0), drawn(network, 1))
    elements = jax.jit(jax.vmap(symmetry.sample))(jax.random.split(KEY, 2))
    moved = jax.jit(jax.vmap(symmetry.act))(members, elements)
    for i in range(2):
        alone = symmetry.act(*jax.tree.map(lambda leaf, i=i: leaf[i], (members, elements)))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-6), moved, alone)


def test_what_callers_may_get_wrong():
    symmetry = Symmetry(create("mcnn", width=2))
    member = drawn(symmetry.network)
    with pytest.raises(InputError, match="'relu9' is not a space"):
        symmetry.act(member, {"relu9": np.eye(2)})
    with pytest.raises(InputError, match=r"relu2 has shape \(2, 2\), wanted \(4, 4\)"):
        symmetry.act(member, {"relu2": np.eye(2)})
    with pytest.raises(InputError, match="no method wire"):
        from test_training import softmax_regression

        Symmetry(softmax_regression())
    assert isinstance(symmetry.network, Network)
    for kind, named in (
        ("sigmoid_bias", "'sigmoid_bias' of toy's relu1 needs an offset"),
        ("mish", "'mish' .* unknown"),
    ):
        with pytest.raises(InputError, match=named):
            Symmetry(SimpleNamespace(name="toy", wiring=Wiring({"relu1": Space("relu1", 2, 0, kind)})))
