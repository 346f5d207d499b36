"""What --dry-run tells: what a command would do, what it would cost, and how long it would take here and elsewhere.

A command says what it does as phases, each a column of one table. What several of them do, training a zoo and looking
at its members' layers, is here; what is a command's own is with the command.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import pandas as pd

from experiments.command import DryRunReport
from experiments.settings import ZooSettings
from symjax import representations, zoo
from symjax.data import Dataset
from symjax.flops import segment_flops
from symjax.ops import parallel, runs
from symjax.ops.memory import MemoryEstimate, spell_bytes
from symjax.zoo import Group, ZooConfig, estimate, jobs

DEVICES = (1, 8, 64)
ROWS = (
    "to do",
    "there already",
    "operations",
    "device memory",
    "of which fixed",
    "at once on a device",
    "representations",
)


class Phase(NamedTuple):
    """A part of a command.

    Attributes:
      name: what it works on.
      to_do, there: how many of them, and how many more are done.
      flops: floating-point operations of those that are to do; None where they are not counted.
      need: of device memory; None where it is not known.
      at_once: members that are on one device at a time, at most.
      together: how many of them always go side by side, on one device.
      divisible: whether the devices of a process share one where there are more of them.
      at_most: whether it may be less, which is not known beforehand.
      stored: bytes of representations that lie in the host's memory at a time.
    """

    name: str
    to_do: int
    there: int
    flops: float | None = None
    need: MemoryEstimate | None = None
    at_once: int = 0
    together: int = 1
    divisible: bool = False
    at_most: bool = False
    stored: int = 0


def stop(
    settings: ZooSettings,
    config: ZooConfig,
    dataset: Dataset,
    folder: Path,
    phases: Callable[[], Sequence[Phase]],
    model: str | None = None,
) -> None:
    """Ends a dry run, which tells of its phases; a command that is to run goes on.

    To be called where all flags have been checked and nothing has been written. With a bound of device memory the
    phases are made for a command that is to run too: what does not fit is refused here, before anything is trained.

    Args:
      settings: of the command.
      config: of a zoo that is rehearsed.
      dataset: its images.
      folder: of the results.
      phases: makes them; an InputError where the command itself would raise one.
      model: what is called so in the title; by default the one of the settings.
    """
    if settings.dry_run or settings.memory_limit is not None:
        all_phases = phases()
        if settings.dry_run:
            raise DryRunReport(
                report(f"{model or settings.model} on {dataset.name}, for {folder}", config, dataset, all_phases)
            )


# --- phases that commands share ---


def zoo_phase(
    config: ZooConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    folder: Path,
    limit: float | None,
    *,
    keep: Collection[int] = (),
    name: str = "members to train",
) -> Phase:
    """Training what a zoo lacks; an InputError where the real command would raise one."""
    return zoo_phases({name: Group(config, seeds, folder)}, dataset, limit, keep)[0]


def zoo_phases(
    groups: dict[str, Group], dataset: Dataset, limit: float | None, keep: Collection[int] = ()
) -> list[Phase]:
    """Zoos that train side by side in one program, see `zoo.train_together`; by what their phases are called."""
    execution = parallel.default_execution()
    left = []
    for config, seeds, folder in groups.values():
        network = zoo.check(config, dataset, execution)
        if config.rule is not None:
            group = Group(config, seeds, folder)
            zoo.check_rule([group], dataset, execution, jax.local_device_count(), limit)
        if limit is not None:  # its evaluation has to fit too
            metric = config.recipe.metric
            zoo.evaluation_need(network, dataset.test, metric=metric).max_members(limit)
            if config.labels != "true":
                zoo.evaluation_need(network, dataset.train, per_member_labels=True, metric=metric).max_members(limit)
        runs.check_folder(folder, "zoo", config.document(dataset))
        left.append(estimate.remaining_epochs(folder, seeds, config.recipe.epochs, keep))
    needed, together = None, 0
    if any(left):
        per_member_labels = any(group.config.labels != "true" for group in groups.values())
        needed = jobs.memory_estimate(config, dataset, execution, per_member_labels)
        together = on_a_device(sum(map(len, left)), needed, limit)
    phases = []
    for (name, (config, seeds, _)), lacking in zip(groups.items(), left, strict=True):
        flops = sum(estimate.training_flops(config, dataset, epochs) for epochs in lacking.values())
        there = len(seeds) - len(lacking)
        rule = config.rule is not None  # what it freezes is not known before
        phases.append(Phase(name, len(lacking), there, flops, needed if lacking else None, together, at_most=rule))
    return phases


def layers_phase(
    name: str,
    config: ZooConfig,
    dataset: Dataset,
    layers: Sequence[str],
    *,
    to_do: int,
    there: int,
    together: int,
    images: int,
    pool: bool,
    limit: float | None,
) -> Phase:
    """Passes of `images` through `to_do` networks, `together` at a time, as far as the last of these layers."""
    network, image = config.network(dataset), dataset.test.images.shape[1:]
    points = network.parse_points(",".join(layers))
    if not to_do:
        return Phase(name, 0, there, 0.0)
    options = {"pool": pool, "dtype": dataset.input_dtype}
    needed = representations.memory_estimate(
        network, image, points, batch_size=min(images, representations.BATCH), **options
    )
    flops = to_do * images * forward_flops(config, dataset, max(points))
    stored = together * images * representations.bytes_per_image(network, image, points, **options)
    return Phase(name, to_do, there, flops, needed, on_a_device(together, needed, limit), stored=stored)


def forward_flops(config: ZooConfig, dataset: Dataset, point: int | None = None) -> float:
    """Floating-point operations of one image as far as a stitch point, by default to the logits."""
    flops = segment_flops(config.network(dataset), dataset.train.images.shape[1:])
    return sum(flops if point is None else flops[: point + 1])


def on_a_device(count: int, need: MemoryEstimate, limit: float | None, what: str = "member") -> int:
    """How many of `count` are on one device at a time, spread over all devices within the limit."""
    most = -(-count // jax.local_device_count())
    return most if limit is None else min(most, need.max_members(limit, what))


# --- the table ---


def report(title: str, config: ZooConfig, dataset: Dataset, phases: Sequence[Phase]) -> str:
    """A table of phases, and what its numbers rest on."""
    devices = tuple(jax.local_devices())
    busy = [phase for phase in phases if phase.to_do]
    lines = [title, ""]
    if not busy:
        return "\n".join([*lines, "All is there; the command would only draw and print it."])
    rate, members = None, len(devices) * min(8, max(1, *(phase.at_once for phase in busy)))
    if counted := any(phase.flops for phase in busy):
        rate = estimate.rehearse(config, dataset, parallel.default_execution(), devices, members)
    columns = {phase.name: _column(phase, len(devices), rate) for phase in phases}
    rows = {row: None for column in columns.values() for row in column}  # in the order of `ROWS`, then times
    rows = [*(row for row in ROWS if row in rows), *(row for row in rows if row not in ROWS)]
    kind = "At most" if any(phase.at_most for phase in busy) else "In all about"
    uncounted = [phase.name for phase in busy if phase.flops is None]
    besides = ", ".join(
        [*(f"{name} (not counted)" for name in uncounted), "compiling, test accuracy, reading and drawing"]
    )
    if not counted:
        time = "No operations are counted of what is to do."
    elif rate is None:
        most = spell_bytes(estimate.REHEARSAL_BYTES)
        time = f"No times: to train one {config.model_name} for a moment, to measure its speed, would take over {most}."
    else:
        total = sum(_seconds(phase, len(devices), rate) for phase in busy)
        time = (
            f"{kind} {spell_seconds(total)} on the {len(devices)} device(s) here ({devices[0].device_kind}), each of "
            f"which trained {config.model_name} at {rate / 1e9:.3g} GFLOP/s just now."
        )
    return "\n".join(
        [
            *lines,
            pd.DataFrame(columns, index=rows).fillna("").to_string(),
            "",
            time,
            f"On top come {besides}; other devices are like the ones here, and {len(devices)} in each process.",
        ]
    )


def _column(phase: Phase, here: int, rate: float | None) -> dict[str, str]:
    column = {"to do": str(phase.to_do), "there already": str(phase.there)}
    bound = "at most " if phase.at_most else ""
    if not phase.to_do:
        return column
    column["operations"] = "not counted" if phase.flops is None else f"{bound}{phase.flops:.2e}"
    if phase.need is not None:
        column["device memory"] = spell_bytes(phase.need.bytes_for(phase.at_once))
        column["of which fixed"] = spell_bytes(phase.need.fixed)
        column["at once on a device"] = str(phase.at_once)
    if phase.stored:
        column["representations"] = spell_bytes(phase.stored)
    for count in dict.fromkeys((here, *DEVICES) if None not in (phase.flops, rate) else ()):
        unit = "devices here" if count == here else "device" if count == 1 else "devices"
        column[f"time on {count} {unit}"] = bound + spell_seconds(_seconds(phase, count, rate))
    return column


def _seconds(phase: Phase, devices: int, rate: float) -> float:
    if not phase.to_do or phase.flops is None:
        return 0.0
    units = -(-phase.to_do // phase.together)
    each = phase.flops / units
    # A pair is one process's. Others are taken to have as many devices as this one.
    share = min(max(1, devices // units), jax.local_device_count()) if phase.divisible else 1
    return -(-units // (devices // share)) * each / share / rate


def spell_seconds(seconds: float) -> str:
    """For people: 42 s, 12 min, 5.3 h, 12 days."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 360_000 else f"{seconds / 86400:.3g} days"
