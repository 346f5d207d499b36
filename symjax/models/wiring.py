"""Which channels stand on which axis of which parameter: what a symmetry of the weights must know of a model.

Channels that a symmetry may mix with each other form a `Space`; each channel of the model has a number of its own, and
an axis of features is an array of such numbers. Axes that hold the same numbers are tied: a residual stream is one
array of numbers through all its blocks, and a shortcut that pads with zeros puts new numbers around the old ones.

Every segment writes itself down in a method `wire(wires, incoming)`, the twin of `__call__`: it takes the channels of
what travels in (None for images), names the axes of its parameters, and returns the channels of what travels out.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from symjax.errors import InputError


class Space(NamedTuple):
    """Channels that a symmetry may mix: numbers `first` to `first + size`.

    `kind` says by which group: an activation of `symjax.groups.INTERTWINERS`, or a group of `symjax.groups.GROUPS`.
    """

    name: str
    size: int
    first: int
    kind: str


class Axis(NamedTuple):
    """One axis of a parameter that holds channels, and how a symmetry A of their space acts along it.

    `role` is "out" for what makes the features (A), "in" for what reads them (phi(A)^-1 from the right), "order" for
    what only follows the order of channels: statistics, and kernels whose scale a batch norm takes out.
    """

    axis: int
    role: str
    channels: np.ndarray


@dataclass
class Wiring:
    """A model's spaces by name, the axes of its parameters, and the channels of what travels through its joints."""

    spaces: dict[str, Space] = field(default_factory=dict)
    axes: dict[tuple, list[Axis]] = field(default_factory=dict)  # (segment, *path of the leaf)
    joints: list = field(default_factory=list)  # per stitch point an array of channels, or those of (branch, skip)


class Wires:
    """Where segments write: a wiring, and the place in it where this segment or layer stands."""

    def __init__(self, wiring: Wiring, label: str, path: tuple):
        self._wiring, self._label, self._path = wiring, label, path

    def within(self, *names: str | int) -> "Wires":
        """Where the module of this name inside of this one writes."""
        return Wires(self._wiring, self._label, (*self._path, *names))

    def space(self, size: int, kind: str, suffix: str = "") -> np.ndarray:
        """New channels, called after the stitch point that this segment ends at, and `suffix`; none make no space."""
        spaces, name = self._wiring.spaces, self._label + suffix
        if not size:
            return np.arange(0)
        assert name not in spaces, name
        first = sum(space.size for space in spaces.values())
        spaces[name] = Space(name, size, first, kind)
        return np.arange(first, first + size)

    def axis(self, leaf: str, axis: int, role: str, channels: np.ndarray | None) -> None:
        """Writes down one axis of the parameter or statistic `leaf`."""
        if channels is not None:
            self._wiring.axes.setdefault((*self._path, leaf), []).append(Axis(axis, role, channels))

    def linear(self, name: str, module, incoming, outgoing, *, normed: bool = False) -> None:
        """A convolution or dense layer: the last axis but one reads, the last one writes, as does the bias.

        `normed`: a batch norm comes after it, through which a scale of channels would not pass (its epsilon and its
        own statistics see to that), so the norm's affine parameters carry it.
        """
        wires, role = self.within(name), "order" if normed else "out"
        wires.axis("kernel", -2, "in", incoming)
        wires.axis("kernel", -1, role, outgoing)
        if getattr(module, "bias", None) is not None:
            wires.axis("bias", -1, role, outgoing)

    def norm(self, name: str, channels) -> None:
        """A batch or layer norm: its affine parameters are what makes the features."""
        wires = self.within(name)
        for leaf in ("scale", "bias"):
            wires.axis(leaf, -1, "out", channels)
        for leaf in ("mean", "var"):
            wires.axis(leaf, -1, "order", channels)


def wire(segments, points) -> Wiring:
    """The wiring of a chain of segments.

    Raises:
      InputError: a segment has no `wire`.
    """
    wiring, travelling = Wiring(), None
    for i, segment in enumerate(segments):
        if not hasattr(segment, "wire"):
            raise InputError(
                f"network: its segment {type(segment).__name__} has no method wire; see symjax.models.wiring"
            )
        label = points[i].name if i < len(points) else "head"
        travelling = segment.wire(Wires(wiring, label, (i,)), travelling)
        if i < len(points):
            wiring.joints.append(travelling)
    return wiring
