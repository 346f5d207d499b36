"""Recipes of `benchmarks.recipes`, without a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_helpers import D, member

from benchmarks.recipes import RECIPES, Settings
from symjax.errors import InputError

LATE = next(recipe for recipe in RECIPES if recipe.label == "rounded late with growing alpha")


def started():
    return LATE.init(jnp.asarray(0.8 * member() + 0.02))


def test_penalty_grows_geometrically_until_p_is_rounded():
    params = started()
    norm = np.linalg.norm(np.asarray(params["permutation"], np.float64))
    for progress, alpha in ((0, 0.03), (5 / 12, 0.03**0.5), (5 / 6, 1), (0.9, 1)):
        np.testing.assert_allclose(LATE.penalty(params, jnp.float32(progress)), -alpha * norm, rtol=1e-5)


@pytest.mark.parametrize("progress,is_rounded", [(0.8, False), (0.84, True)])
def test_p_is_rounded_late(progress, is_rounded):
    params = started()
    project = jax.jit(lambda params, progress: LATE.project(params, params, progress))
    permutation = np.asarray(project(params, jnp.float32(progress))["permutation"])
    assert np.isin(permutation, (0, 1)).all() == is_rounded
    np.testing.assert_array_equal(permutation.argmax(0), member().argmax(0))


@pytest.mark.parametrize("start", ["planted", "random"])
def test_late_rounding_recovers_a_planted_element(start):
    """Gradient steps on |W x - y|^2 where y are permuted and scaled channels of x."""
    rng = np.random.default_rng(0)
    target = jnp.asarray(np.eye(D)[rng.permutation(D)] * np.exp(rng.uniform(-0.3, 0.3, D)), jnp.float32)
    x = jnp.asarray(rng.standard_normal((D, 200)), jnp.float32)
    params = LATE.init(LATE.random(jax.random.key(0), (D, D)) if start == "random" else target)

    def loss(params, progress):
        return jnp.mean((LATE.matrix(params, progress) @ x - target @ x) ** 2) + LATE.penalty(params, progress) / 100

    @jax.jit
    def step(params, progress):
        stepped = jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(loss)(params, progress))
        return LATE.project({**stepped, "duals": params["duals"]}, params, progress)

    for k in range(600):
        params = step(params, jnp.float32(k / 600))
    np.testing.assert_allclose(LATE.round(params), target, atol=1e-4)


def test_recipes_are_selected_by_name():
    assert Settings(recipes="s alone, default").parse_recipes() == (RECIPES[-4], RECIPES[0])
    assert Settings().parse_recipes() == RECIPES
    with pytest.raises(InputError, match="recipes: got 'fastest', expected some of default, from identity"):
        Settings(recipes="default,fastest").parse_recipes()
