"""Alignments on planted problems: x @ matrix.T + bias equals y for every function that returns an alignment."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy.stats import ortho_group

from symjax import similarity
from symjax.similarity import MEASURES, Matching, Rotation, Transport
from symjax.stitching import Stitch, apply_stitch

N, D = 30, 6
ORDER = np.random.default_rng(3).permutation(D)
SCALES, SHIFT = np.exp(np.linspace(-2, 2, D, dtype=np.float32)), np.linspace(-3, 5, D, dtype=np.float32)
TURN = np.float32(ortho_group.rvs(D, random_state=1))


def features(seed=0):
    return np.float32(np.maximum(np.random.default_rng(seed).normal(size=(N, D)) + 0.3, 0))


# What y is made of x.
PLANTED = {
    "rotated": lambda x: 2.5 * x @ TURN.T,
    "rotated and moved": lambda x: 2.5 * x @ TURN.T + SHIFT,
    "permuted": lambda x: x[:, ORDER],
    "permuted and scaled": lambda x: 2.5 * x[:, ORDER],
    "permuted, scaled and moved": lambda x: 2.5 * x[:, ORDER] + SHIFT,
    "each scaled": lambda x: SCALES * x[:, ORDER],
    "each scaled and moved": lambda x: SCALES * x[:, ORDER] + SHIFT,
}
CENTERED, STANDARD = {"center": True}, {"standardize": True}
CASES = [
    *(("procrustes", options, Rotation, "rotated") for options in ({}, CENTERED)),
    ("procrustes", CENTERED, Rotation, "rotated and moved"),
    *(("permutation_procrustes", options, Matching, "permuted and scaled") for options in ({}, CENTERED)),
    ("permutation_procrustes", CENTERED, Matching, "permuted, scaled and moved"),
    ("wreath_procrustes", {}, Matching, "each scaled"),
]
CASES += [(f"{name}_distance", options, kind, planted) for name, options, kind, planted in CASES]
CASES += [
    ("soft_matching", {}, Transport, "each scaled and moved"),
    ("soft_matching_distance", {}, Transport, "permuted"),
    ("soft_matching_distance", STANDARD, Transport, "each scaled and moved"),
]


def identity(case):
    name, options, _, planted = case
    return f"{name}({', '.join(options)}): {planted}"


@pytest.mark.parametrize("case", CASES, ids=identity)
@pytest.mark.few(3)
def test_a_planted_problem_is_solved(case):
    name, options, kind, planted = case
    function = partial(getattr(similarity, name), full_output=True, **options)
    x = features()
    y = np.float32(PLANTED[planted](x))
    value, alignment = function(x, y)
    assert isinstance(alignment, kind)
    np.testing.assert_allclose(value, 0 if MEASURES[name].kind == "distance" else 1, atol=5e-4)
    tolerance = 2e-6 * np.abs(y).max()
    np.testing.assert_allclose(x @ alignment.matrix.T + alignment.bias, y, rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(alignment.bias, y.mean(0) - alignment.matrix @ x.mean(0), atol=tolerance)
    if "moved" not in planted and not options:
        assert not np.asarray(alignment.bias).any() or name == "soft_matching"
    # Of data that were not looked at, maps, and as a stitch.
    new = features(1)
    stitched = apply_stitch(Stitch(alignment.matrix, alignment.bias), new.reshape(5, 3, 2, D))
    np.testing.assert_allclose(stitched.reshape(N, D), PLANTED[planted](new), rtol=1e-4, atol=10 * tolerance)
    compiled = jax.jit(function)(x, y)[1]
    np.testing.assert_allclose(compiled.bias, alignment.bias, atol=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if hasattr(similarity, f"{case[0]}_stream")], ids=identity)
@pytest.mark.few(4)
def test_streams_solve_it_too(case):
    name, options, kind, planted = case
    x = features()
    y = np.float32(PLANTED[planted](x))
    stream = getattr(similarity, f"{name}_stream")(full_output=True, **options)
    state = stream.init(x, y)
    for start in range(0, N, 10):
        state = stream.update(state, x[start : start + 10], y[start : start + 10])
    alignment = stream.finalize(state)[1]
    assert isinstance(alignment, kind)
    np.testing.assert_allclose(x @ alignment.matrix.T + alignment.bias, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("size", [1e-28, 1e28])
def test_of_any_size(size):
    """Alignments when both sides have large, different means."""
    x = features()
    y = np.float32(2.5 * x[:, ORDER] + SHIFT) * np.float32(size)
    for name, options in (
        ("permutation_procrustes", CENTERED),
        ("soft_matching", {}),
        ("soft_matching_distance", STANDARD),
    ):
        alignment = getattr(similarity, name)(x, y, full_output=True, **options)[1]
        carried = x @ np.asarray(alignment.matrix).T + alignment.bias
        np.testing.assert_allclose(carried / np.float32(size), y / np.float32(size), rtol=1e-4, atol=1e-5)


def test_what_has_no_partner_is_its_mean():
    x = features()
    few = x[:, [4, 0, 2]] + np.float32([1, 2, 3])
    alignment = similarity.permutation_procrustes(few, x + SHIFT, center=True, full_output=True)[1]
    lonely = np.asarray(alignment.permutation) < 0
    assert lonely.sum() == 3
    np.testing.assert_allclose(alignment.bias[lonely], (x + SHIFT).mean(0)[lonely], rtol=1e-5)
    constant = np.concatenate([x, np.full((N, 1), 7, np.float32)], 1)
    transport = similarity.soft_matching(x, constant, full_output=True)[1]
    np.testing.assert_allclose(x @ transport.matrix.T + transport.bias, constant, rtol=1e-5, atol=1e-5)


def test_softly_matched_neurons_are_means_of_standard_ones():
    """For unequal widths no stitch is exact: the matrix is the plan between neurons at the scale of y."""
    x, y = features(), np.float32(features(2)[:, :4] * [1, 10, 100, 0.1] + 3)
    transport = similarity.soft_matching(x, y, full_output=True)[1]
    standard = (x - x.mean(0)) / np.linalg.norm(x - x.mean(0), axis=0)
    expected = standard @ np.asarray(transport.plan) * 4 * np.linalg.norm(y - y.mean(0), axis=0) + y.mean(0)
    np.testing.assert_allclose(x @ transport.matrix.T + transport.bias, expected, rtol=1e-4)
