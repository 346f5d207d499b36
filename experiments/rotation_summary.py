"""Title, table and conclusion of a rotation experiment."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import pandas as pd

from experiments.rotation_claims import compare_with_published
from symjax import plots
from symjax.network import Network
from symjax.tables import mean, mean_and_deviation


def title(table: pd.DataFrame, dataset: str) -> str:
    """Return the title of the summary: models and baselines."""
    baselines = table.drop_duplicates(["model", "seed"]).groupby("model", sort=False).baseline.agg(mean)
    return f"Baselines on {dataset}: " + ", ".join(f"{model} {value:.2f} %" for model, value in baselines.items())


def caption(table: pd.DataFrame) -> str:
    """Return the caption of the table."""
    over, several = plots.describe_draws(table)
    return "rotation penalty in percentage points" + (f", mean ± deviation over {over}" if several else "")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and standard deviation (n - 1) of penalties, with rows of models and kinds and columns of layers."""
    grouped = table.groupby(["model", "kind", "layer"], sort=False).penalty
    text = mean_and_deviation(grouped, 1).unstack(sort=False)
    text.index = [", ".join(row) if table.model.nunique() > 1 else row[1] for row in text.index]
    return text.rename_axis(index=None, columns=None)


def uses_relu(network: Network) -> bool:
    """Return whether the activation at every stitch point is ReLU, to which the published claims are limited."""
    for i, point in enumerate(network.points):
        z = jnp.linspace(-3, 3, math.prod(point.shape)).reshape(1, *point.shape)
        if not jnp.array_equal(network.activation(i)(z), jax.nn.relu(z)):
            return False
    return True


def uses_batch_norm(network: Network) -> bool:
    """Return whether the network has running statistics."""
    return bool(jax.tree.leaves(network.shapes.state))


BATCH_NORM_WARNING = (
    "{models}: with batch norm, unlike the published networks. In all layers but the last, batch norm after the matrix "
    "resets mean and scale of each channel and so undoes part of the effect of any matrix. These penalties are not due "
    "to the matrices alone. Use a model without batch norm, such as mcnn_k."
)


def conclusion(table: pd.DataFrame, relu: Sequence[str], normed: Sequence[str] = (), chance: float = 0.0) -> str:
    """Return the mean penalty of each kind of matrix, per model, and at the first and last layer.

    Args:
      table: rows as in results.csv.
      relu: models that use ReLU only, which are compared with the published claims.
      normed: models with batch norm, for which a warning is added.
      chance: accuracy of guessing, in percent. A warning is added for models whose baseline is below twice this.
    """
    sentences = []
    for model, rows in table.groupby("model", sort=False):
        parts = []
        for kind, kind_rows in rows.groupby("kind", sort=False):
            penalties = kind_rows.groupby("layer", sort=False).penalty.agg(mean)
            ends = ", ".join(f"{penalties.iloc[i]:.1f} at {penalties.index[i]}" for i in (0, -1))
            parts.append(f"{kind} {mean(penalties):.1f}" + (f" ({ends})" if len(penalties) > 1 else ""))
        sentences.append(f"{model} loses on average over layers: {', '.join(parts)}.")
        if model in relu:
            sentences.append(compare_with_published(rows))
        baseline = mean(rows.drop_duplicates("seed").baseline)
        if baseline < 2 * chance:
            sentences.append(
                f"The accuracy of {model} is close to chance ({baseline:.1f} %), so that no matrix can lower it much."
            )
    if normed:
        sentences.append(BATCH_NORM_WARNING.format(models=", ".join(normed)))
    if failed := int(table.loss.isna().sum()):
        sentences.append(f"The loss of {failed} retrainings became NaN.")
    return " ".join(sentences)
