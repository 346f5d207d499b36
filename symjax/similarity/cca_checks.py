"""Checks and warnings of the CCA family."""

import jax.numpy as jnp
import numpy as np

from symjax.checks import is_concrete, static_scalar
from symjax.similarity.inputs import FewExamplesWarning, NumericalWarning, as_pair, warn_user


def check_pair(x, y, samples, layout, mask, rcond, *, measure="cca", translation_invariant=False):
    """Return the checked arguments of `cca` as (x, y, rcond)."""
    x, y = as_pair(x, y, samples, layout=layout, mask=mask, translation_invariant=translation_invariant)
    rcond = resolve_rcond(rcond, x, y)
    warn_of_few_examples(x.shape[0], x.shape[1], y.shape[1], measure)
    return x, y, rcond


def resolve_rcond(rcond, *sides):
    """Return `rcond` as a float in [0, 1).

    By default it is the relative size of a direction without variance, which rounding causes.
    """
    if rcond is None:
        return float(8 * jnp.finfo(sides[0].dtype).eps * np.sqrt(max(side.shape[1] for side in sides)))
    return static_scalar("rcond", rcond, "a number in [0, 1)", lambda value: 0 <= value < 1)


def warn_of_few_examples(samples, x_width, y_width, measure="cca"):
    if message := few_examples_message(samples, x_width, y_width, measure):
        warn_user(message, FewExamplesWarning)


def warn_of_dropped_directions(x, y, dropped, rcond=None):
    """Warn of directions that are dropped, by the default `rcond` of an option or always, but may not be rounding."""
    by = None if rcond is None else f"the default rcond of {rcond:.1e}"
    for name, side, share in zip("xy", (x, y), dropped, strict=True):
        if is_concrete(share) and (message := dropped_message(notable_share(share, side), by)):
            warn_user(f"{name}: {message}", NumericalWarning)


def notable_share(dropped, x):
    """Return the singular value of x (n, d) that is dropped, over the largest; 0 if it is certainly rounding."""
    return jnp.where(dropped > resolve_rcond(None, x) / 8, dropped, 0)


def dropped_message(share, by=None):
    """Return a message about a direction of `notable_share` that `by`, or always, is dropped; None for 0."""
    if not share > 0:
        return None
    verb, ending, remedy = (f"{by} drops ", "", " A smaller rcond keeps them;") if by else ("", " are dropped", "")
    return (
        f"{verb}directions with singular values up to {float(share):.1e} of the largest{ending}; in {share.dtype} they "
        f"may be rounding.{remedy} jax_enable_x64 shows whether they are rounding"
    )


def warning_of_default(rcond):
    """Return `SplitMeasure.warning` of a measure with this `rcond`, whose aux is (rank, `notable_share`, ...)."""
    return (lambda read, aux: dropped_message(aux[1], "the default rcond")) if rcond is None else None


def few_examples_message(samples, x_width, y_width, measure="cca"):
    """Return a message if shapes alone determine some correlations, since there are few samples; otherwise None.

    The widths are numbers of neurons, or of the directions that "svcca" keeps.
    """
    # In n - 1 dimensions, subspaces of r_x and r_y dimensions share r_x + r_y - (n - 1) or more, with correlation 1.
    ranks = [min(width, samples - 1) for width in (x_width, y_width)]
    trivial = sum(ranks) - (samples - 1)
    if trivial <= 0:
        return None
    is_undetermined = measure == "pwcca" and 1 < trivial < min(ranks)
    width, remedy = "neurons", "svcca, which compares fewer directions"
    if measure == "svcca":
        width, remedy = "directions", "a smaller variance"
    return (
        f"{samples} samples of {x_width} and {y_width} {width}: {trivial} of {min(ranks)} canonical "
        f"correlations are 1 for any data, unless ranks are lower{', and pwcca is not determined' * is_undetermined}; "
        f"use more than {x_width + y_width} samples, or {remedy}"
    )
