"""CKA in split form."""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp

from symjax.similarity.angles import angle, arccos, ratio
from symjax.similarity.channels import centered, subtract_ninther, unit_channels, unit_norm
from symjax.similarity.hsic import (
    center_kernel,
    diagonal,
    hsic_of_product,
    hsic_without_diagonals,
    power_of_features,
)
from symjax.similarity.inputs import as_matrix, matrix_shape
from symjax.similarity.kernels import kernel_of
from symjax.similarity.linalg import gram_of_centered
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, cosine_of_vectors, permute_kernel

MANY_EXAMPLES = 4096  # above it, kernel matrices of many representations are not stored even for angles
INACCURATE = -4  # stands for a value of which subtracting the kernels' diagonals left no digits
SMALL_ANGLE = 0.15  # angles below it, or as close to pi, lose more than a digit in the cosine


@lru_cache(maxsize=64)
def split(
    shapes,
    *,
    estimator="song",
    kernel="linear",
    bandwidth=1.0,
    samples="flatten",
    form="auto",
    normalized=False,
    as_angle=False,
):
    """Return `cka` as a `SplitMeasure`.

    form="auto" takes the form of features for less than an eighth as many features as examples on average. The Gram
    form is preferred more often than for one pair, since each kernel matrix is computed once. Angles, which are
    accurate near 0 in Gram form alone, have that form up to 4096 examples.
    """
    if form == "auto":
        rows, widths = zip(*(matrix_shape(shape, samples) for shape in shapes), strict=True)
        few = 8 * sum(widths) < sum(rows) and (rows[0] > MANY_EXAMPLES or not as_angle)
        form = "features" if few and kernel == "linear" else "gram"

    def rows(x):
        return as_matrix(standardized(x) if normalized else x, "x", samples, layout="nhwc")

    def matrix(x):
        return unit_norm(subtract_ninther(rows(x)))[0]

    def prepare_features(x):
        x = matrix(x)
        mean = x.mean(0)
        squares = diagonal(x - mean)
        return Prepared(x.T, (mean, squares, *power_of_features(x - mean, squares, estimator)))

    def permute_features(prepared, order):
        mean, squares, *power = prepared.aux
        return Prepared(prepared.data[:, order], (mean, squares[order], *power))

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
        exact = () if estimator == "gretton" else (exact_features, lambda value: value == INACCURATE)
        return SplitMeasure(prepare_features, finish_features, *exact, permute=permute_features)
    if kernel == "linear":
        return split_kernels(lambda x: gram_of_centered(rows(x)), estimator, as_angle)
    return split_kernels(lambda x: kernel_of(matrix(x), kernel, bandwidth), estimator, as_angle)


def split_kernels(kernel_of, estimator, as_angle):
    """Return the cosine of two centered kernel matrices, or their angle, as a `SplitMeasure`."""

    cosine = cosine_of_vectors(lambda x: center_kernel(kernel_of(x), estimator), permute_kernel)
    if not as_angle:
        return cosine
    return SplitMeasure(
        cosine.prepare,
        lambda *product: arccos(cosine.finish(*product)),
        lambda a, b: angle(a.data, b.data),
        lambda value: (value < SMALL_ANGLE) | (value > math.pi - SMALL_ANGLE),
        permute=permute_kernel,
    )


@jax.jit
def standardized(x):
    """Center each channel and scale it to unit norm."""
    return unit_channels(centered(x))[0]
