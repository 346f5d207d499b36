"""ResNet-18 with the 3x3 stem used on CIFAR: four stages of two blocks, projection shortcuts (option B)."""

from flax import nnx

from symjax.models.layers import BatchNorm, Conv
from symjax.models.resnet_cifar import residual_chain
from symjax.models.segmented import Keys, Segmented


class ProjectionShortcut(nnx.Module):
    """Option B: 1x1 conv of the block's stride - batch norm."""

    def __init__(self, features_in, features_out, stride, *, method, rngs):
        self.conv = Conv(features_in, features_out, kernel=1, stride=stride, method=method, rngs=rngs)
        self.norm = BatchNorm(features_out)
        self.features = features_out

    def __call__(self, x, mode):
        return self.norm(self.conv(x), mode)

    def wire(self, wires, incoming):
        outgoing = wires.space(self.features, "relu", "/shortcut")
        wires.linear("conv", self.conv, incoming, outgoing, normed=True)
        wires.norm("norm", outgoing)
        return outgoing


def build(rngs: Keys, *, width: int, channels: int, classes: int, method: str) -> Segmented:
    """Stages of w, 2w, 4w and 8w features."""

    def shortcut(features_in, features_out, stride):
        return ProjectionShortcut(features_in, features_out, stride, method=method, rngs=rngs)

    stages = [(width * multiple, 2) for multiple in (1, 2, 4, 8)]
    return residual_chain(rngs, stages, shortcut=shortcut, channels=channels, classes=classes, method=method)
