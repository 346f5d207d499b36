"""The overlap of the spans of the features of two representations."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp

from symjax.similarity.canonical import canonical, whiten
from symjax.similarity.cca_checks import dropped_message, notable_share, resolve_rcond, warn_of_dropped_directions
from symjax.similarity.channels import pad_to_common_width
from symjax.similarity.inputs import as_matrix, as_pair, check_samples
from symjax.similarity.linalg import to_row_space, unit_columns
from symjax.similarity.measure import LINEAR, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples


def eigenspace_overlap(x, y, *, samples="positions", layout=None, mask=None):
    """Compute the eigenspace overlap score, |U' V|^2 / max(rank x, rank y).

    U and V are orthonormal bases of the spans of the features, the left singular vectors of x and of y. Features are
    not centered: the numerator is the sum of their squared canonical correlations without centering.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) of one size whose channels may differ; floating (integers become
            the default float, half precisions float32).
        samples: how tokens and maps become matrices: "positions" (each token or pixel is a sample), "pool", "flatten",
            "first" or "last"; see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [0, 1]. For independent data about min(p, q) / n, and 1 for any data with n features or more on
        both sides. Directions at the rounding level are dropped. NaN where x or y is zero. Symmetric. Invariant to
        invertible linear transformations. Derivatives are valid at constant rank.

    Raises:
        InputError: wrong shapes, dtypes, map sizes or numbers of examples; an unknown option; concrete NaN or infinite
            entries.

    Reference: May et al. 2019, with ranks in place of the numbers of features.

    Example:
        >>> import numpy as np
        >>> from symjax import eigenspace_overlap
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{eigenspace_overlap(x, x @ np.tri(4)):.3f} {eigenspace_overlap(x, x[:, :2]):.3f}")
        1.000 0.500
    """
    x, y = as_pair(x, y, samples, mask, layout=layout, min_examples=1 if check_samples(samples) == "positions" else 2)
    rcond = resolve_rcond(None, x, y)
    overlap, *dropped = _overlap(*pad_to_common_width(x, y), rcond)
    warn_of_dropped_directions(x, y, dropped)
    return overlap


def _reduced(x):
    return to_row_space(unit_columns(x)[0])[0]


@partial(jax.jit, static_argnums=2)
def _overlap(x, y, rcond):
    result = canonical(_reduced(x), _reduced(y), rcond)
    overlap = _share((result.correlations**2).sum(), result.x.rank, result.y.rank)
    return overlap, result.x.dropped, result.y.dropped


def _share(squares, x_rank, y_rank):
    share = squares / jnp.maximum(x_rank, y_rank).astype(squares.dtype)
    return jnp.where(jnp.minimum(x_rank, y_rank) > 0, jnp.minimum(share, 1), jnp.nan)


@lru_cache(maxsize=64)
def split(shapes, *, samples="positions"):
    """Return `eigenspace_overlap` as a `SplitMeasure`."""

    def prepare(x):
        x = as_matrix(x, "x", samples, layout="nhwc")
        basis, _, rank, dropped = whiten(_reduced(x), resolve_rcond(None, x))
        return Prepared(basis.T, (rank, notable_share(dropped, x)))

    return SplitMeasure(
        prepare,
        lambda cross, a, b: _share((cross**2).sum(), a[0], b[0]),
        permute=permute_samples,
        warning=lambda read, aux: dropped_message(aux[1]),
    )


MEASURES = (
    Measure(
        name="eigenspace_overlap",
        fn=eigenspace_overlap,
        reference="May et al. 2019",
        range=(0.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=LINEAR,
        split=split,
        one_map_size=True,
        zero_channels=True,
        title="eigenspace overlap",
        cost="n p^2 once, n p q a pair",
        bias="min(p, q) / n for independent data",
        use="whether the other network has the same linear readouts; needs many more examples than features",
    ),
)
