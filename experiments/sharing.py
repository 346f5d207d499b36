"""Share the work of a command among the processes of a job, or among separate tasks."""

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
    """A zoo, and the part of the work that this process does."""

    distributed: bool = False
    """Share the work among all processes of a job, on one or several hosts, and all their devices. The processes are
    those of a SLURM step, a TPU pod or Open MPI, or are given by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""
    task: Annotated[str | None, optional("I/N", "everything")] = None
    """Do only part I of N, from 1/N to N/N, as in 3/8. Its folder has .task-I-of-N appended to its name;
    experiments.merge combines the folders of all parts."""

    def parse_task(self) -> tuple[int, int] | None:
        """Return (I, N); None if there is no `task`."""
        if self.task is None:
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", self.task.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(f"task: got {self.task!r}, expected I/N, from 1/N to N/N, as in 3/8")
        return int(match[1]), int(match[2])

    def part(self, items: Sequence[Item], what: str) -> list[Item]:
        """Return the items of this task; the numbers of items of two tasks differ by at most one.

        Args:
          items: the items of all tasks.
          what: plural noun for the items, for error messages.

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
        """Return the pairs of seeds of this task, and the seeds that occur in them."""
        pairs = self.part(pairs, "pairs")
        if self.task is None:
            return pairs, tuple(seeds)
        return pairs, tuple(seed for seed in seeds if any(seed in pair for pair in pairs))

    def part_folder(self, folder: Path) -> Path:
        """Return the folder of this task, where `folder` is that of the whole command."""
        task = self.parse_task()
        return folder.with_name(folder.name + SUFFIX.format(*task)) if task else folder


def split_name(folder: Path) -> tuple[Path, tuple[int, int] | None]:
    """Return the folder of the whole command and (I, N) for the folder of a task; (folder, None) for others."""
    match = re.fullmatch(r"(.+)\.task-(\d+)-of-(\d+)", folder.name)
    return (folder.with_name(match[1]), (int(match[2]), int(match[3]))) if match else (folder, None)
