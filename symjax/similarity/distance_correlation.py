"""Distance correlation (Szekely et al. 2007)."""

from functools import lru_cache, partial

from symjax.similarity.channels import safe_sqrt
from symjax.similarity.distances import checked_examples, distances
from symjax.similarity.hsic import center_kernel, check_estimator
from symjax.similarity.inputs import as_matrix
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.split_measure import SplitMeasure, cosine_of_vectors, evaluate, permute_kernel


def distance_correlation(x, y, *, estimator="gretton", samples="flatten", layout=None, mask=None):
    """Compute the distance correlation, sqrt(<H D H, H E H> / (|H D H| |H E H|)), H = 1 - 11'/n.

    D and E are the matrices of Euclidean distances between examples. For the whole population it is 0 only for
    independent x and y.

    Args:
        x, y, samples, layout, mask: as in `rsa`.
        estimator: "gretton", as defined, biased: it tends to 1 with growing p / n and q / n. "song", the bias-corrected
            squared distance correlation, <U(D), U(E)> / (|U(D)| |U(E)|) with U-centering; it is near 0 for independent
            data. "lange" is "song" with H D H, its diagonal set to zero, in place of U(D).

    Returns:
        0-d array in [0, 1]; in [-1, 1] and not the root for "song" and "lange". NaN where all examples of x or of y are
        equal; for "song" also where only one differs from the others. Symmetric. Invariant to translation, isotropic
        scaling and orthogonal transformations.

    Raises:
        InputError: as `rsa`; fewer than 4 examples for "song" and "lange".

    Reference: Szekely et al. 2007; Szekely and Rizzo 2013 for "song".

    Example:
        >>> import numpy as np
        >>> from symjax import distance_correlation
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{distance_correlation(x, 3 * x[:, ::-1] + 1):.3f}")
        1.000
    """
    x, y = checked_examples(x, y, "euclidean", samples, layout, mask)
    check_estimator(estimator, len(x))
    return evaluate(split((), estimator=estimator), x, y)


@lru_cache(maxsize=64)
def split(shapes, *, estimator="gretton", samples="flatten"):
    """Return `distance_correlation` as a `SplitMeasure`."""

    def vector(x):
        return center_kernel(distances(as_matrix(x, "x", samples, layout="nhwc"), "euclidean")[0], estimator)

    cosine = cosine_of_vectors(vector, permute_kernel)
    if estimator != "gretton":
        return cosine
    return SplitMeasure(cosine.prepare, lambda *product: safe_sqrt(cosine.finish(*product)), permute=permute_kernel)


_INVARIANT = ORTHOGONAL | {"translation", "isotropic_scaling", "cyclic_shift"}

MEASURES = (
    Measure(
        name="distance_correlation",
        fn=distance_correlation,
        reference="Szekely et al. 2007",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_INVARIANT,
        split=split,
        zero_channels=True,
        title="distance correlation",
        cost="n^2 (p + q) once, n^2 a pair",
        bias="tends to 1 with growing p / n",
        use="dependence of any kind; less ruled by far examples than linear CKA",
    ),
    Measure(
        name="distance_correlation_song",
        fn=partial(distance_correlation, estimator="song"),
        reference="Szekely and Rizzo 2013",
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_INVARIANT,
        split=partial(split, estimator="song"),
        zero_channels=True,
        min_examples=4,
        cost="n^2 (p + q) once, n^2 a pair",
        bias="none: about 0 for independent data",
        use="as distance_correlation, with few examples",
    ),
)
