"""Intertwiner groups: the rows of the table hold numerically, and `is_intertwiner` agrees with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.errors import InputError
from symjax.groups import GELU_SLOPE, GROUPS, INTERTWINERS, homogeneity_defect, is_intertwiner, polynomial

KEY = jax.random.key(3)
SIZE = 5


def sampled(group, seed=0, size=SIZE):
    with jax.enable_x64(True):
        return np.asarray(GROUPS[group].sample(jax.random.fold_in(KEY, seed), size))


# --- the table ---


@pytest.mark.parametrize("name", INTERTWINERS)
def test_phi_is_what_the_table_says(name):
    """s(A x) = phi(A) s(x) + c in NumPy, for members, and phi is a homomorphism."""
    row = INTERTWINERS[name]
    first, then = sampled(row.group.name), sampled(row.group.name, 1)
    x = np.random.default_rng(0).normal(size=(50, SIZE))
    with jax.enable_x64(True):
        offset = 0 if row.offset is None else np.asarray(row.offset(first))
        image = np.asarray(row.phi(first))
        np.testing.assert_allclose(row.activation(x @ first.T), row.activation(x) @ image.T + offset, atol=1e-12)
        both = np.asarray(row.phi(row.group.compose(first, then)))
        np.testing.assert_allclose(both, np.asarray(row.phi(then)) @ image, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(row.phi(row.group.inverse(first)), np.linalg.inv(image), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", INTERTWINERS)
@pytest.mark.parametrize("group", GROUPS)
def test_numbers_decide_what_the_table_says(name, group):
    """A random matrix of each group intertwines exactly if it is in the activation's group."""
    row, matrix = INTERTWINERS[name], sampled(group)
    result = is_intertwiner(row.activation, matrix, offset=row.offset is not None)
    assert result.verdict is row.group.contains(matrix) and not result.warning
    if result:
        assert result.defect < 1e-13
        with jax.enable_x64(True):
            np.testing.assert_allclose(result.matrix, row.phi(matrix), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(result.offset, 0 if row.offset is None else row.offset(matrix), atol=1e-9)
    else:
        assert result.defect > 0.01


@pytest.mark.parametrize("name", GROUPS)
def test_groups_are_groups(name):
    group = GROUPS[name]
    first, then = sampled(name), sampled(name, 1)
    assert not np.array_equal(first, then)
    np.testing.assert_array_equal(first, sampled(name))
    with jax.enable_x64(True):
        both, back = np.asarray(group.compose(first, then)), np.asarray(group.inverse(first))
        np.testing.assert_array_equal(group.identity(SIZE), np.eye(SIZE))
    np.testing.assert_allclose(both, then @ first, rtol=1e-14)
    np.testing.assert_allclose(back @ first, np.eye(SIZE), atol=1e-13)
    for matrix in (np.eye(SIZE), first, then, both, back):
        assert group.contains(matrix)
    for matrix in (np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE)), np.diag([1.0, 1, 1, 1, 0])):
        assert not group.contains(matrix)


def test_groups_contain_each_other_as_they_should():
    within = {name: {other for other in GROUPS if GROUPS[other].contains(sampled(name))} for name in GROUPS}
    assert within["permutation"] == set(GROUPS)
    assert within["signed_permutation"] == {"signed_permutation", "monomial", "orthogonal", "general_linear"}
    assert within["positive_monomial"] == {"positive_monomial", "monomial", "general_linear"}
    assert within["monomial"] == {"monomial", "general_linear"}
    assert within["orthogonal"] == {"orthogonal", "general_linear"}
    assert within["general_linear"] == {"general_linear"}
    assert not GROUPS["permutation"].contains(sampled("permutation") * 1.001)
    assert GROUPS["permutation"].contains(sampled("permutation") + 1e-9)


@pytest.mark.parametrize("name", [name for name in GROUPS if GROUPS[name].monomial])
def test_noise_that_is_tolerated_is_not_inverted(name):
    """The inverse of a matrix with small entries in place of zeros ignores these entries."""
    group, exact = GROUPS[name], sampled(name)
    noisy = exact + np.random.default_rng(0).choice([-1e-9, 1e-9], exact.shape)
    assert group.contains(noisy)
    with jax.enable_x64(True):
        back = np.asarray(group.inverse(noisy))
    np.testing.assert_allclose(back, np.linalg.inv(exact), rtol=1e-6, atol=1e-12)
    assert group.contains(back) and ((back != 0) == (exact.T != 0)).all()


def test_samples_are_spread():
    positive = np.stack([sampled("positive_monomial", seed, 8) for seed in range(40)])
    entries = positive[positive != 0]
    logs = np.log(entries)
    assert len(entries) == 320 and abs(logs.mean() + 0.5) < 0.2 and abs(logs.std() - 1) < 0.15
    assert (np.argmax(positive[:, 0] != 0, axis=-1)[:, None] == np.arange(8)).any(axis=0).all()


# --- deciding ---


def test_any_activation_can_be_asked():
    assert is_intertwiner(np.tanh, sampled("signed_permutation"))
    assert not is_intertwiner(np.tanh, sampled("positive_monomial"))
    assert not is_intertwiner(jax.nn.silu, sampled("positive_monomial"))
    assert is_intertwiner(np.abs, sampled("monomial"))  # |d x| = |d| |x|
    np.testing.assert_allclose(is_intertwiner(np.abs, sampled("monomial")).matrix, abs(sampled("monomial")), atol=1e-12)
    assert is_intertwiner(lambda x: 3 * x, sampled("general_linear"))
    one_sided = is_intertwiner(lambda x: jax.nn.leaky_relu(x, 0.99), np.diag([1.0, -1.0]))
    assert one_sided.verdict is False and 1e-3 < one_sided.defect < 1e-1
    assert is_intertwiner(jax.nn.sigmoid, -np.eye(2)).verdict is False
    assert is_intertwiner(jax.nn.sigmoid, -np.eye(2), offset=True).verdict is True


@pytest.mark.parametrize("name", ["relu", "sigmoid", "sigmoid_bias", "power3", "rbf"])
def test_activations_of_less_than_float64(name):
    """float32 is conclusive up to its rounding, with a warning; 16-bit floats give no positive verdict."""
    row = INTERTWINERS[name]
    for seed in range(3):
        for group in ("permutation", "signed_permutation", "positive_monomial", "general_linear"):
            matrix = sampled(group, seed)
            member = row.group.contains(matrix)
            for dtype, expected in ((jnp.float32, True), (jnp.bfloat16, None)):
                short = lambda x, dtype=dtype: row.activation(jnp.asarray(x, dtype))  # noqa: E731
                result = is_intertwiner(short, matrix, offset=row.offset is not None)
                if member or dtype == jnp.float32:
                    assert result.verdict is (expected if member else False), (group, seed, result)
                    assert (f"gives {jnp.dtype(dtype)}" in result.warning) is member
                else:
                    assert result.verdict is not True


def test_a_verdict_holds_within_reach():
    matrix = np.diag([1.0, 2.0, 3.0])
    clipped = lambda x: np.clip(x, 0, 1000)  # noqa: E731
    assert is_intertwiner(clipped, matrix).verdict is True
    assert is_intertwiner(clipped, matrix, reach=3000).verdict is False
    assert is_intertwiner(clipped, np.eye(3)[[1, 2, 0]], reach=3000).verdict is True
    largest = []
    is_intertwiner(lambda x: largest.append(np.abs(x).max()) or x, np.eye(3), reach=7)
    np.testing.assert_allclose(largest, 7)


def test_polynomials_of_any_degree():
    row, matrix = polynomial(5), sampled("monomial")
    np.testing.assert_allclose(is_intertwiner(row.activation, matrix).matrix, matrix**5, rtol=1e-9, atol=1e-9)


def test_warnings_are_reported():
    singular = is_intertwiner(np.tanh, np.diag([1.0, 0.0]))
    assert singular.verdict is False and "singular" in singular.warning and singular.condition == np.inf
    flat = is_intertwiner(np.ones_like, np.eye(3))
    assert flat.verdict is None and "1 of 3" in flat.warning and not flat
    with np.errstate(invalid="ignore"):
        broken = is_intertwiner(np.sqrt, np.eye(3))
    assert broken.verdict is None and "NaN" in broken.warning and np.isnan(broken.defect)


@pytest.mark.parametrize(
    ("activation", "matrix", "options", "named"),
    [
        (np.tanh, np.ones((2, 3)), {}, "matrix: got shape"),
        (np.tanh, np.array([[np.nan]]), {}, "matrix: got NaN"),
        (np.tanh, np.array([[1j]]), {}, "matrix: got complex"),
        (lambda x: x[:1], np.eye(2), {}, "activation: got values of shape"),
        (np.tanh, np.eye(2), {"inputs": 3}, "inputs: got 3"),
        (np.tanh, np.eye(2), {"reach": 0}, "reach: got 0"),
        (lambda x: x > 0, np.eye(2), {}, "activation: got values of bool"),
    ],
)
def test_bad_arguments(activation, matrix, options, named):
    with pytest.raises(InputError, match=named):
        is_intertwiner(activation, matrix, **options)


# --- homogeneity ---


def test_homogeneity_of_gelu():
    """Agrees with Monte Carlo at a moderate scale and with the closed-form slope at large scales."""
    gelu = INTERTWINERS["gelu"].activation
    x = np.random.default_rng(0).normal(size=400_000)
    with jax.enable_x64(True):
        sampled = np.sqrt(np.mean((np.asarray(gelu(3 * x)) - 3 * np.asarray(gelu(x))) ** 2))
    assert abs(homogeneity_defect(gelu, 3.0) / sampled - 1) < 0.01
    slopes = homogeneity_defect(gelu, [1, 30, 1000]) / [1, 30, 1000]
    assert slopes[0] == 0 and slopes[1] < GELU_SLOPE
    assert abs(slopes[2] - GELU_SLOPE) < 1e-7 and round(GELU_SLOPE, 4) == 0.1268 and abs(GELU_SLOPE - 0.1267) < 1e-4


def test_homogeneous_activations_have_none():
    for name in ("relu", "leaky_relu", "identity"):
        assert homogeneity_defect(INTERTWINERS[name].activation, [0.1, 7.0]).max() < 1e-14
    with pytest.raises(InputError, match="scales"):
        homogeneity_defect(np.tanh, [1.0, -1.0])
