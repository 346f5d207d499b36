"""Report the remaining work of a command (--dry-run): its operations, device memory and time on several devices.

The work of a command is a list of phases, which are the columns of a table. Phases that several commands share are in
this module: training a zoo, and computing the representations of its members.
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
    "done",
    "operations",
    "device memory",
    "fixed part of it",
    "items at a time on a device",
    "representations",
)


class Phase(NamedTuple):
    """A phase of a command.

    Attributes:
      name: the items of the phase, such as "members to train".
      to_do, done: numbers of remaining and of completed items.
      flops: floating-point operations of the remaining items; None if they are not counted.
      memory: estimate of the memory on each device; None if it is not known.
      at_once: largest number of items on one device at a time.
      together: number of items that are always computed together, on one device.
      divisible: whether several devices of a process can share one item.
      at_most: whether the operations are an upper bound.
      stored: bytes of representations in the memory of the host at a time.
    """

    name: str
    to_do: int
    done: int
    flops: float | None = None
    memory: MemoryEstimate | None = None
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
    """Raise `DryRunReport` with the report in a dry run; otherwise return.

    Call it after all flags are checked and before anything is written. With a limit of device memory the phases are
    computed in every run, so that settings that do not fit are refused before anything is trained.

    Args:
      settings: settings of the command.
      config: configuration of the zoo whose training is timed to measure the speed of the devices.
      dataset: the images.
      folder: folder of the results.
      phases: returns the phases; it raises an InputError if the command would.
      model: name of the model in the title; by default that of the settings.

    Raises:
      DryRunReport: with `--dry-run`.
      InputError: the work does not fit into the limit of device memory.
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
    """Return the phase that trains missing members of a zoo; raise an InputError if the command would."""
    return zoo_phases({name: Group(config, seeds, folder)}, dataset, limit, keep)[0]


def zoo_phases(
    groups: dict[str, Group], dataset: Dataset, limit: float | None, keep: Collection[int] = ()
) -> list[Phase]:
    """Return the phases of zoos that train together in one program (`zoo.train_together`), by name of the phase."""
    execution = parallel.default_execution()
    left = []
    for config, seeds, folder in groups.values():
        network = zoo.check(config, dataset, execution)
        zoo.check_rule(config, seeds, dataset, execution, jax.local_device_count(), limit)
        if limit is not None:  # the evaluation must fit, too
            metric = config.recipe.metric
            zoo.evaluation_program(network, dataset.test, metric=metric).memory.max_members(limit)
            if config.labels != "true":
                program = zoo.evaluation_program(network, dataset.train, per_member_labels=True, metric=metric)
                program.memory.max_members(limit)
        runs.check_folder(folder, "zoo", config.document(dataset))
        left.append(estimate.remaining_epochs(folder, seeds, config.recipe.epochs, keep))
    memory, together = None, 0
    if any(left):
        per_member_labels = any(group.config.labels != "true" for group in groups.values())
        memory = jobs.training_program(config, dataset, execution, per_member_labels).memory
        together = on_a_device(sum(map(len, left)), memory, limit)
    phases = []
    for (name, (config, seeds, _)), lacking in zip(groups.items(), left, strict=True):
        flops = sum(estimate.training_flops(config, dataset, epochs) for epochs in lacking.values())
        done = len(seeds) - len(lacking)
        rule = config.rule is not None  # its schedule is determined during training
        phases.append(Phase(name, len(lacking), done, flops, memory if lacking else None, together, at_most=rule))
    return phases


def layers_phase(
    name: str,
    config: ZooConfig,
    dataset: Dataset,
    layers: Sequence[str],
    *,
    to_do: int,
    done: int,
    together: int,
    images: int,
    samples: str,
    limit: float | None,
) -> Phase:
    """Return the phase that computes layers of `to_do` networks, `together` at a time, on `images` images."""
    network, image = config.network(dataset), dataset.test.images.shape[1:]
    points = network.parse_points(",".join(layers))
    if not to_do:
        return Phase(name, 0, done, 0.0)
    options = {"samples": samples, "dtype": dataset.input_dtype}
    batch_size = min(images, representations.BATCH)
    memory = representations.features_program(network, image, points, batch_size=batch_size, **options).memory
    flops = to_do * images * forward_flops(config, dataset, max(points))
    stored = together * images * representations.bytes_per_image(network, image, points, **options)
    return Phase(name, to_do, done, flops, memory, on_a_device(together, memory, limit), stored=stored)


def forward_flops(config: ZooConfig, dataset: Dataset, point: int | None = None) -> float:
    """Return the floating-point operations of one image up to a stitch point, or to the logits by default."""
    flops = segment_flops(config.network(dataset), dataset.train.images.shape[1:])
    return sum(flops if point is None else flops[: point + 1])


def on_a_device(count: int, memory: MemoryEstimate, limit: float | None, what: str = "member") -> int:
    """Return how many of `count` members are on one device at a time, within the limit of memory."""
    most = -(-count // jax.local_device_count())
    return most if limit is None else min(most, memory.max_members(limit, what))


# --- the table ---


def report(title: str, config: ZooConfig, dataset: Dataset, phases: Sequence[Phase]) -> str:
    """Return the table of phases, and the assumptions of its numbers."""
    devices = tuple(jax.local_devices())
    busy = [phase for phase in phases if phase.to_do]
    lines = [title, ""]
    if not busy:
        return "\n".join([*lines, "All results exist; the command would only draw and print them."])
    rate, members = None, len(devices) * min(8, max(1, *(phase.at_once for phase in busy)))
    if counted := any(phase.flops for phase in busy):
        rate = estimate.rehearse(config, dataset, parallel.default_execution(), devices, members)
    columns = {phase.name: _column(phase, len(devices), rate) for phase in phases}
    rows = {row: None for column in columns.values() for row in column}  # in the order of `ROWS`, then times
    rows = [*(row for row in ROWS if row in rows), *(row for row in rows if row not in ROWS)]
    kind = "At most" if any(phase.at_most for phase in busy) else "In total about"
    uncounted = [phase.name for phase in busy if phase.flops is None]
    not_included = ", ".join(
        [*(f"{name} (not counted)" for name in uncounted), "compilation, test accuracy, reading and drawing"]
    )
    if not counted:
        time = "The operations of the remaining work are not counted."
    elif rate is None:
        most = spell_bytes(estimate.REHEARSAL_BYTES)
        time = f"No times: measuring the speed of training one {config.model_name} would need more than {most}."
    else:
        total = sum(_seconds(phase, len(devices), rate) for phase in busy)
        time = (
            f"{kind} {spell_seconds(total)} on {len(devices)} device(s) ({devices[0].device_kind}), each of which has "
            f"just trained {config.model_name} at {rate / 1e9:.3g} GFLOP/s."
        )
    return "\n".join(
        [
            *lines,
            pd.DataFrame(columns, index=rows).fillna("").to_string(),
            "",
            time,
            f"Not included: {not_included}.",
            f"Times assume devices of this kind, and {len(devices)} in each process.",
        ]
    )


def _column(phase: Phase, here: int, rate: float | None) -> dict[str, str]:
    column = {"to do": str(phase.to_do), "done": str(phase.done)}
    bound = "at most " if phase.at_most else ""
    if not phase.to_do:
        return column
    column["operations"] = "not counted" if phase.flops is None else f"{bound}{phase.flops:.2e}"
    if phase.memory is not None:
        column["device memory"] = spell_bytes(phase.memory.bytes_for(phase.at_once))
        column["fixed part of it"] = spell_bytes(phase.memory.fixed)
        column["items at a time on a device"] = str(phase.at_once)
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
    # A pair belongs to one process. All processes are assumed to have as many devices as this one.
    share = min(max(1, devices // units), jax.local_device_count()) if phase.divisible else 1
    return -(-units // (devices // share)) * each / share / rate


def spell_seconds(seconds: float) -> str:
    """Return a time as text, as in 42 s, 12 min, 5.3 h or 12 days."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 360_000 else f"{seconds / 86400:.3g} days"
