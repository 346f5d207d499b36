"""Agreement of the nearest neighbors of examples in two networks."""

from functools import lru_cache, partial

import jax.numpy as jnp
from jax import lax

from symjax.similarity.channels import centered, safe_sqrt, subtract_ninther, unit_norm
from symjax.similarity.distances import lost_with_metric, unit_rows, warning_of_metric
from symjax.similarity.inputs import as_matrix
from symjax.similarity.linalg import gram, reciprocal
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.neighbor_graph import (
    LEAST_EXAMPLES,
    checked,
    flat,
    membership,
    neighbor_distances,
    rowwise,
)
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, cosine_of_vectors, evaluate, permute_matrices


def mutual_knn(x, y, k=10, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute the mean share of common neighbors, (1 / n) sum_i |N_x(i) & N_y(i)| / k.

    N_x(i) are the k nearest neighbors of example i in x, without i itself.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ; floating (integers become the
            default float, half precisions float32).
        k: number of neighbors, less than n.
        metric: distance by which neighbors are nearest: "euclidean"; "cosine", 1 minus the cosine of the angle between
            two examples; "correlation", the same after subtracting from each example the mean of its features.
        samples: how tokens and maps become matrices: "flatten", "positions", "pool", "first" or "last"; see
            `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [0, 1], near k / (n - 1) for independent data without ties. Examples that tie for the last places
        share them equally, and common neighbors are then counted by the smaller share. NaN where all examples of x or
        of y have the same distance from each other. Symmetric. Invariant to translation (not with "cosine"), isotropic
        scaling and orthogonal transformations (with "correlation" to permutations only, and not to translation). Its
        derivatives are zero.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; k is not less than n; an unknown option; concrete NaN
            or infinite entries.

    Reference: Huh et al. 2024 (with features of unit norm, which is metric="cosine").

    Example:
        >>> import numpy as np
        >>> from symjax import mutual_knn
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{mutual_knn(x, 3 * x[:, ::-1] + 1, k=5):.3f}")  # permuted, scaled and translated
        1.000
    """
    x, y, k = checked(x, y, k, metric, samples, layout, mask)
    return evaluate(split((), k=k, metric=metric), x, y)


def knn_jaccard(x, y, k=10, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute the mean Jaccard similarity of neighborhoods, (1 / n) sum_i |N_x(i) & N_y(i)| / |N_x(i) | N_y(i)|.

    Args and Raises: as for `mutual_knn`.

    Returns:
        0-d array in [0, 1], with m / (2 k - m) in place of m / k for each example with m common neighbors; otherwise
        as `mutual_knn`.

    Reference: Wang et al. 2022; Klabunde et al. 2025 (with metric="cosine").

    Example:
        >>> import numpy as np
        >>> from symjax import knn_jaccard
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{knn_jaccard(x, 3 * x[:, ::-1] + 1, k=5):.3f}")
        1.000
    """
    x, y, k = checked(x, y, k, metric, samples, layout, mask)
    return evaluate(split((), k=k, metric=metric, jaccard=True), x, y)


COMMON = rowwise(lambda a, b: jnp.minimum(a[0], b[0]).sum(-1))


@lru_cache(maxsize=64)
def split(shapes, *, k=10, metric="euclidean", samples="flatten", jaccard=False):
    """Return `mutual_knn` or `knn_jaccard` as a `SplitMeasure`."""

    def prepare(x):
        x = lax.stop_gradient(x)
        return Prepared(flat(membership(neighbor_distances(x, metric, samples), k, metric)), ())

    def finish(common, *_):
        return jnp.clip((common / (2 * k - common if jaccard else k)).mean(), 0, 1)

    return SplitMeasure(
        prepare, finish, product=COMMON, permute=permute_matrices, warning=warning_of_metric(metric, samples)
    )


def cknna(x, y, k=10, *, metric="euclidean", samples="flatten", layout=None, mask=None):
    """Compute the centered kernel nearest-neighbor alignment, sum_ij m_ij K_ij L_ij / sqrt(sum K_ij^2 sum L_ij^2).

    K and L are linear kernels of centered features. The sums are over common neighbors, m_ij = 1 where j is one of the
    k nearest neighbors of i in both x and y; those of squares over the neighbors in x and in y.

    Args:
        x, y, k, samples, layout, mask: as in `mutual_knn`.
        metric: distance by which neighbors are nearest, as in `mutual_knn`.

    Returns:
        0-d array in [-1, 1]. For k = n - 1 it is `cka` with estimator "lange". NaN as for `mutual_knn`. Symmetric.
        Invariant to translation, isotropic scaling and orthogonal transformations with "euclidean"; with "cosine", not
        to translation. Derivatives hold the neighbors fixed.

    Raises:
        InputError: as `mutual_knn`.

    Reference: Huh et al. 2024. They subtract <x_i, mean> from K_ij, which is zero here, since features are centered.

    Example:
        >>> import numpy as np
        >>> from symjax import cknna
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{cknna(x, 3 * x[:, ::-1] + 1, k=5):.3f}")
        1.000
    """
    x, y, k = checked(x, y, k, metric, samples, layout, mask)
    return evaluate(split_cknna((), k=k, metric=metric), x, y)


@lru_cache(maxsize=64)
def split_cknna(shapes, *, k=10, metric="euclidean", samples="flatten"):
    """Return `cknna` as a `SplitMeasure`."""

    def vector(x):
        kernel = gram(centered(unit_norm(subtract_ninther(as_matrix(x, "x", samples, layout="nhwc")))[0]))
        return membership(neighbor_distances(lax.stop_gradient(x), metric, samples), k, metric) * kernel

    return cosine_of_vectors(vector, permute_matrices, warning_of_metric(metric, samples))


def second_order_cosine(x, y, k=10, *, samples="flatten", layout=None, mask=None):
    """Compute the mean cosine of the examples' similarities to their neighbors in either network.

    For example i, with s_ij = cos(x_i, x_j) and t_ij = cos(y_i, y_j), it is the cosine of the vectors of all s_ij and
    of all t_ij for j in N_x(i) | N_y(i), the k examples of largest s_ij and those of largest t_ij.

    Args:
        x, y, k, samples, layout, mask: as in `mutual_knn`.

    Returns:
        0-d array in [-1, 1]. It is near 1 where all similarities are, as in nonnegative features with a large mean.
        Examples that are zero in x or in y are left out. NaN where all are, or where all examples of x or of y have the
        same angle. Symmetric. Invariant to isotropic scaling and orthogonal transformations. Derivatives hold the
        neighbors fixed.

    Raises:
        InputError: as `mutual_knn`.

    Reference: Hamilton et al. 2016, "second-order similarity".

    Example:
        >>> import numpy as np
        >>> from symjax import second_order_cosine
        >>> x = np.random.default_rng(0).normal(size=(40, 4))
        >>> print(f"{second_order_cosine(x, 3 * x[:, ::-1], k=5):.3f}")
        1.000
    """
    x, y, k = checked(x, y, k, "cosine", samples, layout, mask)
    return evaluate(split_second_order((), k=k), x, y)


def _sums_over_union(a, b):
    """Return (3, n): the products of the similarities, and their squares in a and in b."""
    either = ((a[1] > 0) | (b[1] > 0)).astype(a.dtype)
    return jnp.stack([(either * left * right).sum(-1) for left, right in ((a[0], b[0]), (a[0], a[0]), (b[0], b[0]))])


UNION = rowwise(_sums_over_union)


@lru_cache(maxsize=64)
def split_second_order(shapes, *, k=10, samples="flatten"):
    """Return `second_order_cosine` as a `SplitMeasure`."""

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        member = membership(neighbor_distances(lax.stop_gradient(x), "cosine", samples), k, "cosine")
        return Prepared(flat(gram(unit_rows(x)), member), jnp.isnan(member[0, 0]))

    def finish(sums, a_undefined, b_undefined):
        product, a_square, b_square = sums
        cosines = jnp.clip(product * reciprocal(safe_sqrt(a_square)) * reciprocal(safe_sqrt(b_square)), -1, 1)
        counted = ((a_square > 0) & (b_square > 0)).sum().astype(sums.dtype)
        return jnp.where(a_undefined | b_undefined, jnp.nan, cosines.sum() / counted)

    return SplitMeasure(
        prepare, finish, product=UNION, permute=permute_matrices, warning=warning_of_metric("cosine", samples)
    )


_SCALED = ORTHOGONAL | {"isotropic_scaling", "cyclic_shift"}
_MOVED = _SCALED | {"translation"}
_HUH = "Huh et al. 2024"
_BIAS = "k / (n - 1) for independent data"
_COST = "n^2 p once, n^2 a pair"

MEASURES = (
    Measure(
        name="mutual_knn",
        fn=mutual_knn,
        reference=_HUH,
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_MOVED,
        split=split,
        title="mutual kNN",
        differentiable=False,
        cost=_COST,
        bias=_BIAS,
        use="local agreement, where distances between far examples mean little; robust to outliers",
        zero_channels=True,
        lost_with=lost_with_metric,
        min_examples=LEAST_EXAMPLES,
    ),
    Measure(
        name="mutual_knn_cosine",
        fn=partial(mutual_knn, metric="cosine"),
        reference=_HUH,
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_SCALED,
        split=partial(split, metric="cosine"),
        differentiable=False,
        zero_channels=True,
        lost_with=lost_with_metric,
        min_examples=LEAST_EXAMPLES,
    ),
    Measure(
        name="knn_jaccard",
        fn=knn_jaccard,
        reference="Wang et al. 2022; Klabunde et al. 2025",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_MOVED,
        split=partial(split, jaccard=True),
        title="kNN Jaccard",
        differentiable=False,
        cost=_COST,
        bias="about k / (2 (n - 1) - k) for independent data",
        use="as mutual_knn; examples with few common neighbors count less",
        zero_channels=True,
        lost_with=lost_with_metric,
        min_examples=LEAST_EXAMPLES,
    ),
    Measure(
        name="cknna",
        fn=cknna,
        reference=_HUH,
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_MOVED,
        split=split_cknna,
        title="CKNNA",
        cost=_COST,
        bias="positive, since kernel entries of neighbors are",
        use="between mutual_knn and CKA: the smaller k, the more local; the sizes of kernel entries count",
        zero_channels=True,
        lost_with=lost_with_metric,
        min_examples=LEAST_EXAMPLES,
    ),
    Measure(
        name="second_order_cosine",
        fn=second_order_cosine,
        reference="Hamilton et al. 2016",
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_SCALED,
        split=split_second_order,
        title="second-order cosine",
        cost=_COST,
        bias="large if all cosines are, as for nonnegative features",
        use="change of an embedding over time or between seeds",
        zero_channels=True,
        min_examples=LEAST_EXAMPLES,
    ),
)
