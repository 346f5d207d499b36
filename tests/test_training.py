"""Training one member, compared with NumPy in float64."""

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from symjax.data.dataset import Source, Split
from symjax.data.splitting import build
from symjax.errors import InputError
from symjax.network import Member, Network, stitch_point
from symjax.training import Recipe, TrainState, accuracy, create_state, pad_batches, pool_moments, train_epoch
from symjax.training.loop import apply_gradients, data_shapes, device_data, optimizer

CLASSES = 3


class Softmax(nnx.Module):
    """Softmax regression: its gradient takes two lines of NumPy."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.dense(stitch_point(x.reshape(x.shape[0], -1), "pixels"))


class Convolutional(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 2, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(2, momentum=0.9, use_fast_variance=False, rngs=rngs)
        self.dense = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.dense(stitch_point(x.reshape(x.shape[0], -1), "relu"))


EXAMPLE = jnp.zeros((2, 4, 4, 1))


def softmax_regression():
    return Network.from_nnx(Softmax, example=EXAMPLE)


def convolutional(form="matmul"):
    return Network.from_nnx(Convolutional, example=EXAMPLE).with_form(form)


def images(n, seed=0):
    """Noisy images of three classes, 4 x 4."""
    rng = np.random.RandomState(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    pixels = rng.randint(0, 120, (n, 4, 4, 1)) + 60 * (np.arange(4)[None, :, None, None] == labels[:, None, None, None])
    return Split(pixels.astype(np.uint8), labels)


def dataset(n=30):
    source = Source("stripes", images(n), images(10, seed=1), ("a", "b", "c"))
    return build(source, validation=0.2, train_size=None, test_size=None, seed=0)


def fresh(network, seed=0):
    """A member; compiled without optimization, which for random numbers takes longer than all else here."""
    init = jax.jit(network.init, compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed))


def named(tree, name):
    """Return the only array of this name."""
    (leaf,) = [
        leaf for path, leaf in jax.tree.leaves_with_path(tree) if jax.tree_util.keystr(path).endswith(f"'{name}']")
    ]
    return leaf


# --- the optimizer ---


@pytest.mark.parametrize("epochs,steps_per_epoch", [(1, 1), (1, 2), (3, 1), (1, 5), (2, 7), (10, 4), (3, 33)])
def test_the_learning_rate_halves_after_each_quarter(epochs, steps_per_epoch):
    tx = optimizer(Recipe(epochs=epochs, learning_rate=0.125, weight_decay=0), steps_per_epoch)
    params = {"bias": jnp.zeros(1)}
    total = epochs * steps_per_epoch

    def step(carry, _):
        params, state = carry
        new, state = apply_gradients(tx, {"bias": jnp.ones(1)}, state, params)
        return (new, state), params["bias"][0] - new["bias"][0]

    # Under a constant gradient every step of Adam's is as long as its rate.
    _, rates = jax.lax.scan(step, (params, tx.init(params)), length=total)
    expected = [0.125 * 0.5 ** math.floor(4 * t / total) for t in range(total)]
    np.testing.assert_allclose(rates, expected, rtol=1e-3)  # float32 in Adam's bias correction


def rates_of(recipe, steps):
    tx = optimizer(recipe, steps)
    params = {"bias": jnp.zeros(1)}

    def step(carry, _):
        params, state = carry
        new, state = apply_gradients(tx, {"bias": jnp.ones(1)}, state, params)
        return (new, state), params["bias"][0] - new["bias"][0]

    return jax.lax.scan(step, (params, tx.init(params)), length=recipe.epochs * steps)[1]


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_cosine_with_warm_up(name):
    recipe = Recipe(epochs=4, learning_rate=0.125, optimizer=name, schedule="cosine", warmup=0.25)
    t = np.arange(40)
    expected = 0.125 * 0.5 * (1 + np.cos(np.pi * t / 40)) * np.minimum(1, (t + 1) / 10)
    np.testing.assert_allclose(rates_of(recipe, 10), expected, rtol=1e-3)
    halved = 0.125 * 0.5 ** (4 * t // 40) * np.minimum(1, (t + 1) / 10)
    np.testing.assert_allclose(rates_of(dataclasses.replace(recipe, schedule="halving"), 10), halved, rtol=1e-3)


def test_decoupled_weight_decay():
    """AdamW without gradients: kernels shrink by the rate times the decay, whatever their size; others stay."""
    params = {"kernel": jnp.array([[1.0, -4.0]]), "bias": jnp.array([3.0])}
    tx = optimizer(Recipe(optimizer="adamw", learning_rate=0.1, weight_decay=0.5), 10)
    new, _ = apply_gradients(tx, jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(new["kernel"], 0.95 * params["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(new["bias"], params["bias"])


def test_a_recipe_in_json_has_every_field():
    assert set(Recipe().to_json()) == {field.name for field in dataclasses.fields(Recipe)}
    assert Recipe(schedule="cosine", warmup=0.1).to_json()["schedule"] == "cosine"


def test_weight_decay_applies_to_kernels_only():
    member = fresh(convolutional())
    params = jax.tree.map(jnp.ones_like, member.params)
    tx = optimizer(Recipe(weight_decay=0.1), 10)
    new, _ = apply_gradients(tx, jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    names = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(new)}
    assert {name.rsplit("'", 2)[1] for name in names} == {"kernel", "bias", "scale"}
    for name, leaf in names.items():
        assert (np.asarray(leaf) < 1).all() if "kernel" in name else (np.asarray(leaf) == 1).all(), name


def adam(weights, gradients_of, rates, decay):
    """Weights after each step of Adam on float64 arrays, with an L2 penalty on those named `kernel`."""
    first, second = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    for t, rate in enumerate(rates, start=1):
        for name, gradient in gradients_of(weights).items():
            gradient = gradient + (decay * weights[name] if name == "kernel" else 0)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            weights = weights | {name: weights[name] - rate * step}
        yield weights


# --- the loop ---


def test_training_equals_numpy():
    recipe = Recipe(epochs=4, batch_size=24, learning_rate=0.05, weight_decay=0.01, flip=False, translate=0)
    data, network = dataset(), softmax_regression()
    assert len(data.train) == 24  # one batch, so that its order does not matter
    x = ((data.train.images.astype(float) - data.mean) / data.std).reshape(24, -1)
    held_out = ((data.validation.images.astype(float) - data.mean) / data.std).reshape(len(data.validation), -1)
    onehot = np.eye(CLASSES)[data.train.labels]

    def probabilities(weights, x):
        logits = x @ weights["kernel"] + weights["bias"]
        exp = np.exp(logits - logits.max(1, keepdims=True))
        return exp / exp.sum(1, keepdims=True)

    def gradients_of(weights):
        error = (probabilities(weights, x) - onehot) / 24
        return {"kernel": x.T @ error, "bias": error.sum(0)}

    state = create_state(network, recipe, 1, jnp.int32(5))
    weights = {name: np.asarray(named(state.member.params, name), np.float64) for name in ("kernel", "bias")}
    shared = device_data(data, pad_batches(data.validation, 4))
    train = jax.jit(lambda state: train_epoch(network, recipe, state, shared))
    rates = [0.05, 0.025, 0.0125, 0.00625]
    for epoch, after in enumerate(adam(weights, gradients_of, rates, 0.01), start=1):
        state, metrics = train(state)
        before, weights = weights, after
        predicted = probabilities(before, x)
        np.testing.assert_allclose(metrics["loss"], -np.log((predicted * onehot).sum(1)).mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["accuracy"], (predicted.argmax(1) == data.train.labels).mean(), rtol=1e-6)
        right = probabilities(after, held_out).argmax(1) == data.validation.labels
        np.testing.assert_allclose(metrics["validation_accuracy"], right.mean(), rtol=1e-6)
        for name in weights:
            np.testing.assert_allclose(named(state.member.params, name), weights[name], atol=2e-5)
        assert (int(state.epoch), int(state.seed)) == (epoch, 5)


@pytest.mark.slow
def test_native_and_matmul_convolutions_train_equally():
    recipe = Recipe(epochs=1, batch_size=6, learning_rate=0.01, flip=True, translate=2)
    data = dataset()
    shared = device_data(data, pad_batches(data.validation, 4))
    member = fresh(convolutional())
    state = TrainState(member, optimizer(recipe, 4).init(member.params), jnp.int32(0), jnp.int32(0))
    results = []
    for method in ("native", "matmul"):
        network = convolutional(method)
        results.append(jax.jit(lambda state, network=network: train_epoch(network, recipe, state, shared))(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *results)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), results[0][0].member, member)
    assert min(jax.tree.leaves(moved)) > 1e-3  # all parameters and statistics take part


def test_epochs_and_seeds_have_different_orders():
    recipe = Recipe(epochs=2, batch_size=6, learning_rate=0.01, flip=False, translate=0)
    data, network = dataset(), softmax_regression()
    shared = device_data(data, pad_batches(data.validation, 4))
    start = create_state(network, recipe, 4, jnp.int32(0))
    train = jax.jit(lambda seed, epoch: train_epoch(network, recipe, start._replace(seed=seed, epoch=epoch), shared)[0])

    def kernel(seed, epoch):
        return np.asarray(named(train(jnp.int32(seed), jnp.int32(epoch)).member.params, "kernel"))

    np.testing.assert_array_equal(kernel(0, 0), kernel(0, 0))
    assert np.abs(kernel(0, 0) - kernel(0, 1)).max() > 1e-5
    assert np.abs(kernel(0, 0) - kernel(1, 0)).max() > 1e-5


def test_a_fresh_state_depends_on_its_seed():
    create = jax.jit(lambda seed: create_state(softmax_regression(), Recipe(), 4, seed))
    a, b, c = (create(jnp.int32(seed)) for seed in (3, 3, 4))
    assert isinstance(a, TrainState) and isinstance(a.member, Member) and int(a.epoch) == 0
    jax.tree.map(np.testing.assert_array_equal, a, b)
    kernels = [named(state.member.params, "kernel") for state in (a, c)]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": True},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"weight_decay": -1e-4},
        {"weight_decay": math.nan},
        {"translate": -1},
        {"translate": 1.5},
        {"optimizer": "sgd"},
        {"schedule": "step"},
        {"warmup": 1.0},
        {"warmup": -0.1},
        {"warmup": math.nan},
    ],
    ids=str,
)
def test_bad_recipes(wrong):
    with pytest.raises(InputError, match=f"^{next(iter(wrong))}: "):
        dataclasses.replace(Recipe(), **wrong)


# --- evaluation ---


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 11])
def test_accuracy_is_over_examples_with_a_partial_last_batch(batch_size):
    split = images(10)
    # Right on all but examples 1, 8 and 9: a mean over batches of 4 would be 0.58, one that repeats the last 0.67.
    given = split.labels.copy()
    given[[1, 8, 9]] = (given[[1, 8, 9]] + 1) % CLASSES
    table = {image.tobytes(): label for image, label in zip(split.images, given, strict=True)}
    assert len(table) == 10
    lookup = jnp.stack([jnp.frombuffer(key, jnp.uint8) for key in table])
    answers = jnp.asarray(list(table.values()))

    def logits_of(images):
        result = (images.reshape(images.shape[0], 1, -1) == lookup).all(-1)
        return jax.nn.one_hot(answers[jnp.argmax(result, axis=1)], CLASSES)

    assert float(accuracy(logits_of, pad_batches(split, batch_size))) == pytest.approx(0.7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_accuracy_of_logits_that_are_not_finite_is_nan(value):
    split = Split(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), np.zeros(10, np.int32))

    def logits_of(images, wrong):
        which = images[:, 0, 0, 0]
        return jnp.where((which == wrong)[:, None], value, jax.nn.one_hot(jnp.int32(which) % 3, CLASSES))

    for wrong in (0, 3, 9):
        assert np.isnan(accuracy(partial(logits_of, wrong=wrong), pad_batches(split, 4)))
    assert np.isfinite(accuracy(partial(logits_of, wrong=200), pad_batches(split, 4)))


def test_pool_moments_are_those_of_all_data():
    x = np.random.default_rng(0).normal(3.0, [[[1.0]], [[2.0]], [[5.0]]], (3, 50, 4)) + np.arange(3)[:, None, None]
    y = x**2
    stats = {
        "segments": {
            0: {"norm": {"mean": x.mean(1), "var": x.var(1)}},
            1: {"mean": y.mean(1), "var": y.var(1)},
        }
    }
    pooled = pool_moments(jax.tree.map(jnp.asarray, stats))
    for result, data in ((pooled["segments"][0]["norm"], x), (pooled["segments"][1], y)):
        data = data.reshape(-1, 4)
        np.testing.assert_allclose(result["mean"], data.mean(0), rtol=1e-5)
        np.testing.assert_allclose(result["var"], data.var(0), rtol=1e-4)


def test_pooled_batch_norm_is_exact():
    """Moments of a real network's batches, pooled, make inference equal normalization over everything at once."""
    network, split = convolutional(), images(40)
    member = fresh(network)
    x = jnp.asarray(split.images, jnp.float32) / 100
    apply = jax.jit(network.apply, static_argnames="mode")
    per_batch = jax.jit(jax.vmap(lambda x: network.apply(member, x, mode="moments", with_state=True)[1]))(
        x.reshape(4, 10, 4, 4, 1)
    )
    pooled = Member(member.params, pool_moments(per_batch))
    np.testing.assert_allclose(apply(pooled, x), apply(member, x, mode="train"), atol=1e-5, rtol=1e-4)
    assert np.abs(apply(member, x) - apply(pooled, x)).max() > 0.01


def test_optax_state_has_only_arrays():
    """Checkpoints keep leaves, so whatever training depends on has to be one."""
    state = create_state(softmax_regression(), Recipe(), 3, jnp.int32(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state) if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert counts and all(int(count) == 0 for count in counts)
    assert isinstance(optimizer(Recipe(), 3), optax.GradientTransformation)


def test_shapes_of_data_need_no_transfer():
    data = dataset()
    for batches in (None, pad_batches(data.validation, 4)):
        shapes, made = data_shapes(data, batches), device_data(data, batches)
        assert jax.tree.structure(shapes) == jax.tree.structure(made)
        for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(made), strict=True):
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    images = np.broadcast_to(np.uint8(0), (2**40, 8, 8, 1))  # which no machine holds
    train = SimpleNamespace(images=images, labels=np.broadcast_to(np.int64(0), (2**40,)))
    whole = data_shapes(SimpleNamespace(train=train, mean=data.mean, std=data.std), None)
    assert (whole.images.shape, whole.labels.dtype) == ((2**40, 8, 8, 1), np.int32)
