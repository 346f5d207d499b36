"""`symjax.zoo.train` of networks, data, losses, metrics and optimizers of the caller's own."""

import doctest
import itertools
import sys
import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from campaign import slow
from flax import nnx

import symjax
from symjax import InputError, Network, data, representations, stitch_point, training, zoo
from symjax.flops import step_flops, training_flops
from symjax.models.myrtle import Myrtle
from symjax.ops import parallel
from symjax.training.loop import train_step
from symjax.zoo import ZooConfig, estimate

RNG = np.random.default_rng(0)
ONE = {"devices": jax.devices()[:1], "progress": False, "seeds": 2, "epochs": 2, "batch_size": 10}


def arrays(x, y, **more):
    return {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:], **more}


LABELS = np.arange(52) % 3
PIXELS = RNG.integers(0, 256, (52, 8, 8, 1)).astype(np.uint8)
PIXELS[LABELS == 1, :4] //= 4
PIXELS[LABELS == 2, :, :4] //= 4
FLOATS = RNG.normal(size=(52, 6, 6, 2)).astype(np.float32) + LABELS[:, None, None, None]
TOKENS = RNG.integers(0, 5, (52, 6)) + 2 * LABELS[:, None]
FEATURES = RNG.normal(size=(52, 4)).astype(np.float32)
REGRESSION = arrays(FEATURES, FEATURES[:, :2] * [1, -2] + 0.5, class_names=())


class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = stitch_point(nnx.relu(self.norm(self.conv(x))), "relu1")
        return self.head(self.dropout(x).mean(axis=(1, 2)))


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        x = nn.Dropout(0.2, deterministic=not train)(stitch_point(nn.relu(x), "relu1"))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


class Embedding(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.head = nnx.Embed(11, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.head(stitch_point(self.embed(tokens), "embedded").mean(axis=1))


def init_mlp(key, sizes=(4, 5, 2)):
    keys = jax.random.split(key, 2)
    return [jax.random.normal(k, shape) / 2 for k, shape in zip(keys, itertools.pairwise(sizes), strict=True)]


def mlp(params, x, *, train=False, key=None):
    hidden = stitch_point(jax.nn.relu(x @ params[0]), "relu1")
    if train:
        hidden = hidden * jax.random.bernoulli(key, 0.9, hidden.shape)
    return hidden @ params[1]


def squares(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def negative_errors(outputs, targets):
    return -jnp.mean((outputs - targets) ** 2, axis=-1)


OWN = {"loss": squares, "metric": negative_errors, "optimizer": optax.sgd(0.05, momentum=0.9)}
MLP = Network.from_function(mlp, init=init_mlp, example=FEATURES[:1])
CASES = {
    "nnx": (Network.from_nnx(CNN, example=np.zeros((1, 8, 8, 1), np.float32)), arrays(PIXELS, LABELS), {}),
    "linen": (Network.from_linen(LinenCNN(), example=FLOATS[:1]), arrays(FLOATS, LABELS, normalize=False), {}),
    "tokens": (Network.from_nnx(Embedding, example=TOKENS[:1]), arrays(TOKENS, LABELS), {}),
    "regression": (MLP, REGRESSION, OWN),
}


@pytest.mark.parametrize("name", ["nnx", slow("linen"), "tokens", "regression"])
@pytest.mark.few(1)
def test_a_zoo_of_any_network(name):
    network, given, options = CASES[name]
    dataset = data.load(given)
    trained = zoo.train(network, given, **(ONE | options if options else ONE | {"learning_rate": 0.03}))
    assert trained.seeds == (0, 1) and len(trained) == 2
    assert trained.metrics.epoch.tolist() == [1, 2, 1, 2] and np.isfinite(trained.metrics).all(axis=None)
    first, last = (trained.metrics[trained.metrics.epoch == epoch].loss.mean() for epoch in (1, 2))
    assert last < first
    inputs = data.normalize(dataset.test.images, dataset.mean, dataset.std)
    for member, score in zip(map(trained.member, (0, 1)), zoo.test_accuracy(trained, dataset), strict=True):
        outputs, targets = trained.network.apply(member, inputs), dataset.test.labels
        expected = negative_errors(outputs, targets) if options else jnp.argmax(outputs, -1) == targets
        assert score == pytest.approx(float(expected.mean()), abs=1e-6)
    (point,) = network.points
    features = representations.representations(trained, dataset.test.images, dataset.mean, dataset.std)[point.name]
    assert features.shape == (2, 12, *point.shape)
    np.testing.assert_allclose(features[1], network.features(trained.member(1), inputs)[point.name], atol=1e-5)


@pytest.mark.slow
def test_equinox_enters_as_a_function():
    equinox = pytest.importorskip("equinox")

    def make(key):
        return equinox.nn.MLP(4, 3, width_size=5, depth=1, key=key)

    static = equinox.partition(make(jax.random.key(0)), equinox.is_array)[1]

    def apply(params, x):
        return jax.vmap(equinox.combine(params, static))(x)

    network = Network.from_function(
        apply, init=lambda key: equinox.filter(make(key), equinox.is_array), example=FEATURES
    )
    trained = zoo.train(network, arrays(FEATURES, LABELS), **ONE)
    assert network.to_module(trained.member(0)).layers[0].weight.shape == (5, 4)
    assert np.isfinite(trained.metrics.loss).all()


# --- folders ---


def test_a_folder_resumes_and_belongs_to_one_network_and_its_functions(tmp_path):
    folder = tmp_path / "zoo"
    train = partial(zoo.train, MLP, REGRESSION, folder=folder, **ONE | OWN)
    first = train()
    again, loaded = train(seeds=(1, 0)), zoo.load(folder, network=MLP, **OWN)
    for one in (again, loaded):
        jax.tree.map(np.testing.assert_array_equal, one.member(1), first.member(1))
    assert loaded.config.recipe.metric is negative_errors
    grown = train(seeds=3)
    jax.tree.map(np.testing.assert_array_equal, grown.member(0), first.member(0))

    def doubled(params, x):
        return 2 * mlp(params, x)

    changed = Network.from_function(doubled, init=init_mlp, example=FEATURES[:1], name="mlp")
    with pytest.raises(InputError, match=r'(?s)structure: saved "\w+", requested.*the model\'s code has changed'):
        zoo.train(changed, REGRESSION, folder=folder, **ONE | OWN)
    with pytest.raises(InputError, match="another structure than 'mlp' has"):
        zoo.load(folder, network=changed, **OWN)
    other = {
        "loss": lambda outputs, targets: 2 * squares(outputs, targets),
        "metric": lambda outputs, targets: 2 * negative_errors(outputs, targets),
        "optimizer": optax.sgd(0.06, momentum=0.9),
    }
    for name, function in other.items():
        with pytest.raises(InputError, match=rf'(?s)user_code.{name}: saved "\w+", requested "\w+"'):
            zoo.train(MLP, REGRESSION, folder=folder, **ONE | OWN | {name: function})
        with pytest.raises(InputError, match=f"^{name}: got one that computes something else"):
            zoo.load(folder, network=MLP, **OWN | {name: function})
        with pytest.raises(
            InputError, match=rf"^{name}: got none, expected load\(\.\.\., {name}=\), the one with which"
        ):
            zoo.load(folder, network=MLP, **OWN | {name: None})
    with pytest.raises(InputError, match="^network: got none, expected load"):
        zoo.load(folder, **OWN)
    with pytest.raises(InputError, match="^loss: got one that cannot take outputs"):
        zoo.load(folder, network=MLP, **OWN | {"loss": lambda outputs, targets: (outputs @ targets).sum()})
    with pytest.raises(InputError, match="^network: got mlp without init"):
        zoo.load(folder, network=NO_INIT, **OWN)
    with pytest.raises(InputError, match="^network: got 3, expected a Network"):
        zoo.load(folder, network=3, **OWN)


def test_the_same_functions_made_again_have_the_same_fingerprints():
    def own(rate):
        return {
            "loss": lambda outputs, targets: jnp.abs(outputs - targets).mean(),
            "metric": lambda outputs, targets: -jnp.abs(outputs - targets).mean(axis=-1),
            "optimizer": lambda steps: optax.adamw(optax.cosine_decay_schedule(rate, 2 * steps)),
        }

    dataset = data.load(REGRESSION)
    configs = [ZooConfig("r", MLP, recipe=training.Recipe(**own(rate))) for rate in (0.1, 0.1, 0.2)]
    one, same, other = (config.identity(dataset)["user_code"] for config in configs)
    assert one == same and set(one) == {"network", "loss", "metric", "optimizer"}
    assert {name for name in one if one[name] != other[name]} == {"optimizer"}
    assert "user_code" not in ZooConfig("r").identity(data.load(arrays(PIXELS, LABELS), image_size=16))
    assert ZooConfig("r", "mcnn").to_json().keys() == ZooConfig("r", MLP).to_json().keys()


def test_configurations_hold_the_network_itself():
    config = ZooConfig("r", MLP)
    assert config == ZooConfig("r", MLP) and hash(config) == hash(ZooConfig("r", MLP))
    other = Network.from_function(mlp, init=init_mlp, example=FEATURES[:1])
    assert config != ZooConfig("r", other)
    assert config.to_json()["model"] == "mlp" and config.network(data.load(REGRESSION)) is MLP
    assert ZooConfig.from_json(config.to_json(), {"network": MLP}) == config


# --- the same model by every way ---


@pytest.mark.slow
def test_a_model_by_name_by_module_and_as_a_network_gives_the_same_numbers(monkeypatch):
    module = types.ModuleType("own_models")
    options = {"width": 4, "multiples": (1, 2), "pools": (2, 2), "channels": 1, "classes": 3}
    module.build = lambda *, rngs, width, channels, classes: Myrtle(
        rngs=rngs, width=width, multiples=(1, 2), pools=(2, 2), channels=channels, classes=classes
    )
    monkeypatch.setitem(sys.modules, "own_models", module)
    dataset = data.load(arrays(PIXELS, LABELS))
    recipe = training.Recipe(epochs=2, batch_size=10)
    common = {name: ONE[name] for name in ("devices", "progress")}
    own = Network.from_nnx(lambda rngs: Myrtle(rngs=rngs, **options), example=np.zeros((1, 8, 8, 1), np.float32))
    presets = {"multiples": (1, 2), "pools": (2, 2)}
    zoos = [
        zoo.train(ZooConfig("d", "mcnn", width=4, model_options=presets, recipe=recipe), dataset, 2, **common),
        zoo.train(ZooConfig("d", "own_models:build", width=4, recipe=recipe), dataset, 2, **common),
        zoo.train(own, dataset, 2, epochs=2, batch_size=10, **common),
    ]
    for other in zoos[1:]:
        assert other.metrics.equals(zoos[0].metrics)
        leaves = zip(jax.tree.leaves(zoos[0].members), jax.tree.leaves(other.members), strict=True)
        assert all(np.array_equal(a, b) for a, b in leaves)


# --- steps, by hand ---


def test_a_step_with_own_functions_is_that_of_optax():
    member = MLP.init(jax.random.key(0))
    x, y, tx = jnp.asarray(FEATURES[:10]), jnp.asarray(REGRESSION["y_train"][:10], jnp.float32), OWN["optimizer"]
    key = jax.random.key(1)
    own = {"loss": squares, "metric": negative_errors, "key": key}
    step = jax.jit(lambda member: train_step(MLP, tx, member, tx.init(member.params), x, y, **own))
    (after, _), (loss, score) = step(member)

    def loss_of(params):
        return squares(mlp(params, x, train=True, key=key), y)

    value, grads = jax.value_and_grad(loss_of)(member.params)
    updates, _ = tx.update(grads, tx.init(member.params))
    expected = optax.apply_updates(member.params, updates)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.params, expected)
    assert float(loss) == pytest.approx(float(value)) == pytest.approx(-float(score))


def test_operations_are_counted_for_any_inputs_and_targets():
    recipe = training.Recipe(batch_size=10, **OWN)
    target = jax.ShapeDtypeStruct((2,), jnp.float32)
    one = step_flops(MLP, (4,), recipe, target=target)
    assert one > 3 * 10 * 2 * (4 * 5 + 5 * 2) * 0.8
    assert training_flops(MLP, (4,), 40, recipe, target=target) == 50 * 4 * one
    with pytest.raises(InputError, match=r"^image_shape: got \(8, 8, 1\), expected such as \(4,\)"):
        step_flops(MLP, (8, 8, 1), recipe, target=target)


# --- what is refused, before anything is compiled ---

NO_INIT = Network.from_function(mlp, init_mlp(jax.random.key(0)), example=FEATURES[:1])
INTEGERS = Network.from_function(
    lambda params, x: x @ params["w"], init=lambda key: {"w": jnp.ones((4, 3)), "n": jnp.int32(1)}, example=FEATURES[:1]
)
REFUSED = {
    "network: got 'mlp', expected a Network or": ("mlp", REGRESSION, OWN),
    "network: got mlp without init": (NO_INIT, REGRESSION, OWN),
    r"network: got parameter \['n'\] of int32": (INTEGERS, REGRESSION, OWN),
    "data: got 3, expected a Dataset or a mapping": (MLP, 3, OWN),
    "data: x_test, y_test: got only": (MLP, {"x_train": FEATURES, "y_train": LABELS}, {}),
    r"network: got the example float32\[n, 4\] of mlp, expected that of the data, int32\[n, 6\]": (
        MLP,
        arrays(TOKENS, LABELS),
        {},
    ),
    r"network: got float32\[2, 2\] from mlp for 2 examples, expected \(2, 3\), a logit": (
        MLP,
        arrays(FEATURES, LABELS),
        {},
    ),
    "loss: got none for targets that are not classes": (MLP, REGRESSION, {}),
    "metric: got none for targets that are not classes": (MLP, REGRESSION, {"loss": squares}),
    "loss: got 3, expected a function": (MLP, REGRESSION, {"loss": 3}),
    r"loss: got float32\[7\] for 7 examples, expected a number": (
        MLP,
        REGRESSION,
        OWN | {"loss": negative_errors},
    ),
    r"metric: got float32\[\] for 7 examples, expected a score": (MLP, REGRESSION, OWN | {"metric": squares}),
    r"loss: got one that cannot take outputs float32\[7, 2\] and": (
        MLP,
        REGRESSION,
        OWN | {"loss": lambda a, b: (a @ b).sum()},
    ),
    "optimizer: got 'sgd', expected one of": (MLP, REGRESSION, OWN | {"optimizer": "sgd"}),
    "optimizer: got 3, expected an optax": (MLP, REGRESSION, OWN | {"optimizer": lambda steps: 3}),
    r"optimizer: got types or shapes that change in a step, from int32\[\] to float32\[\]": (
        MLP,
        REGRESSION,
        OWN | {"optimizer": optax.GradientTransformation(lambda p: jnp.int32(0), lambda g, s, p=None: (g, s + 0.5))},
    ),
    "learning_rate: got 0.1 with an optax optimizer": (MLP, REGRESSION, OWN | {"learning_rate": 0.1}),
    "rate: got an unknown option": (MLP, REGRESSION, OWN | {"rate": 0.1}),
    "seeds: got 0": (MLP, REGRESSION, OWN | {"seeds": 0}),
    "batch_size: got": (ZooConfig("r", MLP), data.load(REGRESSION), {}),
    "flip, translate: got": (MLP, REGRESSION, OWN | {"flip": True}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_refused_by_name(message):
    network, given, options = REFUSED[message]
    with pytest.raises(InputError, match=f"^{message}"):
        zoo.train(network, given, **{"progress": False, "batch_size": 10, "seeds": 2, **options})


@pytest.mark.parametrize("options", [{"width": 1}, {"model_options": {"a": 1}}, {"precision": "bfloat16"}])
def test_a_network_has_its_own_settings(options):
    with pytest.raises(InputError, match=f"^{next(iter(options))}: got .* for a Network, which has its own"):
        ZooConfig("r", MLP, **options)


@pytest.mark.slow
def test_the_example_of_the_docstring_runs():
    scope = {"symjax": symjax}
    for case in doctest.DocTestFinder(recurse=False).find(zoo.train, "train", globs=scope):
        assert doctest.DocTestRunner().run(case).failed == 0


# --- memory and cost of any data ---


@pytest.mark.slow
def test_memory_and_cost_of_own_networks_and_data():
    dataset = data.load(REGRESSION)
    config = ZooConfig("r", MLP, recipe=training.Recipe(epochs=2, batch_size=10, **OWN))
    limit = {"max_device_memory": 10**6}
    bounded = zoo.train(MLP, REGRESSION, **ONE | OWN | limit)
    scores = zoo.test_accuracy(bounded, dataset, devices=ONE["devices"], **limit)
    assert scores == pytest.approx(zoo.test_accuracy(bounded, dataset), abs=1e-6)
    own = {"labels": np.stack([dataset.test.labels, dataset.test.labels + 1])}
    other = zoo.evaluate(MLP, bounded.members, dataset.test, None, None, metric=negative_errors, **own, **limit)
    assert other[0] == pytest.approx(scores[0], abs=1e-6) and other[1] != pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(InputError, match="max_device_memory: got 1 KB, expected"):
        zoo.train(MLP, REGRESSION, **ONE | OWN | {"max_device_memory": 1000})
    assert estimate.epoch_flops(config, dataset) > 36 / 10 * 600
    assert estimate.rehearse(config, dataset, parallel.default_execution(), tuple(ONE["devices"]), 2) > 0


def test_permuted_targets_are_those_of_the_data():
    dataset = data.load(REGRESSION)
    config = ZooConfig("r", MLP, labels="permuted", recipe=training.Recipe(**OWN))
    permuted = config.training_labels(dataset, 0)
    assert permuted.dtype == np.float32 and not np.array_equal(permuted, dataset.train.labels)
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(dataset.train.labels, axis=0))
