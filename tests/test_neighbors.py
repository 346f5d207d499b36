"""Measures of neighbors against scikit-learn and loops of NumPy in float64, with ties, offsets and outliers."""

import jax
import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics.pairwise import pairwise_distances
from sklearn.neighbors import NearestNeighbors

import symjax
from symjax import InputError
from symjax.similarity import MEASURES, pairwise

N, K = 40, 6
EPS = 1e-5
COUNTS = ("mutual_knn", "knn_jaccard", "cknna", "rank_similarity", "cycle_knn", "information_imbalance")


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(4)
    signal = rng.normal(size=(N, 4))
    return [np.float32(signal @ rng.normal(size=(4, d)) + rng.normal(size=(N, d))) for d in (12, 9)]


def neighbors(x, k=K, metric="euclidean"):
    return NearestNeighbors(n_neighbors=k, metric=metric).fit(np.float64(x)).kneighbors(return_distance=False)


def per_example(value):
    """The mean over examples of value(neighbors in x, neighbors in y), lists in order of distance."""
    return lambda x, y, metric: np.mean(
        [value(list(a), list(b)) for a, b in zip(neighbors(x, K, metric), neighbors(y, K, metric), strict=True)]
    )


def order(a, b):
    common = set(a) & set(b)
    ranks = [(a.index(j) + 1, b.index(j) + 1) for j in common]
    return sum(2 / ((1 + abs(r - s)) * (r + s)) for r, s in ranks) / max(
        1, sum(1 / m for m in range(1, 1 + len(ranks)))
    )


def cycle(x, y, metric):
    nx, ny = neighbors(x, K, metric), neighbors(y, K, metric)
    return np.mean([any(i in nx[j] for j in ny[i]) for i in range(N)])


def imbalance(x, y, metric):
    distances = pairwise_distances(np.float64(y), metric=metric)
    np.fill_diagonal(distances, -1)
    ranks = rankdata(distances, axis=1) - 1
    return 2 / N * np.mean([ranks[i, j] for i, row in enumerate(neighbors(x, K, metric)) for j in row])


def alignment(x, y, metric):
    def masked(x):
        mask = np.zeros((N, N))
        np.put_along_axis(mask, neighbors(x, K, metric), 1, 1)
        x = np.float64(x) - np.float64(x).mean(0)
        return mask * (x @ x.T)

    a, b = masked(x), masked(y)
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def common_subsequence(a, b):
    rows = np.zeros((K + 1, K + 1))
    for i, j in np.ndindex(K, K):
        rows[i + 1, j + 1] = rows[i, j] + 1 if a[i] == b[j] else max(rows[i, j + 1], rows[i + 1, j])
    return rows[K, K] / K


def edit_similarity(a, b):
    rows = np.add.outer(np.arange(K + 1), np.arange(K + 1))
    for i, j in np.ndindex(K, K):
        rows[i + 1, j + 1] = min(rows[i, j] + (a[i] != b[j]), rows[i, j + 1] + 1, rows[i + 1, j] + 1)
    return 1 - rows[K, K] / K


ORACLES = {
    "lcs_knn": per_example(common_subsequence),
    "edit_knn": per_example(edit_similarity),
    "mutual_knn": per_example(lambda a, b: len(set(a) & set(b)) / K),
    "knn_jaccard": per_example(lambda a, b: len(set(a) & set(b)) / len(set(a) | set(b))),
    "rank_similarity": per_example(order),
    "cycle_knn": cycle,
    "information_imbalance": imbalance,
    "cknna": alignment,
}


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "correlation"])
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.few(4)
def test_value_is_that_of_scikit_learn(name, metric, pair):
    x, y = pair
    for a, b in ((x, y), (y, x)):
        value = getattr(symjax, name)(a, b, K, metric=metric)
        assert value == pytest.approx(ORACLES[name](a, b, metric), abs=EPS)


def test_second_order_cosine_is_that_of_a_loop(pair):
    (s, t), (a, b) = zip(
        *((1 - pairwise_distances(np.float64(z), metric="cosine"), neighbors(z, K, "cosine")) for z in pair),
        strict=True,
    )
    unions = [sorted({*left, *right}) for left, right in zip(a, b, strict=True)]
    cosines = [s[i, j] @ t[i, j] / np.linalg.norm(s[i, j]) / np.linalg.norm(t[i, j]) for i, j in enumerate(unions)]
    assert symjax.second_order_cosine(*pair, K) == pytest.approx(np.mean(cosines), abs=EPS)


def test_all_neighbors_give_the_values_of_all_pairs(pair):
    assert symjax.cknna(*pair, N - 1) == pytest.approx(float(symjax.cka(*pair, "lange")), abs=EPS)
    assert symjax.mutual_knn(*pair, N - 1) == 1
    assert symjax.information_imbalance(*pair, N - 1) == pytest.approx(1, abs=EPS)  # n / 2 times 2 / n


def test_chance():
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(2, 300, 8)))
    assert symjax.mutual_knn(x, y) == pytest.approx(10 / 299, abs=0.01)
    assert symjax.knn_jaccard(x, y, 60) == pytest.approx(60 / (2 * 299 - 60), rel=0.05)
    assert symjax.information_imbalance(x, y) == pytest.approx(1, abs=0.1)
    assert symjax.cycle_knn(x, y) == pytest.approx(1 - (1 - 10 / 299) ** 10, abs=0.06)
    wide = np.float32(rng.normal(size=(2, 300, 100)))
    bound = 1 - (1 - 35 / 299) ** 35
    assert symjax.cycle_knn(*wide, 35) < bound - 0.1 < symjax.cycle_knn(x[:, :1], y[:, :1], 35) < bound + 0.02


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.few(1)
def test_offsets_and_outliers_leave_the_neighbors(name, pair):
    """Distances of close examples far from the origin or beside a huge one, where inner products have no digits."""
    x, y = pair
    rng = np.random.default_rng(1)
    outlier = np.concatenate([np.float64(x), 1e4 * rng.normal(size=(1, x.shape[1]))])
    clusters = np.float64(x) + 3000 * (np.arange(N) % 2)[:, None]
    for bad, other in ((outlier, np.concatenate([y, y[:1] + 1])), (clusters, y)):
        value = MEASURES[name].fn(np.float32(bad), other)
        with jax.enable_x64(True):
            exact = MEASURES[name].fn(np.float64(np.float32(bad)), np.float64(other))
        assert value == pytest.approx(float(exact), abs=2e-5)


def test_ties_do_not_depend_on_the_order_of_examples():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 2, (2, N, 5))  # few different examples
    permuted = rng.permutation(N)
    for name in ("mutual_knn", "mutual_knn_cosine", "knn_jaccard", "information_imbalance", "cycle_knn"):
        fn = MEASURES[name].fn
        assert fn(x, y) == pytest.approx(float(fn(x[permuted], y[permuted])), abs=1e-6), name


def test_wrong_k():
    x = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(InputError, match="^k: got 10, expected at most 7, the number of other examples"):
        symjax.mutual_knn(x, x)
    for k in (0, -1, 2.0, True, None, "3"):
        with pytest.raises(InputError, match="^k: got"):
            symjax.cknna(x, x, k)
    with pytest.raises(InputError, match="^metric: got 'l1', expected one of euclidean"):
        symjax.knn_jaccard(x, x, 3, metric="l1")


def test_points_at_one_distance_have_no_neighbors():
    x = np.random.default_rng(0).normal(size=(12, 12))
    for name in COUNTS:
        assert np.isnan(MEASURES[name].fn(np.eye(12), x)), name
    assert np.isnan(symjax.second_order_cosine(np.arange(1.0, 13)[:, None] * np.ones(3), x))  # of one direction


@pytest.mark.slow
def test_gradients_are_those_of_differences(pair):
    x, y = (np.float64(z[:14]) for z in pair)
    direction = np.random.default_rng(0).normal(size=x.shape)
    with jax.enable_x64(True):
        for fn in (symjax.cknna, symjax.second_order_cosine):
            slope = (jax.grad(fn)(x, y, 3) * direction).sum()
            step = 1e-6 * direction
            assert slope == pytest.approx(float(fn(x + step, y, 3) - fn(x - step, y, 3)) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.few(2)
def test_all_pairs_at_once(name, pair):
    x, y = pair
    fn, values = MEASURES[name].fn, pairwise({"a": x[None], "b": y[None]}, name).values[:, 0, :, 0]
    np.testing.assert_allclose(values, [[fn(a, b) for b in pair] for a in pair], atol=1e-6)
