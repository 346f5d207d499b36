"""Stitch families, one stitch at a time, without a network: residuals, starts, penalties, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_helpers import FIRST, LABELS, D, dense, made, member, rotation

from symjax.errors import InputError
from symjax.stitching import FAMILIES, parse_families
from symjax.stitching.families import parse_family

CLOSED = ["identity", "matched", "least_squares"]


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
        ("", "got none"),
        (" , ", "got none"),
    ],
)
def test_bad_numbers(text, expected):
    with pytest.raises(InputError, match=expected):
        parse_families(text)
