"""Where published implementations differ from their definitions, each with a worked example.

    python -m docs.published_faults > docs/published-faults.md

Each function of `FAULTS` is a section of the page: its docstring, its source, and the two numbers that it returns, by
the definition (as symjax has it) and as published. Functions of `ERRORS` return in place of the second number a
function that ends in an error. `tests/test_published_faults.py` compares the page with them.
"""

import inspect
import warnings

import jax
import numpy as np
from scipy.linalg import block_diag, schur
from scipy.optimize import linear_sum_assignment

import symjax
from symjax.dissection import rotation_powers
from symjax.models.cct import sine_positions
from symjax.similarity import FewExamplesWarning

INTRODUCTION = """# Faults of published implementations

This page lists differences between published implementations of similarity measures (and of one model, and of one
path of rotations) and their definitions. Each has a small example on random data with two numbers: the one that the
definition gives, computed by symjax, and the one that the published code would give. The lines of NumPy reproduce one
fault at a time. They were written for this page and are not taken from the published code.

"The SVCCA repository" is the code of Raghu et al. 2017 and Morcos et al. 2018 and its ports. "The code of Godfrey et
al." is that of *On the Symmetries of Deep Learning Models and their Internal Representations*, 2022 (`modelsym`). Other
code is named by its repository or package, with its version or the date of its last commit.

`python -m docs.published_faults > docs/published-faults.md` runs every example and writes this page. The tests run the
examples again and compare (version 0.2.0, JAX 0.10.2, CPU). If the published code ends in an error, the table has the
error."""


def related(n=500, p=10, q=10, seed=0):
    """Two representations of three common signals, with means and variances that differ from neuron to neuron."""
    rng = np.random.default_rng(seed)
    signals = rng.standard_normal((n, 3))
    sides = (signals @ rng.standard_normal((3, d)) + rng.standard_normal((n, d)) for d in (p, q))
    return [side * np.exp(rng.standard_normal(side.shape[1])) + 2 for side in sides]


def center(x):
    return x - x.mean(0)


def root_inverse(covariance):
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(values) @ vectors.T


def canonical(x, y):
    """Directions of whitened x (columns) and of whitened y, and the correlations, by covariance matrices."""
    x, y = center(x), center(y)
    return np.linalg.svd(root_inverse(x.T @ x) @ x.T @ y @ root_inverse(y.T @ y))


def weighted(variates, x, correlations):
    """Correlations weighted by sum_j |<h_i, x_j>|."""
    weights = np.abs(np.linalg.qr(variates)[0].T @ x).sum(1)
    return weights @ correlations / weights.sum()


def channel_products(x):
    """<H_i^c, H_j^c> (examples, examples, channels); H is x with centered channels of unit norm, 0 if dead."""
    x = center(x)
    x = x / np.maximum(np.linalg.norm(x, axis=0), 1e-12)
    return x[:, None] * x


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def unbiased_hsic(a, b):
    """The unbiased HSIC of kernel matrices."""
    n = len(a)
    a, b = a * (1 - np.eye(n)), b * (1 - np.eye(n))
    total = np.sum(a * b.T) + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * a.sum(0) @ b.sum(1) / (n - 2)
    return total / (n * (n - 3))


def unbiased_cka(a, b):
    """CKA of kernel matrices, by the unbiased HSIC."""
    return unbiased_hsic(a, b) / np.sqrt(unbiased_hsic(a, a) * unbiased_hsic(b, b))


def turn(angle):
    """The rotation of a plane."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def pwcca_without_whitening():
    """PWCCA without the inverse square root

    Defined (Morcos et al. 2018): sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, the canonical variates
    being h_i = X Sxx^(-1/2) u_i. The SVCCA repository takes X u_i for them: directions of the whitened data applied to
    the data as they are.
    """
    x, y = related()
    u, rho, _ = canonical(x, y)
    defined = symjax.pwcca(x, y)
    published = weighted(center(x) @ u, center(x), rho)
    return defined, published


def pwcca_uncentered():
    """PWCCA of data that are not centered

    The variates and the neurons x_j are centered in the definition. The SVCCA repository adds the means to the variates
    again, makes them orthonormal, and takes inner products with neurons that are not centered either. So directions
    along the means have large weights.
    """
    x, y = related()
    x += 10
    u, rho, _ = canonical(x, y)
    defined = symjax.pwcca(x, y)
    variates = center(x) @ root_inverse(np.cov(x.T)) @ u + x.mean(0)
    published = weighted(variates, x, rho)
    return defined, published


def pwcca_of_the_other_side():
    """PWCCA with the weights of the other side

    PWCCA is not symmetric: its weights are of x, the first argument. The SVCCA repository takes them from the side with
    fewer neurons, so that with a wider x and a narrower y pwcca(x, y) is in truth pwcca(y, x).
    """
    x, y = related(p=14, q=6)
    defined = symjax.pwcca(x, y)
    published = symjax.pwcca(y, x)
    return defined, published


def pwcca_with_equal_weights():
    """PWCCA with equal weights

    The weights of PWCCA are sums of inner products of the variates with the neurons. platonic-universe (May 2026) uses
    the variances of the variates instead. Canonical variates have variance 1 by construction, so all weights are equal,
    and PWCCA is the plain mean of the correlations. (Its code also reduces the data to 99 % of their variance first,
    which is left out here, and normalizes the weights as in the next example.)
    """
    x, y = related()
    u, rho, _ = canonical(x, y)
    defined = symjax.pwcca(x, y)
    weights = np.var(center(x) @ root_inverse(np.cov(x.T)) @ u, axis=0)
    published = weights @ rho / weights.sum()
    return defined, published


def pwcca_of_more_directions():
    """PWCCA with weights of directions that have no correlation

    The weighted mean is over the min(d_x, d_y) canonical correlations, and their weights sum to 1. sim_metric (Ding et
    al. 2021; October 2023) divides the weights by their sum over all d_x directions of x, and then uses the first
    min(d_x, d_y) of them. Where x is wider than y, the result is too low. Here y is 6 of the 14 neurons of x, so that
    all six correlations are 1.
    """
    x, _ = related(p=14)
    y = x[:, :6]
    u, rho, _ = canonical(x, y)
    defined = symjax.pwcca(x, y)
    variates = center(x) @ root_inverse(center(x).T @ center(x)) @ u
    weights = np.abs(variates.T @ center(x)).sum(1)
    published = (weights / weights.sum())[: len(rho)] @ rho
    return defined, published


def svcca_threshold():
    """SVCCA with a threshold on s instead of s^2

    Defined (Raghu et al. 2017): the smallest number of principal directions that have 99 % of the variance, the sum of
    s_i^2. Published scripts take 99 % of the sum of the singular values s_i instead, and so keep directions that are
    mostly noise. Here the common signals span 3 directions, and the others are noise.
    """
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((500, 3))
    x, y = (signals @ rng.standard_normal((3, 20)) + 0.05 * rng.standard_normal((500, 20)) for _ in range(2))

    def kept(x):
        u, s, _ = np.linalg.svd(center(x), full_matrices=False)
        return u[:, : np.searchsorted(np.cumsum(s) / s.sum(), 0.99) + 1]

    defined = symjax.svcca(x, y)
    published = np.linalg.svd(kept(x).T @ kept(y), compute_uv=False).mean()
    return defined, published


def svcca_normalized_twice():
    """SVCCA with a threshold that is never reached

    SVCCA keeps the first directions whose shares of the variance reach 99 % together. If the shares, which sum to 1,
    are divided by the variance a second time, their sum never reaches 99 %, and the search returns the first direction.
    Here 50 neurons have almost equal variances. All 50 directions should be kept, but one is: the first neuron of x and
    the last of y.
    """
    rng = np.random.default_rng(0)
    q = np.linalg.qr(np.hstack([np.ones((500, 1)), rng.standard_normal((500, 100))]))[0]
    scales = np.linspace(1.01, 0.99, 50)
    x = scales * q[:, 1:51]
    y = scales[::-1] * (0.6 * q[:, 1:51] + 0.8 * q[:, 51:])  # each neuron of y correlates by .6 with one of x

    def kept(x):
        u, s, _ = np.linalg.svd(center(x), full_matrices=False)
        share = s**2 / (s**2).sum()
        return u[:, : np.argmax(np.cumsum(share) / (s**2).sum() >= 0.99) + 1]

    defined = symjax.svcca(x, y)
    published = np.linalg.svd(kept(x).T @ kept(y), compute_uv=False).mean()
    return defined, published


def svcca_of_ten_directions():
    """SVCCA of ten directions, whatever the data have

    SVCCA keeps the directions with 99 % of the variance. platonic-rep (Huh et al. 2024; April 2025) keeps ten
    directions of each side. If the data have fewer than ten dimensions, the other directions are rounding errors. The
    singular value decomposition makes them orthonormal, and their correlations count like those of the data.
    (platonic-rep also scales all neurons to unit variance first, which is left out here.) Here x has four dimensions
    and y is a linear map of it. Normal numbers stand for the rounding errors, so that the example is repeatable.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 12))
    y = x @ rng.standard_normal((12, 12))

    def ten(x):
        u = np.linalg.svd(center(x), full_matrices=False)[0][:, :4]
        return np.linalg.qr(np.hstack([u, center(rng.standard_normal((500, 6)))]))[0]

    defined = symjax.svcca(x, y)
    published = np.linalg.svd(ten(x).T @ ten(y), compute_uv=False).mean()
    return defined, published


def svcca_with_noise():
    """SVCCA with noise in place of a direction

    Centered data of n examples have at most n - 1 directions, but platonic-rep also takes ten directions of ten
    examples. The scores of the tenth are zero, and their correlation is 0 / 0. To avoid NaN, normal numbers times 1e-10
    are added to all scores, so that a correlation of noise with noise enters the mean, a different one at each call. By
    the definition this direction does not count. All other correlations are 1 here, since there are so few examples.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 12))
    y = x @ np.linalg.qr(rng.standard_normal((12, 12)))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExamplesWarning)
        defined = symjax.svcca(x, y)
    scores = np.hstack([np.linalg.svd(center(x))[0][:, :9], np.zeros((10, 1))])  # of x and of y, where all rho are 1
    a, b = (scores + 1e-10 * rng.standard_normal(scores.shape) for _ in range(2))
    published = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(10)])
    return defined, published


def mean_of_the_largest():
    """A mean of correlations without the smallest

    The mean canonical correlation is the mean of all min(d_x, d_y) correlations. The SVCCA repository leaves out the
    smallest ones as "trailing zeros": all after the first ones that make up 98 % of the sum, whether they are zero or
    not.
    """
    x, y = related()
    _, rho, _ = canonical(x, y)
    defined = symjax.similarity.cca_similarity(x, y)
    published = rho[: np.argmax(np.cumsum(rho) >= 0.98 * rho.sum()) + 1].mean()
    return defined, published


def robust_threshold():
    """A threshold passed for an epsilon

    The SVCCA repository has a "robust" CCA for data on which the plain one does not converge. It passes its threshold,
    0.98, as the argument epsilon. Covariances are first scaled to a largest entry of 1. Then neurons with a variance
    below epsilon are removed, and epsilon is added to the variances of the others. Here one neuron of each side
    remains, with added noise as large as itself.
    """
    x, y = related()
    p, epsilon = x.shape[1], 0.98
    x, y = (side / np.sqrt(np.abs(np.cov(side.T)).max()) for side in (x, y))
    kept_x, kept_y = x.var(0, ddof=1) >= epsilon, y.var(0, ddof=1) >= epsilon
    sxx, syy = (np.atleast_2d(np.cov(side.T)) for side in (x[:, kept_x], y[:, kept_y]))
    sxy = np.cov(x.T, y.T)[:p, p:][kept_x][:, kept_y]
    sxx, syy = (s + epsilon * np.eye(len(s)) for s in (sxx, syy))
    defined = symjax.similarity.cca_similarity(x, y)
    published = np.linalg.svd(root_inverse(sxx) @ sxy @ root_inverse(syy), compute_uv=False).mean()
    return defined, published


def inverted_covariance():
    """CCA by inverting a covariance matrix that is not well conditioned

    If y is an invertible linear map of x, all correlations are 1. The condition number of a covariance matrix is the
    square of that of the data. Here the data have 1e4, so that the covariance has eigenvalues of 1e-8, which in float32
    are smaller than rounding errors, and some are computed as negative. The published Sxx^(-1/2) Sxy Syy^(-1/2), by
    pseudo-inverses and square roots of eigenvalues, is then NaN. symjax inverts a covariance matrix only if it is well
    conditioned, and otherwise decomposes the data themselves.
    """
    rng = np.random.default_rng(0)
    x = np.float32(
        rng.standard_normal((500, 20)) * np.logspace(0, -4, 20) @ np.linalg.qr(rng.standard_normal((20, 20)))[0]
    )
    y = x @ np.float32(rng.standard_normal((20, 20)))

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        with np.errstate(invalid="ignore"):
            return vectors * np.sqrt(values) @ vectors.T

    sxx, sxy, syy = (center(a).T @ center(b) for a, b in ((x, x), (x, y), (y, y)))
    product = root(np.linalg.pinv(sxx)) @ sxy @ root(np.linalg.pinv(syy))
    defined = symjax.similarity.cca_similarity(x, y)
    published = np.linalg.svd(product, compute_uv=False).mean() if np.isfinite(product).all() else np.nan
    return defined, published


def few_examples():
    """Fewer examples than neurons

    If n - 1 <= d, every canonical correlation is 1, whatever the data are; if n - 1 < d_x + d_y, some are. Published
    code returns such values as similarities without a warning. The definition gives the same value, so symjax returns
    it, too, but warns (`FewExamplesWarning`). Here x and y are independent and have 60 neurons each. The first number
    is for 10,000 examples, the second for 50.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 10_000, 60))
    defined = symjax.similarity.cca_similarity(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExamplesWarning)
        published = symjax.similarity.cca_similarity(x[:50], y[:50])
    return defined, published


def means_over_neurons():
    """Means over the wrong axis

    CCA and CKA subtract from each neuron its mean over examples. If one part of the code has arrays (neurons, examples)
    and another (examples, neurons), the mean over neurons is subtracted from each example instead. The similarity is
    then largely that of the means of the neurons. The numbers are linear CKA with the biased estimator, for independent
    x and y whose neurons have different means.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 500, 20)) + 2 * np.arange(20) / 10
    defined = symjax.cka(x, y, estimator="gretton")
    x, y = (side - side.mean(1, keepdims=True) for side in (x, y))
    published = np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    return defined, published


def orthogonal_cka():
    """An "orthogonal CKA" that is not orthogonally invariant

    Linear CKA is |X'Y|^2 / (|X'X| |Y'Y|) for centered X and Y (up to the estimator). It is the same for X Q
    with an orthogonal Q, so cka(x, x Q) = 1. The measure that Godfrey et al. publish under the name "orthogonal CKA"
    first scales every channel to unit norm, and so it is not invariant. symjax has it as `channel_normalized_cka`, to
    repeat their figures.
    """
    x, _ = related()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    defined = symjax.cka(x, x @ rotation)
    published = symjax.similarity.channel_normalized_cka(x, x @ rotation)
    return defined, published


def biased_hsic():
    """Biased HSIC where features are many

    HSIC of independent x and y is 0, and CKA should be, too. The estimator of Kornblith et al. 2019 ("gretton"), tr(K H
    L H) / (n - 1)^2, includes the diagonals of the kernel matrices, the agreement of each example with itself. If d is
    much greater than n, the diagonals dominate. The unbiased estimator ("song", the default) leaves them out. Here n =
    50 and d = 5000.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 50, 5000))
    defined = symjax.cka(x, y)
    published = symjax.cka(x, y, estimator="gretton")
    return defined, published


def lange_estimator():
    """An estimator with zero diagonal that is biased

    "lange" (Lange et al. 2023) is sum_(i != j) (H K H)_ij (H L H)_ij / (n (n - 3)). It resembles the unbiased "song".
    That one is the same sum with the same divisor, but of U-centered matrices, which are centered without their
    diagonals. In "lange" the diagonal is left out only after centering, which has already spread it over the other
    entries. The data are those of the last example.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 50, 5000))
    defined = symjax.cka(x, y, estimator="song")
    published = symjax.cka(x, y, estimator="lange")
    return defined, published


def lange_uncentered():
    """The same estimator without centering

    "lange" centers both kernel matrices before their diagonals are set to zero. The package bonsai-nn-library up to
    version 0.6.0 does not center (0.6.5 does). What it calls CKA is then a cosine of kernel matrices that depends on
    the means of the neurons. Here x and y are independent with means of 1; n = 500, d = 20.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 500, 20)) + 1
    defined = symjax.cka(x, y, estimator="lange")
    published = cosine(*(side @ side.T * (1 - np.eye(500)) for side in (x, y)))
    return defined, published


def clipped_cka():
    """CKA clipped at zero

    An unbiased estimate of 0 is negative half of the time. The package pytorch-cka 1.1.3 clips CKA to [0, 1], so that
    its mean over pairs is more than 0. Both numbers are means over 100 pairs of independent x and y, 20 examples of 40
    neurons each.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 100, 20, 40))
    values = jax.vmap(symjax.cka)(x, y)
    defined = values.mean()
    published = values.clip(0, 1).mean()
    return defined, published


def unbiased_cka_that_is_biased():
    """Unbiased CKA that is biased

    `cka_base` of the package ckatorch 1.0.3 takes `unbiased` and `method`, and says that the method, "fro_norm" or
    "hsic", does not influence the output. With "hsic" it computes the biased estimator for any `unbiased`. Here
    x and y are independent, 40 examples of 60 and 50 neurons.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 60)), rng.standard_normal((40, 50))
    defined = symjax.cka(x, y, "song")
    published = cosine(*(center(side) @ center(side).T for side in (x, y)))
    return defined, published


def cka_with_a_constant_in_the_denominator():
    """CKA with a constant in the denominator

    CKA does not depend on the scale of the features. platonic-rep (April 2025) adds 1e-6 to sqrt(HSIC(K, K) HSIC(L,
    L)), which grows with the fourth power of the features, so that CKA of small features tends to 0. (Its command
    scales each example to unit norm first, which limits the error to weak agreement.)
    """
    x, y = related(n=100)
    x, y = 0.003 * x, 0.003 * y
    defined = symjax.cka(x, y)
    a, b = x @ x.T, y @ y.T
    published = unbiased_hsic(a, b) / (np.sqrt(unbiased_hsic(a, a) * unbiased_hsic(b, b)) + 1e-6)
    return defined, published


def cknna_centered_after_masking():
    """CKNNA that is centered after masking

    Defined (Huh et al. 2024): the sum of products of centered kernel entries over common neighbors. platonic-rep (April
    2025), the code of the paper, sets the entries of kernels that are not centered to 0 outside of the common
    neighbors. Then it takes the unbiased HSIC of these matrices, which centers the zeros, too, and multiplies entries
    (i, j) by entries (j, i), although neighbors are not mutual. Features have unit norm, as in its command.
    """
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in related(n=100))
    defined = symjax.cknna(x, y, 10)

    def neighbors(x):
        products = x @ x.T - 2 * np.eye(100)
        return products >= np.sort(products)[:, -10:-9]

    def alignment(x, y):
        mask = neighbors(x) & neighbors(y)
        return unbiased_hsic(mask * (x @ x.T), mask * (y @ y.T))

    published = alignment(x, y) / (np.sqrt(alignment(x, x) * alignment(y, y)) + 1e-6)
    return defined, published


def second_order_cosine_of_distances():
    """Second-order cosine of distances

    Defined (Hamilton et al. 2016): the cosine of two vectors of cosine similarities, of an example to its neighbors in
    either representation. ReSi (April 2025) takes vectors of cosine distances, 1 less the similarities.
    """
    x, y = related(n=100)
    defined = symjax.second_order_cosine(x, y, 10)
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y)]
    distances = [1 - u @ u.T + 9 * np.eye(100) for u in units]
    either = [np.union1d(a[:10], b[:10]) for a, b in zip(*map(np.argsort, distances), strict=True)]
    published = np.mean([cosine(*(d[i, nearest] for d in distances)) for i, nearest in enumerate(either)])
    return defined, published


def spectral_norm_of_the_difference():
    """RSM norm difference with the spectral norm

    The measure is the norm of all entries of the difference of two distance matrices. ReSi (Klabunde et al. 2025; April
    2025) computes the 2-norm, "because pdist gives vectorized lower triangle of RSM". But its function returns square
    matrices, whose 2-norm in NumPy is the largest singular value.
    """
    x, y = (0.001 * side for side in related(n=100))
    defined = symjax.rsm_norm_difference(x, y)
    distances = [np.linalg.norm(side[:, None] - side, axis=2) for side in (x, y)]
    published = np.linalg.norm(distances[0] - distances[1], ord=2)
    return defined, published


def whitening_with_an_absolute_threshold():
    """Whitening with an absolute threshold

    With alpha = 0 the shape metric of Williams et al. 2021 whitens the features, so that it does not depend on their
    scale. netrep (July 2024), the code of the paper, raises eigenvalues of X'X below 1e-7 to 1e-7, however large the
    others are. Small features are then only divided by a number and not whitened.
    """
    x, y = (1e-5 * side for side in related())
    defined = symjax.shape_distance(x, y, alpha=0)

    def whitened(x):
        values, vectors = np.linalg.eigh(center(x).T @ center(x))
        return center(x) @ vectors / np.sqrt(np.maximum(values, 1e-7)) @ vectors.T

    a, b = whitened(x), whitened(y)
    published = np.arccos(np.linalg.norm(a.T @ b, ord="nuc") / np.linalg.norm(a) / np.linalg.norm(b))
    return defined, published


def partial_matching_of_less_mass():
    """A score of partial matching that tends to 1 with less mass

    Partial soft matching (Kapoor et al. 2026) transports a part of the mass of the neurons, at the cost 1 - r for a
    correlation r. partial-metric (March 2026), the code of the paper, returns 1 minus the sum of the costs as "a
    correlation score". Mass that is not transported costs nothing, so it counts as a perfect correlation: with a mass
    of 0.1, the default, independent neurons score over 0.9. symjax returns the mean correlation of the mass that is
    transported.
    """
    x, y = np.random.default_rng(0).standard_normal((2, 500, 10))
    defined = symjax.partial_soft_matching(x, y, mass=0.1)
    best = np.corrcoef(x.T, y.T)[:10, 10:].max()  # the mass of one neuron
    published = 1 - 0.1 * (1 - best)
    return defined, published


def dead_channels():
    """Dead channels counted as perfect agreement

    G_ReLU-Procrustes is 1 - sqrt(d^2 / (4 C)), where d^2 = |X|^2 + |Y|^2 - 2 max_P <X, Y P> over permutations P, for C
    channels of unit norm. In the code of Godfrey et al. a channel that is dead in both networks adds nothing to d^2 but
    one to C. In symjax C is the number of living channels, so pruning dead ones changes nothing. Here 24 of 32 channels
    are dead.
    """
    x, y = np.maximum(np.random.default_rng(0).standard_normal((2, 500, 32)), 0)
    x[:, 8:] = y[:, 8:] = 0
    defined = symjax.wreath_procrustes(x, y)
    x, y = (side / np.maximum(np.linalg.norm(side, axis=0), 1e-12) for side in (x, y))
    rows, columns = linear_sum_assignment(x.T @ y, maximize=True)
    squares = np.sum((x[:, rows] - y[:, columns]) ** 2)
    published = 1 - np.sqrt(squares / (4 * x.shape[1]))
    return defined, published


def lower_median_of_distances():
    """The lower median for the width of a kernel

    The RBF kernel exp(-|x_i - x_j|^2 / (2 s^2)) often has the median of |x_i - x_j|^2 over pairs of examples as s^2.
    The median of an even number of values is the mean of the middle two, but `torch.median` returns the lower one.
    thingsvision (August 2025, `sigma=None`) has CKA in NumPy and in PyTorch, which differ for this reason. The
    difference is large if the middle two values are far apart. Here x has clusters of 10 and 6 examples, that is 60
    pairs within clusters and 60 between them, and y is the variation within the clusters. The numbers are CKA with the
    biased HSIC.
    """
    rng = np.random.default_rng(0)
    y = rng.standard_normal((16, 3))
    x = y + 10 * (np.arange(16) < 10)[:, None]
    defined = symjax.cka(x, y, kernel="rbf", estimator="gretton")

    def kernel(x):
        squares = np.sum((x[:, None] - x) ** 2, -1)
        apart = np.sort(squares[squares != 0])
        return center(center(np.exp(-squares / (2 * apart[(len(apart) - 1) // 2]))).T)

    published = cosine(kernel(x), kernel(y))
    return defined, published


def lower_median_of_channels():
    """The lower median of channels

    The code of Godfrey et al. also has G_ReLU-CKA with the median over channels, by `torch.median`. For an even number
    of channels, the usual case, it returns the lower of the middle two values. Here there are four channels.
    """
    x, y = related(p=4, q=4)
    defined = symjax.wreath_cka(x, y, reduce="median")
    published = unbiased_cka(*(np.sort(channel_products(side))[..., 1] for side in (x, y)))
    return defined, published


def dead_channel_in_the_maximum():
    """A dead channel in the maximum

    The kernel of G_ReLU-CKA is K_ij = max over channels c of <H_i^c, H_j^c>, each channel centered and at unit norm. A
    dead channel stays zero in the code of Godfrey et al. and takes part in the maximum (and in the median), so that
    negative entries become 0. In symjax it counts as absent: pruning it changes nothing. Here x has one channel, and y
    is x with a dead channel; the effect is smaller with more living channels.
    """
    x = related(p=1)[0]
    y = np.hstack([x, np.zeros((500, 1))])
    defined = symjax.wreath_cka(x, y)
    published = unbiased_cka(*(channel_products(side).max(-1) for side in (x, y)))
    return defined, published


def uncomputed_pairs():
    """Uncomputed pairs reported as 1.0

    Published code starts from a matrix of zeros as distances d and reports 1 - d. Pairs that were not computed then
    have the similarity 1.0, perfect agreement. `symjax.pairwise` has NaN for them, and `computed` says which ones they
    are. The numbers are means over three pairs of models, of which one was computed.
    """
    models = np.stack([related(seed=seed)[0] for seed in range(3)])
    computed = symjax.pairwise({"layer": models}, "procrustes", pairs=[(0, 1)])
    off_diagonal = np.triu_indices(3, 1)
    similarities = computed.values[0, :, 0, :][off_diagonal]
    defined = np.nanmean(similarities)
    distances = np.where(np.isnan(similarities), 0, 1 - similarities)
    published = 1 - distances.mean()
    return defined, published


def negative_under_the_root():
    """The square root of a tiny negative number

    The orthogonal Procrustes distance is sqrt(2 - 2 |X'Y|_*) for |X| = |Y| = 1. For Y = X the nuclear norm is 1. With
    rounding it can be slightly more, so the published root is NaN for some representations compared with themselves.
    symjax computes the norm of the difference |X - Y Q|. The numbers are means over 20 distances of an x from itself.
    """

    def published_distance(x):
        x = x / np.linalg.norm(x)
        with np.errstate(invalid="ignore"):
            return np.sqrt(2 - 2 * np.linalg.svd(x.T @ x, compute_uv=False).sum())

    many = np.random.default_rng(0).standard_normal((20, 50, 10)).astype(np.float32)
    defined = np.mean([symjax.similarity.procrustes_distance(x, x) for x in many])
    published = np.mean([published_distance(x) for x in many])
    return defined, published


def changed_in_place():
    """Inputs changed in place

    Published code normalizes the arrays of the caller in place, here channels to unit norm. A second measure of the
    same arrays is then computed from other data. The numbers are orthogonal Procrustes similarities, alone and after
    another measure.
    """
    x, y = related()
    defined = symjax.similarity.procrustes(x, y)
    for side in (x, y):
        side /= np.linalg.norm(side, axis=0)
    published = symjax.similarity.procrustes(x, y)
    return defined, published


def positions_not_passed_on():
    """Fixed positions that are learned

    A compact convolutional transformer adds positions to its tokens: either learned ones, at first normal numbers of
    deviation 0.2, or fixed ones, sines and cosines. In the code of Hassani et al. 2021 (Compact-Transformers, November
    2024) the function that builds all variants takes `positional_embedding` but does not pass it on to the model, whose
    default is "learnable". So `cct_7_3x1_32_sine` is the same model as `cct_7_3x1_32`. The numbers are cosines between
    the positions that are added to the 64 tokens and the table of sines, which symjax adds with
    `positional_embedding="sine"`.
    """
    table = sine_positions(8, 8, 256)

    def model(positions="learnable"):
        learned = 0.2 * np.random.default_rng(0).standard_normal(table.shape)
        return {"learnable": learned, "sine": table}[positions]

    def builder(positions):
        return model()

    defined = cosine(model("sine"), table)
    published = cosine(builder("sine"), table)
    return defined, published


def pwcca_of_a_narrower_side():
    """PWCCA of unequal widths

    If y is narrower than x, a version of the SVCCA repository is meant to take the weights of y, but it selects neurons
    of x by a mask with one entry for each neuron of y. (In the example arrays are (neurons, examples), and all neurons
    are kept. Where this fault is corrected, the weights are those of the other side: see above.)
    """
    x, y = related(p=14, q=6)
    defined = symjax.pwcca(x, y)

    def published():
        acts_x, acts_y = x.T, y.T
        kept_y = np.var(acts_y, axis=1) > 0
        _, _, v = canonical(x, y)
        mean_y = acts_y.mean(1, keepdims=True)
        return v @ (acts_x[kept_y] - mean_y) + mean_y

    return defined, published


def pls_of_unequal_widths():
    """PLS of unequal widths

    Scores are projections of centered data. A version of the SVCCA repository adds the means of the neurons to them,
    one to each score. On the wider side there are fewer scores than neurons, so this fails. The first number is
    `pls_similarity`. (In another version the means are over neurons. It runs, but see above.)
    """
    x, y = related(p=14, q=6)
    defined = symjax.pls_similarity(x, y)

    def published():
        u, _, _ = np.linalg.svd(center(x).T @ center(y) / (len(x) - 1), full_matrices=False)
        return u.T @ center(x).T + x.mean(0)[:, None]

    return defined, published


def dft_cca():
    """CCA by Fourier transform, which never ran

    At each frequency the channels of a map are complex numbers, and so are the coefficients of their CCA. The SVCCA
    repository applies its CCA for real data, which writes the coefficients into an array of real numbers and fails at
    the first frequency. (Later lines would fail as well: they remove entries of the result that do not exist. The loop
    before them uses a function of Python 2.)
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 4, 4, 3))
    y = x @ rng.standard_normal((3, 3)) + rng.standard_normal((500, 4, 4, 3))
    defined = symjax.fourier_cca_similarity(x, y)

    def published():
        spectrum_x, spectrum_y = (np.fft.fft2(side, axes=(1, 2)) for side in (x, y))
        for i, j in np.ndindex(4, 4):
            a, b = spectrum_x[:, i, j], spectrum_y[:, i, j]
            covariance = np.cov(a.T, b.T)
            sxx, sxy, syy = covariance[:3, :3], covariance[:3, 3:], covariance[3:, 3:]
            u, _, _ = np.linalg.svd(root_inverse(sxx) @ sxy @ root_inverse(syy))
            coefficients = np.zeros((3, 3))
            np.place(coefficients, np.ones((3, 3), bool), u.T)

    return defined, published


def rotation_powers_without_signs():
    """Powers of a rotation whose angles have lost their signs

    Units are dissected in the bases Q^a, from the network's own at a = 0 to a random rotation Q at a = 1 (Godfrey et
    al. 2022, section 6). A power of Q multiplies the angles of its real Schur form. Their code computes an angle as the
    arccos of the diagonal, which loses its sign: an angle of -1 becomes 1. Then Q^1 differs from Q, and Q^a is another
    path. (Also, a single eigenvalue -1 or 1 between two planes would shift the pairs of rows that are taken for
    planes.) The numbers are the mean cosine between Q^1 x and Q x for random directions x, tr((Q^1)^T Q) / d.
    """
    q = block_diag(turn(2.0), turn(-1.0))
    defined = np.trace(rotation_powers(q, [1.0])[0].T @ q) / 4
    form, basis = schur(q, output="real")
    angles = np.arccos(np.diag(form)[::2])
    power = basis @ block_diag(*map(turn, 1.0 * angles)) @ basis.T
    published = np.trace(power.T @ q) / 4
    return defined, published


FAULTS = (
    pwcca_without_whitening,
    pwcca_uncentered,
    pwcca_of_the_other_side,
    pwcca_with_equal_weights,
    pwcca_of_more_directions,
    svcca_threshold,
    svcca_normalized_twice,
    svcca_of_ten_directions,
    svcca_with_noise,
    mean_of_the_largest,
    robust_threshold,
    inverted_covariance,
    few_examples,
    means_over_neurons,
    orthogonal_cka,
    biased_hsic,
    lange_estimator,
    lange_uncentered,
    clipped_cka,
    unbiased_cka_that_is_biased,
    cka_with_a_constant_in_the_denominator,
    cknna_centered_after_masking,
    second_order_cosine_of_distances,
    spectral_norm_of_the_difference,
    whitening_with_an_absolute_threshold,
    partial_matching_of_less_mass,
    dead_channels,
    dead_channel_in_the_maximum,
    lower_median_of_channels,
    lower_median_of_distances,
    uncomputed_pairs,
    negative_under_the_root,
    changed_in_place,
    positions_not_passed_on,
    rotation_powers_without_signs,
)
ERRORS = (pwcca_of_a_narrower_side, pls_of_unequal_widths, dft_cca)
HELPERS = (
    related,
    center,
    root_inverse,
    canonical,
    weighted,
    cosine,
    channel_products,
    unbiased_hsic,
    unbiased_cka,
    turn,
)


def main():
    numbers = {fault: run(fault) for fault in FAULTS}
    errors = {fault: run_to_error(fault) for fault in ERRORS}
    print(INTRODUCTION, "\n\n| fault | by the definition | as published |\n|---|---:|---:|", sep="")
    for fault, (defined, published) in numbers.items():
        print(f"| {title(fault)} | {defined:.3f} | {published:.3f} |")
    for fault, (defined, error, _) in errors.items():
        print(f"| {title(fault)} | {defined:.3f} | `{error}` |")
    print("\nThe examples share these functions:\n\n```python\n", "\n\n".join(map(source, HELPERS)), "```", sep="")
    for fault, (defined, published) in numbers.items():
        print(f"\n## {title(fault)}\n\n{explanation(fault)}\n\n```python\n{without_docstring(fault)}```\n")
        print(f"By the definition {defined:.3f}, as published {published:.3f}.")
    for fault, (defined, error, message) in errors.items():
        print(f"\n## {title(fault)}\n\n{explanation(fault)}\n\n```python\n{without_docstring(fault)}```\n")
        print(f"By the definition {defined:.3f}, as published `{error}: {message}`.")


def run(fault):
    """Return the number by the definition and the one as published."""
    return [float(number) for number in fault()]


def run_to_error(fault):
    """Return the number by the definition, and the type and message of the error in which the published code ends."""
    defined, published = fault()
    try:
        published()
    except Exception as error:
        return float(defined), type(error).__name__, str(error).strip()
    raise AssertionError(f"{fault.__name__} did not end in an error")


def title(fault):
    return inspect.getdoc(fault).split("\n")[0]


def explanation(fault):
    return inspect.getdoc(fault).split("\n", 2)[2]


def source(function):
    return inspect.getsource(function)


def without_docstring(fault):
    first, _, code = source(fault).split('"""', 2)
    return first.rstrip(" ") + code.lstrip("\n")


if __name__ == "__main__":
    main()
