"""Soft matching of neurons (Khosla and Williams 2024): permutations made soft, so that widths may differ."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.checks import flag
from symjax.similarity.alignment import paired_samples
from symjax.similarity.channels import centre, centred, magnitude, safe_sqrt, unit_channels
from symjax.similarity.linalg import reciprocal
from symjax.similarity.measure import Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.procrustes import channels_first, samples_or_maps
from symjax.similarity.split_measure import SplitMeasure
from symjax.similarity.transport import transport_plan
from symjax.spelling import one_line


class Transport(NamedTuple):
    """How much of each neuron of x goes to each neuron of y: y_j ~ sum_i matrix_ji x_i + bias_j."""

    plan: jax.Array  # (p, q); rows sum to 1 / p, columns to 1 / q, those of neurons left out to zero
    x_scaling: jax.Array  # (p,), 1, or where neurons were standardized what brought them to unit norm, 0 if constant
    y_scaling: jax.Array  # (q,), 1, or the norms of the centred neurons
    bias: jax.Array  # (q,), zero unless means were taken off

    __repr__ = one_line

    @property
    def weights(self):
        """(q, p): for each neuron of y the shares of those of x, which sum to one. For equal widths a permutation."""
        totals = self.plan.sum(0)[:, None]
        return self.plan.T / jnp.where(totals > 0, totals, 1)

    @property
    def matrix(self):
        """(q, p): the weights, in the units of x and y as they came."""
        return self.y_scaling[:, None] * self.weights * self.x_scaling[None]


def soft_matching(x, y, *, maps="pixels", layout=None, full_output=False):
    """The soft matching correlation: max over P in T(p, q) of sum_ij P_ij r_ij, r the correlations of neurons.

    T(p, q), the transportation polytope, holds the nonnegative matrices (p, q) whose rows sum to 1 / p and columns to
    1 / q. For p = q the best P is a permutation divided by p, and the result the mean correlation of matched neurons.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c), whose channels may differ, and their sizes too.
        maps: "pixels" takes each pixel for a sample, after the smaller map is enlarged by nearest neighbour; "flatten"
            and "pool" as in `as_matrix`.
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other.
        full_output: whether to return the plan too.

    Returns:
        0-d array in [-1, 1]; with `full_output` also the `Transport`, whose plan is between neurons centred and at
        unit norm, and whose matrix and bias carry x itself to y. Neurons that are constant are left out; NaN where all
        of x or of y are. Symmetric. Invariant under translation, permutations and positive scalings of neurons.

        Exact (`transport_plan`), on the host. The derivative is that at the best plan held fixed, which is the true one
        wherever that is unique.

    Raises:
        InputError: shapes, types or numbers of examples are wrong; unknown `maps`; NaN or infinity in concrete input.
    """
    flag("full_output", full_output)
    squares, transport = _best_transport(
        *paired_samples(x, y, maps, layout=layout, translation_invariant=not full_output), True
    )
    similarity = 1 - squares / 2
    return (similarity, transport) if full_output else similarity


def soft_matching_distance(x, y, *, standardize=False, maps="pixels", layout=None, full_output=False):
    """The soft matching distance: sqrt(min over P in T(p, q) of sum_ij P_ij |x_i - y_j|^2), x_i, y_j neurons in R^n.

    The 2-Wasserstein distance between the neurons of x and those of y as points, and so a metric, for any widths, up to
    permutations (and repetitions of all neurons alike).

    Args:
        x, y, maps, layout, full_output: as of `soft_matching`.
        standardize: whether neurons are centred and brought to unit norm first, and constant ones left out. Then the
            distance is sqrt(2 - 2 s), s = `soft_matching(x, y)`, and its invariances are those of s.

    Returns:
        0-d array, not negative; or this and the `Transport`. As published, without `standardize`, it grows with the
        data and with the root of n.

    Raises:
        InputError: as `soft_matching`.
    """
    standardize, full_output = flag("standardize", standardize), flag("full_output", full_output)
    x, y = paired_samples(x, y, maps, layout=layout, translation_invariant=standardize and not full_output)
    size = jnp.maximum(magnitude(x), magnitude(y))  # whose squares may leave the range of floats
    squares, transport = _best_transport(x / size, y / size, standardize)
    distance = safe_sqrt(squares) if standardize else size * safe_sqrt(squares)
    transport = transport._replace(bias=size * transport.bias)
    return (distance, transport) if full_output else distance


@partial(jax.jit, static_argnums=2)
def _best_transport(x, y, standardize):
    """The squared distance and the `Transport`."""
    means = jnp.zeros_like(x[0]), jnp.zeros_like(y[0])
    x_norm, y_norm = jnp.ones_like(x[0]), jnp.ones_like(y[0])
    if standardize:
        (x, x_mean), (y, y_mean) = centre(x), centre(y)
        (x, x_norm), (y, y_norm), means = unit_channels(x), unit_channels(y), (x_mean, y_mean)
    # Norms of neurons add the same to every plan.
    plan = transport_plan(matmul(x.T, y), x_norm > 0, y_norm > 0)
    transport = Transport(plan, reciprocal(x_norm), y_norm, means[1])
    return _squared_distance(x, y, plan), transport._replace(bias=means[1] - matmul(transport.matrix, means[0]))


def _squared_distance(x, y, plan):
    """sum_ij plan_ij |x_i - y_j|^2 from differences, which are small where |x_i|^2 + |y_j|^2 - 2 <x_i, y_j> cancels."""
    p, q = plan.shape
    rows, columns = jnp.nonzero(plan, size=p + q - 1, fill_value=0)
    weights = jnp.where(jnp.arange(p + q - 1) < (plan != 0).sum(), plan[rows, columns], 0)
    picked_x, picked_y = (
        matmul(z, jax.nn.one_hot(picked, z.shape[1], dtype=z.dtype).T) for z, picked in ((x, rows), (y, columns))
    )
    return (weights * ((picked_x - picked_y) ** 2).sum(0)).sum()


class Neurons(NamedTuple):
    """Of one representation, whose neurons are at unit norm or, all of them, over `size`."""

    live: jax.Array  # (p,), which take part
    square: jax.Array  # 0-d, the mean square norm of these
    size: jax.Array  # 0-d
    pixels: jax.Array  # (2,), the size of maps that count the more the larger they are made; otherwise ones


SMALL_SHARE = 0.02  # squared distances under this part of what they are the difference of have lost more than a digit
INACCURATE = -1  # in the place of a distance that is one of these


@lru_cache(maxsize=64)
def split(shapes, *, maps="pixels", standardize=True, distance=False):
    """`soft_matching` or `soft_matching_distance` in two parts."""

    def prepare(x):
        x = samples_or_maps(x, maps)
        size, live, pixels = jnp.ones((), x.dtype), jnp.ones(x.shape[-1], bool), jnp.ones(2, x.dtype)
        if standardize:
            x, norms = unit_channels(centred(x))
            live = norms > 0
        else:
            size = magnitude(x).astype(x.dtype)
            x = x / size
            pixels = jnp.asarray(x.shape[1:-1] or (1, 1), x.dtype)
        square = (x * x).sum() / live.sum().astype(x.dtype)
        return Prepared(channels_first(x), Neurons(live, square, size, pixels))

    def sizes(a, b):
        """The unit of the distance, and in this unit those of both sides."""
        pixels = jnp.maximum(a.pixels, b.pixels).prod()  # to which the smaller map is enlarged
        a_size, b_size = (side.size * jnp.sqrt(pixels / side.pixels.prod()) for side in (a, b))
        largest = jnp.maximum(a_size, b_size)
        return largest, a_size / largest, b_size / largest

    def finish(cross, a, b):
        inner = (transport_plan(cross, a.live, b.live) * cross).sum()
        if not distance:
            return jnp.clip(inner, -1, 1)  # of unit vectors, but for rounding
        largest, a_size, b_size = sizes(a, b)
        total = a_size**2 * a.square + b_size**2 * b.square
        squares = total - 2 * a_size * b_size * inner
        return jnp.where(squares < SMALL_SHARE * total, INACCURATE, largest * safe_sqrt(squares))

    def exact(a, b):
        largest, a_size, b_size = sizes(a.aux, b.aux)
        plan = transport_plan(matmul(a.data, b.data.T), a.aux.live, b.aux.live)
        return largest * safe_sqrt(_squared_distance(a_size * a.data.T, b_size * b.data.T, plan))

    return (
        SplitMeasure(prepare, finish, exact, lambda value: value == INACCURATE)
        if distance
        else SplitMeasure(prepare, finish)
    )


_PERMUTED = frozenset({"permutation"})
_STANDARDIZED = _PERMUTED | {"translation", "isotropic_scaling", "positive_diagonal"}
_KHOSLA = "Khosla and Williams 2024"

MEASURES = (
    Measure("soft_matching", soft_matching, _KHOSLA, (-1.0, 1.0), "similarity", True, _STANDARDIZED, split),
    Measure(
        "soft_matching_distance",
        soft_matching_distance,
        _KHOSLA,
        (0.0, float("inf")),
        "distance",
        True,
        _PERMUTED,
        partial(split, standardize=False, distance=True),
    ),
)
