"""Controls of the stitch command: fronts that are not related to the tail, and other losses of the stitches."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from symjax.data import Dataset
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.stitching import Plan
from symjax.stitching.controls import CONTROLS, OBJECTIVES, OTHER_LABELS, TASK, UNTRAINED, WRONG_LAYER
from symjax.stitching.plan import is_possible
from symjax.training.loop import initial_member
from symjax.zoo import Zoo, ZooConfig


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What stitches of the task to related fronts are compared with.

    Attributes:
      controls: whether there are stitches to all `CONTROLS`.
      losses: the objectives of all stitches.
    """

    controls: bool = False
    losses: tuple[str, ...] = (TASK,)

    @property
    def is_default(self) -> bool:
        """Whether there is nothing to compare with."""
        return not self.controls and self.losses == (TASK,)

    def add_to(self, plan: Plan, left_out: Sequence[str]) -> tuple[Plan, str]:
        """Return the plan with controls and losses, and a sentence that names `left_out` and what is left out here."""
        controls = CONTROLS if self.controls else ()
        full = plan.with_controls(controls, self.losses)
        wrong = [junction for junction in full.junctions if junction.control == WRONG_LAYER]
        names = {junction.layer for junction in wrong}
        left_out = list(left_out)
        if self.controls and (rest := [j.layer for j in plan.junctions if j.layer not in names]):
            left_out.append(f"wrong layers of {', '.join(rest)}, the only point that can be stitched")
        square = {f.label: None for junction in wrong for f in full.families if not is_possible(junction, f)}
        if square:
            left_out.append(f"wrong layers of another width for {', '.join(square)}")
        return full, f"Left out: {'; '.join(left_out)}." if left_out else ""

    def check(self, dataset: Dataset) -> None:
        """Raise an InputError if the data have not one class for each example."""
        if not self.is_default and (dataset.num_classes is None or dataset.train.labels.ndim != 1):
            name = "controls" if self.controls else "loss"
            raise InputError(f"{name}: got {dataset.name}, expected data with one class for each example")


NOTHING = Comparison()


def parse_losses(text: str) -> tuple[str, ...]:
    """Parse comma-separated losses.

    Raises:
      InputError: there are none, or one is unknown or repeated.
    """
    losses = tuple(part.strip() for part in text.split(",") if part.strip())
    if not losses or len({*losses}) < len(losses) or not {*losses} <= {*OBJECTIVES}:
        raise InputError(f"loss: got {text!r}, expected some of {', '.join(OBJECTIVES)}, each once")
    return losses


def other_labels(config: ZooConfig, folder: Path) -> tuple[ZooConfig, Path]:
    """Return the configuration of fronts that are trained on permuted labels, and their folder beside the zoo."""
    return dataclasses.replace(config, labels="permuted"), folder.with_name(f"{folder.name}-permuted-labels")


def control_fronts(network: Network, permuted: Zoo, seed: int) -> Mapping[str, Member]:
    """Return the fronts of the controls of the member of a seed."""
    return {UNTRAINED: initial_member(network, np.int32(seed)), OTHER_LABELS: permuted.member(seed)}
