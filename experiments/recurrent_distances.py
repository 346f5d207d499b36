"""Distances between the states of a recurrent network at different times."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from symjax import pairwise
from symjax.dynamics import checkpoints

POSITIONS, UNRELATED, REPEATS = "positions", "unrelated", "repeats"
DIRECT = ("cosine", "euclidean")  # distances of the states themselves, not up to a linear map


def compared_repeats(steps: int) -> tuple[int, ...]:
    """Return the numbers of repeats after which states are compared; small numbers are closer together."""
    return checkpoints(steps, 7)[1:]


def state_distances(
    states: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    contexts: np.ndarray,
    shares: Sequence[int],
    steps: int,
    measures: Sequence[str],
) -> pd.DataFrame:
    """Return the distances of all experiments for one network.

    The experiments are

    * positions: the states at each of the last `steps` positions against those at the last position.
    * unrelated: the states of other contexts at the first of these positions against those at the last position.
    * repeats: the states after repeats of a token against those before the repeats.

    Args:
      states: function from tokens (n, length) to {layer: states (n, length, channels)}. A state depends only on the
        tokens up to its position.
      contexts: tokens (n, length).
      shares: percentages of the tokens of a context after which the last token is repeated.
      steps: number of positions, and of repeats.
      measures: names in `MEASURES` and `DIRECT`.

    Returns:
      A table with the columns experiment, share, layer, measure, step, value, beginnings and channels. `beginnings` is
      the number of different sequences among the tokens before the repeats (in the other experiments: among the
      contexts), `channels` that of the layer.
    """
    length = contexts.shape[1]
    # The repeats of all shares have one length, so that one program computes the states.
    padded = np.concatenate([contexts, np.repeat(contexts[:, -1:], steps, axis=1)], axis=1)
    experiments = [*[POSITIONS] * (steps - 1), UNRELATED]
    parts = []
    for layer, array in states(padded).items():
        by_step = np.moveaxis(array[:, length - steps : length], 1, 0)
        unrelated = np.roll(by_step[:1], len(array) // 2, axis=1)
        rows = _rows(np.concatenate([by_step[:-1], unrelated]), by_step[-1], measures, [*range(steps - 1), 0])
        rows = rows.assign(experiment=experiments * len(measures), share=0, layer=layer)
        parts.append(rows.assign(beginnings=_count_different(contexts)))
    repeats = compared_repeats(steps)
    for share in shares:
        first = max(1, round(length * share / 100))  # number of tokens before the repeats
        repeated = padded.copy()
        repeated[:, first:] = padded[:, first - 1 : first]
        beginnings = _count_different(contexts[:, :first])
        for layer, array in states(repeated).items():
            by_step = np.moveaxis(array[:, [first - 1, *(first - 1 + step for step in repeats)]], 1, 0)
            rows = _rows(by_step[1:], by_step[0], measures, repeats)
            parts.append(rows.assign(experiment=REPEATS, share=share, layer=layer, beginnings=beginnings))
    return pd.concat(parts, ignore_index=True)


def _count_different(tokens: np.ndarray) -> int:
    """Return the number of different rows."""
    return len(np.unique(tokens, axis=0))


def _rows(history: np.ndarray, reference: np.ndarray, measures: Sequence[str], steps: Sequence[int]) -> pd.DataFrame:
    """Return the distances of states (steps, n, channels) from a reference (n, channels), by measure and step."""
    parts = []
    for measure in measures:
        if measure in DIRECT:
            values = _direct(measure, np.float64(history), np.float64(reference))
        else:
            values = pairwise({"": history}, measure, against={"": reference[None]}).values.reshape(-1)
        parts.append(pd.DataFrame({"measure": measure, "step": list(steps), "value": np.asarray(values, float)}))
    return pd.concat(parts, ignore_index=True).assign(channels=history.shape[-1])


def _direct(measure: str, history: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return means over examples (steps,) of 1 - cos, or of the Euclidean distance relative to the reference's norm."""
    if measure == "euclidean":
        norms = np.linalg.norm(reference, axis=-1).mean()
        return np.linalg.norm(history - reference, axis=-1).mean(axis=1) / norms
    norms = np.linalg.norm(history, axis=-1) * np.linalg.norm(reference, axis=-1)
    return (1 - np.sum(history * reference, axis=-1) / norms).mean(axis=1)
