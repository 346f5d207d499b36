"""Angles between arrays, accurate near 0 and pi."""

import jax.numpy as jnp

from symjax.similarity.channels import safe_sqrt, unit_norm, zero_if_equal


def cosine(a, b):
    """Return the cosine of the angle between two arrays of one shape; NaN where one is zero."""
    (a, _), (b, _) = unit_norm(a), unit_norm(b)
    return ratio((a * b).sum(), (a * a).sum(), (b * b).sum())


def angle(a, b):
    """Return the angle between two arrays of one shape, accurate also near 0 and pi; NaN where one is zero."""
    (a, a_norm), (b, b_norm) = unit_norm(a), unit_norm(b)
    result = zero_if_equal(2 * jnp.arctan2(safe_sqrt(((a - b) ** 2).sum()), safe_sqrt(((a + b) ** 2).sum())), a, b)
    return jnp.where((a_norm == 0) | (b_norm == 0), jnp.nan, result)


def arccos(similarity):
    """Return the arccos, with derivative zero where the true derivative is infinite."""
    inside = jnp.abs(similarity) < 1
    ends = jnp.where(similarity > 0, 0.0, jnp.pi).astype(similarity.dtype)
    ends = jnp.where(jnp.isnan(similarity), similarity, ends)
    return jnp.where(inside, jnp.arccos(jnp.where(inside, similarity, 0)), ends)


def ratio(cross, x_power, y_power):
    """Return <a, b> / (|a| |b|) from <a, b>, <a, a> and <b, b>, clipped to [-1, 1] against rounding."""
    return jnp.clip(cross / (jnp.sqrt(x_power) * jnp.sqrt(y_power)), -1, 1)  # the product itself can overflow
