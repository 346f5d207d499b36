"""Nuclear norms of many matrices against singular value decompositions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax import pairwise
from symjax.similarity import nuclear_pairs, pair_blocks
from symjax.similarity.nuclear_norm import host_nuclear_norms, nuclear_norms

RNG = np.random.default_rng(0)
GRADED = 1 / np.arange(1, 41) ** 3
CASES = {
    "square": RNG.normal(size=(7, 40, 40)),
    "wide": RNG.normal(size=(3, 5, 60)),
    "narrow": RNG.normal(size=(3, 60, 5)),
    "low rank": RNG.normal(size=(3, 40, 2)) @ RNG.normal(size=(3, 2, 40)),
    "graded": RNG.normal(size=(3, 40, 40)) * GRADED * GRADED[:, None],
    "orthogonal": np.linalg.qr(RNG.normal(size=(3, 40, 40)))[0],
    "numbers": RNG.normal(size=(4, 1, 1)),
    "small": 1e-15 * RNG.normal(size=(3, 6, 6)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("jitted", [False, True])
def test_sums_of_singular_values(name, jitted):
    matrices = np.float32(CASES[name])
    expected = np.linalg.svd(np.float64(matrices), compute_uv=False).sum(-1)
    result = (jax.jit(nuclear_norms) if jitted else nuclear_norms)(jnp.asarray(matrices))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_batches():
    matrices = np.float32(RNG.normal(size=(2, 3, 8, 6)))
    expected = np.linalg.svd(matrices, compute_uv=False).sum(-1)
    np.testing.assert_allclose(jax.vmap(nuclear_norms)(jnp.asarray(matrices)), expected, rtol=2e-6)


def test_derivative():
    matrices = np.float32(CASES["square"])
    gradient = jax.jit(jax.grad(lambda matrices: nuclear_norms(matrices).sum()))(jnp.asarray(matrices))
    u, _, vt = np.linalg.svd(np.float64(matrices))
    np.testing.assert_allclose(gradient, u @ vt, atol=2e-5)


def test_zeros_and_not_a_number():
    zeros = jnp.zeros((3, 4, 5))
    np.testing.assert_array_equal(nuclear_norms(zeros.at[1, 2, 2].set(jnp.nan)), [0, np.nan, 0])


def test_float64():
    with jax.enable_x64(True):
        matrices = CASES["graded"]
        expected = np.linalg.svd(matrices, compute_uv=False).sum(-1)
        np.testing.assert_allclose(nuclear_norms(jnp.asarray(matrices)), expected, rtol=1e-13)


def test_matrices_of_many_shapes():
    matrices = [np.float32(RNG.normal(size=shape)) for shape in ((9, 4), (3, 12), (0, 5), (1, 1))]
    expected = [np.linalg.svd(np.float64(matrix), compute_uv=False).sum() for matrix in matrices]
    np.testing.assert_allclose(host_nuclear_norms(matrices), expected, rtol=2e-6)


@pytest.mark.parametrize("measure", ["procrustes_distance", "cca"])
def test_pairs_on_the_host_and_in_tiles(monkeypatch, measure):
    models = {width: {"relu": np.float32(RNG.normal(size=(30, 2, 2, width)))} for width in (3, 8, 5, 17)}
    models["zero"] = {"relu": np.zeros((30, 2, 2, 4), np.float32)}
    if measure == "procrustes_distance":
        models["larger map"] = {"relu": np.float32(RNG.normal(size=(30, 4, 4, 3)))}
    with monkeypatch.context() as patch:
        patch.setattr(pair_blocks, "_values_in_tiles", None)
        on_host = pairwise(models, measure).values
    monkeypatch.setattr(nuclear_pairs, "on_host", lambda *_: False)
    np.testing.assert_allclose(on_host, pairwise(models, measure).values, atol=2e-6)
    assert np.isfinite(on_host[0, :4, 0, :4]).all()
