"""Recurrent language models on tokens: LSTM, GRU and vanilla RNN, with the dropout of AWD-LSTM.

Reference: Merity et al. 2018, "Regularizing and Optimizing LSTM Language Models" (arXiv 1708.02182).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from symjax.checks import flag, integer, one_of, scalar
from symjax.models.common import at_least_float32, dropout_layer, look_up, tokens, vocabulary_size
from symjax.models.registry import register
from symjax.network.naming import stitch_point

CELLS = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}
MAX_LAYERS = 5


class Layer(nnx.Module):
    """A Flax cell over time, from a zero state: (examples, length, features) to (examples, length, width)."""

    def __init__(self, cell: str, features: int, width: int, *, weight_dropout: float, dtype, rngs: nnx.Rngs):
        self.cell = CELLS[cell](features, width, dtype=dtype, rngs=rngs)
        self.weight_dropout = dropout_layer(weight_dropout, rngs)
        self.has_cell_state = cell == "lstm"

    def __call__(self, x: jax.Array) -> jax.Array:
        # Project the inputs of all steps in one product, so that the loop only computes the recurrent product.
        projected = self.cell.dense_i(x).swapaxes(0, 1)
        cell = nnx.merge(*nnx.split(self.cell))  # a copy, since the kernel with dropout replaces its kernel
        cell.dense_i = _identity
        cell.dense_h.kernel = nnx.Param(self.weight_dropout(cell.dense_h.kernel[...]))
        graph, weights = nnx.split(cell)
        zeros = jnp.zeros((len(x), self.cell.hidden_features), projected.dtype)
        start = (zeros, zeros) if self.has_cell_state else zeros
        _, outputs = lax.scan(lambda carry, x: nnx.merge(graph, weights)(carry, x), start, projected)
        return outputs.swapaxes(0, 1)


def _identity(x: jax.Array) -> jax.Array:
    return x


@register(
    {
        "lstm": {},
        "gru": {"cell": "gru"},
        "rnn": {"cell": "rnn"},
        "awd_lstm": {
            "layers": 3,
            "width": 1150,
            "embedding": 400,
            "tied": True,
            "dropout": 0.3,
            "input_dropout": 0.4,
            "output_dropout": 0.4,
            "embedding_dropout": 0.1,
            "weight_dropout": 0.5,
        },
    }
)
class LanguageModel(nnx.Module):
    """Embedding, recurrent layers and decoder: tokens (examples, length) to logits (examples, length, classes).

    The logits at a position predict the next token. Each sequence starts from a zero state. The stitch points `layer1`,
    `layer2`, ... are the outputs of the layers, (examples, length, width). If a token is outside of the vocabulary,
    outputs and logits are NaN from its position on.

    Dropout follows AWD-LSTM. The masks of `input_dropout` (after the embedding), `dropout` (between layers) and
    `output_dropout` (after the last layer) are equal at all positions of a sequence. `embedding_dropout` drops tokens
    of the vocabulary and `weight_dropout` drops recurrent weights; both have one mask per batch.

    Args:
      cell: "lstm", "gru" or "rnn" (tanh).
      layers: number of layers, 1 to 5.
      width: units of each layer; if `tied`, the last layer has `embedding` units.
      embedding: channels of the embedding; `width` by default.
      tied: whether the decoder uses the weights of the embedding, without a bias.
      classes: size of the vocabulary.
      dropout, input_dropout, output_dropout, embedding_dropout, weight_dropout: rates, 0 or more and below 1.
      dtype: dtype of the computations; parameters and logits are float32.
      rngs: random state for initial parameters and dropout.

    Raises:
      InputError: an option is out of range, `classes` is missing, or the inputs are not tokens.
    """

    def __init__(
        self, *, cell="lstm", layers=2, width=200, embedding=None, tied=False, classes=None, dropout=0.0,
        input_dropout=0.0, output_dropout=0.0, embedding_dropout=0.0, weight_dropout=0.0, dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        one_of("cell", cell, CELLS)
        layers, width = integer("layers", layers, 1, MAX_LAYERS), integer("width", width, 1, 2**20)
        embedding = width if embedding is None else integer("embedding", embedding, 1, 2**20)
        classes = vocabulary_size(classes)
        rates = {"dropout": dropout, "input_dropout": input_dropout, "output_dropout": output_dropout}
        rates |= {"embedding_dropout": embedding_dropout, "weight_dropout": weight_dropout}
        for name, rate in rates.items():
            scalar(name, rate, "a rate from 0 and under 1", lambda rate: 0 <= rate < 1)
        widths = [width] * (layers - 1) + [embedding if flag("tied", tied) else width]
        # Flax's small default delays learning, but logits of tied weights need it.
        init = nnx.nn.linear.default_embed_init if tied else nnx.initializers.normal(1.0)
        self.embedding = nnx.Embed(classes, embedding, dtype=dtype, embedding_init=init, rngs=rngs)
        self.layers = nnx.List(
            Layer(cell, before, after, weight_dropout=weight_dropout, dtype=dtype, rngs=rngs)
            for before, after in zip([embedding, *widths], widths, strict=False)
        )
        self.decoder = None if tied else nnx.Linear(width, classes, dtype=dtype, rngs=rngs)
        self.embedding_dropout = dropout_layer(embedding_dropout, rngs, broadcast_dims=(1,))
        locked = [input_dropout, *[dropout] * (layers - 1), output_dropout]
        self.locked_dropout = nnx.List(dropout_layer(rate, rngs, broadcast_dims=(1,)) for rate in locked)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x, table = tokens(x), self.embedding_dropout(self.embedding.embedding[...])
        x = self.locked_dropout[0](look_up(table.astype(self.dtype), x))
        for i, (layer, drop) in enumerate(zip(self.layers, list(self.locked_dropout)[1:], strict=True)):
            x = drop(stitch_point(layer(x), f"layer{i + 1}"))
        logits = self.embedding.attend(x) if self.decoder is None else self.decoder(x)
        return logits.astype(at_least_float32(self.dtype))
