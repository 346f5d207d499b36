"""What is degenerate about a representation, before it is compared with others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from symjax.birkhoff.checks import is_concrete
from symjax.similarity.cca import resolve_rcond
from symjax.similarity.channels import centre, unit_channels
from symjax.similarity.inputs import as_matrix
from symjax.similarity.linalg import triangular_factor, unit_columns

_EQUAL_CHANNELS = (
    64  # times eps: how far two channels at unit norm may be apart, of which one is the other times a number
)


class Diagnosis(NamedTuple):
    """Masks have an entry for each channel (a neuron, of the matrix that `maps` makes)."""

    dead: jax.Array  # (d,) booleans: zero throughout
    constant: jax.Array  # (d,): the same number throughout; the dead ones too
    duplicate: jax.Array  # (d,): not constant, and a positive multiple of a channel before it
    rank: jax.Array  # int32, of centred channels at unit norm, as `cca` counts
    num_dead: jax.Array  # int32, as all numbers of channels
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


def diagnose(x, *, maps="pixels", layout=None, rcond=None):
    """Dead, constant and duplicate channels of a representation, its rank, and whether it has enough examples.

    What measures make of these: the wreath forms take dead channels (`wreath_cka` and soft matching constant ones) for
    absent. Duplicates count twice where channels are matched or kernels summed, and once in the CCA family, which sees
    the span alone. With no more samples than channels (`few`) every canonical correlation is 1 for any data, and biased
    CKA ("gretton", and later "lange") tends to 1; "song" does not. Such values are right by the definition, so nothing
    is refused; the CCA family warns (`FewExamplesWarning`).

    Costs a few n d^2 operations, memory of a few times x. Under `jit` and `vmap` too; no derivatives.

    Args:
        x: (n, d) or (n, h, w, c), floating (integers become the default float, half precisions float32).
        maps: what maps become: "pixels" (channels over examples and pixels), "flatten" or "pool"; see `as_matrix`.
        layout: of maps, "nhwc" or "nchw"; None takes "nhwc", and warns of what looks like the other.
        rcond: as of `cca`: what singular values, relative to the largest, do not count.

    Returns:
        `Diagnosis`. All but `dead` holds up to rounding. Numbers do not change with the order of channels and their
        positive scalings; those of dead and duplicate channels do with translation. A channel with NaN, which only
        traced ones can have, is in none of the masks.

    Raises:
        InputError: x not as above, unknown `maps`, rcond not in [0, 1); concrete NaN or infinite entries.
    """
    matrix = as_matrix(x, "x", maps, layout=layout)
    return _diagnose(matrix, resolve_rcond(rcond, matrix), len(x))


@jax.jit
def _diagnose(x, rcond, examples):
    x = lax.stop_gradient(x)
    rows, channels = x.shape
    deviations = centre(x)[0]
    dead, constant = ~(x != 0).any(0), ~(deviations != 0).any(0)
    duplicate = _repeats_earlier(unit_channels(x)[0], ~constant)
    s = jnp.linalg.svd(triangular_factor(unit_columns(deviations)[0]), compute_uv=False)
    rank = (s > rcond * s[0]).sum(dtype=jnp.int32)
    counts = (mask.sum(dtype=jnp.int32) for mask in (dead, constant, duplicate))
    sizes = (jnp.asarray(size, jnp.int32) for size in (examples, rows))
    return Diagnosis(dead, constant, duplicate, rank, *counts, *sizes, jnp.asarray(rows <= channels))


def _repeats_earlier(units, varies):
    """Booleans (d,): which live columns are, up to rounding, a live column before them."""
    # By differences: 1 - <u, v> = |u - v|^2 / 2 is rounding long before u is v.
    numbers = jnp.arange(units.shape[1])
    allowed = _EQUAL_CHANNELS * float(jnp.finfo(units.dtype).eps) * jnp.abs(units).max(0)

    def one(number):
        distances = jnp.abs(units - lax.dynamic_slice_in_dim(units, number, 1, 1)).max(0)
        return (varies[number] & varies & (numbers < number) & (distances <= allowed)).any()

    return lax.map(one, numbers)
