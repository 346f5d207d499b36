"""Labels and matrices of the stitch families, shared by tests."""

import jax.numpy as jnp
import numpy as np

from symjax.stitching.families import parse_family

D = 6
FIRST, SECOND, END = jnp.float32(0.25), jnp.float32(0.75), jnp.float32(1)
LABELS = [
    "full",
    "rank1",
    "rank4",
    "lasso:0.001",
    "lasso:0.25",
    "lasso_proximal:0.5",
    "birkhoff",
    "birkhoff:0.01",
    "birkhoff_published",
    "birkhoff_published:10",
    "softsort",
    "softsort:0.5",
    "orthogonal",
]


def dense(seed=0, d=D):
    return np.random.RandomState(seed).randn(d, d).astype(np.float32)


def member(seed=0, d=D, zeros=0):
    """P diag(s), the last `zeros` of s zero."""
    rng = np.random.RandomState(seed)
    scaling = np.exp(rng.uniform(-2, 2, d)).astype(np.float32)
    scaling[d - zeros :] = 0
    return np.eye(d, dtype=np.float32)[rng.permutation(d)] * scaling


def rotation(seed=0, d=D):
    return np.linalg.qr(np.random.RandomState(seed).randn(d, d))[0].astype(np.float32)


def made(label, start):
    family = parse_family(label)
    return family, family.init(jnp.asarray(start))
