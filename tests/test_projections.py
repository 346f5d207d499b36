"""Projections of layers: exact reconstruction, oracles in NumPy, and accuracies of known networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import symjax
from symjax import data, models, zoo
from symjax.errors import InputError
from symjax.projections import METHODS, project, projected_accuracy


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


X, Y = normal(0, 200, 6) @ normal(1, 6, 6) + 3, normal(0, 200, 6)[:, :4] @ normal(2, 4, 5) + normal(3, 200, 5)


def projected(method, k, x=X, y=Y):
    stitch = project(method, x, y, key=jax.random.key(0)).stitch(k)
    return np.asarray(x @ stitch.matrix.T + stitch.bias)


@pytest.mark.parametrize("method", METHODS)
def test_no_direction_leaves_the_mean_and_more_directions_approach_the_layer(method):
    np.testing.assert_allclose(projected(method, 0), np.broadcast_to(X.mean(0), X.shape), rtol=1e-5)
    errors = [np.linalg.norm(projected(method, k) - X) for k in range(6)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[4]
    if method in ("pca", "neurons", "random"):  # the others have no more directions than the narrower side
        np.testing.assert_allclose(projected(method, 6), X, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_projections_are_idempotent_of_rank_k(method):
    matrix = np.asarray(project(method, X, Y, key=jax.random.key(0)).stitch(3).matrix, np.float64)
    np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-4)
    assert np.linalg.matrix_rank(matrix, 1e-3) == 3
    orthogonal = np.allclose(matrix, matrix.T, atol=1e-4)
    assert orthogonal == (method not in ("cca", "svcca"))


def test_oracles():
    x, y = X.astype(np.float64), Y.astype(np.float64)
    centered, other = x - x.mean(0), y - y.mean(0)
    v = np.linalg.svd(centered, full_matrices=False)[2]
    u = np.linalg.svd(centered.T @ other)[0]
    # CCA: regression of x on its first variates, which are those of orthonormal bases.
    qx, qy = (np.linalg.qr(side)[0] for side in (centered, other))
    variates = qx @ np.linalg.svd(qx.T @ qy)[0][:, :2]
    expected = {
        "pca": centered @ v[:2].T @ v[:2],
        "pls": centered @ u[:, :2] @ u[:, :2].T,
        "cca": variates @ (variates.T @ centered),
        "neurons": centered * np.isin(np.arange(6), np.argsort(-(x**2).mean(0))[:2]),
    }
    with jax.enable_x64(True):
        for method, values in expected.items():
            np.testing.assert_allclose(projected(method, 2, x, y) - x.mean(0), values, atol=1e-9, err_msg=method)


def test_cca_keeps_shared_directions_and_pca_keeps_variance():
    """A shared direction of small variance: CCA finds it at once, PCA last."""
    shared, noise = normal(5, 300, 1), 10 * normal(6, 300, 4)
    x, y = np.hstack([shared, noise[:, :2]]), np.hstack([shared, noise[:, 2:]])
    for method, error in (("cca", 0.02), ("svcca", 1), ("pca", 1)):
        kept = projected(method, 1, x, y)[:, 0]
        assert np.isclose(np.var(kept - shared[:, 0]) / np.var(shared), error, atol=0.1), method


@pytest.mark.slow
def test_pixels_are_samples():
    maps, other = X[:192].reshape(12, 4, 4, 6), Y[:192].reshape(12, 4, 4, 5)
    for method in METHODS:
        by_maps = project(method, maps, other, key=jax.random.key(0))
        by_rows = project(method, X[:192], Y[:192], key=jax.random.key(0))
        np.testing.assert_allclose(by_maps.stitch(2).matrix, by_rows.stitch(2).matrix, atol=1e-4)


def test_accuracies_of_a_zoo_are_those_of_projected_tails():
    """All members, points, projections and directions in one program, against single forward passes."""
    network = models.create("mcnn", width=2, classes=3, image_size=8, channels=1)
    members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(network.init(jax.random.key(i)) for i in range(2)))
    images = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 1), np.uint8)
    split, mean, std = data.Split(images, np.arange(21) % 3), np.full(1, 128.0), np.full(1, 60.0)
    points = network.points[1:3]
    projections = {
        point.name: [
            [project(m, normal(i, 30, point.channels), key=jax.random.key(i)) for m in ("pca", "random")]
            for i in range(2)
        ]
        for point in points
    }
    directions = {point.name: [0, 2, point.channels][at:] for at, point in enumerate(points)}
    accuracies = projected_accuracy(network, members, projections, directions, split, mean, std, batch_size=8)
    x = (images - mean) / std
    clean = zoo.evaluate(network, members, split, mean, std)
    for name, ks in directions.items():
        assert accuracies[name].shape == (2, 2, len(ks))
        for i, p, k in np.ndindex(accuracies[name].shape):
            member = jax.tree.map(lambda leaf, i=i: leaf[i], members)
            features, *others = network.front(member, jnp.asarray(x, jnp.float32), name)
            stitch = projections[name][i][p].stitch(ks[k])
            logits = network.tail(member, (features @ stitch.matrix.T + stitch.bias, *others), name)
            expected = np.mean(np.argmax(logits, axis=1) == split.labels)
            np.testing.assert_allclose(accuracies[name][i, p, k], expected, atol=1e-6)
        np.testing.assert_allclose(accuracies[name][:, :, -1], np.broadcast_to(clean[:, None], (2, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "y", "key", "message"),
    [
        ("ica", None, None, "method: got 'ica' .*, expected one of pca, cca"),
        ("cca", None, None, "y: got None, expected features of another network, which cca requires"),
        ("pls", normal(0, 7, 3), None, "200"),
        ("random", None, None, "key: got None, expected a key"),
    ],
)
def test_wrong_arguments(method, y, key, message):
    with pytest.raises(InputError, match=message):
        project(method, X, y, key=key)


def test_wrong_arguments_of_accuracies():
    network = symjax.Network.from_function(
        lambda w, x: symjax.stitch_point(x, "hidden") @ w, jnp.eye(2), example=jnp.ones((1, 2))
    )
    members = jax.tree.map(lambda leaf: leaf[None], network.member(jnp.eye(2)))
    split = data.Split(np.eye(2, dtype=np.float32), np.arange(2))
    fits = project("pca", normal(0, 9, 2))
    for projections, directions, message in (
        ({"hidden": [[fits]]}, {"hidden": [3]}, "directions: got 3, expected an integer from 0 to 2"),
        ({"hidden": []}, {"hidden": [1]}, "expected a list for each of 1 members"),
        ({"hidden": [[project("pca", normal(0, 9, 3))]]}, {"hidden": [1]}, r"got matrices \(3, 3\), expected \(2, 2\)"),
        ({"hidden": [[fits]]}, {}, r"directions: got the points \[\], expected those of projections, \['hidden'\]"),
        ({"hidden": [[fits]], 0: [[fits]]}, {"hidden": [1], 0: [1]}, "expected each once"),
        ([[fits]], [1], "expected mappings from points"),
    ):
        with pytest.raises(InputError, match=message):
            projected_accuracy(network, members, projections, directions, split, None, None)
