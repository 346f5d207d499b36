"""Stitch families, one stitch at a time, without a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from campaign import slow

from symjax.errors import InputError
from symjax.stitching import FAMILIES, parse_families
from symjax.stitching.families import parse_family

D = 6
FIRST, SECOND, END = jnp.float32(0.25), jnp.float32(0.75), jnp.float32(1)
LABELS = [
    "full",
    "rank1",
    "rank4",
    "lasso:0.001",
    "lasso:0.25",
    "lasso_proximal:0.5",
    "birkhoff",
    "birkhoff:0.01",
    "birkhoff_published",
    "birkhoff_published:10",
    "softsort",
    "softsort:0.5",
    "orthogonal",
]
CLOSED = ["identity", "matched", "least_squares"]


def dense(seed=0, d=D):
    return np.random.RandomState(seed).randn(d, d).astype(np.float32)


def member(seed=0, d=D, zeros=0):
    """P diag(s), the last `zeros` of s zero."""
    rng = np.random.RandomState(seed)
    scaling = np.exp(rng.uniform(-2, 2, d)).astype(np.float32)
    scaling[d - zeros :] = 0
    return np.eye(d, dtype=np.float32)[rng.permutation(d)] * scaling


def rotation(seed=0, d=D):
    return np.linalg.qr(np.random.RandomState(seed).randn(d, d))[0].astype(np.float32)


def made(label, start):
    family = parse_family(label)
    return family, family.init(jnp.asarray(start))


# --- residuals of projections ---


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.few(3)
def test_residuals_measure_the_violation(label):
    family, params = made(label, rotation() if label == "orthogonal" else member())
    moved = jax.tree.map(
        lambda leaf: leaf + 0.02 * jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params
    )
    projected = family.project(moved, params, FIRST)
    constrained = label.startswith(("birkhoff", "orthogonal"))
    before, after = float(family.residual(moved)), float(family.residual(projected))
    assert (before > 1e-2) == constrained
    if label.startswith("birkhoff_published"):  # 16 sweeps of Sinkhorn do not end there
        assert 1e-3 < after < before / 2
    else:
        assert after < 1e-5


def test_residuals_by_hand():
    birkhoff, params = made("birkhoff", np.eye(3, dtype=np.float32))
    params["permutation"] = jnp.float32([[0.9, 0, 0], [0.3, 1, 0], [0, 0, 1]])  # columns sum to 1.2, rows to .9, 1.3
    np.testing.assert_allclose(birkhoff.residual(params), 0.3, rtol=1e-6)
    params["permutation"] = jnp.float32([[2, -1], [-1, 2]])
    np.testing.assert_allclose(birkhoff.residual(params), 1)
    orthogonal, _ = made("orthogonal", np.eye(3, dtype=np.float32))
    np.testing.assert_allclose(orthogonal.residual({"matrix": jnp.diag(jnp.float32([1, -1, 0.5]))}), 0.75, rtol=1e-6)


# --- starts ---


@pytest.mark.parametrize("label", ["full", "lasso:0.001", f"rank{D}", f"rank={D}"])
def test_families_of_all_matrices_start_at_any_matrix(label):
    start = dense()
    family, params = made(label, start)
    tolerance = {"atol": 0, "rtol": 0} if "rank" not in label else {"atol": 1e-5}
    np.testing.assert_allclose(family.matrix(params, jnp.float32(0)), start, **tolerance)
    np.testing.assert_allclose(family.round(params), start, **tolerance)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_low_rank_starts_at_the_nearest_matrix_of_its_rank(rank):
    start = dense()
    left, values, right = np.linalg.svd(start.astype(np.float64))
    nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
    family, params = made(f"rank{rank}", start)
    np.testing.assert_allclose(family.round(params), nearest, atol=1e-5)
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {(D, rank), (rank, D)}


@pytest.mark.parametrize("label", ["birkhoff", "birkhoff_published", "softsort", "softsort:0.5"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.few(6)
def test_g_relu_families_start_at_members_of_g_relu(label, seed):
    start = member(seed, d=9)
    family, params = made(label, start)
    for result in (family.round(params), family.round(family.halfway(params))):
        np.testing.assert_array_equal(np.asarray(result) > 0, start > 0)
        np.testing.assert_allclose(result, start, rtol=2e-6)
    if not label.startswith("softsort"):  # which is soft in training
        np.testing.assert_allclose(family.matrix(params, jnp.float32(0)), start, rtol=1e-6)


@pytest.mark.parametrize("label", ["birkhoff", "birkhoff_published", "softsort"])
@pytest.mark.parametrize("zeros", [1, 3])
def test_zero_channels_stay_zero_at_the_start(label, zeros):
    """A zero channel of y has scaling 0 in `matched`; P is a permutation nevertheless."""
    start = member(1, zeros=zeros)
    family, params = made(label, start)
    np.testing.assert_allclose(family.round(params), start, rtol=2e-6, atol=2e-6)
    if label != "softsort":
        for axis in (0, 1):
            np.testing.assert_allclose(params["permutation"].sum(axis), np.ones(D), atol=1e-6)


def test_orthogonal_starts_at_the_nearest_orthogonal_matrix():
    family, params = made("orthogonal", rotation())
    np.testing.assert_allclose(family.round(params), rotation(), atol=1e-5)
    left, _, right = np.linalg.svd(dense().astype(np.float64))
    np.testing.assert_allclose(parse_family("orthogonal").init(jnp.asarray(dense()))["matrix"], left @ right, atol=1e-5)


@pytest.mark.parametrize("label", LABELS)
def test_random_starts_depend_on_the_key(label):
    family = parse_family(label)
    one, again, other = (np.asarray(family.random(jax.random.key(k), (D, D))) for k in (0, 0, 1))
    assert one.shape == (D, D) and one.dtype == np.float32 and np.isfinite(one).all()
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    if "birkhoff" in label:
        assert (one > 0).all()
        np.testing.assert_allclose(one.sum(0), np.ones(D), rtol=1e-5)
    elif label == "orthogonal":
        np.testing.assert_allclose(one @ one.T, np.eye(D), atol=1e-5)
    else:
        assert one.min() < 0 < one.max()


def test_closed_forms_do_not_train():
    for label in CLOSED:
        family = parse_family(label)
        assert (family.trains, family.start, family.label) == (False, label, label)
    assert all(parse_family(label).trains for label in LABELS)


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


def test_the_proximal_step_minimises_its_objective():
    """prox(v) = argmin_w 1/2 (w - v)^2 + t lambda |w|, against a search over a fine grid."""
    family, matrix = parse_family("lasso_proximal:2"), dense()
    result = family.project({"matrix": jnp.asarray(matrix)}, None, FIRST, 0.3)["matrix"]
    grid = np.linspace(-4, 4, 80001)
    objective = 0.5 * (grid - matrix[..., None].astype(np.float64)) ** 2 + 0.3 * 2 * np.abs(grid)
    np.testing.assert_allclose(result, grid[objective.argmin(-1)], atol=1.1e-4)
    assert 0 < (np.asarray(result) == 0).mean() < 1
    np.testing.assert_array_equal(family.project({"matrix": jnp.asarray(matrix)}, None, FIRST)["matrix"], matrix)


# --- penalties ---


def test_penalties_against_closed_forms():
    matrix = dense()
    family, params = made("lasso:0.25", matrix)
    np.testing.assert_allclose(family.penalty(params, FIRST), 0.25 * np.abs(matrix.astype(np.float64)).sum(), rtol=1e-5)
    for label, alpha in (("birkhoff", 0.1), ("birkhoff:10", 10), ("birkhoff_published:0.01", 0.01)):
        family, params = made(label, 0.8 * member() + 0.02)
        norm = np.sqrt((np.asarray(params["permutation"], np.float64) ** 2).sum())
        np.testing.assert_allclose(family.penalty(params, FIRST), -alpha * norm, rtol=1e-5)
    for label in ("full", "rank2", "orthogonal", "softsort"):
        family, params = made(label, member())
        assert float(family.penalty(params, FIRST)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_every_family_works_under_jit_vmap_and_grad(label):
    family = parse_family(label)
    starts = jnp.stack([jnp.asarray(member(seed)) for seed in range(2)])

    @jax.jit
    @jax.vmap
    def everything(start):
        params = family.init(start)
        gradient = jax.grad(lambda p: jnp.sum(family.matrix(p, FIRST) ** 2) + family.penalty(p, FIRST))(params)
        moved = jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient)
        return family.round(family.halfway(family.project(moved, params, FIRST)))

    result = everything(starts)
    assert result.shape == (2, D, D) and np.isfinite(result).all()


# --- names ---


def test_names_and_numbers():
    text = "full, rank1,rank=2,rank:4,lasso,lasso:1e-2,birkhoff,birkhoff:1,identity"
    labels = [family.label for family in parse_families(text)]
    assert labels == "full rank1 rank2 rank4 lasso:0.001 lasso:0.01 birkhoff birkhoff:1 identity".split()
    assert [f.hyperparameter for f in parse_families(text)] == [None, 1, 2, 4, 1e-3, 1e-2, 0.1, 1, None]
    assert len(parse_families("birkhoff,birkhoff:0.1,rank2,rank:2,rank=2")) == 2


@pytest.mark.parametrize("label", LABELS + CLOSED)
def test_labels_name_their_family(label):
    family = parse_family(label)
    assert family.label == label
    assert parse_family(family.label) == family and hash(parse_family(label)) == hash(family)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_registered_family_can_be_parsed(name):
    assert parse_family("rank3" if name == "rank" else name).label.startswith(name)


@pytest.mark.parametrize("text", ["foo", "rank", "rank-1", "rankx", "rank:x", "rank1.5", "Full", "birkhof:1", ":1"])
def test_an_unknown_name_lists_the_known_ones(text):
    with pytest.raises(InputError) as caught:
        parse_family(text)
    message = str(caught.value)
    assert repr(text) in message and message.startswith("families: ")
    for name in FAMILIES:
        assert name in message


@pytest.mark.parametrize(
    "text,expected",
    [
        ("full:3", "expected full without a number"),
        ("identity:1", "expected identity without a number"),
        ("rank0", "rank: got .*, expected a positive number"),
        ("lasso:-1", "weight: got .*, expected a positive number"),
        ("lasso:nan", "weight: got .*, expected a positive number"),
        ("birkhoff:inf", "alpha: got .*, expected a positive number"),
        ("birkhoff:0", "alpha: got .*, expected a positive number"),
        ("softsort:a", "expected a number instead of 'a'"),
        ("", "none given"),
        (" , ", "none given"),
    ],
)
def test_bad_numbers(text, expected):
    with pytest.raises(InputError, match=expected):
        parse_families(text)
