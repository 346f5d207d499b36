"""Count floating-point operations of the Myrtle CNN and of the published stitching procedure.

A multiply-add counts as two operations.
"""

from collections.abc import Sequence

FAMILIES = ("full", "rank1", "rank2", "rank4", "birkhoff")
LAYERS = (1, 2, 3, 4)  # layer l is the stitch point after the l-th ReLU


def mcnn_flops(width: int, size: int = 32, classes: int = 10) -> tuple[int, ...]:
    """Return forward operations per image of the five segments: four convolutions and the dense layer."""
    channels = (3, width, 2 * width, 4 * width, 8 * width)
    convolutions = [
        2 * 9 * inputs * outputs * _pixels(layer, size)
        for layer, inputs, outputs in zip(LAYERS, channels[:-1], channels[1:], strict=True)
    ]
    return (*convolutions, 2 * channels[-1] * classes)


def _pixels(layer: int, size: int) -> int:
    return (size // (1, 1, 2, 4)[layer - 1]) ** 2


def member_step_flops(width: int, size: int = 32) -> int:
    """Return operations per image of a training step: forward pass and gradients of weights and hidden layers."""
    flops = mcnn_flops(width, size)
    return 3 * sum(flops) - flops[0]


def stitch_flops(family: str, width: int, layer: int, size: int = 32) -> tuple[int, int]:
    """Return operations per image of a stitch: of the forward pass, and including the gradients of its weights."""
    channels, pixels = width * 2 ** (layer - 1), _pixels(layer, size)
    if family in ("full", "birkhoff"):
        forward = 2 * channels**2 * pixels
        return forward, 2 * forward
    half = 2 * channels * rank_of(family) * pixels
    return 2 * half, 5 * half  # includes the gradient that the second factor passes to the first


def sweep_flops(
    width: int, *, train: int, test: int, epochs: int, batch_size: int = 32, families: Sequence[str] = FAMILIES,
    layers: Sequence[int] = LAYERS, size: int = 32, validation: int = 0,
) -> dict[str, int]:  # fmt: skip
    """Return operations of `stitch_sweep` by part; Sinkhorn and elementwise operations are not counted.

    Args:
      width: width of the Myrtle CNN.
      train, test, validation: numbers of images.
      epochs: passes over the training images.
      batch_size: images per training step.
      families: names of families.
      layers: layers, counted from 1.
      size: height and width of images.
    """
    flops = mcnn_flops(width, size)
    trained = epochs * max(1, train // batch_size) * min(batch_size, train)
    parts = {"training": 0, "reestimation": 0, "evaluation": 2 * test * sum(flops)}
    for layer in layers:
        front, tail = sum(flops[:layer]), sum(flops[layer:])
        for family in families:
            forward, gradient = stitch_flops(family, width, layer, size)
            parts["training"] += trained * (front + gradient + 2 * tail)
            parts["reestimation"] += train * (front + forward + tail) if layer < len(LAYERS) else 0
            parts["evaluation"] += (test + validation) * (front + forward + tail)
    return parts


def rank_of(family: str) -> int:
    if not (family.startswith("rank") and family[4:].isdigit() and int(family[4:]) > 0):
        raise ValueError(f"family: got {family!r}, expected full, birkhoff or rank followed by a number, as in rank2")
    return int(family[4:])
