"""What rotations came to, in words."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import pandas as pd

from symjax.network import Network
from symjax.rotation.published import against_published
from symjax.summary import mean


def uses_relu(network: Network) -> bool:
    """Whether ReLU is the activation at every stitch point: of it alone the published finding speaks."""
    for i, point in enumerate(network.points):
        z = jnp.linspace(-3, 3, math.prod(point.shape)).reshape(1, *point.shape)
        if not jnp.array_equal(network.activation(i)(z), jax.nn.relu(z)):
            return False
    return True


def uses_batch_norm(network: Network) -> bool:
    """Whether it keeps statistics of its channels."""
    return bool(jax.tree.leaves(network.shapes.state))


NORMED = (
    "{models}: with batch norm, which the published networks have not. Behind the matrix it sets mean and scale of "
    "each channel anew and so undoes part of what a matrix does, of whatever kind, in all layers but the last: these "
    "penalties are not of the matrices alone. Take a model without, as mcnn_k."
)


def finding(table: pd.DataFrame, relu: list[str], normed: Sequence[str] = (), chance: float = 0.0) -> str:
    """What each kind costs each model, on average and at the first and last layer; of `relu`, if it is as published.

    Of the models `normed` it says what their batch norm means for that, and of those whose accuracy without a matrix is
    not twice that of `chance` (percent) that they have next to nothing to lose.
    """
    told = []
    for model, rows in table.groupby("model", sort=False):
        parts = []
        for kind, theirs in rows.groupby("kind", sort=False):
            points = theirs.groupby("layer", sort=False).penalty.agg(mean)
            ends = ", ".join(f"{points.iloc[i]:.1f} at {points.index[i]}" for i in (0, -1))
            parts.append(f"{kind} {mean(points):.1f}" + (f" ({ends})" if len(points) > 1 else ""))
        told.append(f"{model} loses on average over layers: {', '.join(parts)}.")
        if model in relu:
            told.append(against_published(rows))
        baseline = mean(rows.drop_duplicates("seed").baseline)
        if baseline < 2 * chance:
            told.append(f"But {model} has learned next to nothing that it could lose: {baseline:.1f} % are right.")
    if normed:
        told.append(NORMED.format(models=", ".join(normed)))
    if failed := int(table.loss.isna().sum()):
        told.append(f"The loss of {failed} retrainings became NaN.")
    return " ".join(told)
