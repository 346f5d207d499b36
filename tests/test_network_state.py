"""Mode "moments": the state that training would end at if every batch were this one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from symjax.errors import InputError
from symjax.network import Network, stitch_point

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 3)) + 2.0
PARAMS = {"first": jax.random.normal(jax.random.key(2), (3, 4)), "second": jax.random.normal(KEY, (4, 4))}


def mean_of(old, new, momentum=0.9):
    return momentum * old + (1 - momentum) * new


def frozen_before_live(params, state, x, *, train=False):
    h = ((x - state["frozen"]["mean"]) / state["frozen"]["scale"]) @ params["first"]
    h = stitch_point(h, "hidden")
    live = {"mean": h.mean(0), "var": h.var(0)} if train else state["live"]
    output = (h - live["mean"]) / jnp.sqrt(live["var"] + 1e-5)
    new = {"frozen": state["frozen"], "live": jax.tree.map(mean_of, state["live"], live)}
    return output, new if train else state


def read_scale(params, state, x, *, train=False):
    """The forward pass divides by a running scale in training as well; what follows depends on it."""
    h = stitch_point(x @ params["first"], "hidden")
    output = jnp.tanh(h / state["scale"]) @ params["second"]
    if not train:
        return output - state["mean"], state
    new = {"scale": mean_of(state["scale"], jnp.abs(h).max()), "mean": mean_of(state["mean"], output.mean(0), 0.75)}
    return output - new["mean"], new


def normalized_by_running(params, state, x, *, train=False):
    """Each layer is normalized by the statistic just updated, whose first value is the batch's own."""
    new, h = {"first": jnp.bool(False)}, x
    for name in ("a", "b", "c"):
        h = jnp.tanh(h @ params["first" if name == "a" else "second"]) + 0.3
        own = jnp.where(state["first"], h.mean(0), mean_of(state[name], h.mean(0)))
        new[name] = own if train else state[name]
        h = stitch_point(h - new[name], name)
    return h, new if train else state


def scanned(params, state, x, *, train=False):
    """Layers in a loop, with the statistics of all in one array."""

    def layer(h, mean):
        h = h @ params["second"]
        new = mean_of(mean, h.mean(0)) if train else mean
        return jnp.tanh(h - (h.mean(0) if train else mean)), new

    h, means = jax.lax.scan(layer, stitch_point(x @ params["first"], "hidden"), state["means"])
    return h, {"means": means}


def momentum_is_a_statistic(params, state, x, *, train=False):
    h = stitch_point(x @ params["first"], "hidden")
    share = jax.nn.sigmoid(h).mean()
    new = {"share": mean_of(state["share"], share), "mean": mean_of(state["mean"], h.mean(0), state["share"])}
    return h - state["mean"], new if train else state


STATES = {
    frozen_before_live: {
        "frozen": {"mean": jnp.array([2.0, 1.0, 3.0]), "scale": jnp.array([1.5, 0.5, 2.0])},
        "live": {"mean": jnp.ones(4), "var": jnp.full(4, 2.0)},
    },
    read_scale: {"scale": jnp.float32(3.0), "mean": jnp.ones(4)},
    normalized_by_running: {name: jnp.full(4, 0.5) for name in "abc"} | {"first": jnp.bool(False)},
    scanned: {"means": jnp.ones((2, 4))},
    momentum_is_a_statistic: {"share": jnp.float32(0.2), "mean": jnp.ones(4)},
}


@pytest.mark.parametrize("form", ["native", "mixed"])
@pytest.mark.parametrize("apply", STATES, ids=lambda apply: apply.__name__)
def test_moments_are_where_training_on_one_batch_ends(apply, form):
    """In float64: the state after 600 updates, m ** 600 = 3.5e-28."""
    state = STATES[apply]
    network = Network.from_function(apply, PARAMS, state=state, example=X).with_form(form)
    member = network.member((PARAMS, state))
    _, new = jax.jit(lambda m, x: network.apply(m, x, mode="moments", with_state=True))(member, X)
    with jax.enable_x64(True):
        params, x, end = jax.tree.map(
            lambda leaf: jnp.float64(leaf) if leaf.dtype == jnp.float32 else leaf, (PARAMS, X, state)
        )
        end = jax.jit(lambda s: jax.lax.fori_loop(0, 600, lambda _, s: apply(params, s, x, train=True)[1], s))(end)
        end = jax.tree.map(np.asarray, end)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), new, end)
    point = network.points[0].name
    _, behind = network.tail(member, network.front(member, X, point), point, mode="moments", with_state=True)
    if apply in (frozen_before_live, scanned):  # no statistic belongs to the front
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), behind, new)


def largest(params, state, x, *, train=False):
    """A largest value so far and a mix of channels are no running means."""
    h = stitch_point(x @ params["first"], "hidden")
    new = {
        "least": jnp.minimum(state["least"], h.min(0)),
        "mixed": 0.5 * state["mixed"] @ params["second"] + h.mean(0),
        "mean": mean_of(state["mean"], h.mean(0)),
    }
    return h - state["mean"], new if train else state


def test_other_state_is_what_the_model_returns():
    state = {"least": jnp.full(4, -50.0), "mixed": jnp.ones(4), "mean": jnp.ones(4)}
    network = Network.from_function(largest, PARAMS, state=state, example=X)
    member = network.member((PARAMS, state))
    _, new = network.apply(member, X, mode="moments", with_state=True)
    plain = largest(PARAMS, state, X, train=True)[1]
    for name in ("least", "mixed"):
        np.testing.assert_allclose(new[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(new["mean"], (X @ PARAMS["first"]).mean(0), rtol=1e-5)


def codebook(params, state, x, *, train=False):
    """How often entries are the nearest, the sums of what is near them, and entries made of both, which decide it."""
    h = stitch_point(x @ params["first"], "hidden")
    near = jax.nn.one_hot(jnp.argmax(h @ state["entries"].T, -1), 2)
    count, total = mean_of(state["count"], near.sum(0)), mean_of(state["total"], near.T @ h)
    new = {"count": count, "total": total, "entries": total / count[:, None]}
    new["mean"], new["weight"] = mean_of(state["mean"], h.mean(0), state["weight"]), mean_of(state["weight"], 0.5)
    return near @ state["entries"] - state["mean"], new if train else state


def test_statistics_that_depend_on_each_other_are_what_the_model_returns():
    state = {"count": jnp.ones(2), "total": jnp.ones((2, 4)), "entries": jnp.eye(2, 4), "mean": jnp.ones(4)}
    state["weight"] = jnp.float32(0.9)
    network = Network.from_function(codebook, PARAMS, state=state, example=X)
    _, new = network.apply(network.member((PARAMS, state)), X, mode="moments", with_state=True)
    plain = codebook(PARAMS, state, X, train=True)[1]
    for name in ("count", "total", "entries", "weight"):
        np.testing.assert_allclose(new[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(new["mean"], (X @ PARAMS["first"]).mean(0), rtol=1e-5)


class Spectral(nn.Module):
    """A kernel divided by its norm, which power iterations estimate, before a batch norm."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.SpectralNorm(nn.Dense(4))(x, update_stats=train)
        return nn.BatchNorm(use_running_average=not train)(stitch_point(x, "dense"))


def test_spectral_norms_take_their_own_step():
    network = Network.from_linen(Spectral(), example=X)
    member = network.init(KEY)
    _, new = network.apply(member, X, mode="moments", with_state=True)
    module, variables = Spectral(), network.to_module(member)
    plain = module.apply(variables, X, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    new = new["batch_stats"]
    spectral = next(name for name in plain if name.startswith("SpectralNorm"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new[spectral], plain[spectral])
    norm = next(name for name in plain if name.startswith("BatchNorm"))
    dense = module.apply(
        variables, X, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
    )[1]["intermediates"][spectral]["__call__"][0]
    dense = np.asarray(dense, np.float64)
    np.testing.assert_allclose(new[norm]["mean"], dense.mean(0), rtol=3e-5, atol=1e-6)
    np.testing.assert_allclose(new[norm]["var"], dense.var(0), rtol=3e-5)


def corrected_when_read(params, state, x, *, train=False):
    """The batch norm of Equinox in its mode "batch"."""
    h = stitch_point(x @ params["first"], "hidden")
    if not train:
        return h - state["sum"] / jnp.where(state["steps"] == 0, 1, 1 - 0.9 ** state["steps"]), state
    return h - h.mean(0), {"sum": mean_of(state["sum"], h.mean(0)), "steps": state["steps"] + 1}


def corrected_when_kept(params, state, x, *, train=False):
    """The moving average of Haiku."""
    h = stitch_point(x @ params["first"], "hidden")
    if not train:
        return h - state["mean"], state
    steps, total = state["steps"] + 1, mean_of(state["sum"], h.mean(0))
    return h - h.mean(0), {"sum": total, "mean": total / (1 - 0.9**steps), "steps": steps}


def accumulated(params, state, x, *, train=False):
    h = stitch_point(x @ params["first"], "hidden")
    if not train:
        return h - state["sum"] / state["steps"], state
    return h - h.mean(0), {"sum": state["sum"] + h.mean(0), "steps": state["steps"] + 1}


@pytest.mark.parametrize("apply", [corrected_when_read, corrected_when_kept, accumulated])
def test_means_that_a_count_corrects_are_refused(apply):
    state = {"sum": jnp.zeros(4), "steps": jnp.int32(3)}
    if apply is corrected_when_kept:
        state["mean"] = jnp.zeros(4)
    network = Network.from_function(apply, PARAMS, state=state, example=X)
    member = network.member((PARAMS, state))
    network.apply(member, X, mode="train", with_state=True)
    with pytest.raises(InputError, match=r'mode: got "moments" .* \[\'sum\'\].* \[\'steps\'\]'):
        network.apply(member, X, mode="moments", with_state=True)


def test_counts_may_weigh_the_batch():
    """As of PyTorch's momentum=None, and of momenta that grow with the number of steps."""

    def apply(params, state, x, *, train=False):
        h, steps = stitch_point(x @ params["first"], "hidden"), state["steps"] + 1
        if not train:
            return h - state["mean"] - state["warm"], state
        momentum = jnp.minimum(0.99, (1.0 + steps) / (10.0 + steps))
        mean, warm = state["mean"], mean_of(state["warm"], h.max(0), momentum)
        return h - h.mean(0), {"mean": mean + (h.mean(0) - mean) / steps, "warm": warm, "steps": steps}

    state = {"mean": jnp.ones(4), "warm": jnp.ones(4), "steps": jnp.int32(3)}
    network = Network.from_function(apply, PARAMS, state=state, example=X)
    _, new = network.apply(network.member((PARAMS, state)), X, mode="moments", with_state=True)
    h = np.asarray(X, np.float64) @ np.asarray(PARAMS["first"], np.float64)
    np.testing.assert_allclose(new["mean"], h.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["warm"], h.max(0), rtol=1e-5)
    assert new["steps"] == 4


class OwnStatistic(nnx.Module):
    """A running mean of its own beside a stock batch norm."""

    def __init__(self, rngs):
        self.norm, self.mean = nnx.BatchNorm(3, rngs=rngs), nnx.BatchStat(jnp.ones(3))

    def __call__(self, x):
        x = stitch_point(self.norm(x), "norm")
        if not self.norm.use_running_average:
            self.mean[...] = mean_of(self.mean[...], jnp.abs(x).mean(0))
        return x / self.mean[...]


def test_own_statistics_of_modules():
    network = Network.from_nnx(OwnStatistic, example=X)
    member = network.init(KEY)
    _, new = network.apply(member, X, mode="moments", with_state=True)
    x = np.asarray(X, np.float64)
    np.testing.assert_allclose(new["norm"]["mean"], x.mean(0), rtol=1e-6)
    normal = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    np.testing.assert_allclose(new["mean"], np.abs(normal).mean(0), rtol=1e-5)


def kept_for_training(params, state, x, *, train=False, key=None):
    """Behind the point training reads a rate and counts its steps, and keeps its last largest value."""
    h = stitch_point(x @ params["first"], "hidden")
    new = {"of_front": mean_of(state["of_front"], x.mean(0))}
    if not train:
        return h @ params["second"] - state["mean"], state
    kept = jax.random.bernoulli(key, state["rate"], h.shape)
    new |= {"steps": state["steps"] + 1, "last": h.max(), "mean": mean_of(state["mean"], h.mean(0))}
    return (h * kept * params["scale"]) @ params["second"], state | new


@pytest.mark.parametrize("mode", ["inference", "train", "moments"])
def test_a_tail_has_the_state_that_only_training_reads(mode):
    state = {"rate": jnp.float32(0.5), "steps": jnp.int32(3), "last": jnp.float32(0), "mean": jnp.ones(4)}
    state |= {"unread": jnp.ones(2), "of_front": jnp.ones(3)}
    params = PARAMS | {"scale": jnp.full(4, 2.0)}
    network = Network.from_function(kept_for_training, params, state=state, example=X)
    member = network.member((params, state))
    part = network.tail_of(member, "hidden")
    assert {name for name, leaf in part.state.items() if leaf is not None} == {"rate", "steps", "last", "mean"}
    assert part.params["first"] is None
    carried, options = network.front(member, X, "hidden"), {"mode": mode, "key": KEY, "with_state": True}
    output, new = network.tail(part, carried, "hidden", **options)
    whole, expected = network.tail(member, carried, "hidden", **options)
    np.testing.assert_array_equal(output, whole)
    for name in ("rate", "steps", "last", "mean"):
        np.testing.assert_array_equal(new[name], expected[name])
    assert new["steps"] == (3 if mode == "inference" else 4)
