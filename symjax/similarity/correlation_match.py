"""Matching of neurons by their correlations: one to one, each with its best match, or only a share of them."""

from functools import lru_cache

import jax.numpy as jnp

from symjax.checks import flag, static_scalar
from symjax.similarity.alignment import assign, matched_sum, paired_samples
from symjax.similarity.measure import Measure
from symjax.similarity.soft_matching import split as split_soft_matching
from symjax.similarity.split_measure import SplitMeasure, evaluate, permute_samples
from symjax.similarity.transport import transport_plan


def hard_correlation_match(x, y, *, samples="positions", layout=None, mask=None):
    """Compute the largest mean correlation of neurons that are matched one to one.

    All neurons of the narrower side are matched; the remaining ones of the wider side are left out. (`soft_matching`
    distributes them instead; for equal widths both are the same.)

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose channels and sizes may differ; floating (integers become the
            default float, half precisions float32).
        samples: "positions" makes each token or pixel a sample, after enlarging the smaller map by nearest neighbor;
            "flatten", "pool", "first" and "last" as in `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.

    Returns:
        0-d array in [-1, 1]. Constant neurons are ignored; NaN where all neurons of x or of y are constant. Symmetric.
        Invariant to translation, permutations and positive scalings of neurons. Exact (linear assignment), on the host.
        Derivatives hold the matching fixed.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unknown option; concrete NaN or infinite entries.

    Reference: Li et al. 2015 (bipartite matching).

    Example:
        >>> import numpy as np
        >>> from symjax import hard_correlation_match
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{hard_correlation_match(x, x[:, [2, 0]] + 1):.3f}")
        1.000
    """
    return evaluate(split_hard(()), *_neurons(x, y, samples, layout, mask))


def soft_correlation_match(x, y, *, symmetric=False, samples="positions", layout=None, mask=None):
    """Compute the mean over neurons of x of their largest correlation with a neuron of y.

    Several neurons of x may have the same best neuron of y.

    Args:
        x, y, samples, layout, mask: as in `hard_correlation_match`.
        symmetric: whether to return the mean of the values of both directions, as Klabunde et al. do.

    Returns:
        0-d array in [-1, 1], otherwise as `hard_correlation_match` but, without `symmetric`, not symmetric.

    Raises:
        InputError: as `hard_correlation_match`.

    Reference: Li et al. 2015 (semi-matching); Khosla and Williams 2024.

    Example:
        >>> import numpy as np
        >>> from symjax import soft_correlation_match
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{soft_correlation_match(x[:, :2], x):.3f} {soft_correlation_match(x, x[:, :2]):.3f}")
        1.000 0.485
    """
    symmetric = flag("symmetric", symmetric)
    return evaluate(split_soft((), symmetric=symmetric), *_neurons(x, y, samples, layout, mask))


def partial_soft_matching(x, y, *, mass=0.5, samples="positions", layout=None, mask=None):
    """Compute the largest mean correlation of a share of the neurons, max over P of sum_ij P_ij r_ij / mass.

    P is a nonnegative matrix (p, q) whose rows sum to at most 1 / p, columns to at most 1 / q, and all entries to
    `mass`. Neurons without a counterpart, such as noise, are left out.

    Args:
        x, y, samples, layout, mask: as in `hard_correlation_match`.
        mass: number in (0, 1], not traced; 1 is `soft_matching`.

    Returns:
        0-d array in [-1, 1], at least `soft_matching`. Otherwise as `hard_correlation_match`, with a linear program
        (500 by 512 neurons take seconds).

    Raises:
        InputError: as `hard_correlation_match`; mass not in (0, 1].

    Reference: Kapoor et al. 2026 (arXiv 2602.19331). Their cost of transport is mass (1 - value).

    Example:
        >>> import numpy as np
        >>> from symjax import partial_soft_matching, soft_matching
        >>> x, noise = np.random.default_rng(0).normal(size=(2, 40, 4))
        >>> y = np.column_stack([x[:, :2], noise[:, :2]])
        >>> print(f"{soft_matching(x, y):.2f} {partial_soft_matching(x, y, mass=0.5):.2f}")
        0.55 1.00
    """
    x, y = _neurons(x, y, samples, layout, mask)
    return evaluate(split_partial((), mass=check_mass(mass)), x, y)


def check_mass(mass):
    return static_scalar("mass", mass, "a number in (0, 1]", lambda value: 0 < value <= 1)


def _neurons(x, y, samples, layout, mask):
    return paired_samples(x, y, samples, mask, layout=layout, translation_invariant=True)


def _split(samples, finish):
    """Return finish(correlations, active x, active y), clipped to [-1, 1], as a `SplitMeasure`."""

    def value(cross, a, b):
        return jnp.clip(finish(cross, a.active, b.active), -1, 1)

    return SplitMeasure(split_soft_matching((), samples=samples).prepare, value, permute=permute_samples)


@lru_cache(maxsize=64)
def split_hard(shapes, *, samples="positions"):
    """Return `hard_correlation_match` as a `SplitMeasure`."""

    def finish(cross, rows, columns):
        total = matched_sum(cross, assign(cross.T, columns, rows)[0])
        return total / jnp.minimum(rows.sum(), columns.sum()).astype(cross.dtype)

    return _split(samples, finish)


@lru_cache(maxsize=64)
def split_soft(shapes, *, symmetric=False, samples="positions"):
    """Return `soft_correlation_match` as a `SplitMeasure`."""

    def one_way(cross, rows, columns):
        best = jnp.where(columns[None], cross, -jnp.inf).max(1)
        mean = jnp.where(rows, best, 0).sum() / rows.sum().astype(cross.dtype) + 0 * cross.sum()  # NaN passes through
        return jnp.where(rows.any() & columns.any(), mean, jnp.nan)

    def finish(cross, rows, columns):
        value = one_way(cross, rows, columns)
        return (value + one_way(cross.T, columns, rows)) / 2 if symmetric else value

    return _split(samples, finish)


@lru_cache(maxsize=64)
def split_partial(shapes, *, mass=0.5, samples="positions"):
    """Return `partial_soft_matching` as a `SplitMeasure`."""
    mass = check_mass(mass)

    def finish(cross, rows, columns):
        return (transport_plan(cross, rows, columns, mass) * cross).sum() / mass

    return _split(samples, finish)


def _measure(name, fn, reference, symmetric, split, cost, bias, use):
    return Measure(
        name=name,
        fn=fn,
        reference=reference,
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=symmetric,
        invariances=frozenset({"permutation", "translation", "isotropic_scaling", "positive_diagonal"}),
        split=split,
        zero_channels=True,  # they are constant
        title=name.replace("_", " "),
        cost=cost,
        bias=bias,
        use=use,
    )


MEASURES = (
    _measure(
        "hard_correlation_match",
        hard_correlation_match,
        "Li et al. 2015",
        True,
        split_hard,
        "n p once, n p q and an assignment of p to q neurons a pair",
        "positive: grows with p and with 1 / n",
        "whether single neurons correspond one to one",
    ),
    _measure(
        "soft_correlation_match",
        soft_correlation_match,
        "Li et al. 2015; Khosla and Williams 2024",
        False,
        split_soft,
        "n p once, n p q a pair",
        "positive: grows with q and with 1 / n",
        "whether each neuron of one network has a counterpart in the other; the direction matters",
    ),
    _measure(
        "partial_soft_matching",
        partial_soft_matching,
        "Kapoor et al. 2026",
        True,
        split_partial,
        "n p once, n p q and optimal transport (p, q) a pair",
        "positive: grows with p, with 1 / n and with a smaller mass",
        "as soft_matching, where a part of the neurons is noise or has no counterpart",
    ),
)
