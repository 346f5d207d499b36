"""Merge the run folders of the tasks of an array job into one folder, by the keys of their rows.

The folders belong to one command and one configuration: python -m experiments.stitch ... --task 1/8 to --task 8/8 write
eight folders. A row that occurs in two of them is written once; two rows of one key that differ are an error. Then the
command without --task computes what is missing in the merged folder and draws the figures. A merge can be repeated or
continued after an interruption; it does not change the folders of the tasks.
"""

import dataclasses
import importlib
import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments import registry, summary
from experiments.command import run_command
from experiments.defaults import optional
from experiments.folders import ACCURACY, ACCURACY_B
from experiments.sharing import split_name
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.result_table import ResultTable, Schema


@dataclasses.dataclass(frozen=True)
class Settings:
    folders: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of the tasks."""
    out: Annotated[Path | None, optional("DIR", "their name without .task-I-of-N")] = None
    """The merged folder; it is created if it is missing."""


def main(settings: Settings) -> None:
    folders = list(dict.fromkeys(settings.folders))
    if not folders:
        raise InputError("folders: got none, expected one or more")
    out = settings.out or default_out(folders)
    kind = kind_of(folders[0])
    experiment = registry.find(kind)
    if experiment is None:
        raise InputError(f"folders: got {folders[0]}, a folder of {kind}, expected one of a command of `experiments`")
    config = runs.read_config(folders[0], kind)
    for folder in folders[1:]:
        runs.check_config(folder, kind, config)
    with runs.open_folder(out, kind, config):
        sources = [out, *(folder for folder in folders if folder.resolve() != out.resolve())]
        merged, *_ = [results.merge(sources) for results in results_in(out, kind, experiment)]
    for line in unfinished(folders, experiment.reports_unfinished):
        print(line, file=sys.stderr)
    print(f"{out}: {merged} {experiment.unit} of {len(folders)} folder{'s' * (len(folders) > 1)}")
    if command := whole_command(folders, out):
        print(f"next: {command}")


def results_in(folder: Path, name: str, experiment: registry.Experiment) -> list[registry.Results]:
    """Return the results of an experiment in a run folder, those that are counted first."""
    constants = vars(importlib.import_module(f"experiments.{name}")).values()
    schemas = [ACCURACY, ACCURACY_B, *(value for value in constants if isinstance(value, Schema))]
    tables = {schema.name: ResultTable(folder, schema) for schema in schemas}
    counted = tables.pop("results") if experiment.results is None else experiment.results(folder)
    return [counted, *tables.values()]


def default_out(folders: list[Path]) -> Path:
    """Return the folder of the whole command, by the names of the folders of its tasks."""
    wholes = {split_name(folder)[0] if split_name(folder)[1] else None for folder in folders}
    if len(wholes) > 1 or None in wholes:
        raise InputError("out: got none for folders that are not NAME.task-I-of-N of one NAME, expected a folder")
    return wholes.pop()


def kind_of(folder: Path) -> str:
    """Return the name of the command that wrote a run folder."""
    path = folder / files.CONFIG
    if not path.exists():
        raise InputError(f"folders: got {folder}, which has no {files.CONFIG}, expected a run folder")
    document = files.read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise InputError(f"folders: got {path}, which symjax did not write, expected the file of a run folder")
    return document["kind"]


def unfinished(folders: list[Path], reported: bool) -> list[str]:
    """Return messages about unfinished tasks, unless the merge has reported them, and about missing tasks."""
    ended = [reported or (folder / summary.SUMMARY).exists() for folder in folders]
    lines = [f"not finished: {folder}" for folder, end in zip(folders, ended, strict=True) if not end]
    tasks = [task for _, task in map(split_name, folders) if task]
    if len({count for _, count in tasks}) == 1:
        count, given = tasks[0][1], {number for number, _ in tasks}
        lines += [f"missing: task {i}/{count}" for i in range(1, count + 1) if i not in given]
    return lines


def whole_command(folders: list[Path], out: Path) -> str | None:
    """Return the command for the merged folder; None if no task has finished."""
    for folder in folders:
        if (folder / summary.SUMMARY).exists():
            words, other_words = shlex.split(summary.read(folder).command), []
            skip = False
            for word in words:
                if not skip and word.partition("=")[0] not in ("--task", "--out"):
                    other_words.append(word)
                skip = not skip and word in ("--task", "--out")
            return shlex.join([*other_words, "--out", str(out)])
    return None


if __name__ == "__main__":
    run_command(main, Settings)
