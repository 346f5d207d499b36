"""Second derivatives: right, in every order of forward and reverse, or an error; never zeros in silence."""

import campaign
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax import projection_birkhoff, sinkhorn, softsort
from symjax.similarity import MEASURES


def second(f, x, direction):
    """d^2 f along `direction`, reverse over forward and forward over forward."""
    slope = lambda x: jax.jvp(f, (x,), (direction,))[1]  # noqa: E731
    ways = (lambda x: (jax.grad(slope)(x) * direction).sum(), lambda x: jax.jvp(slope, (x,), (direction,))[1])
    return jax.jit(lambda x: jnp.stack([way(x) for way in ways]))(x)


def numeric(f, x, direction, step=1e-5):
    gradient = jax.jit(jax.grad(f))
    return ((gradient(x + step * direction) - gradient(x - step * direction)) * direction).sum() / (2 * step)


def test_hessian_of_the_projection():
    """The projection is piecewise affine, so the Hessian of f(P) is J' f''(P) J."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(4, 4))

    def project(matrix):
        return projection_birkhoff(matrix, method="sweeps", tol=1e-13)

    def f(matrix):
        return (weights * project(matrix) ** 3).sum()

    ways = (jax.jacfwd(jax.grad(f)),) + ((jax.jacrev(jax.grad(f)),) if campaign.FULL else ())
    with jax.enable_x64(True):
        # From the inside of the polytope, where all entries are positive, to near a vertex.
        matrices = np.array([0.05, 1.0, 10.0])[:, None, None] * rng.normal(size=(3, 4, 4))
        slopes = np.asarray(jax.jit(jax.vmap(jax.jacfwd(project)))(matrices)).reshape(3, 16, 16)
        curvature = np.asarray(6 * weights * jax.jit(jax.vmap(project))(matrices)).reshape(3, 16, 1)
        right = slopes.swapaxes(1, 2) @ (curvature * slopes)
        assert np.abs(right[:2]).max((1, 2)).min() > 0.1
        for way in ways:
            hessian = np.asarray(jax.jit(jax.vmap(way))(matrices)).reshape(3, 16, 16)
            np.testing.assert_allclose(hessian, right, atol=1e-9)


def test_scaling_and_sorting():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        for f, x in (
            (lambda m: (sinkhorn(m, 8) ** 3).sum(), rng.random((4, 4))),
            (lambda v: (softsort(v, 0.7) ** 3).sum(), rng.normal(size=5)),
        ):
            direction = rng.normal(size=x.shape)
            right = numeric(f, x, direction)
            assert abs(right) > 1e-3
            np.testing.assert_allclose(second(f, x, direction), right, rtol=1e-6)


def sides(examples, features=3):
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(examples, 2))
    x, y = (shared @ rng.normal(size=(2, c)) + rng.normal(size=(examples, c)) for c in (features, 2))
    return x, y, rng.normal(size=x.shape)


@pytest.mark.parametrize(
    "name", ["cca", "wreath_cka", "ridge_predictivity", "aligned_cosine"]
)  # those with rules of their own
@pytest.mark.few(1)
def test_measures(name):
    with jax.enable_x64(True):
        x, y, direction = sides(12)
        f = lambda x: MEASURES[name].fn(x, y)  # noqa: E731
        right = numeric(f, x, direction)
        assert abs(right) > 1e-2
        np.testing.assert_allclose(second(f, x, direction), right, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        *(("svcca", 3), ("fourier_cca", 3), ("procrustes", 3), ("cca", 14)),
        *(("gulp", 3), ("shape_distance", 3), ("stochastic_shape_distance", 3)),
    ],
)
@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.slow
def test_measures_with_a_part_held_fixed_say_so(name, features):
    x, y, direction = sides(12, features)
    f = lambda x: MEASURES[name].fn(x, y)  # noqa: E731
    slope = lambda x: jax.jvp(f, (x,), (direction,))[1]  # noqa: E731
    assert np.isfinite(jax.jit(slope)(x))
    for again in (lambda: jax.jvp(jax.grad(f), (x,), (direction,)), lambda: jax.grad(slope)(x)):
        with pytest.raises(NotImplementedError, match="second derivatives"):
            again()
