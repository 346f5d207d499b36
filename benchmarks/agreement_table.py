"""The table of `benchmarks.agreement`: measures, and functions of other packages that compute the same."""

import importlib
from functools import partial

import jax
import numpy as np
from scipy.spatial.distance import pdist

import symjax
from symjax.similarity import MEASURES
from symjax.similarity.permuted import draw_permutations


def centered(x):
    return x - x.mean(0)


def unit(x):
    """Return x less its mean, at unit norm."""
    return centered(x) / np.linalg.norm(centered(x))


def unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Which shapes (n, p, q) a function takes, or computes what it says for.


def any_shape(shape):
    return True


def many_examples(shape):
    return shape[0] > max(shape[1:])


def many_examples_of_one_width(shape):
    return many_examples(shape) and shape[1] == shape[2]


def not_wider(shape):
    return many_examples(shape) and shape[1] <= shape[2]


def wider(shape):
    return many_examples(shape) and shape[1] > shape[2]


# Functions of packages


def tensors(*arrays):
    return map(importlib.import_module("torch").from_numpy, arrays)


def linear_metric(netrep, x, y, **options):
    return netrep.LinearMetric(**options).fit_score(x, y)


def distance_matrices(rsatoolbox, x, y, method, comparison):
    data, rdm = (importlib.import_module(f"rsatoolbox.{part}") for part in ("data", "rdm"))
    a, b = (rdm.calc_rdm(data.Dataset(side), method=method) for side in (x, y))
    return rdm.compare(a, b, method=comparison).item()


def stochastic(netrep, x, y):
    """Compare means x and y with covariances that differ from example to example."""
    sides = ((side, covariances(side)) for side in (x, y))
    return netrep.GaussianStochasticMetric(niter=300, tol=1e-12).fit_score(*sides)


def covariances(means):
    return np.eye(means.shape[1]) / 4 + means[:, :, None] * means[:, None] / 4


def stochastic_of_symjax(x, y):
    return symjax.stochastic_shape_distance(x, y, covariances=tuple(map(covariances, (x, y))))


def sklearn_neighbors(module, x, y, k=10):
    """Return the mean share of common neighbors."""
    nearest = [module.NearestNeighbors(n_neighbors=k).fit(side).kneighbors(return_distance=False) for side in (x, y)]
    return np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest, strict=True)])


def sklearn_regression(module, x, y, share=0.0):
    """Return the cross-validated R^2 of a regression of y on x, over all folds at once."""
    folds, errors, squares = np.arange(len(x)) % 5, 0.0, 0.0
    model = module.Ridge(share * np.sum(centered(x) ** 2)) if share else module.LinearRegression()
    for fold in range(5):
        train, test = folds != fold, folds == fold
        errors += np.sum((y[test] - model.fit(x[train], y[train]).predict(x[test])) ** 2)
        squares += np.sum((y[test] - y[train].mean(0)) ** 2)
    return 1 - errors / squares


def sklearn_cca(module, x, y):
    count = min(x.shape[1], y.shape[1])
    scores = module.CCA(count, max_iter=100_000, tol=1e-15).fit(x, y).transform(x, y)
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*(side.T for side in scores), strict=True)])


def scipy_procrustes(scipy_linalg, x, y):
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(unit(side), ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    return np.linalg.norm(x @ scipy_linalg.orthogonal_procrustes(x, y)[0] - y)


def scipy_matching(optimize, x, y):
    correlations = np.corrcoef(x.T, y.T)[: x.shape[1], x.shape[1] :]
    return correlations[optimize.linear_sum_assignment(correlations, maximize=True)].mean()


def scipy_transport(optimize, x, y):
    """Return soft matching by a linear program."""
    p, q = x.shape[1], y.shape[1]
    sums = np.vstack([np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))])
    totals = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    return -optimize.linprog(-np.corrcoef(x.T, y.T)[:p, p:].ravel(), A_eq=sums, b_eq=totals).fun


def calibrated(package, x, y, part):
    """Return score or p of linear CKA for the permutations that `symjax.calibrate` draws."""
    orders = iter(draw_permutations(jax.random.key(0), len(x), 200).orders()[1:].tolist())
    torch = importlib.import_module("torch")

    def similarity(a, b):
        a, b = (centered(side.numpy()) for side in (a, b))
        return np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)

    return package.calibrate(*tensors(x, y), similarity, perm_fn=lambda *_: torch.tensor(next(orders)))[part]


def calibrated_of_symjax(x, y):
    return symjax.calibrate("cka_gretton", x, y, jax.random.key(0)).calibrated


def calibrated_p_of_symjax(x, y):
    return symjax.calibrate("cka_gretton", x, y, jax.random.key(0)).p_value


def platonic(name, metrics, x, y, **options):
    return getattr(metrics.AlignmentMetrics, name)(*tensors(unit_rows(x), unit_rows(y)), **options)


def cka_of_unit_rows(x, y):
    return symjax.cka(unit_rows(x), unit_rows(y))


def sim_metric_cca(scoring, x, y, mean):
    return getattr(scoring, mean)(scoring.cca_decomp(centered(x).T, centered(y).T)[1])


def sim_metric_pwcca(scoring, x, y):
    _, correlations, _, variates, _ = scoring.cca_decomp(centered(x).T, centered(y).T)
    return scoring.pwcca_dist(centered(x).T, correlations, variates)


def svcca_repository(cca_core, x, y):
    return np.mean(cca_core.get_cca_similarity(x.T, y.T, compute_coefs=False, verbose=False)["cca_coef1"])


def ckatorch(module, x, y, **options):
    return module.cka_base(*tensors(x, y), **options)


def row(measure, package, of_package, allowed=any_shape, name=None, **options):
    """Return a row of the table for a measure in `MEASURES`, or `name` in symjax with options."""
    function = partial(getattr(symjax, name), **options) if name else MEASURES[measure].fn
    return measure, function, package, of_package, allowed


NETREP = "netrep.metrics"
RDM = (("correlation", "correlation"), ("sqeuclidean", "euclidean"))  # metrics of symjax, methods of rsatoolbox
COMPARISONS = (
    row("shape_distance", NETREP, linear_metric),
    row("alpha = 1/2", NETREP, partial(linear_metric, alpha=0.5), many_examples, "shape_distance", alpha=0.5),
    row("shape_distance_white", NETREP, partial(linear_metric, alpha=0.0), many_examples_of_one_width),
    row(
        "procrustes_distance, centered",
        NETREP,
        lambda netrep, x, y: linear_metric(netrep, unit(x), unit(y), score_method="euclidean"),
        name="procrustes_distance",
        center=True,
    ),
    row(
        "permutation_procrustes_distance, centered",
        NETREP,
        lambda netrep, x, y: netrep.PermutationMetric(score_method="euclidean").fit_score(unit(x), unit(y)),
        name="permutation_procrustes_distance",
        center=True,
    ),
    row(
        "cka_distance, biased",
        NETREP,
        lambda netrep, x, y: netrep.LinearCKA().score(x, y),
        name="cka_distance",
        estimator="gretton",
    ),
    ("stochastic_shape_distance", stochastic_of_symjax, NETREP, stochastic, many_examples_of_one_width),
    *(
        row(
            f"rsa, {comparison}, {metric}",
            "rsatoolbox",
            partial(distance_matrices, method=method, comparison={"pearson": "corr"}.get(comparison, comparison)),
            name="rsa",
            comparison=comparison,
            metric=metric,
        )
        for comparison in ("spearman", "pearson", "cosine", "cosine_cov")
        for metric, method in RDM
    ),
    row("cka", "cka", lambda cka, x, y: cka.cka_from_features(*([side] for side in tensors(x, y)))),
    row("cka", "ckatorch", partial(ckatorch, unbiased=True)),
    row("cka_gretton", "ckatorch", ckatorch),
    row("cka_gretton, by HSIC", "ckatorch", partial(ckatorch, method="hsic"), name="cka", estimator="gretton"),
    row("cka, by HSIC", "ckatorch", partial(ckatorch, method="hsic", unbiased=True), name="cka"),
    row("cka_rbf", "ckatorch", partial(ckatorch, kernel="rbf", unbiased=True)),
    row("cca", "dists.scoring", partial(sim_metric_cca, mean="mean_cca_corr"), many_examples),
    row("cca_mean_square", "dists.scoring", partial(sim_metric_cca, mean="mean_sq_cca_corr"), many_examples),
    row("pwcca_distance, narrower x", "dists.scoring", sim_metric_pwcca, not_wider, "pwcca_distance"),
    row("pwcca_distance, wider x", "dists.scoring", sim_metric_pwcca, wider, "pwcca_distance"),
    row(
        "1 - cka_gretton",
        "dists.scoring",
        lambda scoring, x, y: 1 - scoring.lin_cka_dist(centered(x).T, centered(y).T),
        name="cka",
        estimator="gretton",
    ),
    row(
        "procrustes_distance",
        "dists.scoring",
        lambda scoring, x, y: np.sqrt(scoring.procrustes(*(side.T / np.linalg.norm(side) for side in (x, y)))),
    ),
    row("cca", "cca_core", svcca_repository, many_examples),
    ("calibrate, p", calibrated_p_of_symjax, "calibrated_similarity", partial(calibrated, part=1), any_shape),
    ("calibrate, score", calibrated_of_symjax, "calibrated_similarity", partial(calibrated, part=0), any_shape),
    row("mutual_knn_cosine", "metrics", partial(platonic, "mutual_knn", topk=10)),
    row("cycle_knn, cosine", "metrics", partial(platonic, "cycle_knn", topk=10), name="cycle_knn", metric="cosine"),
    ("cka of unit rows", cka_of_unit_rows, "metrics", partial(platonic, "unbiased_cka"), any_shape),
    row("distance_correlation", "dcor", lambda dcor, x, y: dcor.distance_correlation(x, y)),
    row("distance_correlation_song", "dcor", lambda dcor, x, y: dcor.u_distance_correlation_sqr(x, y)),
    row("procrustes_distance, centered", "scipy.linalg", scipy_procrustes, name="procrustes_distance", center=True),
    row(
        "rsa, euclidean",
        "scipy.stats",
        lambda stats, x, y: stats.spearmanr(pdist(x), pdist(y))[0],
        name="rsa",
        metric="euclidean",
    ),
    row("hard_correlation_match", "scipy.optimize", scipy_matching),
    row("soft_matching", "scipy.optimize", scipy_transport),
    row("mutual_knn", "sklearn.neighbors", sklearn_neighbors),
    row("linear_predictivity", "sklearn.linear_model", sklearn_regression, many_examples),
    row(
        "ridge", "sklearn.linear_model", partial(sklearn_regression, share=0.01), name="linear_predictivity", ridge=0.01
    ),
    row("cca", "sklearn.cross_decomposition", sklearn_cca, many_examples),
)
