"""Singular vector CCA (Raghu, Gilmer, Yosinski, Sohl-Dickstein 2017)."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import flag, is_concrete
from symjax.similarity.canonical import whiten
from symjax.similarity.canonical_variates import ReducedData, cca_of_reduced
from symjax.similarity.cca import mean_correlation
from symjax.similarity.cca_checks import resolve_rcond, warn_of_few_examples
from symjax.similarity.channels import subtract_mean
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.similarity.linalg import from_row_space, to_row_space, unit_columns
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.pca import check_variance, leading_directions
from symjax.similarity.split_measure import SplitMeasure, permute_samples


def svcca(x, y, variance=0.99, *, samples="positions", layout=None, mask=None, full_output=False):
    """Compute the mean canonical correlation of the leading principal directions of x and of y.

    On each side the fewest principal directions are kept that together explain `variance`, a share of the sum of s_i^2,
    with s_i the singular values of the centered data. CCA of the projections follows. The mean is over as many
    correlations as the smaller number of kept directions.

    Where so many directions are kept that correlations are 1 for any data, a `FewExamplesWarning` reports this (if not
    traced).

    Args:
        x, y, samples, layout, mask: as in `cca`.
        variance: share in (0, 1]; 1 keeps every direction above rounding.
        full_output: whether to return (similarity, `CCA`); the ranks of the `CCA` are the numbers of kept directions.

    Returns:
        0-d array in [0, 1]; NaN where a side is constant. Symmetric. Invariant to translation, isotropic scaling and
        orthogonal maps of either side. It jumps where the number of directions changes and is differentiable elsewhere.

    Raises:
        InputError: as `cca`; a concrete variance not in (0, 1].

    Reference: Raghu et al. 2017, section 2 ("99 % of the variance").

    Example:
        >>> import numpy as np
        >>> from symjax import svcca
        >>> x = np.random.default_rng(0).normal(size=(16, 4)) * [10, 10, 1e-3, 1e-3]
        >>> similarity, result = svcca(x, 2 * x + 1, full_output=True)
        >>> print(f"{similarity:.3f} {int(result.x_rank)}")
        1.000 2
    """
    flag("full_output", full_output)
    x, y = as_pair(x, y, samples, layout=layout, mask=mask, translation_invariant=not full_output)
    similarity, result = _svcca(x, y, check_variance(variance))
    if is_concrete(similarity):
        warn_of_few_examples(x.shape[0], int(result.x_rank), int(result.y_rank), "svcca")
    return (similarity, result) if full_output else similarity


@jax.jit
def _svcca(x, y, variance):
    return svcca_of_centered(subtract_mean(x), subtract_mean(y), variance, x.shape[0])


def svcca_of_centered(x, y, variance, samples):
    """Return `svcca` with full output for pairs (centered data, mean) whose rows may be rotated."""
    # Leading directions are nonzero and independent: only zero columns remain to be dropped.
    rcond = resolve_rcond(None, x[0], y[0])
    result = cca_of_reduced(_leading_data(*x, variance), _leading_data(*y, variance), rcond, samples)
    return mean_correlation(result), result


def _leading_data(centered, mean, variance):
    reduced, q = to_row_space(centered)
    directions = leading_directions(reduced, variance)
    data, norms = unit_columns(matmul(reduced, directions))
    return ReducedData(data, mean, None, from_row_space(directions, q), norms)


def svcca_distance(x, y, variance=0.99, *, samples="positions", layout=None, mask=None):
    """Compute 1 - `svcca`, 0-d, in [0, 1]. Not a metric.

    Args, Raises and invariances: as for `svcca`.

    Reference: Raghu et al. 2017.

    Example:
        >>> import numpy as np
        >>> from symjax import svcca_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{svcca_distance(x, 2 * x + 1):.3f}")
        0.000
    """
    return 1 - svcca(x, y, variance, samples=samples, layout=layout, mask=mask)


@lru_cache(maxsize=64)
def split(shapes, variance=0.99, *, samples="positions", distance=False):
    """Return `svcca` as a `SplitMeasure`."""

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        basis, _, rank, _ = whiten(_leading_data(*subtract_mean(x), variance).data, resolve_rcond(None, x))
        return Prepared(basis.T, rank)

    def finish(total, a_rank, b_rank):
        similarity = jnp.minimum(total / jnp.minimum(a_rank, b_rank).astype(total.dtype), 1)
        return 1 - similarity if distance else similarity

    return SplitMeasure(prepare, finish, num_directions=lambda rank: rank, permute=permute_samples, nuclear=True)


_REFERENCE = "Raghu et al. 2017, section 2"
_INVARIANCES = ORTHOGONAL | {"translation", "isotropic_scaling"}

MEASURES = (
    Measure(
        name="svcca",
        fn=svcca,
        reference=_REFERENCE,
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_INVARIANCES,
        split=split,
        one_map_size=True,
        zero_channels=True,
        title="SVCCA",
        cost="n p^2 once, n p q a pair",
        bias="as cca, with the kept directions for p and q",
        use="as cca, where directions of small variance are noise",
    ),
    Measure(
        name="svcca_distance",
        fn=svcca_distance,
        reference=_REFERENCE,
        range=(0.0, 1.0),
        kind="distance",
        symmetric=True,
        invariances=_INVARIANCES,
        split=partial(split, distance=True),
        one_map_size=True,
        zero_channels=True,
    ),
)
