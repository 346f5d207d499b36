"""Models as chains: sizes, fronts and tails, members side by side, and what callers may get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.errors import InputError
from symjax.models import MODELS, Member, Network, branch, create, replace_branch

KEY = jax.random.key(0)
QUICK = ("mcnn", "resnet20", "resnet18")  # compiling takes nearly all of the time
KINDS = (*QUICK, "mcnn_k_sigmoid", "cwcnn", "scnn", "cct2", "cct7_3x2", "cct7_sine")  # one of each
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in MODELS
    if name != "resnet1202" and "cct" not in name  # see test_cct.py
]


def images(count=2, size=16):
    return jax.random.normal(jax.random.key(7), (count, size, size, 3))


def close(actual, wanted, tolerance=1e-6):
    scale = np.abs(np.asarray(wanted)).max()
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * scale)


def drawn(network, seed=0):
    """A member from NumPy at unit scale, statistics included, since compiling `init` takes seconds."""
    generator = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        values = (
            generator.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
            if leaf.ndim > 1
            else generator.uniform(0.5, 1.5, leaf.shape)
        )
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(draw, jax.eval_shape(network.init, KEY))


@pytest.mark.parametrize(
    ("name", "count"), [("mcnn", 1_557_066), ("resnet20", 269_722), ("resnet18", 11_173_962), ("resnet110", 1_727_962)]
)
def test_published_sizes(name, count):
    network = create(name)
    assert network.num_parameters == count
    assert str(count) in repr(network)


@pytest.mark.slow
def test_the_deepest():
    assert create("resnet1202").num_parameters == 19_421_274
    assert len(create("resnet1202").points) == 1201


def test_init_makes_what_num_parameters_counts():
    network = create("resnet18", width=4)
    member = jax.eval_shape(network.init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(member.params)) == network.num_parameters
    assert len(member.params) == len(member.stats) == len(network.points) + 1


def check_front_and_tail(network, points):
    @jax.jit
    def everything(member, x):
        travelling = [network.front(member, x, point) for point in points]
        tails = [network.tail(member, front, point)[0] for point, front in zip(points, travelling, strict=True)]
        return travelling, tails, network.logits(member, x)[0]

    travelling, tails, whole = everything(drawn(network), images())
    assert whole.shape == (2, 10)
    for index, front, tail in zip(points, travelling, tails, strict=True):
        point = network.points[index]
        close(tail, whole)
        assert isinstance(front, tuple) == point.starred
        assert branch(front).shape[-1] == point.channels
        assert network.index(point.name) == network.index(index) == index


@pytest.mark.parametrize("name", NAMES)
def test_front_and_tail_make_the_whole(name):
    """At a few points of a deep model: the first, the last, and a starred and a plain one between."""
    network = create(name, width=2)
    last = len(network.points) - 1
    check_front_and_tail(network, range(last + 1) if last < 4 else (0, last // 2, last // 2 + 1, last))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in KINDS else pytest.mark.slow) for name in MODELS]
)
@pytest.mark.few(5)
def test_every_point_of_every_model(name):
    """Segment by segment: what travels is what the point says, and the way through all of them is the whole;
    at a handful of points, front and tail are what lies before and behind.
    """
    network = create(name, width=24 if "cct" in name else 2)

    def walk(member, x):
        travelling = []
        for i in range(len(network.points) + 1):
            x, _ = network.run(member, x, start=i, stop=i + 1)
            travelling.append(x)
        return travelling

    side = 32 if "cct" in name else 16
    member, x = drawn(network), images(size=side)
    *fronts, logits = jax.eval_shape(walk, member, x)
    assert logits.shape == (2, 10)
    for point, front in zip(network.points, fronts, strict=True):
        assert isinstance(front, tuple) == point.starred
        assert branch(front).shape[-1] == point.channels
    if len(network.points) > 200:
        return
    *fronts, logits = walk(member, x)  # operation by operation, which compiles little
    close(logits, network.logits(member, x)[0])
    last = len(fronts) - 1
    for point in {0, last // 4, last // 2, last // 2 + 1, last}:
        close(branch(network.front(member, x, point)), branch(fronts[point]))
        close(network.tail(member, fronts[point], point)[0], logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet32"])
def test_front_and_tail_at_every_point(name):
    network = create(name, width=2)
    for point in range(len(network.points)):
        check_front_and_tail(network, (point,))


def test_front_is_a_feature():
    network = create("mcnn", width=2)
    member = drawn(network)
    for point in (0, 3):
        front = jax.jit(lambda m, x, point=point: network.front(m, x, point))(member, images())
        (feature,) = jax.jit(lambda m, x, point=point: network.features(m, x, (point,)))(member, images())
        jax.tree.map(np.testing.assert_array_equal, front, feature)


def test_features_come_in_the_order_asked():
    network = create("mcnn", width=2)
    member = drawn(network)
    late, early, again = jax.jit(network.features, static_argnums=2)(member, images(), (2, 0, 2))
    assert early.shape[-1] == 2 and late.shape[-1] == 8
    np.testing.assert_array_equal(late, again)


def test_a_stitch_leaves_the_skip():
    network = create("resnet20", width=4)
    point = network.index("block2.1*")
    assert network.points[point].starred and network.index(point) == point
    travelling = jax.jit(network.front, static_argnums=2)(drawn(network), images(), point)
    zeroed = replace_branch(travelling, jnp.zeros_like(branch(travelling)))
    np.testing.assert_array_equal(zeroed[1], travelling[1])
    assert not np.any(branch(zeroed))
    features = jnp.ones((2, 4))
    assert branch(features) is features and replace_branch(features, 2 * features)[0, 0] == 2


def value_and_gradients(network, mode="train"):
    def loss(params, stats, x):
        logits, stats = network.logits(Member(params, stats), x, mode=mode)
        return (jax.nn.log_softmax(logits)[:, 0]).mean(), stats

    return lambda member, x: jax.value_and_grad(loss, has_aux=True)(member.params, member.stats, x)


FORMS = ["matmul", pytest.param("mixed", marks=pytest.mark.slow)]  # which takes long to compile


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize(
    "name", ["mcnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mcnn_sigmoid", "resnet20", "resnet18"))]
)
def test_methods_agree_with_native(name, method):
    """In float64: batch norm and ReLU chains amplify float32's rounding in gradients, whatever the method."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(7), (4, 16, 16, 3), jnp.float64)
        networks = [create(name, width=4, method=m, dtype=jnp.float64) for m in ("native", method)]
        member = jax.tree.map(lambda a: a.astype(jnp.float64), drawn(networks[0]))
        wanted, actual = (jax.jit(value_and_gradients(network))(member, x) for network in networks)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(np.abs(want).max(), 1e-3))


@pytest.mark.parametrize("method", FORMS)
def test_members_side_by_side(method):
    network = create("mcnn", width=4, method=method)
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(drawn(network, seed) for seed in range(3)))
    logits, stats = jax.jit(jax.vmap(lambda m: network.logits(m, images(4), mode="train")))(members)
    alone = jax.jit(lambda m: network.logits(m, images(4), mode="train"))
    for i in range(3):
        want_logits, want_stats = alone(drawn(network, i))
        close(logits[i], want_logits, 1e-5)
        for actual, wanted in zip(jax.tree.leaves(stats), jax.tree.leaves(want_stats), strict=True):
            close(actual[i], wanted, 1e-5)


def test_statistics_of_segments_that_do_not_run_are_kept():
    network = create("mcnn", width=2)
    member = drawn(network)
    front = network.front(member, images(), 1)
    _, stats = jax.jit(lambda m, x: network.tail(m, x, 1, mode="train"))(member, front)
    changed = [
        any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in zip(stats, member.stats, strict=True)
    ]
    assert changed == [False, False, True, True, False]
    assert jax.tree.structure(stats) == jax.tree.structure(member.stats)


def test_init_draws_the_published_variances():
    network = create("resnet20", width=8)
    params = jax.tree.leaves(jax.jit(network.init)(KEY).params)
    kernels = [np.asarray(leaf) for leaf in params if leaf.ndim == 4 and leaf.size > 2000]
    assert len(kernels) > 10
    for kernel in kernels:
        deviation = np.sqrt(2 / np.prod(kernel.shape[:3]))
        assert abs(kernel.std() / deviation - 1) < 0.06 and abs(kernel.mean()) < 0.1 * deviation
        assert np.abs(kernel).max() < 2.3 * deviation
    assert len({kernel.ravel()[0] for kernel in kernels}) == len(kernels)


def test_init_depends_on_the_key_alone():
    network = create("mcnn", width=2)
    init = jax.jit(network.init)
    settings = {"width": 2, "channels": 3, "classes": 10, "method": "native"} | MODELS["mcnn"][2]
    rebuilt = Network(lambda rngs: MODELS["mcnn"][0](rngs, **settings))  # `create` would give the same one
    first, again = init(KEY), rebuilt.init(KEY)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        close(a, b)
    other = init(jax.random.key(1))
    kernels = [leaf for leaf in jax.tree.leaves(first.params) if leaf.ndim > 1]
    others = [leaf for leaf in jax.tree.leaves(other.params) if leaf.ndim > 1]
    assert not any(np.array_equal(a, b) for a, b in zip(kernels, others, strict=True))


@pytest.mark.parametrize("method", ["native", pytest.param("matmul", marks=pytest.mark.slow)])
def test_bfloat16(method):
    network = create("mcnn", width=4, method=method, dtype=jnp.bfloat16)
    member = drawn(network)
    (loss, stats), gradients = jax.jit(value_and_gradients(network))(member, images(4))
    assert loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((stats, gradients))} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "resnet21"}, ("resnet21", "resnet20", "mcnn")),
        ({"name": "mcnn", "method": "fft"}, ("fft", "native", "mixed")),
        ({"name": "mcnn", "width": 0}, ("width", "0")),
        ({"name": "mcnn", "channels": 0}, ("channels",)),
        ({"name": "mcnn", "classes": -1}, ("classes", "-1")),
    ],
)
def test_unknown_settings(settings, words):
    with pytest.raises(InputError) as error:
        create(**settings)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("point", ["relu9", -1, 4])
def test_unknown_points(point):
    with pytest.raises(InputError, match="relu1, relu2, relu3, relu4"):
        create("mcnn", width=2).index(point)
