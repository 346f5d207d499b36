"""Symmetries derived from the jaxpr alone, of planted transformers and norms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from discover_helpers import INPUTS, KEY, LAYERS, check, drawn_params, groups_of
from jax.ad_checkpoint import checkpoint_name

from symjax.groups import discover
from symjax.groups.discovery.candidates import find_candidate_spaces
from symjax.groups.discovery.probe import Probe
from symjax.models import create

# --- the built-in models ---


@pytest.mark.slow
def test_spaces_of_a_transformer():
    network = create("cct2", width=8, image_size=8, classes=3)
    x = jax.random.normal(KEY, (3, 8, 8, 3))
    symmetry = network.symmetry(network.init(KEY), x)
    groups = [space.group for space in symmetry.spaces.values() if space.verified]
    assert groups.count("general_linear") == 2 * 2 * 2  # query-key and value-output, of two heads, in two blocks
    assert groups.count("positive_monomial") == 1  # of the tokenizer
    assert symmetry.spaces["block1"].size == 8 and symmetry.spaces_at("block2") == ("block1",)
    # The stream lies on the kernels (stream, heads, channels) of all heads, and is no part of a head.
    families = {part for space in symmetry.spaces.values() for family in space.families for part in family}
    assert len(families) == 8 and "block1" not in families


# --- planted networks ---


def test_candidates_of_attention_are_those_of_the_documentation():
    def attention(p, x):
        q, k, v = ((x @ p[name]).reshape(-1, 2, 3) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("shc,thc->hst", q, k))
        return jnp.einsum("hst,thc->shc", weights, v).reshape(-1, 6) @ p["o"]

    params = drawn_params(q=(4, 6), k=(4, 6), v=(4, 6), o=(6, 4))
    with jax.enable_x64(True):
        candidates = find_candidate_spaces(Probe(attention, params, jnp.ones((5, 4)), 0))
    spaces = {c.name: {(a.path, a.axis): a.positions.tolist() for a in c.axes} for c in candidates}
    first, second, heads = [[0], [1], [2]], [[3], [4], [5]], [[0, 1, 2], [3, 4, 5]]
    assert spaces == {
        "q": {("q", 1): first, ("k", 1): first},
        "q/2": {("q", 1): second, ("k", 1): second},
        "v": {("v", 1): first, ("o", 0): first},
        "v/2": {("v", 1): second, ("o", 0): second},
        "q/heads": {("q", 1): heads, ("k", 1): heads, ("v", 1): heads, ("o", 0): heads},
    }
    assert candidates[-1].families == (("q", "q/2"), ("v", "v/2"))


def test_tied_embeddings_of_tokens_turn_by_rotations_alone():
    """The table is looked up and reads the stream: A and its inverse transposed have to be one."""
    params, tokens = drawn_params(table=(11, 6), a=(6, 8), b=(8, 6)), np.array([[1, 2, 3], [4, 0, 10]])

    def fn(p, tokens):
        x = p["table"][tokens]
        return (x + jax.nn.gelu(x @ p["a"]) @ p["b"]) @ p["table"].T

    symmetry = discover(fn, params, tokens)
    assert groups_of(symmetry) == {"table": (6, "orthogonal"), "a": (8, "permutation")}
    check(symmetry, fn, params, tokens)


def standardized(x, centered=True):
    x = x - x.mean(-1, keepdims=True) if centered else x
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def transformer(p, tokens, fused=False):
    x = p["table"][tokens] + p["positions"]
    examples, length, _ = x.shape
    z = standardized(x) * p["scale"] + p["bias"]
    split = lambda y, *parts: y.reshape(examples, length, *parts, 2, 3)  # noqa: E731
    q, k, v = jnp.moveaxis(split(z @ p["qkv"], 3), 2, 0) if fused else (split(z @ p[name]) for name in "qkv")
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), jnp.einsum("nqhc,nkhc->nhqk", q, k), -1e9)
    attended = jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores), v)
    x = checkpoint_name(x + attended.reshape(examples, length, 6) @ p["out"], "stream")
    x = x + checkpoint_name(jax.nn.gelu(standardized(x) @ p["up"]), "hidden") @ p["down"]
    return x @ p["head"]


SHAPES = {"table": (11, 8), "positions": (5, 8), "scale": (8,), "bias": (8,), "out": (6, 8), "up": (8, 9)}
SHAPES |= {"down": (9, 8), "head": (8, 4)}


@pytest.mark.parametrize("fused", [False, slow(True)])
def test_transformers(fused):
    """Heads are permuted, each has a matrix for queries and keys and one for values; parts move with their heads."""
    inner = {"qkv": (8, 18)} if fused else {"q": (8, 6), "k": (8, 6), "v": (8, 6)}
    params, tokens = drawn_params(**SHAPES, **inner), np.random.default_rng(0).integers(0, 11, (2, 5))
    fn = lambda p, tokens: transformer(p, tokens, fused)  # noqa: E731
    symmetry = discover(fn, params, tokens)
    groups = groups_of(symmetry)
    assert groups.pop("stream") == (8, "permutation") and groups.pop("hidden") == (9, "permutation")
    heads = next(name for name, space in symmetry.spaces.items() if space.families)
    assert groups.pop(heads) == (2, "permutation") and "heads" in heads
    assert list(groups.values()) == [(3, "general_linear")] * 4
    check(symmetry, fn, params, tokens)


def test_queries_that_share_keys():
    """Two heads of keys for four of queries: one matrix for each of the two, which are permuted."""
    params = drawn_params(q=(4, 12), k=(4, 6), v=(4, 6), out=(12, 3))

    def fn(p, x):
        split = lambda y: y.reshape(*y.shape[:2], -1, 3)  # noqa: E731
        q, k, v = split(x @ p["q"]), *(jnp.repeat(split(x @ p[name]), 2, axis=2) for name in "kv")
        attended = jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", q, k)), v)
        return attended.reshape(*x.shape[:2], 12) @ p["out"]

    symmetry = discover(fn, params, INPUTS[None])
    assert list(groups_of(symmetry).values()) == [(3, "general_linear")] * 4 + [(2, "permutation")]
    check(symmetry, fn, params, INPUTS[None])


def test_rotations_pass_a_norm_without_scale():
    params = drawn_params(enter=(4, 6), a=(6, 5), b=(5, 6), leave=(6, 3))

    def fn(p, x):
        x = x @ p["enter"]
        x = x + jax.nn.relu(standardized(x, centered=False) @ p["a"]) @ p["b"]
        return standardized(x, centered=False) @ p["leave"]

    symmetry = discover(fn, params, INPUTS)
    assert groups_of(symmetry) == {"enter": (6, "orthogonal"), "a": (5, "positive_monomial")}
    check(symmetry, fn, params, INPUTS)


def test_layer_norm_carries_scales_in_its_affine_parameters():
    params = LAYERS | drawn_params(scale=(6,), bias=(6,))

    def fn(p, x):
        return jax.nn.relu(standardized(x @ p["w"] + p["b"]) * p["scale"] + p["bias"]) @ p["v"]

    symmetry = discover(fn, params, INPUTS)
    assert groups_of(symmetry) == {"w": (6, "positive_monomial")}
    exponents = {axis.path: axis.exponent for axis in symmetry.spaces["w"].axes}
    assert exponents == {"w": 0, "b": 0, "scale": 1, "bias": 1, "v": -1}
    check(symmetry, fn, params, INPUTS)
