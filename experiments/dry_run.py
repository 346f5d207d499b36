"""What --dry-run tells: what a command would do, what it would cost, and how long it would take here and elsewhere."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd

from symjax import parallel, runs, zoo
from symjax.data import Dataset
from symjax.flops import segment_flops
from symjax.memory import Need, spell_bytes
from symjax.stitching import Plan, bounds
from symjax.stitching.division import cost, work_of
from symjax.stitching.results import Results
from symjax.zoo import ZooConfig, estimate, jobs

DEVICES = (1, 8, 64)


class Phase(NamedTuple):
    """A part of a command.

    Attributes:
      name: what it is.
      to_do, there: how many members, or pairs, it has to work on, and how many more are done.
      flops: floating-point operations of those that are to do.
      need: of device memory.
      at_once: members that are on one device at a time, at most.
      divisible: whether devices share one where there are more of them.
    """

    name: str
    to_do: int
    there: int
    flops: float
    need: Need | None
    at_once: int
    divisible: bool = False


def zoo_phase(config: ZooConfig, dataset: Dataset, seeds: Sequence[int], folder: Path, limit: float | None) -> Phase:
    """Training what a zoo lacks; an InputError where the real command would raise one."""
    execution = parallel.default_execution()
    network = zoo.check(config, dataset, execution)
    runs.check_folder(folder, "zoo", config.document(dataset))
    left = estimate.epochs_to_go(folder, seeds, config.recipe.epochs)
    flops = sum(left.values()) * estimate.epoch_flops(config, dataset)
    if not left:
        return Phase("members to train", 0, len(seeds), 0.0, None, 0)
    needed = jobs.need(config, network, dataset, execution, config.labels != "true")
    at_once = -(-len(left) // jax.local_device_count())
    at_once = at_once if limit is None else min(at_once, needed.fitting(limit))
    return Phase("members to train", len(left), len(seeds) - len(left), flops, needed, at_once)


def stitch_phase(
    config: ZooConfig, dataset: Dataset, plan: Plan, pairs: Sequence[tuple[int, int]], folder: Path, limit: float | None
) -> Phase:
    """Stitching what a run folder lacks."""
    lacking = {plan: list(pairs)}
    if (folder / runs.CONFIG).exists():
        lacking = Results(folder).missing(pairs, plan)
    # Counted on plain convolutions, as the zoo's are.
    plain = segment_flops(config.network(dataset, method="native"), dataset.train.images.shape[1:])
    flops = sum(len(theirs) * cost(part, plain, work_of(part, dataset)) for part, theirs in lacking.items())
    to_do = len({pair for theirs in lacking.values() for pair in theirs})
    if not to_do:
        return Phase("pairs to stitch", 0, len(pairs), 0.0, None, 0)
    _, needed = bounds.fitted(plan, dataset, math.inf if limit is None else limit)
    return Phase("pairs to stitch", to_do, len(pairs) - to_do, flops, needed, 1, divisible=True)


def tell(title: str, config: ZooConfig, dataset: Dataset, phases: Sequence[Phase]) -> str:
    """A table of phases, and what its numbers rest on."""
    devices = tuple(jax.local_devices())
    busy = [phase for phase in phases if phase.to_do]
    lines = [title, ""]
    if not busy:
        return "\n".join([*lines, "All is there; the command would only draw and print it."])
    members = len(devices) * min(8, max(phase.at_once for phase in busy))
    rate = estimate.rehearse(config, dataset, parallel.default_execution(), devices, members)
    columns = {phase.name: _column(phase, len(devices), rate) for phase in phases}
    total = sum(_seconds(phase, len(devices), rate) for phase in phases)
    return "\n".join(
        [
            *lines,
            pd.DataFrame(columns, index=max(columns.values(), key=len)).fillna("").to_string(),
            "",
            f"In all about {spell_seconds(total)} on the {len(devices)} device(s) here ({devices[0].device_kind}), "
            f"each of which trained {config.model} at {rate / 1e9:.3g} GFLOP/s just now.",
            "Compiling, reading and drawing come on top; other numbers of devices are like the ones here.",
        ]
    )


def _column(phase: Phase, here: int, rate: float) -> dict[str, str]:
    column = {"to do": str(phase.to_do), "there already": str(phase.there)}
    if phase.need is not None:
        column["operations"] = f"{phase.flops:.2e}"
        column["device memory"] = spell_bytes(phase.need.of(phase.at_once))
        column["of which fixed"] = spell_bytes(phase.need.fixed)
        column["at once on a device"] = str(phase.at_once)
    for count in dict.fromkeys((here, *DEVICES)):
        told = "devices here" if count == here else "device" if count == 1 else "devices"
        column[f"time on {count} {told}"] = spell_seconds(_seconds(phase, count, rate))
    return column


def _seconds(phase: Phase, devices: int, rate: float) -> float:
    if not phase.to_do:
        return 0.0
    each = phase.flops / phase.to_do
    if phase.divisible and phase.to_do < devices:
        return phase.flops / devices / rate
    return -(-phase.to_do // devices) * each / rate


def spell_seconds(seconds: float) -> str:
    """For people: 42 s, 12 min, 5.3 h, 12 days."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 360_000 else f"{seconds / 86400:.3g} days"
