"""Load PyTorch state dictionaries of the published models into NNX modules."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax.checks import numpy_array, short
from symjax.errors import InputError
from symjax.models.cct import CCT, sine_positions
from symjax.models.myrtle import Myrtle
from symjax.models.registry import build
from symjax.models.resnet import ResNet

# For each module: {regular expression of a layer in published code: path of the layer in the module}. The expression
# matches the full name and kind (conv, norm, linear or parameter), such as "layer1.0.conv1:conv". "#" in the path is
# the index of a layer: the texts that the group "at" matches, sorted by their numbers, are counted from 0.
RESNET_BLOCK = r"(?P<at>(layer\d+\.|block_seq\.)\d+)\."
CCT_BLOCK = r"classifier\.(?P<at>blocks\.\d+)\."
RULES: dict[type, dict[str, str]] = {
    Myrtle: {  # pnnl/modelsym, an nn.Sequential, plain or nested
        r"(?P<at>(segments\.)?[\d.]+):conv": "convs.#",
        r"(?P<at>(segments\.)?[\d.]+):norm": "norms.#",
        r"(segments\.)?[\d.]+:linear": "dense",
    },
    ResNet: {  # pnnl/modelsym, akamaster/pytorch_resnet_cifar10, kuangliu/pytorch-cifar, torchvision's names
        r"conv1:conv": "stem.conv",
        r"bn1:norm": "stem.norm",
        RESNET_BLOCK + r"conv1:conv": "blocks.#.first.conv",
        RESNET_BLOCK + r"bn1:norm": "blocks.#.first.norm",
        RESNET_BLOCK + r"conv2:conv": "blocks.#.second.conv",
        RESNET_BLOCK + r"bn2:norm": "blocks.#.second.norm",
        RESNET_BLOCK + r"(shortcut|downsample)\.0:conv": "blocks.#.shortcut.conv",
        RESNET_BLOCK + r"(shortcut|downsample)\.1:norm": "blocks.#.shortcut.norm",
        r"(linear|fc):linear": "dense",
    },
    CCT: {  # SHI-Labs/Compact-Transformers
        r"tokenizer\.conv_layers\.(?P<at>\d+)\.0:conv": "convs.#",
        CCT_BLOCK + r"pre_norm:norm": "blocks.#.norm1",
        CCT_BLOCK + r"norm1:norm": "blocks.#.norm2",
        CCT_BLOCK + r"self_attn\.(?P<part>query|key|value):linear": r"blocks.#.attention.\g<part>",
        CCT_BLOCK + r"self_attn\.proj:linear": "blocks.#.attention.out",
        CCT_BLOCK + r"linear1:linear": "blocks.#.expand",
        CCT_BLOCK + r"linear2:linear": "blocks.#.contract",
        r"classifier\.norm:norm": "norm",
        r"classifier\.attention_pool:linear": "score",
        r"classifier\.fc:linear": "dense",
        r"classifier\.positional_emb:parameter": "positions",
    },
}

KINDS = {4: "conv", 2: "linear", 1: "norm"}  # by the dimensions of the weight
LEAVES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}


def from_pytorch(
    model: str | nnx.Module, state_dict: Mapping[str, Any], *, rngs: nnx.Rngs | None = None, **options
) -> nnx.Module:
    """Return a module with the weights and batch-norm statistics of a PyTorch state dictionary.

    Kernels are transposed from (out, in, height, width) to (height, width, in, out) and from (out, in) to (in, out).
    The joint projection of CCT is split into queries, keys and values. Layers are identified by the names in published
    code: `modelsym` for Myrtle CNNs; `modelsym`, `pytorch_resnet_cifar10`, `pytorch-cifar` and torchvision for residual
    networks (with the 3x3 stem); SHI-Labs for transformers. A prefix "module." and batch counts are ignored.

    Args:
        model: a name of `symjax.models.MODELS`, or a module of one of these families, which is not changed.
        state_dict: {name: PyTorch tensor or array}.
        rngs: for a name, the random state of dropout; `nnx.Rngs(0)` by default.
        options: for a name, options of `symjax.models.build`.

    Returns:
        A new module.

    Raises:
        InputError: the model is of another family; keys are missing, unexpected or of another shape (all are listed).

    Example:
        >>> import numpy as np
        >>> from symjax.models.pytorch import from_pytorch
        >>> state_dict = {"0.weight": np.ones((2, 3, 3, 3)), "0.bias": np.zeros(2)}
        >>> state_dict |= {"3.weight": np.ones((10, 2)), "3.bias": np.zeros(10)}
        >>> module = from_pytorch("mcnn_k", state_dict, width=2, multiples=(1,), pools=(2,))
        >>> module(np.ones((1, 4, 4, 3), np.float32))[0, 0]
        Array(54., dtype=float32)
    """
    if isinstance(model, str):
        module = build(model, rngs=nnx.Rngs(0) if rngs is None else rngs, **options)
    else:
        module = model
    family = next((family for family in RULES if isinstance(module, family)), None)
    if family is None:
        names = ", ".join(family.__name__ for family in RULES)
        raise InputError(
            f"model: got a {type(module).__name__}, expected a name of symjax.models.MODELS or one of {names}"
        )
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise InputError(f"state_dict: got {short(state_dict)}, expected a mapping of names to tensors")

    variables = nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)))
    shapes = {".".join(map(str, path)): variable.shape for path, variable in variables}
    values, unexpected, misshapen = {}, [], []
    for key, path, array in _renamed(RULES[family], _layers(module, state_dict)):
        if path not in shapes or path in values:
            unexpected.append(key)
            continue
        values[path] = _reshaped(array, shapes[path])
        if values[path] is None:
            misshapen.append(f"{key} as {list(array.shape)}, expected {list(shapes[path])}")
    problems = {
        "missing": [path for path in shapes if path not in values],
        "unexpected": unexpected,
        "of another shape": misshapen,
    }
    if any(problems.values()):
        lists = "; ".join(f"{what}: {', '.join(entries)}" for what, entries in problems.items() if entries)
        raise InputError(f"state_dict: got tensors that do not fit, expected those of this {family.__name__}. {lists}")
    module = nnx.clone(module)
    loaded = [(path, jnp.asarray(values[".".join(map(str, path))], variable.dtype)) for path, variable in variables]
    nnx.update(module, nnx.from_flat_state(loaded))
    return module


def _layers(module: nnx.Module, state_dict: Mapping[str, Any]) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Yield for each tensor its key, the name and kind of its layer, its leaf, and its value with channels last."""
    arrays = {
        key: numpy_array(f"state_dict: {key}", value)
        for key, value in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    for key, array in arrays.items():
        layer, _, leaf = key.removeprefix("module.").rpartition(".")
        weight = arrays.get(f"{key.rpartition('.')[0]}.weight")
        kind = KINDS.get(weight.ndim) if weight is not None else None
        if kind is None:
            if leaf == "positional_emb" and isinstance(module, CCT) and module.positional_embedding == "sine":
                _check_sine(module, array)
            else:
                yield key, f"{layer}.{leaf}:parameter", "", array[0] if array.ndim == 3 else array
        elif layer.endswith("qkv") and len(array) % 3 == 0:
            for name, part in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                yield key, f"{layer.removesuffix('qkv')}{name}:{kind}", *_leaf(leaf, kind, part)
        else:
            yield key, f"{layer}:{kind}", *_leaf(leaf, kind, array)


def _leaf(leaf: str, kind: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the name and the value of a tensor in NNX."""
    if leaf != "weight":
        return f".{LEAVES.get(leaf, leaf)}", array
    if kind == "norm":
        return ".scale", array
    return ".kernel", array.transpose(2, 3, 1, 0) if kind == "conv" else array.T


def _renamed(rules: Mapping[str, str], layers: Iterable[tuple]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield for each tensor its key, its path in the module ("" if no rule matches) and its value."""
    matches = []
    for key, layer, leaf, array in layers:
        candidates = ((re.fullmatch(pattern, layer), path) for pattern, path in rules.items())
        matches.append((key, *next(((match, path) for match, path in candidates if match), (None, "")), leaf, array))
    places = defaultdict(set)  # texts of the group "at", by the part of the path before "#"
    for _, match, path, _, _ in matches:
        if "#" in path:
            places[path.partition("#")[0]].add(match["at"])
    ranks = {
        (start, text): str(rank)
        for start, texts in places.items()
        for rank, text in enumerate(sorted(texts, key=lambda text: [int(n) for n in re.findall(r"\d+", text)]))
    }
    for key, match, path, leaf, array in matches:
        if "#" in path:
            path = path.replace("#", ranks[path.partition("#")[0], match["at"]])
        yield key, (match.expand(path) + leaf if match else ""), array


def _reshaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the array in this shape; None unless it has this shape, or is a matrix with merged axes of it."""
    divisions = [(math.prod(shape[:i]), math.prod(shape[i:])) for i in range(1, len(shape))]
    return array.reshape(shape) if array.shape == shape or array.shape in divisions else None


def _check_sine(module: CCT, array: np.ndarray) -> None:
    """Raise an InputError unless the array equals the positions that the module computes."""
    positions = sine_positions(module.side, module.side, module.norm.num_features)
    if array.size != positions.size or not np.allclose(array.reshape(positions.shape), positions, atol=1e-4):
        expected = f"the sine positions of {module.side**2} tokens, or positional_embedding='learnable'"
        raise InputError(f"state_dict: got other positional_emb {list(array.shape)}, expected {expected}")
