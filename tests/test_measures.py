"""Every entry of the table of measures: listed properties hold, and all other properties fail."""

import warnings
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import each
from scipy.stats import ortho_group

from symjax import nearest_permutation, projection_birkhoff, sinkhorn, softsort
from symjax.errors import InputError
from symjax.similarity import INVARIANCES, MEASURES, NumericalWarning

EXAMPLES, FEATURES = 40, 5
HOLDS, FAILS = 2e-5, 2e-3
OF_ROTATIONS = {"aligned_cosine", "held_out_procrustes"}  # of every direction, also those of tiny covariance
# What each invariance brings with it.
IMPLIED = {
    "invertible_linear": {"orthogonal", "isotropic_scaling", "positive_diagonal"},
    "orthogonal": {"permutation", "sign_flip"},
    "positive_diagonal": {"isotropic_scaling"},
}


def representations(size=()):
    """Two related positive representations whose channels differ in scale and correlate, so that no accident agrees.

    Matrices, or maps of this size, whose pixels are related too.
    """
    rng = np.random.default_rng(5)
    latent = rng.normal(size=(EXAMPLES, *size, 3))
    scales = np.array([0.4, 2.0, 1.0, 0.7, 1.4])

    def side():
        mixed = latent @ rng.normal(size=(3, FEATURES)) + 0.7 * rng.normal(size=(EXAMPLES, *size, FEATURES)) + 0.5
        return np.float32(np.maximum(mixed, 0) * rng.permutation(scales))

    return side(), side()


def heavy_tailed(tails):
    """Two related representations whose rows differ in size by powers: few rows hold most of the norm."""
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(EXAMPLES, 3))
    sizes = np.abs(rng.standard_cauchy((EXAMPLES, 1))) if tails == "cauchy" else 1 + rng.pareto(0.3, (EXAMPLES, 1))

    def side():
        mixed = latent @ rng.normal(size=(3, FEATURES)) + 0.7 * rng.normal(size=(EXAMPLES, FEATURES))
        return np.float32(sizes * mixed + 0.5)

    return side(), side()


def transform(name, x):
    """Apply one transformation of this kind, the same in every call."""
    rng = np.random.default_rng(11)
    d = x.shape[-1]
    if name == "translation":
        moved = x + rng.uniform(0.5, 2, size=d)
    elif name == "isotropic_scaling":
        moved = 3.7 * x
    elif name == "orthogonal":
        moved = x @ ortho_group.rvs(d, random_state=3)
    elif name == "invertible_linear":
        moved = x @ (np.eye(d) + 0.6 * rng.normal(size=(d, d)))
    elif name == "permutation":
        moved = x[..., np.roll(np.arange(d), 2)]
    elif name == "positive_diagonal":
        moved = x * np.exp(np.linspace(-1, 1, d))
    elif name == "sign_flip":
        moved = x * np.array([1, -1, 1, -1, -1])
    elif name == "cyclic_shift":
        moved = np.roll(x, (1, 2), (1, 2)) if x.ndim == 4 else x
    return np.float32(moved)


@pytest.fixture(scope="module")
def pair():
    return representations()


@pytest.fixture(scope="module", params=[(), (3, 3)], ids=["matrices", "maps"])
def either(request):
    """Return a pair of matrices or of maps."""
    return representations(request.param)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
def test_entry_is_complete(measure):
    assert measure.reference and measure.kind in ("similarity", "distance")
    assert measure.range[0] < measure.range[1]
    for stronger, weaker in IMPLIED.items():
        if stronger in measure.invariances:
            assert weaker <= measure.invariances


@each
@pytest.mark.parametrize("invariance", INVARIANCES)
@pytest.mark.few(20)
def test_invariance_is_as_claimed(measure, invariance, either):
    x, y = either
    if invariance == "cyclic_shift" and x.ndim == 2:
        return  # one pixel, which stays
    before = float(measure.fn(x, y))
    after = np.array([measure.fn(transform(invariance, x), y), measure.fn(x, transform(invariance, y))])
    change = np.abs(after - before)
    if (measure.name, invariance, x.ndim) == ("feature_sampled_cka", "positive_diagonal", 4):
        assert np.isnan(change).tolist() == [True, False]  # few neurons carry all of the variance of the scaled x
        change = change[1:]
    assert change.max() < HOLDS if invariance in measure.invariances else change.max() > FAILS  # of one side at least


@each
@pytest.mark.few(10)
def test_symmetry_is_as_claimed(measure, either):
    x, y = either
    pairs = [(x, y)] if measure.symmetric else [(x, y), (x, np.roll(y, 2, 0))]  # counts may agree by accident
    change = max(abs(float(measure.fn(x, y)) - float(measure.fn(y, x))) for x, y in pairs)
    assert change < HOLDS if measure.symmetric else change > FAILS


@each
@pytest.mark.few(30)
def test_value_is_a_scalar_in_range(measure, either):
    first, second = either
    noise = np.float32(np.random.default_rng(2).normal(size=first.shape))
    for x, y in ((first, second), (first, noise), (noise, second)):
        value = measure.fn(x, y)
        assert value.shape == () and value.dtype == jnp.float32
        assert_within(value, measure.range)


@each
@pytest.mark.few(8)
def test_values_do_not_leave_the_range_by_rounding(measure, either):
    """Representations that are equal up to a transformation, with values at an end of the range."""
    if not np.isfinite(measure.range).any():
        return
    for x in either:
        others = [x, -x, *(transform(name, x) for name in INVARIANCES)]
        for y in others:
            assert_within(measure.fn(x, y), measure.range)
            assert_within(measure.fn(y, x), measure.range)


@each
@pytest.mark.filterwarnings("ignore::symjax.similarity.NumericalWarning")  # of directions that are lost, which is told
@pytest.mark.few(2)
def test_heavy_tails_take_no_digits(measure):
    for tails in ("cauchy", "pareto"):
        x, y = heavy_tailed(tails)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = float(measure.fn(x, y))
        if measure.name in OF_ROTATIONS and any(w.category is NumericalWarning for w in caught):
            continue
        with jax.enable_x64(True):
            expected = float(measure.fn(np.float64(x), np.float64(y)))
        if (measure.name, tails) == ("feature_sampled_cka", "pareto"):
            assert np.isnan([value, expected]).all()  # few neurons carry all of the variance
            continue
        error = HOLDS * max(1, abs(expected))
        assert abs(value - expected) < error
        assert_within(value, measure.range)
        assert not measure.symmetric or abs(float(measure.fn(y, x)) - value) < error
    x, y = heavy_tailed("cauchy")
    value = float(measure.fn(x, y))
    for invariance in measure.invariances:
        assert abs(float(measure.fn(transform(invariance, x), y)) - value) < HOLDS * max(1, abs(value)), invariance


def assert_within(value, ends):
    """The ends 0, 1 and -1 hold exactly; other ends are not float32 numbers."""
    low, high = (end if end in (-1, 0, 1) else end + slack for end, slack in zip(ends, (-1e-6, 1e-6), strict=True))
    assert low <= value <= high


@each
@pytest.mark.few(15)
def test_identical_inputs_reach_the_end_of_the_range(measure, pair):
    x, y = pair
    same, different = float(measure.fn(x, x)), float(measure.fn(x, y))
    best = 0.0 if measure.kind == "distance" else measure.range[1]
    if not measure.ends_at_equal:
        assert not np.isfinite(best) or abs(same - best) < 0.2
    elif measure.kind == "distance" and "cca" not in measure.name:  # which is 1 less a similarity
        assert same == 0
    elif np.isfinite(best):
        assert abs(same - best) < 1e-5
    assert same < different if measure.kind == "distance" else same > different


@each
@pytest.mark.few(2)
def test_same_under_jit_and_vmap(measure, pair):
    x, y = pair
    expected = np.array([measure.fn(x, y), measure.fn(y, x)])
    compiled = jax.jit(jax.vmap(measure.fn))(np.stack([x, y]), np.stack([y, x]))
    np.testing.assert_allclose(compiled, expected, atol=HOLDS)


@each
@pytest.mark.few(2)
def test_nan_is_refused_or_propagates(measure, pair):
    x, y = pair
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InputError, match="^y: .*NaN"):
        measure.fn(y, bad)
    assert np.isnan(jax.jit(measure.fn)(bad, y))
    assert np.isnan(jax.jit(measure.fn)(y, bad))


@each
def test_unequal_numbers_of_examples_are_refused(measure, pair):
    x, y = pair
    with pytest.raises(InputError, match="^y: got 39 examples"):
        measure.fn(x, y[:-1])


@each
def test_constant_input_is_not_taken_for_agreement(measure, pair):
    x, _ = pair
    value = float(measure.fn(x, np.zeros_like(x)))
    best = 0.0 if measure.kind == "distance" else measure.range[1]
    assert np.isnan(value) or abs(value - best) > 0.1


@each
@pytest.mark.few(2)
def test_gradient_is_finite(measure, pair):
    x, y = pair
    gradients = jax.jit(jax.grad(measure.fn, (0, 1)))(x, y)
    assert all(np.isfinite(g).all() for g in gradients)
    assert any(np.abs(g).max() > 0 for g in gradients) == measure.differentiable


@each
@pytest.mark.few(4)
def test_map_sizes_are_as_claimed(measure):
    rng = np.random.default_rng(3)
    x, y = (np.float32(rng.uniform(size=(20, size, size, 3))) for size in (4, 2))
    if measure.one_map_size:
        with pytest.raises(InputError, match="map size"):
            measure.fn(x, y)
    else:
        assert np.isfinite(measure.fn(x, y))


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.slow
def test_no_rank_is_promoted(differentiated):
    """Checked by shapes alone, without compilation."""
    x, y = np.zeros((2, 12, 3), np.float32)
    maps = np.zeros((12, 4, 2, 3), np.float32)
    with jax.numpy_rank_promotion("raise"):
        for measure, side in product(MEASURES.values(), ((x, y), (maps, maps))):
            jax.eval_shape(jax.grad(measure.fn, (0, 1)) if differentiated else measure.fn, *side)
        for fn in (projection_birkhoff, sinkhorn, nearest_permutation, partial(softsort, tau=1.0)):
            square = lambda matrix, fn=fn: (fn(matrix).astype(np.float32) ** 2).sum()  # noqa: E731
            jax.eval_shape(jax.grad(square) if differentiated else square, np.zeros((2, 3, 3), np.float32))
