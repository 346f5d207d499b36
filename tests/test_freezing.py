"""Freeze training: frozen layers are not computed and do not change; other layers change as before."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from campaign import slow
from jax import lax

from symjax import Network, models, stitch_point
from symjax import flops as counting
from symjax.errors import InputError
from symjax.flops import lower_step, step_flops, training_flops
from symjax.freezing import Saturation, linear_schedule
from symjax.network.member import leaves_by_path
from symjax.training import Recipe, create_state
from symjax.training.loop import optimizer, train_step
from symjax.training.task import cross_entropy

SHAPE = (16, 16, 3)
RECIPE = Recipe(batch_size=8)


def stepped(name, frozen, width=2):
    """Return a state before and after two steps."""
    network = models.create(name, width=width, classes=3)
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=0.01)
    tx = optimizer(recipe, 5)
    state = create_state(network, recipe, 5, jnp.int32(0))
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(8, *SHAPE)), jnp.float32)
    labels = jnp.asarray(np.arange(8) % 3, jnp.int32)

    @jax.jit
    def run(member, opt_state):
        for _ in range(2):
            (member, opt_state), _ = train_step(network, tx, member, opt_state, images, labels, frozen)
        return member, opt_state

    return network, state, run(state.member, state.opt_state)


def apart(a, b):
    return [np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


@pytest.mark.parametrize(("name", "frozen"), [("mcnn_k", 2), slow("resnet20", 2)])
def test_frozen_segments_and_their_optimizer_stay(name, frozen):
    network, state, (member, opt_state) = stepped(name, frozen)
    fixed = network.read_by_front(frozen - 1)
    moved = {
        path: np.abs(after - before).max()
        for (path, before), after in zip(leaves_by_path(state.member).items(), jax.tree.leaves(member), strict=True)
    }
    assert {path for path, distance in moved.items() if not distance} == fixed
    adam = next(node for node in jax.tree.leaves(opt_state, is_leaf=lambda n: hasattr(n, "mu")) if hasattr(node, "mu"))
    for path, leaf in leaves_by_path(adam.mu).items():
        assert np.any(leaf) != (f".params{path}" in fixed)


def test_the_first_step_of_the_others_is_that_of_normal_training():
    """Without batch norm the outputs of a frozen front are unchanged, and so are the gradients of later layers."""
    network = models.create("mcnn_k", width=2, classes=3)
    recipe = Recipe(epochs=4, batch_size=8)
    tx = optimizer(recipe, 5)
    state = create_state(network, recipe, 5, jnp.int32(3))
    images = jnp.asarray(np.random.default_rng(1).normal(size=(8, *SHAPE)), jnp.float32)
    labels = jnp.asarray(np.arange(8) % 3, jnp.int32)
    (normal, _), (loss, _) = jax.jit(lambda s: train_step(network, tx, s.member, s.opt_state, images, labels))(state)
    (frozen, _), (same, _) = jax.jit(lambda s: train_step(network, tx, s.member, s.opt_state, images, labels, 3))(state)
    assert loss == pytest.approx(float(same), abs=1e-6)
    fixed = network.read_by_front(2)
    distances = dict(zip(leaves_by_path(normal), apart(normal, frozen), strict=True))
    assert max(distance for path, distance in distances.items() if path not in fixed) < 1e-5
    assert max(distance for path, distance in distances.items() if path in fixed) > 1e-4


LABELS = {"first": "a", "second": "b", "last": "a"}
# Of some parameters by name: optimizers that look at each alone, and at the tree of all.
ANY_OPTIMIZER = {
    "adam": lambda names: optax.adam(0.1),
    "clipped": lambda names: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0, momentum=0.9)),
    "flattened": lambda names: optax.flatten(optax.adam(0.1)),
    "by labels": lambda names: optax.multi_transform(
        {"a": optax.adam(0.1), "b": optax.set_to_zero()}, {name: LABELS[name] for name in names}
    ),
    "by a function": lambda names: optax.multi_transform(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, lambda tree: {name: LABELS[name] for name in tree}
    ),
    "masked": lambda names: optax.chain(
        optax.add_decayed_weights(0.1, {name: LABELS[name] == "b" for name in names}), optax.adam(0.1)
    ),
}


@pytest.mark.parametrize("name", ANY_OPTIMIZER)
@pytest.mark.few(3)
def test_any_optimizer_trains_what_is_not_frozen(name):
    """The result equals that of the same optimizer on these parameters only, step by step."""

    def mlp(weights, x):
        hidden = stitch_point(jnp.tanh(x @ weights["first"]), "hidden")
        return jnp.tanh(hidden @ weights["second"]) @ weights["last"]

    rng = np.random.default_rng(0)
    shapes = {"first": (4, 5), "second": (5, 5), "last": (5, 3)}
    weights = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    x, y = jnp.asarray(rng.normal(size=(8, 4)), jnp.float32), jnp.arange(8, dtype=jnp.int32) % 3
    network = Network.from_function(mlp, weights, example=x[:1])
    tx = ANY_OPTIMIZER[name](list(shapes))

    def step(carry, _):
        return train_step(network, tx, *carry, x, y, 1)

    begun = network.member(weights)
    (member, _), _ = jax.jit(lambda carry: lax.scan(step, carry, length=3))((begun, tx.init(begun.params)))
    alone = {name: weights[name] for name in ("second", "last")}
    tx = ANY_OPTIMIZER[name](list(alone))
    state, gradient = tx.init(alone), jax.grad(lambda part: cross_entropy(mlp({**weights, **part}, x), y))
    for _ in range(3):
        updates, state = tx.update(gradient(alone), state, alone)
        alone = optax.apply_updates(alone, updates)
    for path, leaf in {**weights, **alone}.items():
        np.testing.assert_allclose(member.params[path], leaf, atol=1e-5, err_msg=path)
    assert np.array_equal(member.params["first"], weights["first"])
    assert np.abs(member.params["last"] - weights["last"]).max() > 0.02


@pytest.mark.parametrize("name", ["mcnn", "resnet20"])
@pytest.mark.slow
def test_a_frozen_program_has_fewer_operations(name):
    network = models.create(name, width=4, classes=3)
    counts = range(0, len(network.points) + 1, max(1, len(network.points) // 4))
    flops = [step_flops(network, SHAPE, RECIPE, frozen) for frozen in counts]
    assert all(after < before for before, after in itertools.pairwise(flops))
    assert flops[-1] < 0.5 * flops[0]


@pytest.mark.slow
def test_the_compiled_program_has_fewer_operations_too():
    network = models.create("mcnn", width=4, classes=3)
    whole, front = (
        lower_step(network, SHAPE, RECIPE, frozen).compile().cost_analysis()["flops"]
        for frozen in (0, len(network.points))
    )
    assert front < 0.5 * whole


def test_operations_of_a_step_are_those_of_its_convolutions():
    """Count by hand: multiply and add per weight, pixel and example, three times for trained layers."""
    network = models.create("mcnn_k", width=32, classes=3)
    sides, channels = (16, 16, 8, 4), (3, 32, 64, 128, 256)
    # A border pixel has fewer neighbors: (3 n - 2)^2 products of n^2 pixels.
    forward = [2 * 8 * (3 * n - 2) ** 2 * a * b for n, a, b in zip(sides, channels, channels[1:], strict=False)]
    # The images need no gradient.
    whole = sum(3 * f for f in forward) - forward[0]
    frozen = sum(forward[:2]) + sum(3 * f for f in forward[2:]) - forward[2]
    for count, expected in ((0, whole), (2, frozen)):
        assert expected <= step_flops(network, SHAPE, RECIPE, count) <= 1.12 * expected


@pytest.mark.slow
def test_operations_of_a_training_are_those_of_its_steps():
    network, recipe = models.create("mcnn", width=2, classes=3), Recipe(epochs=3, batch_size=8)
    one, two, three = (step_flops(network, SHAPE, recipe, frozen) for frozen in (0, 1, 2))
    assert training_flops(network, SHAPE, 43, recipe) == pytest.approx(5 * 3 * one)
    assert training_flops(network, SHAPE, 43, recipe, (1, 2)) == pytest.approx(5 * (one + two + three))
    assert training_flops(network, SHAPE, 43, recipe, (0, 3)) == pytest.approx(5 * 3 * two)


@pytest.mark.slow
def test_operations_are_those_of_the_recipe():
    """The few operations of schedule and penalty are counted as well."""
    network = models.create("mcnn", width=2, classes=3)
    usual = step_flops(network, SHAPE, RECIPE)
    for change in ({"weight_decay": 0.0}, {"schedule": "cosine"}):
        other = step_flops(network, SHAPE, dataclasses.replace(RECIPE, **change))
        assert other < usual and other == pytest.approx(usual, rel=0.01)
    half = step_flops(network, SHAPE, dataclasses.replace(RECIPE, batch_size=4))
    assert half == pytest.approx(usual / 2, rel=0.1)


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_backend_that_counts_nothing_is_an_error(nothing, monkeypatch):
    lowered = SimpleNamespace(cost_analysis=lambda: nothing)
    monkeypatch.setattr(counting, "lower_step", lambda *rest: lowered)
    with pytest.raises(InputError, match="flops: got the backend cpu, for which XLA does not count operations"):
        step_flops(models.create("mcnn", width=3, classes=5), SHAPE, RECIPE)


# --- schedules ---


def test_linear_schedules():
    assert linear_schedule(4, 10) == (2, 4, 6, 8)
    assert linear_schedule(3, 50, 0.0, 1.0) == (0, 25, 50)
    assert linear_schedule(1, 10, 0.5, 0.9) == (5,)
    for begin, end in ((0.5, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(InputError, match="begin, end: got"):
            linear_schedule(4, 10, begin, end)


def test_the_lowest_layers_that_have_saturated_are_frozen():
    rule = Saturation((2, 0), threshold=0.9)
    assert rule.seeds == (0, 2)
    assert rule.num_saturated([0.89, 0.99, 0.99]) == 0  # the lowest is not ready, and the others wait for it
    assert rule.num_saturated([0.9, 0.95, 0.5, 0.99]) == 2
    assert rule.num_saturated([1.0, 0.9]) == 2
    assert rule.num_saturated([float("nan"), 1.0]) == 0
    for words in ({"measure": "cka_distance"}, {"images": "test"}, {"samples": "all"}, {"examples": 3}):
        with pytest.raises(InputError, match=f"{next(iter(words))}: "):
            Saturation((0,), **words)
