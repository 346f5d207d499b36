"""Numbers that the tutorials of google/svcca print for independent Gaussian layers."""

from contextlib import nullcontext

import jax
import numpy as np
import pytest

from symjax import cca, mean_correlation, mean_square_correlation, pca, pwcca
from symjax.similarity import FewExamplesWarning


def independent(key, samples, p, q):
    """Return the CCA of two independent Gaussian layers."""
    x, y = (jax.random.normal(k, (samples, d)) for k, d in zip(jax.random.split(key), (p, q), strict=True))
    return cca(x, y)


def test_introduction_mean_of_100_and_50_neurons():
    """Published: mean .2074 for 2,000 samples, from one draw without a seed; exactly E[rho^2] = 100 / 1,999."""
    results = [independent(jax.random.key(seed), 2000, 100, 50) for seed in range(4)]
    means = np.array([mean_correlation(result) for result in results])
    assert abs(means.mean() - 0.2074) < 0.003 and means.std() < 0.003
    squares = [float(mean_square_correlation(result)) for result in results]
    np.testing.assert_allclose(np.mean(squares), 100 / 1999, rtol=0.01)


@pytest.mark.parametrize("samples", [101, 300, 1000, 10000])
def test_introduction_sample_sizes(samples):
    """100 and 100 neurons: published is 1 for 101 samples, and a fall with more; exactly E[rho^2] = 100 / (n - 1)."""
    with pytest.warns(FewExamplesWarning) if samples == 101 else nullcontext():
        result = independent(jax.random.key(0), samples, 100, 100)
    np.testing.assert_allclose(mean_square_correlation(result), 100 / (samples - 1), rtol=0.02)


def test_introduction_baselines_of_500_neurons():
    """Published for 500 and 500 neurons and 10,000 samples, from one draw: mean .1906, mean of the top 20 .4115,
    SVCCA with 20 directions .0352, PWCCA with directions of the whitened data in place of variates .1924."""
    x, y = (jax.random.normal(key, (10000, 500)) for key in jax.random.split(jax.random.key(0)))
    correlations = np.asarray(cca(x, y).correlations)
    assert abs(correlations.mean() - 0.1906) < 0.001
    assert abs(correlations[:20].mean() - 0.4115) < 0.003
    leading = cca(*(project_onto(pca(layer), layer, 20) for layer in (x, y)))
    assert abs(mean_correlation(leading) - 0.0352) < 0.005
    assert abs(pwcca(x, y) - 0.1924) < 0.003


def project_onto(result, layer, k):
    """Return the first k principal components of a layer, (n, k)."""
    return (layer - result.mean) @ result.components[:, :k]
