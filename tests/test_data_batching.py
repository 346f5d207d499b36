"""Batches for training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.data import batches, epoch_indices
from symjax.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize(("n", "batch"), [(10, 3), (10, 10), (10, 1), (1, 1), (100, 32)])
def test_epoch_uses_each_example_at_most_once(n, batch):
    indices = epoch_indices(KEY, n, batch)
    assert indices.shape == (n // batch, batch) and indices.dtype == jnp.int32
    flat = np.asarray(indices).ravel()
    assert len(set(flat.tolist())) == len(flat) and flat.min() >= 0 and flat.max() < n


def test_epoch_depends_on_the_key_alone():
    np.testing.assert_array_equal(epoch_indices(KEY, 50, 8), epoch_indices(KEY, 50, 8))
    assert not np.array_equal(epoch_indices(KEY, 50, 8), epoch_indices(jax.random.key(1), 50, 8))


def test_no_example_is_always_left_out():
    epochs = jax.jit(jax.vmap(lambda key: epoch_indices(key, 10, 4)))(jax.random.split(KEY, 200))
    counts = np.bincount(np.asarray(epochs).ravel(), minlength=10)
    np.testing.assert_allclose(counts, 160, rtol=0.2)


def test_epoch_under_jit_and_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        jitted = jax.jit(epoch_indices, static_argnums=(1, 2))(KEY, 20, 6)
    np.testing.assert_array_equal(jitted, epoch_indices(KEY, 20, 6))


@pytest.mark.parametrize(("n", "batch"), [(10, 0), (10, 11), (0, 1), (10, -2)])
def test_bad_epochs(n, batch):
    with pytest.raises(InputError, match="batch_size: got"):
        epoch_indices(KEY, n, batch)


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize(("n", "batch"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_batches_cover_every_example_once(xp, n, batch):
    x, y = xp.arange(n * 4, dtype=xp.int32).reshape(n, 2, 2), xp.arange(n, dtype=xp.int32)
    (bx, by), mask = batches((x, y), batch)
    assert isinstance(bx, jax.Array if xp is jnp else np.ndarray)
    assert bx.shape == (-(-n // batch), batch, 2, 2) and by.shape == mask.shape == bx.shape[:2]
    assert mask.sum() == n and mask.dtype == bool
    np.testing.assert_array_equal(bx[mask], x)
    np.testing.assert_array_equal(by[mask], y)
    np.testing.assert_array_equal(by[~mask], n - 1)  # padding is a real example, so nothing is ever NaN


def test_masked_mean_is_the_mean_over_examples():
    correct = np.array([1, 1, 1, 1, 0], np.float32)
    batched, mask = batches(correct, 4)
    assert (batched * mask).sum() / mask.sum() == pytest.approx(0.8)
    assert np.mean([1.0, 0.0]) == 0.5  # what the mean of the two batch means would be


@pytest.mark.parametrize(
    ("arrays", "batch", "message"),
    [
        (np.zeros(3), 0, "batch_size: got 0"),
        (np.zeros(0), 1, "arrays: got lengths"),
        ((np.zeros(3), np.zeros(4)), 2, r"arrays: got lengths \[3, 4\]"),
        ((), 2, r"arrays: got lengths \[\]"),
    ],
)
def test_bad_batches(arrays, batch, message):
    with pytest.raises(InputError, match=message):
        batches(arrays, batch)


def test_masked_entries_are_refused():
    with pytest.raises(InputError, match="arrays: got masked entries"):
        batches((np.arange(4), np.ma.array(np.arange(4), mask=[0, 1, 0, 0])), 2)
