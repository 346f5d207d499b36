"""`diagnose` against NumPy in float64 and planted degenerate channels."""

import jax
import numpy as np
import pytest

import symjax
from symjax.errors import InputError

N = 30
COUNTS = ("num_dead", "num_constant", "num_duplicate", "rank")


def planted(seed=0, n=N, dtype=np.float32):
    """Regular channels 0, 1, 2, 5; channels 3, 4, 6, ..., 10 are degenerate."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 11)) + 0.5
    x[:, 3] = 0
    x[:, 4] = 0.1
    x[:, 6] = 3e-3 * x[:, 1]
    x[:, 7] = 1e5 * x[:, 1]
    x[:, 8] = -x[:, 2]  # opposite: dependent, but another one behind a ReLU
    x[:, 9] = x[:, 0] + x[:, 5]
    x[:, 10] = 0.1  # a constant is no duplicate
    return dtype(x)


def by_definition(x):
    """Return dead, constant, duplicate and rank of a matrix."""
    x = np.float64(x)
    dead, constant = ~x.any(0), np.ptp(x, axis=0) <= 1e-6 * np.abs(x).max(0)
    live = [i for i in range(x.shape[1]) if not constant[i]]
    units = x / np.where(dead, 1, np.linalg.norm(x, axis=0))
    duplicate = [
        i in live and any(np.allclose(units[:, i], units[:, j], rtol=0, atol=1e-6) for j in live if j < i)
        for i in range(x.shape[1])
    ]
    deviations = np.where(constant, 0, x - x.mean(0))
    norms = np.linalg.norm(deviations, axis=0)
    return dead, constant, np.array(duplicate), np.linalg.matrix_rank(deviations / np.where(norms > 0, norms, 1), 1e-5)


def assert_is(result, expected, counts=(N, N)):
    *masks, rank = expected
    for name, mask in zip(("dead", "constant", "duplicate"), masks, strict=True):
        np.testing.assert_array_equal(getattr(result, name), mask)
        assert getattr(result, f"num_{name}") == mask.sum()
    assert result.rank == rank
    assert (result.examples, result.samples) == counts and result.few == (counts[1] <= len(masks[0]))


def test_planted_faults_are_found():
    x = planted()
    result = symjax.diagnose(x)
    assert_is(result, by_definition(x))
    assert np.flatnonzero(result.dead).tolist() == [3]
    assert np.flatnonzero(result.constant).tolist() == [3, 4, 10]
    assert np.flatnonzero(result.duplicate).tolist() == [6, 7]
    assert result.rank == 4 and not result.few
    numbers = "channels=11, examples=30, samples=30, rank=4, num_dead=1, num_constant=3, num_duplicate=2, few=False"
    assert repr(result) == f"Diagnosis({numbers})"
    assert_is(symjax.diagnose(x[:11]), by_definition(x[:11]), (11, 11))  # few
    assert symjax.diagnose(x[:4]).rank == 3


def test_sound_and_hopeless_ones():
    x = np.float32(np.random.default_rng(0).normal(size=(N, 5)))
    sound = symjax.diagnose(x)
    assert [int(getattr(sound, name)) for name in COUNTS] == [0, 0, 0, 5]
    assert [int(getattr(symjax.diagnose(0 * x), name)) for name in COUNTS] == [5, 5, 0, 0]
    assert [int(getattr(symjax.diagnose(0 * x + 0.1), name)) for name in COUNTS] == [0, 5, 0, 0]
    same = symjax.diagnose(np.repeat(x[:, :1], 4, 1))
    assert [int(getattr(same, name)) for name in COUNTS] == [0, 0, 3, 1]


def test_nearly_duplicate_is_not_duplicate():
    """Inner products do not distinguish a close channel from a duplicate; differences do."""
    x = np.random.default_rng(0).normal(size=(N, 3))
    near = x[:, 0] + 1e-4 * np.random.default_rng(1).normal(size=N)
    result = symjax.diagnose(np.float32(np.stack([near, x[:, 0], 2.7 * x[:, 0], x[:, 1]], 1)))
    assert result.duplicate.tolist() == [False, False, True, False]


@pytest.mark.parametrize("size", [1e-28, 1e28])
def test_scale_does_not_count(size):
    x = planted() * np.float32(size)
    x[:, 6:8] = x[:, 1:2] * np.float32([3e-3, 10])
    assert_is(symjax.diagnose(x), by_definition(planted()))


def test_maps():
    x = planted(n=5 * 2 * 3).reshape(5, 2, 3, 11)
    matrix = x.reshape(-1, 11)
    assert_is(symjax.diagnose(x), by_definition(matrix), (5, 30))
    flat, pooled = x.reshape(5, -1), x.mean((1, 2))
    assert_is(symjax.diagnose(x, samples="flatten"), by_definition(flat), (5, 5))
    assert_is(symjax.diagnose(x, samples="pool"), by_definition(pooled), (5, 5))


def test_transformations():
    x = planted()
    compiled = jax.jit(symjax.diagnose)(x)
    jax.tree.map(np.testing.assert_array_equal, compiled, symjax.diagnose(x))
    batch = np.stack([x, x[::-1] ** 2])
    mapped = jax.vmap(symjax.diagnose)(batch)
    for i, one in enumerate(batch):
        jax.tree.map(
            np.testing.assert_array_equal, jax.tree.map(lambda leaf, i=i: leaf[i], mapped), symjax.diagnose(one)
        )
    assert repr(mapped).startswith("Diagnosis(dead: (2, 11), ")
    with jax.enable_x64(True):
        assert_is(symjax.diagnose(planted(dtype=np.float64)), by_definition(x))
    assert symjax.diagnose(x, rcond=0.9).rank < 4


def test_nan_is_refused_or_counts_as_sound():
    x = planted()
    x[2, 3] = np.nan
    with pytest.raises(InputError, match="x: .*NaN"):
        symjax.diagnose(x)
    assert not jax.jit(symjax.diagnose)(x).dead[3]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (np.ones(3), {}, "x: got shape"),
        (np.ones((1, 3)), {}, "x: .*at least 2"),
        (np.ones((4, 3)), {"samples": "patches"}, "samples: got 'patches'"),
        (np.ones((4, 3)), {"rcond": 1.0}, "rcond: got 1.0"),
    ],
)
def test_mistakes(arguments, options, message):
    with pytest.raises(InputError, match=message):
        symjax.diagnose(arguments, **options)
