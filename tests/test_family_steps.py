"""Steps, projections and rounding of stitch families, without a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from campaign import slow
from family_helpers import END, FIRST, LABELS, SECOND, D, dense, made, member, rotation

from symjax.stitching.families import parse_family

# --- steps ---


def stepped(label, size=0.05, seed=3):
    """A family, its parameters at a start, and those after a step of noise."""
    start = rotation() if label == "orthogonal" else member()
    family, params = made(label, start)
    rng = np.random.RandomState(seed)
    after = jax.tree.map(lambda leaf: leaf + size * rng.randn(*leaf.shape).astype(np.float32), params)
    if "duals" in params:
        after["duals"] = params["duals"]
    return family, params, after


@pytest.mark.parametrize("progress", [FIRST, SECOND], ids=["first half", "second half"])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.few(13)
def test_projections_land_in_the_set_and_stay(label, progress):
    family, params, after = stepped(label, size=0.02)
    once = family.project(after, params, progress)
    twice = family.project(once, once, progress)
    assert jax.tree.structure(once) == jax.tree.structure(params)
    if "published" not in label:  # 16 Sinkhorn sweeps end somewhere on the way
        compared = [{key: value for key, value in tree.items() if key != "duals"} for tree in (once, twice)]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), *compared)
    matrix = np.asarray(family.matrix(once, progress))
    if label == "orthogonal":
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(D), atol=2e-6)
        left, _, right = np.linalg.svd(np.asarray(after["matrix"], np.float64))
        np.testing.assert_allclose(matrix, left @ right, atol=2e-6)
    elif "birkhoff" in label:
        permutation = np.asarray(once["permutation"])
        assert (permutation >= 0).all() and (np.asarray(once["scaling"]) >= 0).all()
        np.testing.assert_allclose(permutation.sum(0), np.ones(D), atol=1e-5)
        if "published" not in label:
            np.testing.assert_allclose(permutation.sum(1), np.ones(D), atol=1e-5)
            return
        swept = np.maximum(np.asarray(after["permutation"], np.float64), 0)
        for _ in range(16):
            swept /= swept.sum(1, keepdims=True)
            swept /= swept.sum(0, keepdims=True)
        np.testing.assert_allclose(permutation, swept, atol=1e-6)
    else:
        jax.tree.map(np.testing.assert_array_equal, once, after)


@pytest.mark.parametrize("length", [slow(0.003), slow(0.03), 3.0])
def test_orthogonal_is_restored_after_any_step(length):
    """Against SciPy's polar factor: steps of Adam, signs times a length, have norms far over 1 where they are of low
    rank, as gradients are.
    """
    rng, d = np.random.default_rng(0), 256
    start = np.linalg.qr(rng.standard_normal((d, d)))[0]
    step = np.sign(rng.standard_normal((d, 2)) @ rng.standard_normal((2, d)))
    stepped = (start + length * step).astype(np.float32)
    family = parse_family("orthogonal")
    result = {"matrix": jnp.asarray(stepped)}
    result = family.project(result, result, FIRST)
    exact, _ = scipy.linalg.polar(stepped.astype(np.float64))
    smallest = np.linalg.svd(stepped.astype(np.float64), compute_uv=False)[-1]
    assert family.residual(result) < 1e-5
    np.testing.assert_allclose(result["matrix"], exact, atol=2e-6 / smallest)


def test_orthogonal_reports_rank_loss():
    family = parse_family("orthogonal")
    lost = {"matrix": jnp.eye(6).at[0, 0].set(0)}
    result = family.project(lost, lost, FIRST)
    np.testing.assert_allclose(result["matrix"], lost["matrix"], atol=1e-6)
    assert family.residual(result) == 1


def test_birkhoff_projects_to_the_nearest_doubly_stochastic_matrix():
    """Against Dykstra's alternating projections in float64."""
    family, params, after = stepped("birkhoff", size=0.4)
    target = np.asarray(after["permutation"], np.float64)
    nearest, correction = target.copy(), np.zeros((D, D))
    for _ in range(20000):
        rows = nearest - (nearest.sum(1, keepdims=True) - 1) / D
        affine = rows - (rows.sum(0, keepdims=True) - 1) / D
        nonnegative = np.maximum(affine + correction, 0)
        correction, nearest = affine + correction - nonnegative, nonnegative
    result = family.project(after, params, FIRST)["permutation"]
    assert (nearest == 0).sum() > 5
    np.testing.assert_allclose(result, nearest, atol=2e-5)


def test_scaling_trains_in_the_second_half_alone():
    for label in ("birkhoff", "birkhoff_published"):
        family, params, after = stepped(label)
        np.testing.assert_array_equal(family.project(after, params, FIRST)["scaling"], params["scaling"])
        after = after | {"scaling": after["scaling"] - 1}
        expected = np.maximum(np.asarray(after["scaling"]), 0)
        assert (expected == 0).any() and (expected > 0).any()
        np.testing.assert_array_equal(family.project(after, params, SECOND)["scaling"], expected)
    family, params, after = stepped("birkhoff")
    np.testing.assert_array_equal(family.project(after, params, SECOND)["permutation"], params["permutation"])


def gradients(label, progress):
    family, params, _ = stepped(label)
    start = member(d=D)
    if "birkhoff" in label:
        params = family.init(jnp.asarray(0.7 * start + 0.05))
    weights = jnp.asarray(dense(5))
    return jax.grad(lambda params: jnp.sum(weights * family.matrix(params, progress)))(params)


def test_gradients_flow_to_p_first_and_to_s_afterwards():
    first, second = gradients("birkhoff", FIRST), gradients("birkhoff", SECOND)
    assert np.abs(first["permutation"]).min() > 0 and not np.any(first["scaling"])
    assert np.abs(second["scaling"]).min() > 0 and not np.any(second["permutation"])
    first, second = gradients("birkhoff_published", FIRST), gradients("birkhoff_published", SECOND)
    assert np.abs(first["permutation"]).min() > 0 and not np.any(first["scaling"])
    assert np.abs(second["permutation"]).min() > 0 and np.abs(second["scaling"]).min() > 0
    for label in ("softsort", "full", "rank2", "lasso:0.001", "orthogonal"):
        for leaf in jax.tree.leaves(gradients(label, FIRST)):
            assert np.abs(leaf).max() > 0, label


def test_birkhoff_rounds_at_the_halfway_epoch():
    family = parse_family("birkhoff")
    params = family.init(jnp.asarray(0.8 * member() + 0.02))
    permutation = np.asarray(family.halfway(params)["permutation"])
    assert not np.isin(params["permutation"], (0, 1)).any()
    assert np.isin(permutation, (0, 1)).all()
    np.testing.assert_array_equal(permutation, member() > 0)
    np.testing.assert_array_equal(family.halfway(params)["scaling"], params["scaling"])
    # From there on the matrix that trains is the one that is saved.
    np.testing.assert_array_equal(family.matrix(family.halfway(params), SECOND), family.round(params))


# --- rounding ---


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("seed", range(3))
def test_rounding(label, seed):
    family, _, after = stepped(label, size=0.3, seed=seed)
    rounded = np.asarray(family.round(family.project(after, after, SECOND)), np.float64)
    if label.split(":")[0] in ("birkhoff", "birkhoff_published", "softsort"):
        assert (rounded >= 0).all() and ((rounded > 0).sum(0) <= 1).all() and ((rounded > 0).sum(1) <= 1).all()
    elif label == "orthogonal":
        np.testing.assert_allclose(rounded @ rounded.T, np.eye(D), atol=2e-6)
    elif label.startswith("rank"):
        rank = family.rank
        values = np.linalg.svd(rounded, compute_uv=False)
        assert values[rank - 1] > 1e-2 and (rank == D or values[rank:].max() < 1e-5)


def test_softsort_rounds_to_the_largest_entries_of_its_rows():
    family = parse_family("softsort:0.3")
    params = {"scores": jnp.asarray(np.random.RandomState(0).randn(D), jnp.float32), "log_scaling": jnp.zeros(D)}
    soft = np.asarray(family.matrix(params, END))
    np.testing.assert_allclose(soft.sum(1), np.ones(D), rtol=1e-5)
    np.testing.assert_array_equal(np.argmax(family.round(params), 1), np.argmax(soft, 1))
    np.testing.assert_array_equal(np.argmax(family.round(params), 1), np.argsort(-np.asarray(params["scores"])))


def test_lasso_cuts_small_entries():
    matrix = jnp.asarray([[2e-4, -2e-4, 0.5], [9e-5, -9e-5, 0.0], [1e-4, 1.0, -3.0]], jnp.float32)
    result = parse_family("lasso:0.1").round({"matrix": matrix})
    np.testing.assert_array_equal(result, np.float32([[2e-4, -2e-4, 0.5], [0, 0, 0], [1e-4, 1, -3]]))


def test_the_proximal_step_minimizes_its_objective():
    """prox(v) = argmin_w 1/2 (w - v)^2 + t lambda |w|, against a search over a fine grid."""
    family, matrix = parse_family("lasso_proximal:2"), dense()
    result = family.project({"matrix": jnp.asarray(matrix)}, None, FIRST, 0.3)["matrix"]
    grid = np.linspace(-4, 4, 80001)
    objective = 0.5 * (grid - matrix[..., None].astype(np.float64)) ** 2 + 0.3 * 2 * np.abs(grid)
    np.testing.assert_allclose(result, grid[objective.argmin(-1)], atol=1.1e-4)
    assert 0 < (np.asarray(result) == 0).mean() < 1
    np.testing.assert_array_equal(family.project({"matrix": jnp.asarray(matrix)}, None, FIRST)["matrix"], matrix)
