"""Fourier CCA against a loop over frequencies in complex128, and the theory of convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.errors import InputError
from symjax.similarity import FewExamplesWarning, cca, cca_similarity, fourier_cca, fourier_cca_similarity

EXAMPLES = 40


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def maps(height, width, channels, seed):
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(0).normal(size=(EXAMPLES, 8, 8, 2))[:, :height, :width]
    own = rng.normal(size=(EXAMPLES, height, width, channels))
    return np.float32(shared @ rng.normal(size=(2, channels)) + own + rng.normal(size=channels))


def oracle(x, y, frequencies):
    """Correlations at (row, column) frequencies, from the transform's definition, in complex128."""

    def basis(x, row, column):
        _, height, width, _ = x.shape
        wave = np.exp(-2j * np.pi * (row * np.arange(height)[:, None] / height + column * np.arange(width) / width))
        amplitudes = np.einsum("hw,nhwc->nc", wave, np.float64(x))
        return np.linalg.qr(amplitudes - amplitudes.mean(0))[0]

    bases = ((basis(x, *frequency), basis(y, *frequency)) for frequency in frequencies)
    return np.array([np.linalg.svd(a.conj().T @ b, compute_uv=False) for a, b in bases])


def every_frequency(height, width):
    return [
        (r, c)
        for r in range(-(-height // 2) - height, -(-height // 2))
        for c in range(-(-width // 2) - width, -(-width // 2))
    ]


@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (3, 5)])
@pytest.mark.few(1)
def test_equal_sizes_agree_with_the_full_transform(shape):
    x, y = maps(*shape, 3, 1), maps(*shape, 2, 2)
    result = fourier_cca(x, y)
    grid = [(int(r), int(c)) for r in result.rows for c in result.columns]
    expected = oracle(x, y, grid).reshape(result.correlations.shape)
    assert len(grid) == shape[0] * (shape[1] // 2 + 1)
    np.testing.assert_allclose(result.correlations, expected, atol=1e-5)
    np.testing.assert_allclose(result.mean_correlations, expected.mean(-1), atol=1e-5)
    assert (result.x_rank == 3).all() and (result.y_rank == 2).all()
    # The half that is left out counts too.
    full = oracle(x, y, every_frequency(*shape))
    assert len(full) == shape[0] * result.weights.sum()
    np.testing.assert_allclose(fourier_cca_similarity(x, y), full.mean(), atol=1e-5)


@pytest.mark.slow
def test_different_sizes_meet_at_common_frequencies():
    x, y = maps(4, 6, 3, 1), maps(7, 6, 2, 2)
    result = fourier_cca(x, y)
    assert result.rows.tolist() == [0, 1, -1] and result.columns.tolist() == [0, 1, 2, 3]
    assert result.weights.tolist() == [1, 2, 2, 1]
    grid = [(int(r), int(c)) for r in result.rows for c in result.columns]
    np.testing.assert_allclose(result.correlations, oracle(x, y, grid).reshape(result.correlations.shape), atol=1e-5)
    turned = fourier_cca(y, x)
    np.testing.assert_allclose(turned.correlations, result.correlations, atol=1e-5)


def test_the_mean_is_over_the_frequencies_that_both_have():
    x, y = maps(4, 6, 3, 1), maps(7, 5, 2, 2)
    grid = [(r, c) for r in (-1, 0, 1) for c in (-2, -1, 0, 1, 2)]
    assert fourier_cca(x, y).weights.tolist() == [1, 2, 2]
    np.testing.assert_allclose(fourier_cca_similarity(x, y), oracle(x, y, grid).mean(), atol=1e-5)


@pytest.mark.slow
def test_a_map_resized_by_its_spectrum_is_the_same():
    # A band-limited field sampled on 5 x 5 and on 8 x 8 points.
    rng = np.random.default_rng(0)
    amplitudes = rng.normal(size=(2, EXAMPLES, 5, 5, 3))

    def sample(size):
        grid = np.arange(size) / size
        rows, columns = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij")
        phase = 2 * np.pi * (rows[..., None, None] * grid[:, None] + columns[..., None, None] * grid)
        cosines = np.einsum("nrsc,rshw->nhwc", amplitudes[0], np.cos(phase))
        return np.float32(cosines + np.einsum("nrsc,rshw->nhwc", amplitudes[1], np.sin(phase)))

    assert fourier_cca_similarity(sample(5), sample(8)) > 1 - 1e-5


def test_a_cyclic_convolution_correlates_fully():
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(EXAMPLES, 4, 4, 3)))
    kernel = rng.normal(size=(3, 3, 3, 3))
    y = sum(np.roll(x, (i - 1, j - 1), (1, 2)) @ kernel[i, j] for i in range(3) for j in range(3))
    y = np.float32(np.roll(y, (1, 2), (1, 2)) + 4)
    assert fourier_cca(x, y).correlations.min() > 1 - 1e-5
    assert cca_similarity(x, y) < 0.9  # which pixel by pixel nobody sees


@pytest.mark.slow
def test_matrices_are_maps_of_one_pixel():
    x, y = maps(1, 1, 3, 1)[:, 0, 0], maps(1, 1, 2, 2)[:, 0, 0]
    result = fourier_cca(x, y)
    assert result.correlations.shape == (1, 1, 2)
    np.testing.assert_allclose(result.correlations[0, 0], cca(x, y).correlations, atol=2e-6)


@pytest.mark.slow
def test_frequencies_without_signal_are_left_out():
    x, y = maps(1, 1, 3, 1), maps(4, 4, 2, 2)
    flat = np.broadcast_to(x, (EXAMPLES, 4, 4, 3))  # nothing but the frequency 0
    result = fourier_cca(flat, y)
    ranks = np.zeros((4, 3))
    ranks[0, 0] = 3
    np.testing.assert_array_equal(result.x_rank, ranks)
    assert np.isnan(result.mean_correlations).sum() == 11
    np.testing.assert_allclose(fourier_cca_similarity(flat, y), result.mean_correlations[0, 0], atol=1e-6)
    assert np.isnan(fourier_cca_similarity(np.ones_like(flat), y))
    dead = np.concatenate([y, np.ones_like(y)], -1)
    np.testing.assert_allclose(
        fourier_cca_similarity(dead, maps(4, 4, 3, 3)), fourier_cca_similarity(y, maps(4, 4, 3, 3)), atol=1e-6
    )


def test_identical_maps():
    x = maps(4, 4, 3, 1)
    value, gradient = jax.value_and_grad(fourier_cca_similarity)(x, x)
    assert abs(value - 1) < 1e-6 and np.abs(gradient).max() < 1e-5


@pytest.mark.slow
def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, y = np.float64(maps(3, 4, 3, 1)), np.float64(maps(3, 4, 2, 2))
        dx, dy = rng.normal(size=x.shape), rng.normal(size=y.shape)
        x_gradient, y_gradient = jax.grad(fourier_cca_similarity, (0, 1))(x, y)
        frequencies, step = every_frequency(3, 4), 1e-5
        ends = [oracle(x + sign * step * dx, y + sign * step * dy, frequencies).mean() for sign in (1, -1)]
        slope = (x_gradient * dx).sum() + (y_gradient * dy).sum()
        # The oracle's QR is of the first columns: all have full rank here.
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.slow
def test_jit_vmap_and_nan():
    x, y = maps(4, 4, 3, 1), maps(4, 4, 3, 2)
    bad = x.copy()
    bad[0, 1, 2, 0] = np.nan
    values = jax.jit(jax.vmap(fourier_cca_similarity))(jnp.stack([x, bad]), jnp.stack([y, y]))
    np.testing.assert_allclose(values[0], fourier_cca_similarity(x, y), atol=2e-6)
    assert np.isnan(values[1])
    with pytest.raises(InputError, match="^x: got NaN"):
        fourier_cca(bad, y)


@pytest.mark.slow
def test_few_examples_are_reported():
    x, y = maps(3, 3, 3, 1)[:5], maps(3, 3, 3, 2)[:5]
    with pytest.warns(FewExamplesWarning, match="2 of 3"):
        assert (fourier_cca(x, y).correlations[..., :2] > 1 - 1e-5).all()
