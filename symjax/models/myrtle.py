"""The Myrtle CNN and variants: plain sequences of convolutions.

Reference: Godfrey et al. 2022 (arXiv 2205.14258), appendix on architectures, after D. Page's "How to train your
ResNet".
"""

import jax
import jax.numpy as jnp
from flax import nnx

from symjax.checks import integers, one_of
from symjax.errors import InputError
from symjax.models.common import BatchNorm, at_least_float32, glorot, he, images, lecun
from symjax.models.registry import register
from symjax.network.naming import stitch_point

ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}
INITIALIZERS = {"relu": he, "sigmoid": glorot}
CONSTANT = {"width": 512, "multiples": (1, 1, 1, 1)}
# Configuration A of Simonyan and Zisserman 2015 with a single dense layer, as for CIFAR-10. The global pool takes the
# place of its fifth pool.
VGG11 = {"multiples": (1, 2, 4, 4, 8, 8, 8, 8), "pools": (2, 2, 1, 2, 1, 2, 1, 1)}


@register(
    {
        "mcnn": {},
        "mcnn_k": {"norm": False},
        "mcnn_sigmoid": {"activation": "sigmoid"},
        "mcnn_k_sigmoid": {"norm": False, "activation": "sigmoid"},
        "cwcnn": CONSTANT,
        "cwcnn_k": {**CONSTANT, "norm": False},
        "scnn": {"multiples": (1, 2, 2, 4), "pools": (1, 2, 4, 2)},
        "vgg11": {**VGG11, "norm": False},
        "vgg11_bn": VGG11,
    }
)
class Myrtle(nnx.Module):
    """Layers of 3x3 convolution, batch norm, activation and max pool; then global max pool and a dense layer.

    Stitch points are the activations ("relu1", ...), before the pools.

    Args:
        width: base number of channels.
        multiples: channels of each convolution as a multiple of `width`.
        pools: size of the max pool after each convolution (1: none).
        norm: whether batch norm follows each convolution; otherwise convolutions have a bias.
        activation: "relu" or "sigmoid".
        channels: channels of the images.
        classes: number of logits.
        dtype: dtype of computations; parameters are float32; logits are float32 or wider.
        rngs: random state for initial parameters.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        multiples: tuple[int, ...] = (1, 2, 4, 8),
        pools: tuple[int, ...] = (1, 2, 2, 2),
        norm: bool = True,
        activation: str = "relu",
        channels: int = 3,
        classes: int = 10,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        initializer = INITIALIZERS[one_of("activation", activation, ACTIVATIONS)]
        self.pools = integers("pools", pools, 1)
        widths = [width * multiple for multiple in integers("multiples", multiples, 1)]
        if not widths or len(widths) != len(self.pools):
            raise InputError(f"pools: got {len(self.pools)} for {len(widths)} convolutions, expected one for each")
        self.convs, self.norms = nnx.List[nnx.Conv](), nnx.List[nnx.BatchNorm]()
        for before, after in zip([channels, *widths], widths, strict=False):
            self.convs.append(
                nnx.Conv(
                    before, after, (3, 3), padding=1, use_bias=not norm, kernel_init=initializer, dtype=dtype, rngs=rngs
                )
            )
            if norm:
                self.norms.append(BatchNorm(after, rngs=rngs))
        self.dense = nnx.Linear(widths[-1], classes, kernel_init=lecun, dtype=dtype, rngs=rngs)
        self.activation, self.channels, self.dtype = activation, channels, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = images(x, self.channels, self.dtype)
        for i, (conv, pool) in enumerate(zip(self.convs, self.pools, strict=True)):
            x = conv(x)
            if self.norms:
                x = self.norms[i](x).astype(self.dtype)
            x = stitch_point(ACTIVATIONS[self.activation](x), f"{self.activation}{i + 1}")
            if min(x.shape[1:3]) < pool:
                raise InputError(
                    f"x: got maps of {x.shape[1]} x {x.shape[2]} after convolution {i + 1}, expected larger images"
                )
            if pool > 1:
                x = nnx.max_pool(x, (pool, pool), (pool, pool))
        return self.dense(jnp.max(x, axis=(1, 2))).astype(at_least_float32(self.dtype))
