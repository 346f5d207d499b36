"""Collect the results of all runs under a folder into one page: report.html, which contains its figures, and report.md.

For each run: the conclusion, the figures, the tables, published figures where they exist, the command and the time
that it took. Nothing is computed; run experiments first.
"""

import dataclasses
import math
import sys
from pathlib import Path

from experiments import pages, registry, summary
from experiments.command import run_command
from experiments.summary import SUMMARY, Summary
from symjax.errors import InputError
from symjax.ops import files, runs

OTHER = registry.Experiment(place=math.inf)  # for runs of experiments that are not in the registry


@dataclasses.dataclass(frozen=True)
class Settings:
    runs: Path = Path("runs")
    """The folder that contains the run folders, at any depth."""
    out: Path = Path("runs", "report")
    """The folder to which the page is written."""


def main(settings: Settings) -> None:
    summaries = collect(settings.runs)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: got {settings.out} ({error.strerror}), expected a folder or a new path") from None
    sections = [section(run) for run in summaries]
    files.write_bytes(settings.out / "report.md", pages.markdown(TITLE, sections, settings.out).encode())
    files.write_bytes(settings.out / "report.html", pages.html(TITLE, sections).encode())
    for run in summaries:
        print(f"{run.experiment}: {run.title}\n  {run.conclusion}")
    print(f"\n{len(summaries)} runs in {settings.out / 'report.html'} and {settings.out / 'report.md'}")


TITLE = "Symmetries of networks and of their representations"


def collect(folder: Path) -> list[Summary]:
    """Return the summaries under a folder, in the order of their experiments; report damaged ones on stderr."""
    if not folder.is_dir():
        raise InputError(f"runs: got {folder}, expected a folder; run an experiment first, or name another folder")
    summaries = []
    for path in sorted(folder.rglob(SUMMARY)):
        try:
            summaries.append(summary.read(path.parent))
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not summaries:
        raise InputError(f"runs: got {folder} without a complete {SUMMARY}, expected one; run an experiment first")
    return sorted(summaries, key=lambda run: experiment_of(run).place)


def experiment_of(run: Summary) -> registry.Experiment:
    """Return the experiment of a run."""
    return registry.find(run.experiment) or OTHER


def section(run: Summary) -> pages.Section:
    """Return the section of the page about a run."""
    device, jax = run.versions.get("device", "an unknown device"), run.versions.get("jax", "?")
    time = f"{pages.duration(run.seconds)} in all its finished runs, on {device} with JAX {jax}"
    return pages.Section(
        title=f"{run.experiment}: {run.title}",
        text=run.conclusion,
        figures=tuple(Path(run.folder, f"{name}.png") for name in run.figures),
        tables=run.tables,
        reference_tables={
            f"published{dataset_remark(run)}: {caption}": table.to_frame()
            for caption, table in experiment_of(run).published.items()
        },
        command=run.command,
        notes=f"{time}; results in {run.folder}",
    )


def dataset_remark(run: Summary) -> str:
    """Return the remark in captions of published figures for another data set than that of the run, or ""."""
    dataset, published_on = dataset_of(run), experiment_of(run).published_on
    if published_on in (None, dataset):
        return ""
    here = f"this run is on {dataset}" if dataset else "this run does not say on which data it is"
    named = {"cifar10": "CIFAR-10"}.get(published_on, published_on)
    return f" for {named} ({here}: compare trends over layers and families, not the figures themselves)"


def dataset_of(run: Summary) -> str | None:
    """Return the name of the data set in the configuration of a run folder."""
    try:
        config = runs.read_config(run.folder, run.experiment)
    except InputError:
        return None
    zoos = (config.get(key) for key in ("zoo", "generalizing"))  # experiments.memorize has two
    name = next((zoo for zoo in zoos if zoo), config).get("dataset")
    return Path(name).stem if name else None


if __name__ == "__main__":
    run_command(main, Settings)
