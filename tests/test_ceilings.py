"""Noise ceilings, CKA of sampled neurons, tests of two groups, and the bias of CKA; oracles in NumPy."""

from itertools import combinations, permutations

import jax
import numpy as np
import pytest

from symjax import (
    InputError,
    cka,
    feature_sampled_cka,
    group_test,
    mean_over_pairs,
    pwcca,
    seed_ceiling,
    split_half_ceiling,
)
from symjax.similarity import hsic

KEY = jax.random.key(0)


def population(n, neurons, latent=20, seed=0):
    """Samples of neurons of one population, whose CKA is 1."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, latent))
    return tuple(np.float32(z @ rng.normal(size=(latent, d))) for d in neurons)


# Noise ceilings


def test_halves_of_neurons():
    x = population(30, (9,))[0]
    ceiling = split_half_ceiling("cka", x, KEY, 40, 0.8)
    orders = [jax.random.permutation(key, 9) for key in jax.random.split(KEY, 40)]
    values = np.array([cka(x[:, order[:4]], x[:, order[4:8]]) for order in orders])
    np.testing.assert_allclose(ceiling.values, values, atol=1e-6)
    np.testing.assert_allclose(ceiling.estimate, values.mean(), rtol=1e-5)
    np.testing.assert_allclose((ceiling.low, ceiling.high), np.quantile(values, [0.1, 0.9]), rtol=1e-5)


def test_the_ceiling_of_halves_is_that_of_two_samples():
    """Two networks with as many neurons of the same population reach the ceiling, and other data do not."""
    x, y = population(200, (60, 30))
    ceiling = split_half_ceiling("cka", x, KEY)
    assert abs(float(cka(x[:, :30], y)) - ceiling.estimate) < 0.05
    assert cka(x[:, :30], np.random.default_rng(1).normal(size=(200, 30))) < ceiling.low - 0.3


@pytest.mark.parametrize("fn", [cka, pwcca])
def test_ceiling_of_seeds(fn):
    rng = np.random.default_rng(0)
    layers = {name: np.float32(rng.normal(size=(40, 3)) + rng.normal(size=(4, 40, 3))) for name in "ab"}
    ceilings = seed_ceiling(fn.__name__, layers, 0.9)
    pairs = list(combinations(range(4), 2))
    for name, zoo in layers.items():
        values = [(fn(zoo[i], zoo[j]) + fn(zoo[j], zoo[i])) / 2 for i, j in pairs]
        expected = mean_over_pairs(np.array(values), pairs, 0.9)
        np.testing.assert_allclose(ceilings[name], expected, atol=1e-5)
    np.testing.assert_array_equal(seed_ceiling(fn.__name__, layers["a"], 0.9), ceilings["a"])


def test_mistakes_in_ceilings():
    x = population(30, (9,))[0]
    for arguments, message in (
        (("cka", x[:, :1], KEY), "^x: got 1 neuron"),
        (("cka", x, KEY, 1), "^num_splits: "),
        (("cka", x, KEY, 5, 1.0), "^level: "),
        (("own", x, KEY), "^measure: "),
    ):
        with pytest.raises(InputError, match=message):
            split_half_ceiling(*arguments)
    with pytest.raises(InputError, match="expected at least 3"):
        seed_ceiling("cka", np.stack([x, x + 1]))


# CKA of sampled neurons


def by_pairs_of_neurons(x, y):
    """The definition, in float64: mean unbiased HSIC over pairs of different neurons."""

    def power(z):
        kernels = [np.outer(neuron, neuron) for neuron in z.T]
        return np.mean([hsic(a, b) for a, b in permutations(kernels, 2)])

    kernels = (z @ z.T / z.shape[1] for z in (x, y))
    return hsic(*kernels) / np.sqrt(power(x) * power(y))


def test_feature_sampled_cka():
    x, y = population(14, (5, 4))
    with jax.enable_x64(True):
        expected = by_pairs_of_neurons(np.float64(x), np.float64(y))
    np.testing.assert_allclose(feature_sampled_cka(x, y), expected, rtol=1e-5)
    maps = np.float32(np.random.default_rng(0).normal(size=(14, 2, 2, 3)))
    flat = feature_sampled_cka(maps.reshape(14, -1), y)
    np.testing.assert_allclose(feature_sampled_cka(maps, y), flat, rtol=1e-6)


@pytest.mark.slow
def test_few_neurons_do_not_make_cka_smaller():
    """Neurons of one population with 20 dimensions: CKA of d neurons is about d / (d + 20), without this bias 1."""
    values = [[fn(*population(150, (20, 20), seed=seed)) for fn in (cka, feature_sampled_cka)] for seed in range(24)]
    plain, corrected = np.mean(values, 0)
    assert abs(plain - 0.5) < 0.03
    assert abs(corrected - 1) < 3 * np.std(values, 0)[1] / np.sqrt(24) + 0.01


def test_neurons_without_anything_in_common():
    x = np.eye(12, dtype=np.float32)[:, :4]  # each neuron responds to its own example
    y = population(12, (4,))[0]
    assert np.isnan(feature_sampled_cka(x, y))
    for few, message in ((x[:, :1], "^y: got 1 neuron"), (x[:3], "^y: got 3 examples")):
        with pytest.raises(InputError, match=message):
            feature_sampled_cka(y, few)


# Two groups of networks


def statistic(matrix, first, second, name):
    within = [[matrix[i, j] for i, j in combinations(group, 2)] for group in (first, second)]
    if name == "within":
        return np.mean(within[0]) - np.mean(within[1])
    return np.mean(np.concatenate(within)) - np.mean(matrix[np.ix_(first, second)])


@pytest.mark.parametrize("name", ["between", "within"])
def test_all_assignments_of_networks(name):
    matrix = np.random.default_rng(0).normal(size=(7, 7))
    matrix = matrix + matrix.T
    pairs = np.array(list(combinations(range(7), 2)))
    result = group_test(matrix[tuple(pairs.T)], pairs, "abababb", statistic=name)
    np.testing.assert_allclose(result.estimate, statistic(matrix, [0, 2, 4], [1, 3, 5, 6], name))
    every = [statistic(matrix, f, sorted({*range(7)} - {*f}), name) for f in map(list, combinations(range(7), 3))]
    np.testing.assert_allclose(np.sort(result.values), np.sort(every))
    np.testing.assert_allclose(result.p_value, np.mean(np.abs(every) >= abs(result.estimate) - 1e-9))
    random = group_test(matrix[tuple(pairs.T)], pairs, "abababb", KEY, 30, statistic=name)
    hits = np.sum(np.abs(random.values) >= abs(result.estimate) - 1e-9)
    assert len(random.values) == 30 and random.p_value == (1 + hits) / 31


def test_pairs_count_once():
    values, pairs = [0.2, 0.4, 0.9, 0.8, 0.5], [(0, 1), (1, 0), (2, 3), (0, 2), (1, 3)]
    twice = group_test(values, pairs, "aabb")
    once = group_test([0.3, *values[2:]], [(0, 1), *pairs[2:]], "aabb")
    np.testing.assert_allclose(twice.estimate, (0.3 + 0.9) / 2 - (0.8 + 0.5) / 2)
    np.testing.assert_allclose(twice.values, once.values)


def test_error_rates_of_group_test():
    """With an effect of each network on all its pairs, a test that permutes pairs would reject far too often."""
    rng = np.random.default_rng(0)
    pairs = np.array(list(combinations(range(8), 2)))
    for planted, (low, high) in ((0.0, (0.01, 0.09)), (2.0, (0.9, 1.0))):
        p = []
        for _ in range(200):
            effect = rng.normal(size=8) + planted * np.repeat([1, -1], 4)
            values = effect[pairs].sum(1) + 0.1 * rng.normal(size=len(pairs))
            p.append(group_test(values, pairs, "aaaabbbb", statistic="within").p_value)
        assert low <= np.mean(np.array(p) <= 0.05) <= high


def test_mistakes_in_group_tests():
    good = [0.2, 0.9, 0.5], [(0, 1), (2, 3), (0, 2)], "aabb"
    for change, message in (
        ({"groups": "aaaa"}, "^groups, values: got 1 labels"),
        ({"pairs": [(0, 1), (2, 3), (2, 2)]}, "^values, pairs: "),
        ({"values": [0.2, np.nan, 0.5]}, "^values, pairs: "),
        ({"pairs": [(0, 1), (2, 3), (0, 4)]}, "^pairs, groups: "),
        ({"pairs": [(0, 1), (2, 3), (0, 1)]}, "^pairs: got none for one of the means"),
        ({"statistic": "other"}, "^statistic: "),
        ({"num_permutations": 0}, "^num_permutations: "),
        ({"num_permutations": 3}, "^key: "),
    ):
        with pytest.raises(InputError, match=message):
            group_test(**{**dict(zip(("values", "pairs", "groups"), good, strict=True)), **change})


# The bias of CKA


def test_means_over_independent_normals():
    """The means over 20 seeds that MONAI#9129 reports, of biased CKA and of unbiased CKA clipped at 0.

    Its number of neurons, which it does not state, follows from the limit d / (d + n) of biased CKA: 8.
    """
    published = {32: (0.198, 0.017), 64: (0.114, 0.009), 128: (0.056, 0.003), 256: (0.029, 0.001)}
    for n, means in published.items():
        x, y = np.float32(np.random.default_rng(0).normal(size=(2, 200, n, 8)))
        biased = np.array(jax.jit(jax.vmap(lambda x, y: cka(x, y, "gretton")))(x, y))
        unbiased = np.array(jax.jit(jax.vmap(cka))(x, y))
        for values, mean in zip((biased, np.maximum(unbiased, 0)), means, strict=True):
            assert abs(values.mean() - mean) < 2.6 * values.std() * np.sqrt(1 / 20 + 1 / 200)
        assert abs(biased.mean() - 8 / (8 + n)) < 3 * biased.std() / np.sqrt(200) + 1 / n**2
        assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(200)
