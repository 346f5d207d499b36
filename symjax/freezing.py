"""Freeze training (Raghu et al. 2017): lower layers stop training first, which saves their gradients."""

from collections.abc import Sequence

import numpy as np

from symjax.birkhoff.checks import real, require_finite, scalar
from symjax.checks import integer, integers
from symjax.errors import InputError

__all__ = ["linear_schedule", "saturation_schedule"]


def frozen(freeze: Sequence[int], epoch: int) -> int:
    """How many segments the schedule `freeze` no longer trains after `epoch` epochs."""
    return sum(begin <= epoch for begin in freeze)


def linear_schedule(layers: int, epochs: int, begin: float = 0.2, end: float = 0.8) -> tuple[int, ...]:
    """After how many epochs each layer is frozen: the lowest at `begin` of the run, the last at `end`, evenly between.

    Raises:
      InputError: not 0 <= begin <= end <= 1; numbers of layers or epochs that are none.
    """
    layers, epochs = integer("layers", layers), integer("epochs", epochs)
    for share in (begin, end):
        scalar("begin, end", share, "a share of the run, from 0 to 1", lambda value: 0 <= value <= 1)
    if not begin <= end:
        raise InputError(f"begin, end: got {begin} and {end}, wanted 0 <= begin <= end <= 1")
    return tuple(int(epoch) for epoch in np.rint(epochs * np.linspace(begin, end, layers)))


def saturation_schedule(epochs: Sequence[int], similarity, threshold: float) -> tuple[int, ...]:
    """After how many epochs each layer is frozen, by how little it still changes.

    A layer is frozen at the first checkpoint at which its similarity with the checkpoint before is `threshold` or more,
    no layer before those under it. Layers that never come so far are not in the schedule, nor are those above them.

    Args:
      epochs: of the checkpoints, ascending, (k,).
      similarity: (k - 1, layers), of each checkpoint from the second with the one before.
      threshold: a similarity.
    """
    epochs, similarity = integers("epochs", epochs), real("similarity", similarity)
    require_finite("similarity", similarity)
    scalar("threshold", threshold, "a number", lambda value: value == value)
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or len(similarity) != len(epochs) - 1:
        raise InputError(f"similarity: got shape {list(similarity.shape)}, wanted {len(epochs) - 1} rows")
    found: list[int] = []
    for layer in similarity.T:
        reached = np.flatnonzero(layer >= threshold)
        if not len(reached):
            break
        found.append(max([int(epochs[reached[0] + 1]), *found[-1:]]))
    return tuple(found)
