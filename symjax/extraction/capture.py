"""Capture activations of a model, batch by batch or at once."""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from symjax.checks import labels, short
from symjax.errors import InputError
from symjax.extraction.eager_values import EagerValues, TorchValues
from symjax.extraction.jax_values import (
    NetworkValues,
    equinox_values,
    function_values,
    linen_values,
    nnx_values,
)
from symjax.network import Network
from symjax.representations import at_positions
from symjax.similarity.inputs import check_layout, check_samples
from symjax.similarity.position_mask import as_mask

Arrays = dict[str, np.ndarray]


def capture(
    model: Any,
    batches: Any,
    points: Sequence[str] | None = None,
    *,
    samples: str = "positions",
    layout: str | None = None,
) -> Arrays | dict[Any, Arrays]:
    """Return the activations of a model, or of several models, on all batches.

    Models are called in inference mode and are not changed: mode and state of a PyTorch module are restored, and JAX
    models are evaluated as pure functions. Inputs must be as the model takes them (normalized, tokenized).

    Args:
      model: one of

        - a Flax NNX module, or a pair (Linen module, variables);
        - an Equinox module, which is called on one example at a time, as `jax.vmap(model)(batch)`;
        - a function of a batch, or a pair (function, variables), called as `function(variables, batch)`;
        - a pair (`Network`, member);
        - a PyTorch module;
        - a Hugging Face model of PyTorch or Flax, or another callable with the argument `output_hidden_states`.

        A list of models or a mapping of them returns a dict of results, by index or key.
      batches: an iterable of batches: an array, a tuple of positional arguments or a mapping of keyword arguments, with
        examples along the first axis. An array or a mapping is a single batch. Of a PyTorch `DataLoader` with labels:
        `(inputs for inputs, _ in loader)`.
      points: names of values in the code (`symjax.stitch_point`, `checkpoint_name`, `sow` of Linen), or paths of
        submodules, such as "blocks.0", whose outputs are returned; "hidden_states.0" and so on for Hugging Face models.
        By default the hidden states; without any, the values that the code names; without any, all submodules with
        outputs (examples, ...) of floating type. The second call of a submodule is named "path#1", and the second value
        of a name "name#1". Of an output of a PyTorch module that is a tuple, the first tensor is returned.
      samples: "positions" for all tokens or pixels, (examples, ..., channels); "pool" for their mean (in float32),
        "first" or "last" for one of them, (examples, channels); "flatten" for (examples, d). If a batch has an
        `attention_mask`, "pool", "first" and "last" leave out masked tokens of (examples, tokens, channels).
      layout: "nchw" moves the second of three or more axes to the end; "nhwc" moves none. By default it is moved for
        outputs of PyTorch modules with four or more axes. Hidden states are not moved.

    Returns:
      {point: NumPy array (examples, ...)} in the order of the computation, in the model's precision; bfloat16 of
      PyTorch becomes float32.

    Raises:
      InputError: a model of another kind; an unknown point (the message lists those that exist); no batch; a batch for
        which a JAX model cannot be traced; activations of different shapes in different batches.

    Example:
      >>> import jax, numpy as np, symjax
      >>> def mlp(params, x):
      ...     return symjax.stitch_point(jax.nn.relu(x @ params["hidden"]), "relu1") @ params["out"]
      >>> params = {"hidden": np.eye(3, dtype=np.float32), "out": np.ones((3, 2), np.float32)}
      >>> batches = [np.array([[1.0, -1.0, 2.0]], np.float32), np.zeros((2, 3), np.float32)]
      >>> symjax.capture((mlp, params), batches)["relu1"].tolist()
      [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    several, parts = _is_several(model), list(capture_batches(model, batches, points, samples=samples, layout=layout))
    if not parts:
        raise InputError("batches: got none, expected one or more")
    if several:
        return {label: _joined([part[label] for part in parts]) for label in parts[0]}
    return _joined(parts)


def capture_batches(
    model: Any,
    batches: Any,
    points: Sequence[str] | None = None,
    *,
    samples: str = "positions",
    layout: str | None = None,
) -> Iterator[dict]:
    """Return an iterator of what `capture` returns for each batch, for data that do not fit into memory.

    Args:
      model, batches, points, samples, layout: as in `capture`.

    Raises:
      InputError: as in `capture`; for points and activations when the first batch is computed.

    Example:
      >>> import jax.numpy as jnp, numpy as np, symjax
      >>> def model(x):
      ...     return symjax.stitch_point(jnp.tanh(x), "hidden")
      >>> batches = (np.full((8, 3), i, np.float32) for i in range(2))
      >>> [arrays["hidden"].shape for arrays in symjax.capture_batches(model, batches)]
      [(8, 3), (8, 3)]
    """
    check_samples(samples)
    check_layout(layout)
    if points is not None:
        points = labels("points", [points] if isinstance(points, str) else points, "names")
        if not points:
            raise InputError("points: got none, expected one or more, or None for the default")
    if _is_several(model):
        named = dict(model) if isinstance(model, Mapping) else dict(enumerate(model))
        values = {label: _values(each, points, layout) for label, each in named.items()}
        if not values:
            raise InputError("model: got none, expected one or more")
        return (
            {label: _arrays(of_model, batch, samples) for label, of_model in values.items()}
            for batch in _batches(batches)
        )
    of_model = _values(model, points, layout)
    return (_arrays(of_model, batch, samples) for batch in _batches(batches))


def _is_several(model: Any) -> bool:
    return isinstance(model, (list, Mapping))


def _batches(batches: Any) -> Iterable:
    if (isinstance(batches, Mapping) and not batches) or getattr(batches, "shape", None) == ():
        raise InputError(f"batches: got {short(batches)}, expected arrays (n, ...), or an iterable of batches")
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        return [_batch(batches)]
    if isinstance(batches, (str, bytes)) or not isinstance(batches, Iterable):
        raise InputError(f"batches: got {short(batches)}, expected an iterable of batches")
    if isinstance(batches, list):  # is checked at once
        if not batches:
            raise InputError("batches: got none, expected one or more")
        return [_batch(batch) for batch in batches]
    return map(_batch, batches)


def _batch(batch: Any) -> Any:
    if not (isinstance(batch, (tuple, Mapping)) or hasattr(batch, "shape")):  # lists: of examples, or of a DataLoader
        raise InputError(
            f"batches: got a batch of type {type(batch).__name__}, expected an array, a tuple of arguments or a "
            "mapping; of a DataLoader with labels: (inputs for inputs, _ in loader)"
        )
    if getattr(getattr(batch, "dtype", None), "kind", "f") in "mMSUO":
        raise InputError(f"batches: got dtype {batch.dtype}, expected numbers")
    return batch


def _values(model: Any, points, layout) -> Callable[[Any], dict]:
    """Return the function of a batch that computes the values of a model at the points."""
    torch, equinox, linen, nnx = map(sys.modules.get, ("torch", "equinox", "flax.linen", "flax.nnx"))
    function, *variables = model if isinstance(model, tuple) else (model,)
    if len(variables) > 1:
        raise InputError(f"model: got a tuple of {len(variables) + 1}, expected a pair (model, variables)")
    if torch and isinstance(model, torch.nn.Module):
        return TorchValues(model, points, layout)
    if isinstance(function, Network) or (linen and isinstance(function, linen.Module)):
        if not variables:
            raise InputError(
                f"model: got {type(model).__name__}, expected a pair with its variables, (model, variables)"
            )
        kind = NetworkValues if isinstance(function, Network) else linen_values
        return _moved(kind(function, variables[0], points), layout)
    if nnx and isinstance(model, nnx.Module):
        return _moved(nnx_values(model, points), layout)
    if equinox and isinstance(model, equinox.Module):
        return _moved(equinox_values(model, points), layout)
    if not callable(function) or inspect.isclass(function):
        raise InputError(f"model: got {short(function)}, expected an instance of a model or a function")
    if not variables and "output_hidden_states" in _parameters(model):
        return EagerValues(model, points)
    return _moved(function_values(function, variables, points), layout)


def _parameters(function: Callable) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # built-in functions
        return ()


def _moved(values: Callable, layout: str | None) -> Callable:
    def channels_last(batch):
        return {name: jnp.moveaxis(x, 1, -1) if x.ndim > 2 else x for name, x in values(batch).items()}

    return channels_last if layout == "nchw" else values


def _arrays(values: Callable, batch: Any, samples: str) -> Arrays:
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None or samples in ("positions", "flatten"):
        mask = None
    elif not (mask := np.asarray(as_mask(mask, "attention_mask"))).any(-1).all():
        at = int(mask.any(-1).argmin())
        raise InputError(f"attention_mask: got no token of example {at} of a batch, expected one or more of each")
    return {name: _reduced(x, samples, mask) for name, x in values(batch).items()}


def _reduced(x, samples: str, mask) -> np.ndarray:
    if x.ndim == 2 or samples == "positions":
        return np.asarray(x)
    x = jnp.asarray(x)
    return np.asarray(at_positions(x, samples, mask if mask is None or x.shape[:-1] == mask.shape else None))


def _joined(parts: list[Arrays]) -> Arrays:
    for name, first in parts[0].items():
        for part in parts:
            if part[name].shape[1:] != first.shape[1:]:
                raise InputError(
                    f"batches: got activations {list(part[name].shape)} and {list(first.shape)} at {name}, expected "
                    "batches padded to one length, or samples='pool', 'first' or 'last'"
                )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
