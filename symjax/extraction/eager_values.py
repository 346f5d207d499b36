"""Values of models that are not traced: PyTorch modules, and models that return hidden states."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symjax.checks import any_array
from symjax.errors import InputError
from symjax.extraction.jax_values import chosen
from symjax.network.adapters import accepted, called, inputs_of

HIDDEN = "hidden_states"


class EagerValues:
    """The hidden states of a model with the argument `output_hidden_states`."""

    def __init__(self, model: Any, points: Sequence[str] | None):
        self._model, self._points = model, points

    def __call__(self, batch: Any) -> dict[str, Any]:
        values = hidden_states(called(self._model, batch, output_hidden_states=True))
        if not values:
            raise InputError("model: got outputs without hidden_states, expected them for output_hidden_states=True")
        return {name: any_array(name, values[name]) for name in chosen(self._points, list(values), [])}


class TorchValues:
    """Outputs of submodules of a PyTorch module, taken by forward hooks, and its hidden states."""

    def __init__(self, model: Any, points: Sequence[str] | None, layout: str | None):
        self._model, self._points = model, points
        # With this many axes or more, channels are the second one.
        self._axes = {None: 4, "nchw": 3, "nhwc": np.inf}[layout]
        self._torch = sys.modules["torch"]

    def __call__(self, batch: Any) -> dict[str, np.ndarray]:
        torch, model = self._torch, self._model
        outputs: dict[str, Any] = {}
        modes = [(module, module.training) for module in model.modules()]
        hooks = [
            module.register_forward_hook(self._recorder(name, outputs))
            for name, module in model.named_modules()
            if name and (self._points is None or name in {point.split("#")[0] for point in self._points})
        ]
        options = {"output_hidden_states": True} if _returns_hidden_states(model) else {}
        try:
            model.eval()
            with torch.no_grad():
                output = called(model, self._tensors(batch), **options)
        finally:
            for hook in hooks:
                hook.remove()
            for module, training in modes:
                module.training = training
        hidden = {name: self._array(value) for name, value in hidden_states(output).items()}
        every = [name for name, _ in model.named_modules() if name] if self._points is not None else []
        names = chosen(self._points, list(hidden), list(dict.fromkeys([*outputs, *every])))
        if missing := [name for name in names if name not in hidden | outputs]:
            given = ", ".join(map(repr, missing))
            raise InputError(f"points: got {given}, expected submodules that are called and return floating tensors")
        return {name: hidden[name] if name in hidden else outputs[name] for name in names}

    def _recorder(self, name: str, outputs: dict[str, Any]):
        def record(module, inputs, output):
            if isinstance(output, (tuple, list)) and output:
                output = output[0]
            if self._torch.is_tensor(output) and output.is_floating_point() and output.ndim > 1:
                calls = sum(known.split("#")[0] == name for known in outputs)
                array = self._array(output)
                array = np.moveaxis(array, 1, -1) if array.ndim >= self._axes else array
                outputs[f"{name}#{calls}" if calls else name] = array

        return record

    def _array(self, tensor: Any) -> np.ndarray:
        """Return a copy, since operations in place may change the tensor after the hook."""
        tensor = tensor.float() if tensor.dtype == self._torch.bfloat16 else tensor
        return tensor.detach().cpu().numpy().copy()

    def _tensors(self, batch: Any) -> Any:
        """Return a batch on the device of the model's first parameter."""
        first = next(self._model.parameters(), None)
        device = None if first is None else first.device
        if isinstance(batch, Mapping):
            return {name: self._torch.as_tensor(value, device=device) for name, value in batch.items()}
        return tuple(self._torch.as_tensor(value, device=device) for value in inputs_of(batch))


def hidden_states(output: Any) -> dict[str, Any]:
    """Return the hidden states of an output by name; none if it has none."""
    states = output.get(HIDDEN) if isinstance(output, Mapping) else getattr(output, HIDDEN, None)
    return {} if states is None else {f"{HIDDEN}.{i}": state for i, state in enumerate(states)}


def _returns_hidden_states(model: Any) -> bool:
    return bool(accepted(model.forward, ("output_hidden_states",))) or hasattr(
        getattr(model, "config", None), "output_hidden_states"
    )
