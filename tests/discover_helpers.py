"""Planted networks, and checks of the symmetries derived for them."""

import jax
import jax.numpy as jnp
import numpy as np

from symjax.jaxprs import evaluate

KEY = jax.random.key(3)


def drawn_params(**shapes):
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


INPUTS = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
LAYERS = drawn_params(w=(4, 6), b=(6,), v=(6, 3))


def wide(tree):
    real = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if real(leaf) else leaf, tree)


def named_values(fn, params, x):
    """The outputs, and every value that the function names."""
    named = {}

    def keep(equation, operands):
        if equation.primitive.name == "name":
            named[equation.params["name"]] = np.asarray(operands[0])

    return evaluate(jax.make_jaxpr(fn)(params, x), jax.tree.leaves((params, x)), keep), named


def close(actual, expected, tolerance=1e-10):
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


def on_host(element):
    """In NumPy, for which nothing compiles."""
    return jax.tree.map(np.asarray, element)


def check(symmetry, fn, params, x):
    """The function stays, every space moves parameters, named values move by `at`, and the action is a group's."""
    with jax.enable_x64(True):
        params, x = wide(params), wide(x)
        first, then = on_host(symmetry.sample(KEY)), on_host(symmetry.sample(jax.random.key(8)))
        assert first.keys() == {name for name, space in symmetry.spaces.items() if space.verified}
        assert symmetry.contains(first)
        moved = symmetry.act(params, first)
        (before, values), (after, images) = named_values(fn, params, x), named_values(fn, moved, x)
        close(after, before)
        for name, value in values.items():
            close(images[name], value @ np.asarray(symmetry.at(name, first)).T)
        for name, matrix in first.items():
            alone = symmetry.act(params, {name: matrix})
            same = all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (alone, params)), strict=True))
            assert same == (matrix == np.eye(len(matrix))).all(), name
        close(symmetry.act(params, on_host(symmetry.compose(first, then))), symmetry.act(moved, then))
        close(symmetry.act(moved, on_host(symmetry.inverse(first))), params)


def groups_of(symmetry):
    assert all(space.verified for space in symmetry.spaces.values())
    return {name: (space.size, space.group) for name, space in symmetry.spaces.items()}
