"""Collect the results of all runs under a folder into one page: report.html, which contains its figures, and report.md.

For each run: the conclusion, the figures, the tables, published figures where they exist, the command and the time
that it took. Nothing is computed; run experiments first.
"""

import dataclasses
import sys
from pathlib import Path

from experiments import pages, summary
from experiments.published import PUBLISHED, WITHOUT_DATA
from experiments.settings import run_command
from experiments.summary import SUMMARY, Summary
from symjax.errors import InputError
from symjax.ops import files, runs

# As the chapters of a paper follow each other; what is not listed comes last.
ORDER = "zoo stitch crossval lasso rotate dissect symmetry align dynamics freeze memorize classes".split()


@dataclasses.dataclass(frozen=True)
class Settings:
    runs: Path = Path("runs")
    """The folder under which run folders lie, at any depth."""
    out: Path = Path("runs", "report")
    """The folder of the page."""


def main(settings: Settings) -> None:
    summaries = collect(settings.runs)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {settings.out} cannot be a folder ({error.strerror})") from None
    sections = [section(run) for run in summaries]
    files.write_bytes(settings.out / "report.md", pages.markdown(TITLE, sections, settings.out).encode())
    files.write_bytes(settings.out / "report.html", pages.html(TITLE, sections).encode())
    for run in summaries:
        print(f"{run.experiment}: {run.title}\n  {run.conclusion}")
    print(f"\n{len(summaries)} runs in {settings.out / 'report.html'} and {settings.out / 'report.md'}")


TITLE = "Symmetries of networks and of their representations"


def collect(folder: Path) -> list[Summary]:
    """The summaries under a folder, in the order of `ORDER`; a damaged one is reported on stderr and left out."""
    if not folder.is_dir():
        raise InputError(f"runs: {folder} is no folder; run an experiment first, or name another with --runs")
    summaries = []
    for path in sorted(folder.rglob(SUMMARY)):
        try:
            summaries.append(summary.read(path.parent))
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not summaries:
        raise InputError(f"runs: no run under {folder} has a whole {SUMMARY}; run an experiment first")
    return sorted(summaries, key=lambda run: ORDER.index(run.experiment) if run.experiment in ORDER else len(ORDER))


def section(run: Summary) -> pages.Section:
    """A run's part of the page."""
    device, jax = run.versions.get("device", "an unknown device"), run.versions.get("jax", "?")
    time = f"{pages.duration(run.seconds)} in all its finished runs, on {device} with JAX {jax}"
    published = PUBLISHED.get(run.experiment, {})
    return pages.Section(
        title=f"{run.experiment}: {run.title}",
        text=run.conclusion,
        figures=tuple(Path(run.folder, f"{name}.png") for name in run.figures),
        tables=run.tables,
        reference_tables={f"published{unlike(run)}: {caption}": table for caption, table in published.items()},
        command=run.command,
        notes=f"{time}; results in {run.folder}",
    )


def unlike(run: Summary) -> str:
    """What is to be said before published figures, which are of another data set where a run is not on CIFAR-10."""
    dataset = dataset_of(run)
    if dataset == "cifar10" or run.experiment in WITHOUT_DATA:
        return ""
    here = f"this run is on {dataset}" if dataset else "this run does not say on which data it is"
    return f" for CIFAR-10 ({here}: compare how figures go with layers and families, not the figures themselves)"


def dataset_of(run: Summary) -> str | None:
    """The name of the data set that the configuration of a run folder has."""
    try:
        config = runs.read_config(run.folder, run.experiment)
    except InputError:
        return None
    zoos = (config.get(key) for key in ("zoo", "generalizing"))  # experiments.memorize has two
    name = next((zoo for zoo in zoos if zoo), config).get("dataset")
    return Path(name).stem if name else None


if __name__ == "__main__":
    run_command(main, Settings)
