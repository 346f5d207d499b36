"""Numbers that the tutorials of google/svcca print for independent Gaussian layers."""

import jax
import numpy as np
import pytest

from symjax import cca, mean_correlation, mean_square_correlation
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


def test_introduction_baseline_of_500_neurons():
    """Published for 500 and 500 neurons and 10,000 samples: mean .1906, mean of the top 20 .4115."""
    correlations = np.asarray(independent(jax.random.key(0), 10000, 500, 500).correlations)
    assert abs(correlations.mean() - 0.1906) < 0.001
    assert abs(correlations[:20].mean() - 0.4115) < 0.003
    with pytest.warns(FewExamplesWarning):
        assert independent(jax.random.key(1), 101, 100, 100).correlations.mean() > 0.999  # published: 1
