"""How a command shares its work: with the other processes of a job, or as one of many separate tasks."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from experiments.defaults import optional
from experiments.settings import ZooSettings
from symjax.errors import InputError

Item = TypeVar("Item")
SUFFIX = ".task-{}-of-{}"


@dataclasses.dataclass(frozen=True)
class SharedSettings(ZooSettings):
    """A zoo, and who computes what of it."""

    distributed: bool = False
    """Share the work among all processes of this job, on one host or many, over all their devices: those of a SLURM
    step, a TPU pod or Open MPI, or what JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say."""
    task: Annotated[str | None, optional("I/N", "everything")] = None
    """Do the I-th of N parts alone, from 1/N to N/N, as in 3/8, in a folder of its own, whose name says so; then
    experiments.merge makes one folder of all."""

    def parse_task(self) -> tuple[int, int] | None:
        """Which part of how many."""
        if self.task is None:
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", self.task.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"task: got {self.task!r}, expected one of N parts, from 1/N to N/N, as in 3/8")
        return int(match[1]), int(match[2])

    def part(self, items: Sequence[Item], what: str) -> list[Item]:
        """Those of `items` that this task computes; the parts of all tasks make the whole, none has two more.

        Raises:
          InputError: there are more tasks than items.
        """
        task = self.parse_task()
        if task is None:
            return list(items)
        number, tasks = task
        if tasks > len(items):
            raise InputError(
                f"task: got {self.task!r}, expected at most {len(items)} parts: there are {len(items)} {what}"
            )
        return list(items[number - 1 :: tasks])

    def part_of_pairs(self, pairs: Sequence[tuple[int, int]], seeds: Sequence[int]) -> tuple[list, tuple[int, ...]]:
        """The `part` of pairs of seeds, and the seeds that a task needs for it."""
        pairs = self.part(pairs, "pairs")
        if self.task is None:
            return pairs, tuple(seeds)
        return pairs, tuple(seed for seed in seeds if any(seed in pair for pair in pairs))

    def part_folder(self, folder: Path) -> Path:
        """The folder of this task, of what would be in `folder` otherwise."""
        task = self.parse_task()
        return folder.with_name(folder.name + SUFFIX.format(*task)) if task else folder


def split_name(folder: Path) -> tuple[Path, tuple[int, int] | None]:
    """The inverse of `part_folder`: the folder of the whole, and which part of how many this is."""
    match = re.fullmatch(r"(.+)\.task-(\d+)-of-(\d+)", folder.name)
    return (folder.with_name(match[1]), (int(match[2]), int(match[3]))) if match else (folder, None)
