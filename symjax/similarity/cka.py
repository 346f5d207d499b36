"""Centred kernel alignment (Kornblith et al. 2019): the cosine of the angle between two centred kernel matrices."""

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.checks import scalar
from symjax.checks import one_of
from symjax.errors import InputError
from symjax.similarity.channels import (
    centred,
    pad_to_common_width,
    safe_sqrt,
    subtract_ninther,
    unit_channels,
    unit_norm,
    zero_if_equal,
)
from symjax.similarity.hsic import (
    centre_kernel,
    check_estimator,
    diagonal,
    hsic_of_features,
    hsic_of_product,
    hsic_without_diagonals,
    power_of_features,
)
from symjax.similarity.inputs import as_matrix, as_pair, matrix_shape, paired_representations
from symjax.similarity.linalg import gram, gram_of_centred
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure

KERNELS = ("linear", "rbf")
FORMS = ("auto", "gram", "features")
MANY_EXAMPLES = 4096  # from which, for many pairs, kernel matrices are not kept if features are far fewer
_TOLERANCE, _NEGLIGIBLE = (
    1e-4,
    50,
)  # of squared distances over the squared bandwidth: allowed rounding; from where kernels are 0
INACCURATE = -4  # in the place of a value of which the diagonals of kernels have left no digits
SMALL_ANGLE = 0.15  # angles smaller than this, or as near to pi, have lost more than a digit to the cosine


def cka(x, y, estimator="song", kernel="linear", *, bandwidth=1.0, maps="flatten", layout=None, form="auto"):
    """CKA(x, y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K and L kernel matrices of the examples.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ.
        estimator: of HSIC (`hsic`). "song", unbiased, is near 0 for independent data; "gretton", biased and as in
            Kornblith et al., tends to 1 with p, q / n, and so, later, does "lange": of independent Gaussian data with
            n = 50, p = q = 5000 they make -.03, .99 and .66.
        kernel: "linear", K = X X'; or "rbf", K_ij = exp(-|x_i - x_j|^2 / (2 s^2)) with s^2 = `bandwidth`^2 times the
            median of |x_i - x_j|^2 over all pairs of different examples, for x and for y. Distances come from products
            of examples, and from their differences, n^2 (p + q) operations that are no matrix product, where products
            would lose their digits, as with examples in groups far from each other.
        bandwidth: a positive number; Kornblith et al. use 0.2, 0.4 and 0.8.
        maps: how maps become examples: "flatten" (the published way), "pixels" or "pool", see `as_matrix`.
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other.
        form: "gram" takes n^2 (p + q) operations and memory n^2, "features" n (p^2 + p q + q^2) and is for the linear
            kernel alone; both give the same. "auto" takes the cheaper.

    Returns:
        0-d array in [-1, 1] ([0, 1] for "gretton"): negative values are legitimate estimates of small ones. NaN where
        all examples of x or of y are equal, with "rbf" where half of the pairs are, and with "song" and "rbf" where
        but one example differs from the others: of such kernels U-centring leaves nothing. Symmetric. Invariant under
        translation, isotropic scaling and orthogonal transformations.

    Raises:
        InputError: shapes, types or numbers of examples are wrong; fewer than 4 examples for "song" and "lange"; an
            unknown option; a bandwidth that is not positive; NaN or infinity in concrete input.
    """
    return _cka(*_check_arguments(x, y, estimator, kernel, bandwidth, maps, layout, form))


def cka_distance(x, y, estimator="song", kernel="linear", *, bandwidth=1.0, maps="flatten", layout=None, form="auto"):
    """arccos(CKA(x, y)), the angle between the centred kernel matrices (Williams et al. 2021, supplement).

    A metric on centred kernel matrices up to a factor, for every estimator, since each is an inner product. Arguments,
    errors and invariances are those of `cka`.

    Returns:
        0-d array in [0, pi] ([0, pi / 2] for "gretton"), 0 of equal arrays. Exact near 0 with the Gram form; with that
        of features off by up to the root of the rounding error there, 5e-4 in float32.
    """
    return _cka(*_check_arguments(x, y, estimator, kernel, bandwidth, maps, layout, form), as_angle=True)


def channel_normalized_cka(x, y, estimator="song", *, layout=None, form="auto"):
    """Linear CKA with every channel centred and at unit norm, over examples and pixels, before maps are flattened.

    What Godfrey et al. 2022 publish as "orthogonal CKA". For their figures: normalising makes it invariant under
    positive diagonal matrices, and takes the invariance under orthogonal ones that `cka` has.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ.
        estimator, layout, form: as of `cka`.

    Returns:
        0-d array in [-1, 1]. A channel that is constant counts as absent; NaN where all are. Symmetric. Invariant under
        translation, isotropic and positive diagonal scaling, permutations and flips of signs.

    Raises:
        InputError: as `cka`.
    """
    x, y = (_unit_channels(z) for z in paired_representations(x, y, layout=layout, translation_invariant=True))
    return _cka(*_check_arguments(x, y, estimator, "linear", 1.0, "flatten", "nhwc", form))


def cosine(a, b):
    """Of two arrays of one shape. NaN where one is zero."""
    (a, _), (b, _) = unit_norm(a), unit_norm(b)
    return ratio((a * b).sum(), (a * a).sum(), (b * b).sum())


def angle(a, b):
    """Of two arrays of one shape, exact near 0 and pi too, where the cosine has lost it. NaN where one is zero."""
    (a, a_norm), (b, b_norm) = unit_norm(a), unit_norm(b)
    result = zero_if_equal(2 * jnp.arctan2(safe_sqrt(((a - b) ** 2).sum()), safe_sqrt(((a + b) ** 2).sum())), a, b)
    return jnp.where((a_norm == 0) | (b_norm == 0), jnp.nan, result)


def arccos(similarity):
    """arccos with a derivative of zero where the true one is infinite."""
    inside = jnp.abs(similarity) < 1
    ends = jnp.where(similarity > 0, 0.0, jnp.pi).astype(similarity.dtype)
    ends = jnp.where(jnp.isnan(similarity), similarity, ends)
    return jnp.where(inside, jnp.arccos(jnp.where(inside, similarity, 0)), ends)


@lru_cache(maxsize=64)
def split(
    shapes,
    *,
    estimator="song",
    kernel="linear",
    bandwidth=1.0,
    maps="flatten",
    form="auto",
    normalized=False,
    as_angle=False,
):
    """`cka` in two parts. With form "auto", feature form for over 4096 examples with under an eighth as many features
    on average; each kernel matrix is computed once, so that the gram form is the cheaper one sooner than for one pair.
    """
    if form == "auto":
        rows, widths = zip(*(matrix_shape(shape, maps) for shape in shapes), strict=True)
        few = rows[0] > MANY_EXAMPLES and 8 * sum(widths) < sum(rows)
        form = "features" if few and kernel == "linear" else "gram"

    def rows(x):
        return as_matrix(_unit_channels(x) if normalized else x, "x", maps, layout="nhwc")

    def matrix(x):
        return unit_norm(subtract_ninther(rows(x)))[0]

    def prepare_features(x):
        x = matrix(x)
        mean = x.mean(0)
        squares = diagonal(x - mean)
        return Prepared(x.T, (mean, squares, *power_of_features(x - mean, squares, estimator)))

    def finish_features(cross, a, b):
        (a_mean, a_squares, a_power, a_accurate), (b_mean, b_squares, b_power, b_accurate) = a, b
        cross = cross - len(a_squares) * jnp.outer(a_mean, b_mean)
        value = ratio(hsic_of_product(cross, a_squares, b_squares, estimator), a_power, b_power)
        value = arccos(value) if as_angle else value
        return value if estimator == "gretton" else jnp.where(a_accurate & b_accurate, value, INACCURATE)

    def exact_features(a, b):
        value = ratio(*hsic_without_diagonals(a.data.T, b.data.T, estimator))
        return arccos(value) if as_angle else value

    if form == "features":
        if estimator == "gretton":
            return SplitMeasure(prepare_features, finish_features)
        return SplitMeasure(prepare_features, finish_features, exact_features, lambda value: value == INACCURATE)
    if kernel == "linear":
        return split_kernels(lambda x: gram_of_centred(rows(x)), estimator, as_angle)
    return split_kernels(lambda x: kernel_of(matrix(x), kernel, bandwidth), estimator, as_angle)


def split_kernels(kernel_of, estimator, as_angle):
    """The cosine of two centred kernel matrices, or their angle, as `SplitMeasure`."""

    def prepare(x):
        kernel, norm = unit_norm(centre_kernel(kernel_of(x), estimator))
        return Prepared(kernel.reshape(1, -1), norm > 0)

    def finish(cross, a_nonzero, b_nonzero):
        similarity = jnp.where(a_nonzero & b_nonzero, jnp.clip(cross[0, 0], -1, 1), jnp.nan)
        return arccos(similarity) if as_angle else similarity

    if not as_angle:
        return SplitMeasure(prepare, finish)
    return SplitMeasure(
        prepare,
        finish,
        lambda a, b: angle(a.data, b.data),
        lambda value: (value < SMALL_ANGLE) | (value > math.pi - SMALL_ANGLE),
    )


def _check_arguments(x, y, estimator, kernel, bandwidth, maps, layout, form):
    """The arguments of `_cka`."""
    x, y = as_pair(x, y, maps, layout=layout, translation_invariant=True)
    check_estimator(estimator, len(x))
    check_kernel(kernel, bandwidth)
    one_of("form", form, FORMS)
    bandwidth = float(bandwidth) if isinstance(bandwidth, int) else bandwidth  # JAX takes no integers from 2**31 on
    if kernel == "rbf" and form == "features":
        raise InputError("form: got 'features', expected 'gram' or 'auto' for the kernel 'rbf'")
    form = cheaper_form(x, y, kernel) if form == "auto" else form
    return *pad_to_common_width(x, y), bandwidth, estimator, kernel, form


def check_kernel(kernel, bandwidth):
    one_of("kernel", kernel, KERNELS)
    scalar("bandwidth", bandwidth, "a positive scalar", lambda value: 0 < value < math.inf)


def cheaper_form(x, y, kernel):
    (n, p), q = x.shape, y.shape[1]
    return "gram" if kernel == "rbf" or n * (p + q) <= p * p + p * q + q * q else "features"


@partial(jax.jit, static_argnames=("estimator", "kernel", "form", "as_angle"))
def _cka(x, y, bandwidth, estimator, kernel, form, as_angle=False):
    # At unit norm, fourth powers neither overflow nor vanish.
    (x, _), (y, _) = unit_norm(subtract_ninther(x)), unit_norm(subtract_ninther(y))
    if form == "features":
        similarity = ratio(*hsic_of_features(x, y, estimator))
        return zero_if_equal(arccos(similarity), x, y) if as_angle else similarity
    kernels = (centre_kernel(kernel_of(z, kernel, bandwidth), estimator) for z in (x, y))
    return (angle if as_angle else cosine)(*kernels)


@jax.jit
def _unit_channels(x):
    return unit_channels(centred(x))[0]


def ratio(cross, x_power, y_power):
    """<a, b> / (|a| |b|) of <a, b>, <a, a> and <b, b>, clipped to [-1, 1], which only rounding leaves."""
    return jnp.clip(cross / (jnp.sqrt(x_power) * jnp.sqrt(y_power)), -1, 1)  # the product itself can overflow


def kernel_of(x, kernel, bandwidth):
    """The kernel matrix of x, whose bulk lies about the origin."""
    products = gram(x)
    if kernel == "linear":
        return products
    squares = jnp.diagonal(products)
    sizes = squares[:, None] + squares[None, :]
    squared_distances = jnp.maximum(sizes - 2 * products, 0)
    # Of distances that count in the kernel, which are not large beside the median, the rounding of the products is.
    median = _median(squared_distances)
    scale = bandwidth**2 * median
    noise = 4 * float(jnp.finfo(x.dtype).eps) * sizes
    off_diagonal = ~jnp.eye(len(x), dtype=bool)
    inaccurate = (off_diagonal & (noise > _TOLERANCE * scale) & (squared_distances - noise < _NEGLIGIBLE * scale)).any()

    def from_differences(x):
        squared_distances = lax.map(jax.checkpoint(lambda row: ((x - row[None]) ** 2).sum(1)), x)
        return squared_distances, _median(squared_distances)

    squared_distances, median = lax.cond(
        inaccurate, jax.checkpoint(from_differences), lambda x: (squared_distances, median), x
    )
    return jnp.exp(-jnp.where(off_diagonal, squared_distances, 0) / (2 * bandwidth**2 * median))


def _median(squared_distances):
    """Over pairs of different examples."""
    return jnp.median(squared_distances[jnp.triu_indices(len(squared_distances), 1)])


_INVARIANT = ORTHOGONAL | {"translation", "isotropic_scaling", "cyclic_shift"}
_OF_CHANNELS = frozenset(
    {"translation", "isotropic_scaling", "permutation", "positive_diagonal", "sign_flip", "cyclic_shift"}
)
_KORNBLITH = "Kornblith et al. 2019, equation 4"


def _similarity(name, fn, reference, least=-1.0, invariances=_INVARIANT, split=split):
    return Measure(name, fn, reference, (least, 1.0), "similarity", True, invariances, split, zero_channels=True)


_gretton, _lange, _rbf = {"estimator": "gretton"}, {"estimator": "lange"}, {"kernel": "rbf"}

MEASURES = (
    _similarity("cka", cka, f"{_KORNBLITH}; Song et al. 2012, equation 5"),
    _similarity("cka_gretton", partial(cka, **_gretton), _KORNBLITH, 0.0, split=partial(split, **_gretton)),
    _similarity(
        "cka_lange", partial(cka, **_lange), f"{_KORNBLITH}; Lange et al. 2023", split=partial(split, **_lange)
    ),
    _similarity(
        "cka_rbf",
        partial(cka, **_rbf),
        f"{_KORNBLITH}; Song et al. 2012, equation 5",
        split=partial(split, **_rbf),
    ),
    _similarity(
        "channel_normalized_cka",
        channel_normalized_cka,
        "Godfrey et al. 2022",
        invariances=_OF_CHANNELS,
        split=partial(split, normalized=True),
    ),
    Measure(
        "cka_distance",
        cka_distance,
        "Williams et al. 2021, supplement",
        (0.0, math.pi),
        "distance",
        True,
        _INVARIANT,
        partial(split, as_angle=True),
        zero_channels=True,
    ),
)
