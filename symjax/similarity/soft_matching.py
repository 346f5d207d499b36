"""Soft matching of neurons (Khosla and Williams 2024): relaxed permutations for neurons of any two widths."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import flag
from symjax.similarity.alignment import channels_first, paired_samples, samples_or_maps
from symjax.similarity.channels import centered, magnitude, safe_sqrt, subtract_mean, unit_channels
from symjax.similarity.linalg import reciprocal
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples
from symjax.similarity.transport import transport_plan
from symjax.spelling import one_line


class Transport(NamedTuple):
    """The share of each neuron of x that is assigned to each neuron of y: y_j ~ sum_i matrix_ji x_i + bias_j."""

    plan: jax.Array  # (p, q); rows sum to 1 / p, columns to 1 / q, those of ignored neurons to zero
    x_scaling: jax.Array  # (p,), 1; for standardized neurons the factors to unit norm, 0 for constant ones
    y_scaling: jax.Array  # (q,), 1; for standardized neurons the norms of the centered neurons
    bias: jax.Array  # (q,), zero unless means were subtracted

    def __repr__(self):
        return one_line(self)

    @property
    def weights(self):
        """Return (q, p): for each neuron of y the shares of neurons of x, which sum to one."""
        totals = self.plan.sum(0)[:, None]
        return self.plan.T / jnp.where(totals > 0, totals, 1)

    @property
    def matrix(self):
        """Return (q, p): the weights, in the original units of x and y."""
        return self.y_scaling[:, None] * self.weights * self.x_scaling[None]


def soft_matching(x, y, *, samples="positions", layout=None, mask=None, full_output=False):
    """Compute max over P in T(p, q) of sum_ij P_ij r_ij, with r the correlations of neurons.

    T(p, q), the transportation polytope, is the set of nonnegative matrices (p, q) whose rows sum to 1 / p and columns
    to 1 / q. For p = q the best P is a permutation divided by p, and the result is the mean correlation of matched
    neurons.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose channels and sizes may differ; floating (integers become the
            default float, half precisions float32).
        samples: "positions" makes each pixel a sample, after enlarging the smaller map by nearest neighbor; the others
            as in `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        full_output: whether to return the plan too.

    Returns:
        0-d array in [-1, 1]; with `full_output` also the `Transport`. Its plan is between centered neurons of norm 1,
        and its matrix and bias map x itself to y. Constant neurons are ignored; NaN where all neurons of x or of y are
        constant. Symmetric. Invariant to translation, permutations and positive scalings of neurons.

        Exact (`transport_plan`), on the host. The derivative holds the best plan fixed, which is exact where the plan
        is unique.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; unknown `samples`; concrete NaN or infinite entries.

    Reference: Khosla and Williams 2024.

    Example:
        >>> import numpy as np
        >>> from symjax import soft_matching
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{soft_matching(x, x[:, ::-1] * np.arange(1, 5)):.3f}")
        1.000
    """
    flag("full_output", full_output)
    squares, transport = _best_transport(
        *paired_samples(x, y, samples, layout=layout, mask=mask, translation_invariant=not full_output), True
    )
    similarity = 1 - squares / 2
    return (similarity, transport) if full_output else similarity


def soft_matching_distance(x, y, *, standardize=False, samples="positions", layout=None, mask=None, full_output=False):
    """Compute sqrt(min over P in T(p, q) of sum_ij P_ij |x_i - y_j|^2), with neurons x_i, y_j in R^n.

    It is the 2-Wasserstein distance between the neurons of x and of y as points. It is therefore a metric for any
    widths, up to permutations (and equal repetitions of all neurons).

    Args:
        x, y, samples, layout, mask, full_output: as in `soft_matching`.
        standardize: whether neurons are centered and scaled to unit norm first, and constant ones ignored. Then the
            distance is sqrt(2 - 2 s) with s = `soft_matching(x, y)`, with the invariances of s.

    Returns:
        0-d array, nonnegative; with `full_output` also the `Transport`. As published, without `standardize`, it grows
        with the data and with the root of n, and it is invariant to permutations.

    Raises:
        InputError: as `soft_matching`.

    Reference: Khosla and Williams 2024.

    Example:
        >>> import numpy as np
        >>> from symjax import soft_matching_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{soft_matching_distance(x, x[:, ::-1]):.3f}")
        0.000
    """
    standardize, full_output = flag("standardize", standardize), flag("full_output", full_output)
    x, y = paired_samples(
        x, y, samples, layout=layout, mask=mask, translation_invariant=standardize and not full_output
    )
    size = jnp.maximum(magnitude(x), magnitude(y))  # its square may be out of range
    squares, transport = _best_transport(x / size, y / size, standardize)
    distance = safe_sqrt(squares) if standardize else size * safe_sqrt(squares)
    transport = transport._replace(bias=size * transport.bias)
    return (distance, transport) if full_output else distance


@partial(jax.jit, static_argnums=2)
def _best_transport(x, y, standardize):
    """Return the squared distance and the `Transport`."""
    means = jnp.zeros_like(x[0]), jnp.zeros_like(y[0])
    x_norm, y_norm = jnp.ones_like(x[0]), jnp.ones_like(y[0])
    if standardize:
        (x, x_mean), (y, y_mean) = subtract_mean(x), subtract_mean(y)
        (x, x_norm), (y, y_norm), means = unit_channels(x), unit_channels(y), (x_mean, y_mean)
    # The norms contribute equally to all plans, so only inner products matter.
    plan = transport_plan(matmul(x.T, y), x_norm > 0, y_norm > 0)
    transport = Transport(plan, reciprocal(x_norm), y_norm, means[1])
    return _squared_distance(x, y, plan), transport._replace(bias=means[1] - matmul(transport.matrix, means[0]))


def _squared_distance(x, y, plan):
    """Return sum_ij plan_ij |x_i - y_j|^2 from differences.

    They keep digits where |x_i|^2 + |y_j|^2 - 2 <x_i, y_j> cancels.
    """
    p, q = plan.shape
    rows, columns = jnp.nonzero(plan, size=p + q - 1, fill_value=0)
    weights = jnp.where(jnp.arange(p + q - 1) < (plan != 0).sum(), plan[rows, columns], 0)
    picked_x, picked_y = (
        matmul(z, jax.nn.one_hot(picked, z.shape[1], dtype=z.dtype).T) for z, picked in ((x, rows), (y, columns))
    )
    return (weights * ((picked_x - picked_y) ** 2).sum(0)).sum()


class Neurons(NamedTuple):
    """The properties of one side's neurons, which have unit norm or are all divided by `size`."""

    active: jax.Array  # (p,), which neurons are compared
    square: jax.Array  # 0-d, mean square norm of the active neurons
    size: jax.Array  # 0-d
    pixels: jax.Array  # (2,), the size of maps whose enlargement increases the distance; otherwise ones


SMALL_SHARE = 0.02  # squared distances below this share of their terms, whose difference they are, lose a digit
INACCURATE = -1  # marks such a distance


@lru_cache(maxsize=64)
def split(shapes, *, samples="positions", standardize=True, distance=False):
    """Return `soft_matching` or `soft_matching_distance` as a `SplitMeasure`."""

    def prepare(x, width=None):
        x = samples_or_maps(x, samples)
        active = jnp.arange(x.shape[-1]) < (x.shape[-1] if width is None else width)
        size, pixels = jnp.ones((), x.dtype), jnp.ones(2, x.dtype)
        if standardize:
            x, norms = unit_channels(centered(x))
            active = norms > 0
        else:
            size = magnitude(x).astype(x.dtype)
            x = x / size
            pixels = jnp.asarray(x.shape[1:-1] or (1, 1), x.dtype)
        square = (x * x).sum() / active.sum().astype(x.dtype)
        return Prepared(channels_first(x), Neurons(active, square, size, pixels))

    def sizes(a, b):
        """Return the unit of the distance, and the sizes of both sides in this unit."""
        pixels = jnp.maximum(a.pixels, b.pixels).prod()  # after enlarging the smaller map
        a_size, b_size = (side.size * jnp.sqrt(pixels / side.pixels.prod()) for side in (a, b))
        largest = jnp.maximum(a_size, b_size)
        return largest, a_size / largest, b_size / largest

    def finish(cross, a, b):
        inner = (transport_plan(cross, a.active, b.active) * cross).sum()
        if not distance:
            return jnp.clip(inner, -1, 1)  # unit vectors; only rounding exceeds the range
        largest, a_size, b_size = sizes(a, b)
        total = a_size**2 * a.square + b_size**2 * b.square
        squares = total - 2 * a_size * b_size * inner
        return jnp.where(squares < SMALL_SHARE * total, INACCURATE, largest * safe_sqrt(squares))

    def exact(a, b):
        largest, a_size, b_size = sizes(a.aux, b.aux)
        plan = transport_plan(matmul(a.data, b.data.T), a.aux.active, b.aux.active)
        return largest * safe_sqrt(_squared_distance(a_size * a.data.T, b_size * b.data.T, plan))

    return (
        SplitMeasure(
            prepare, finish, exact, lambda value: value == INACCURATE, permute=permute_samples, counts_channels=True
        )
        if distance
        else SplitMeasure(prepare, finish, permute=permute_samples)
    )


_PERMUTED = frozenset({"permutation"})
_STANDARDIZED = _PERMUTED | {"translation", "isotropic_scaling", "positive_diagonal"}
_KHOSLA = "Khosla and Williams 2024"

MEASURES = (
    Measure(
        name="soft_matching",
        fn=soft_matching,
        reference=_KHOSLA,
        range=(-1.0, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=_STANDARDIZED,
        split=split,
        zero_channels=True,
        title="soft matching",
        cost="n p once, n p q + transport (about p^3) a pair",
        bias="grows with log(p) / n",
        use="single neurons of networks of different widths",
    ),
    Measure(
        name="soft_matching_distance",
        fn=soft_matching_distance,
        reference=_KHOSLA,
        range=(0.0, float("inf")),
        kind="distance",
        symmetric=True,
        invariances=_PERMUTED,
        split=partial(split, standardize=False, distance=True),
        counts_channels=True,
    ),
)
