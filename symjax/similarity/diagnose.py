"""Degenerate channels of a representation, to be checked before comparing it with others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.checks import is_concrete
from symjax.similarity.cca_checks import resolve_rcond
from symjax.similarity.channels import subtract_mean, unit_channels
from symjax.similarity.inputs import as_matrix
from symjax.similarity.linalg import triangular_factor, unit_columns

_EQUAL_CHANNELS = 64  # times eps: largest distance of two channels of unit norm that count as equal


class Diagnosis(NamedTuple):
    """Degenerate channels of a representation; masks have one entry for each channel (column of the matrix)."""

    dead: jax.Array  # (d,) booleans: zero everywhere
    constant: jax.Array  # (d,): constant, dead channels included
    duplicate: jax.Array  # (d,): not constant, and a positive multiple of an earlier channel
    rank: jax.Array  # int32, of centered channels of unit norm, as in `cca`
    num_dead: jax.Array  # int32, number of channels, like the next two
    num_constant: jax.Array
    num_duplicate: jax.Array
    examples: jax.Array  # int32, n
    samples: jax.Array  # int32, rows of the matrix: n, or n h w where pixels are samples
    few: jax.Array  # boolean: no more samples than channels

    def __repr__(self):
        parts = self._asdict()
        if not all(isinstance(part, jax.Array) and is_concrete(part) for part in self) or self.rank.ndim:
            return f"Diagnosis({', '.join(f'{name}: {jnp.shape(part)}' for name, part in parts.items())})"
        numbers = ("examples", "samples", "rank", "num_dead", "num_constant", "num_duplicate")
        numbers_text = ", ".join(f"{name}={int(parts[name])}" for name in numbers)
        return f"Diagnosis(channels={len(self.dead)}, {numbers_text}, few={bool(self.few)})"


def diagnose(x, *, samples="positions", layout=None, mask=None, rcond=None):
    """Find dead, constant and duplicate channels of a representation, its rank, and whether it has enough examples.

    The wreath measures ignore dead channels; `wreath_cka` and soft matching ignore constant ones. Duplicates count
    twice where channels are matched or kernels are summed, and once in the CCA family, which depends on the span
    alone. With no more samples than channels (`few`) every canonical correlation is 1 for any data, and biased CKA
    ("gretton", and more slowly "lange") tends to 1; "song" does not. Such values are correct by definition, so no
    measure rejects them; the CCA family issues a `FewExamplesWarning`.

    Takes a few n d^2 operations and a few times the memory of x. Works under `jit` and `vmap`; no derivatives.

    Args:
        x: (n, d) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        samples: how tokens and maps become matrices: "positions" (each token or pixel is a sample), "pool" (the
            mean over them), "flatten", "first" or "last" (one of them); see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        rcond: as in `cca`: singular values up to this multiple of the largest one do not count.

    Returns:
        `Diagnosis`. All fields except `dead` hold up to rounding. Counts do not depend on the order of channels or on
        positive scalings; the numbers of dead and duplicate channels change with translation. A channel with NaN, which
        only a traced array can have, is in none of the masks.

    Raises:
        InputError: x not as above, unknown `samples`, rcond not in [0, 1); concrete NaN or infinite entries.

    Example:
        >>> import numpy as np
        >>> from symjax import diagnose
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> x[:, 3] = 0
        >>> x[:, 1] = 2 * x[:, 0]
        >>> diagnose(x)
        Diagnosis(channels=4, examples=16, samples=16, rank=2, num_dead=1, num_constant=1, num_duplicate=1, few=False)
    """
    matrix = as_matrix(x, "x", samples, layout=layout, mask=mask)
    return _diagnose(matrix, resolve_rcond(rcond, matrix), len(x))


@jax.jit
def _diagnose(x, rcond, examples):
    x = lax.stop_gradient(x)
    rows, channels = x.shape
    deviations = subtract_mean(x)[0]
    dead, constant = ~(x != 0).any(0), ~(deviations != 0).any(0)
    duplicate = _repeats_earlier(unit_channels(x)[0], ~constant)
    s = jnp.linalg.svd(triangular_factor(unit_columns(deviations)[0]), compute_uv=False)
    rank = (s > rcond * s[0]).sum(dtype=jnp.int32)
    counts = (mask.sum(dtype=jnp.int32) for mask in (dead, constant, duplicate))
    sizes = (jnp.asarray(size, jnp.int32) for size in (examples, rows))
    return Diagnosis(dead, constant, duplicate, rank, *counts, *sizes, jnp.asarray(rows <= channels))


def _repeats_earlier(units, varies):
    """Return booleans (d,): which varying columns equal an earlier varying column up to rounding."""
    # From differences: 1 - <u, v> = |u - v|^2 / 2 is at rounding level long before u equals v.
    numbers = jnp.arange(units.shape[1])
    allowed = _EQUAL_CHANNELS * float(jnp.finfo(units.dtype).eps) * jnp.abs(units).max(0)

    def one(number):
        distances = jnp.abs(units - lax.dynamic_slice_in_dim(units, number, 1, 1)).max(0)
        return (varies[number] & varies & (numbers < number) & (distances <= allowed)).any()

    return lax.map(one, numbers)
