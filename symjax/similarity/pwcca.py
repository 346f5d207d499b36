"""Projection-weighted CCA (Morcos, Raghu, Bengio 2018)."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import is_concrete
from symjax.similarity.canonical import whiten
from symjax.similarity.canonical_variates import unit_norm_data
from symjax.similarity.cca import cca_of_matrices
from symjax.similarity.cca_checks import (
    check_pair,
    few_examples_message,
    notable_share,
    resolve_rcond,
    warn_of_dropped_directions,
    warning_of_default,
)
from symjax.similarity.channels import subtract_mean
from symjax.similarity.inputs import NumericalWarning, as_matrix, warn_user
from symjax.similarity.linalg import from_row_space
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples

_EQUAL_CORRELATIONS = 64  # times eps: largest difference of correlations whose variates rounding can mix
_NOTABLE_SPREAD = 1e-3  # difference of correlations below which weights hardly matter


def pwcca(x, y, *, samples="positions", layout=None, mask=None, rcond=None):
    """Compute projection-weighted CCA: the mean correlation, weighted by how much of x each variate accounts for.

    The value is sum_i alpha_i rho_i / sum_i alpha_i with alpha_i = sum_j |<h_i, x_j>|, where h_i is the i-th canonical
    variate of x over the examples and x_j the j-th neuron of x, centered. The sum has as many variates as the smaller
    rank. Weights are those of x, so the measure is not symmetric.

    For maps, the default "positions" is the convention of Raghu et al. 2017. Morcos et al. average over positions,
    which is samples="pool".

    Where some but not all correlations coincide, for example with n - 1 < d_x + d_y - 1, their variates can be any
    basis of a subspace, and the value is not determined: a warning reports this (if not traced).

    Args and Raises: as for `cca`.

    Returns:
        0-d array in [0, 1]; NaN where a side is constant. Invariant to translation, isotropic scaling, permutation and
        sign flips of neurons on both sides, and to every invertible map of y. Differentiable where correlations are
        distinct, or all 1.

    Reference: Morcos et al. 2018, section 2.2; Kornblith et al. 2019, equation 9.

    Example:
        >>> import numpy as np
        >>> from symjax import pwcca
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{pwcca(x, x[:, :2] + 1):.3f}")
        1.000
    """
    default = rcond is None
    x, y, rcond = check_pair(x, y, samples, layout, mask, rcond, measure="pwcca", translation_invariant=True)
    value, undetermined, *dropped = _pwcca(x, y, rcond)
    if default:
        warn_of_dropped_directions(x, y, dropped, rcond)
    if is_concrete(undetermined) and undetermined and not few_examples_message(len(x), x.shape[1], y.shape[1]):
        warn_user(
            "several canonical correlations are equal up to rounding and others are not: their variates, hence their "
            "weights and the value of pwcca, are not determined by the data",
            NumericalWarning,
        )
    return value


@partial(jax.jit, static_argnums=2)
def _pwcca(x, y, rcond):
    result = cca_of_matrices(x, y, rcond)
    return weighted_mean(result), _undetermined(result), result.x_dropped, result.y_dropped


def _undetermined(result):
    """Return whether some but not all correlations coincide, so that weights depend on the choice of a basis."""
    rho, tolerance = result.correlations, _EQUAL_CORRELATIONS * float(jnp.finfo(result.correlations.dtype).eps)
    used = jnp.arange(len(rho), dtype=jnp.int32) < jnp.minimum(result.x_rank, result.y_rank)
    alike = (rho[:-1] - rho[1:] <= tolerance) & used[1:]
    # Weights change the value by at most the differences of correlations.
    return alike.any() & (rho[0] - jnp.where(used, rho, 1).min() > _NOTABLE_SPREAD)


def weighted_mean(result):
    """Return `pwcca` of a `CCA`."""
    weights = jnp.abs(result.x_loadings).sum(0)
    return _mean(weights, result.correlations)


def _mean(weights, correlations):
    # Rounding can make a weighted mean of numbers up to 1 exceed 1.
    return jnp.minimum((weights * correlations).sum() / weights.sum(), 1)


def pwcca_distance(x, y, *, samples="positions", layout=None, mask=None, rcond=None):
    """Compute 1 - `pwcca`, 0-d, in [0, 1]. Not symmetric, not a metric.

    Args, Raises and invariances: as for `pwcca`.

    Reference: Morcos et al. 2018, section 2.2.

    Example:
        >>> import numpy as np
        >>> from symjax import pwcca_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{pwcca_distance(x, x[:, :2] + 1):.3f}")
        0.000
    """
    return 1 - pwcca(x, y, samples=samples, layout=layout, mask=mask, rcond=rcond)


@lru_cache(maxsize=64)
def split(shapes, *, samples="positions", rcond=None, distance=False):
    """Return `pwcca` as a `SplitMeasure`. Where `rcond` is None, the default depends on each side's own width."""

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        side = unit_norm_data(*subtract_mean(x))
        basis, loadings, rank, dropped = whiten(side.data, resolve_rcond(rcond, x))
        loadings = from_row_space(loadings, side.basis) * side.neuron_norms[:, None]
        return Prepared(basis.T, (rank, notable_share(dropped, x), loadings))

    def finish(cross, a, b):
        (a_rank, _, a_loadings), (b_rank, *_) = a, b
        rotation, correlations, _ = jnp.linalg.svd(cross, full_matrices=False)
        used = jnp.arange(len(correlations), dtype=jnp.int32) < jnp.minimum(a_rank, b_rank)
        weights = jnp.where(used, jnp.abs(matmul(a_loadings, rotation)).sum(0), 0)
        similarity = _mean(weights, jnp.minimum(correlations, 1))
        return 1 - similarity if distance else similarity

    return SplitMeasure(prepare, finish, permute=permute_samples, warning=warning_of_default(rcond))


_INVARIANCES = frozenset({"translation", "isotropic_scaling", "permutation", "sign_flip"})
_REFERENCE = "Morcos, Raghu, Bengio 2018, section 2.2; Kornblith et al. 2019, equation 9"

MEASURES = (
    Measure(
        name="pwcca",
        fn=pwcca,
        reference=_REFERENCE,
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=False,
        invariances=_INVARIANCES,
        split=split,
        one_map_size=True,
        zero_channels=True,
        title="PWCCA",
        cost="n p^2 once, n p q a pair",
        bias="as cca",
        use="as cca, with directions weighted by their share of the first network",
    ),
    Measure(
        name="pwcca_distance",
        fn=pwcca_distance,
        reference=_REFERENCE,
        range=(0.0, 1.0),
        kind="distance",
        symmetric=False,
        invariances=_INVARIANCES,
        split=partial(split, distance=True),
        one_map_size=True,
        zero_channels=True,
    ),
)
