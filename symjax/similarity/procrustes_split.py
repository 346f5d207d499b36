"""Procrustes distances in split form."""

from functools import lru_cache, partial

import jax.numpy as jnp

from symjax.birkhoff.dual import matmul
from symjax.similarity.alignment import (
    assign,
    channels_first,
    matched_sum,
    matching_residual_of_rows,
    samples_or_maps,
)
from symjax.similarity.channels import centered, safe_sqrt, unit_norm
from symjax.similarity.isometry import best_isometry
from symjax.similarity.linalg import to_row_space
from symjax.similarity.pair_product import Prepared
from symjax.similarity.split_measure import SplitMeasure, permute_samples

SMALL_DISTANCE = 0.2  # distances below it lose more than a digit when computed as the root of 2 - 2 s


@lru_cache(maxsize=64)
def split(shapes, *, center=False, samples="positions", permuted=False, similarity=False):
    """Return `procrustes` or `permutation_procrustes` as a `SplitMeasure`.

    `Prepared.aux` says whether the side is nonzero, and if `permuted` which channels it had before padding.
    """

    def prepare(x, width=None):
        active = jnp.arange(x.shape[-1]) < (x.shape[-1] if width is None else width)
        x = samples_or_maps(x, samples)
        data, norm = unit_norm(centered(x) if center else x)
        data = channels_first(data)
        if not permuted and len(data) > data[0].size:  # use coordinates of the row space
            data = to_row_space(data.reshape(len(data), -1).T)[0].T.reshape(-1, *data.shape[1:])
        return Prepared(data, (norm > 0, active if permuted else ()))

    def value(distance, a, b):
        distance = jnp.where(a[0] & b[0], distance, jnp.nan)
        return 1 - distance / 2 if similarity else distance

    def finish(reduced, a, b):
        inner = matched_sum(reduced, assign(reduced.T, b[1], a[1])[0]) if permuted else reduced
        return value(safe_sqrt(2 - 2 * inner), a, b)

    def exact(a, b):
        if permuted:
            matching = assign(matmul(b.data, a.data.T), b.aux[1], a.aux[1])
            distance = safe_sqrt(matching_residual_of_rows(a.data, b.data, *matching))
        else:
            distance = best_isometry(*sorted((a.data.T, b.data.T), key=lambda side: side.shape[1]))[0]
        return value(distance, a.aux, b.aux)

    is_inaccurate = partial(is_small_distance, similarity)
    return SplitMeasure(
        prepare,
        finish,
        exact,
        is_inaccurate,
        permute=permute_samples,
        counts_channels=permuted,
        nuclear=not permuted,
    )


def is_small_distance(similarity, value):
    return (value > 1 - SMALL_DISTANCE / 2) if similarity else (value < SMALL_DISTANCE)
