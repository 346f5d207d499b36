"""Load PyTorch state dictionaries of the published models into their NNX modules."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from symjax.checks import any_array
from symjax.errors import InputError
from symjax.models.cct import CCT, sine_positions
from symjax.models.myrtle import Myrtle
from symjax.models.registry import build
from symjax.models.resnet import ResNet

# For each module the layers of the published code, as regular expressions that match a layer's whole name, and where
# they belong. A layer is called by its name and its kind (conv, norm or linear), as in `layer1.0.conv1:conv`. "#" stands
# for the place of what the group "at" matched among all that it matches, in the order of the numbers therein.
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
        CCT_BLOCK + r"self_attn\.(query|key|value):linear": r"blocks.#.attention.\2",
        CCT_BLOCK + r"self_attn\.proj:linear": "blocks.#.attention.out",
        CCT_BLOCK + r"linear1:linear": "blocks.#.expand",
        CCT_BLOCK + r"linear2:linear": "blocks.#.contract",
        r"classifier\.norm:norm": "norm",
        r"classifier\.attention_pool:linear": "score",
        r"classifier\.fc:linear": "dense",
        r"classifier:positions": "",
    },
}
