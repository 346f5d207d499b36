"""Comparison of the matrices of distances between examples: RSA, and the norm of the difference."""

import math
from functools import lru_cache, partial

import jax.numpy as jnp
from jax import lax

from symjax.checks import one_of
from symjax.similarity.channels import centered, magnitude, safe_sqrt
from symjax.similarity.distances import (
    checked_examples,
    distances,
    is_translation_invariant,
    lost_with_metric,
    warning_of_metric,
)
from symjax.similarity.hsic import center_kernel
from symjax.similarity.inputs import as_matrix
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.neighbor_graph import flat, midranks, midranks_of_levels, rowwise
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, cosine_of_vectors, evaluate, permute_kernel, permute_matrices

COMPARISONS = ("spearman", "pearson", "cosine", "cosine_cov")


def rsa(x, y, comparison="spearman", *, metric="correlation", samples="flatten", layout=None, mask=None):
    """Compute representational similarity analysis: compare the distances of all pairs of examples in x and in y.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ; floating (integers become the
            default float, half precisions float32). n is at least 3.
        comparison: of the distances d_ij and e_ij, i < j. "spearman", the correlation of their ranks (ties have their
            mean rank; roots of cosine distances that are equal after rounding to 2^-18 of the largest, in float64
            2^-40, are ties); "pearson", their correlation; "cosine", their cosine; "cosine_cov", the cosine d' V^-1 e /
            sqrt(d' V^-1 d e' V^-1 e), where V is the covariance of squared distances between independent examples. The
            last is the cosine of the doubly centered distance matrices.
        metric: distance of two examples: "correlation", 1 minus the correlation of their features; "cosine", 1 minus
            the cosine of their angle; "euclidean"; "sqeuclidean", its square.
        samples: how tokens and maps become matrices: "flatten", "positions", "pool", "first" or "last"; see
            `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [-1, 1] ([0, 1] for "cosine", and for "cosine_cov" of Euclidean distances and their squares, where
        the latter gives `cka` with estimator "gretton"). NaN where all distances of x or of y are equal (for "cosine"
        zero). Symmetric. Invariant to isotropic scaling and permutations; with "cosine" to orthogonal transformations;
        with "euclidean" and "sqeuclidean" to translation, too. Derivatives are zero for "spearman".

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; an unknown option; concrete NaN or infinite entries.

    Reference: Kriegeskorte et al. 2008; Diedrichsen et al. 2021 for "cosine_cov" (the whitened cosine).

    Example:
        >>> import numpy as np
        >>> from symjax import rsa
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{rsa(x, 3 * x[:, ::-1]):.3f}")  # permuted and scaled
        1.000
    """
    x, y = checked_examples(x, y, metric, samples, layout, mask, 3)
    one_of("comparison", comparison, COMPARISONS)
    return evaluate(split((), comparison=comparison, metric=metric), x, y)


@lru_cache(maxsize=64)
def split(shapes, comparison="spearman", *, metric="correlation", samples="flatten"):
    """Return `rsa` as a `SplitMeasure`."""

    def vector(x):
        matrix, _ = distances(as_matrix(x, "x", samples, layout="nhwc"), metric)
        if comparison == "cosine_cov":
            return center_kernel(matrix, "gretton")
        if comparison == "cosine":
            return matrix
        pairs = jnp.triu_indices(len(matrix), 1)
        values = matrix[pairs]
        if comparison == "spearman":
            values = _ranks(values, metric) / len(values)
        above = jnp.zeros_like(matrix).at[pairs].set(centered(values[:, None])[:, 0])
        return above + above.T

    return cosine_of_vectors(vector, permute_kernel, warning_of_metric(metric, samples))


LEVELS = 2**18


def _ranks(values, metric):
    """Return mean ranks of distances, without derivatives.

    For angles, the distances of the unit vectors are first rounded, much more coarsely than by float arithmetic: sparse
    features have many equal angles, which rounding errors would make unequal.
    """
    values = lax.stop_gradient(values)
    if is_translation_invariant(metric):
        ranks = midranks(values)
    elif values.dtype == jnp.float64:
        ranks = midranks(jnp.rint(safe_sqrt(values) / jnp.where(values.max() > 0, jnp.sqrt(values.max()), 1) * 2**40))
    else:
        ranks = midranks_of_levels(safe_sqrt(values), LEVELS)
    return jnp.where(jnp.isnan(values.sum()), jnp.nan, ranks)


def rsm_norm_difference(x, y, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute the Frobenius norm of the difference of the distance matrices, sqrt(sum_ij (d_ij - e_ij)^2).

    Args and Raises: as for `rsa`.

    Returns:
        0-d array, nonnegative; it grows with the data and with n. Symmetric, a metric on distance matrices. Invariant
        to translation and orthogonal transformations with "euclidean" and "sqeuclidean".

    Reference: Klabunde et al. 2025.

    Example:
        >>> import numpy as np
        >>> from symjax import rsm_norm_difference
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{rsm_norm_difference(x, x[:, ::-1] + 1):.3f}")
        0.000
    """
    x, y = checked_examples(x, y, metric, samples, layout, mask)
    return evaluate(split_norm((), metric=metric), x, y)


def _difference(a, b):
    """Return (n + 1): the square norms of the rows of a - b in some unit, and the unit."""
    difference = a[0] - b[0]
    size = magnitude(difference)
    return jnp.append(((difference / size) ** 2).sum(-1), size)


DIFFERENCE = rowwise(_difference)


@lru_cache(maxsize=64)
def split_norm(shapes, *, metric="euclidean", samples="flatten"):
    """Return `rsm_norm_difference` as a `SplitMeasure`."""

    def prepare(x):
        matrix, size = distances(as_matrix(x, "x", samples, layout="nhwc"), metric)
        return Prepared(flat(size * matrix), ())

    return SplitMeasure(
        prepare,
        lambda rows, *_: rows[-1] * safe_sqrt(rows[:-1].sum()),
        product=DIFFERENCE,
        permute=permute_matrices,
        warning=warning_of_metric(metric, samples),
    )


_PERMUTED = frozenset({"permutation", "isotropic_scaling", "cyclic_shift"})
_MOVED = ORTHOGONAL | {"translation", "cyclic_shift"}
_KRIEGESKORTE = "Kriegeskorte et al. 2008"


def _rsa(
    name,
    reference,
    invariances=_PERMUTED,
    title="",
    differentiable=True,
    use="",
    bias="none: about 0 for independent data",
    **options,
):
    return Measure(
        name=name,
        fn=partial(rsa, **options) if options else rsa,
        reference=reference,
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=invariances,
        split=partial(split, **options) if options else split,
        title=title,
        zero_channels=options.get("metric") == "euclidean",
        lost_with=lost_with_metric,
        differentiable=differentiable,
        min_examples=3,
        cost="n^2 (p + log n) once, n^2 a pair",
        bias=bias,
        use=use,
    )


MEASURES = (
    _rsa("rsa", _KRIEGESKORTE, title="RSA", differentiable=False, use="order of distances; usual in neuroscience"),
    _rsa("rsa_pearson", _KRIEGESKORTE, comparison="pearson", use="distances whose sizes count"),
    _rsa(
        "rsa_euclidean",
        _KRIEGESKORTE,
        _MOVED | {"isotropic_scaling"},
        differentiable=False,
        use="as rsa, of representations up to rotation",
        metric="euclidean",
    ),
    _rsa(
        "rsa_cosine_cov",
        "Diedrichsen et al. 2021",
        comparison="cosine_cov",
        use="as rsa_pearson; whitened",
        bias="tends to 1 with growing p / n",
    ),
    Measure(
        name="rsm_norm_difference",
        fn=rsm_norm_difference,
        reference="Klabunde et al. 2025",
        range=(0.0, math.inf),
        kind="distance",
        symmetric=True,
        invariances=_MOVED,
        split=split_norm,
        zero_channels=True,
        lost_with=lost_with_metric,
        title="RSM norm difference",
        cost="n^2 (p + q) once, n^2 a pair",
        bias="grows with n and with the scale of the data",
        use="representations on one scale; changes within a training run",
    ),
)
