"""Run folders of commands, and the accuracy of the networks of a run."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.defaults import optional
from experiments.settings import ZooSettings, zoo_folder
from symjax import zoo
from symjax.data import Dataset
from symjax.data.describe import digest
from symjax.errors import InputError
from symjax.ops import files, hosts, runs
from symjax.ops.result_table import ResultTable, Schema
from symjax.training import log_likelihood_scores, percent
from symjax.zoo import Group, Zoo

ACCURACY = Schema("accuracy", {"seed": int}, ("accuracy",), recomputable=True)
ACCURACY_B = dataclasses.replace(ACCURACY, name="accuracy_b")  # of the second zoo, if there is one


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder for the results of one command with one configuration."""

    kind: str
    path: Path
    document: dict[str, Any]

    def open(self) -> AbstractContextManager[Path]:
        """Lock the folder, see `runs.open_folder`."""
        return runs.open_folder(self.path, self.kind, self.document)


def run_folder(
    kind: str,
    name: str,
    document: Mapping[str, Any],
    dataset: Dataset,
    out: Path | None,
    part_folder: Callable[[Path], Path] = lambda folder: folder,
) -> RunFolder:
    """Return the run folder: `out`, or one under runs/ that is named by the settings. It is not created yet.

    It is checked here, so that an unsuitable folder is reported before anything is trained.

    Args:
      kind: name of the command.
      name: prefix of the name of the default folder.
      document: everything that the results depend on, except the keys of their rows. A digest of the test images is
        added, because the digest of the zoo covers training and validation images only.
      dataset: the images.
      out: the folder that the user has chosen, or None.
      part_folder: returns the folder of a task for this folder, see `sharing.SharedSettings`.

    Raises:
      InputError: the folder belongs to another configuration or cannot be created.
    """
    document = {**document, "test_digest": digest(dataset.test.images, dataset.test.labels)}
    path = part_folder(out or Path("runs", kind, f"{name}-{files.fingerprint(document)}"))

    def error_message() -> str | None:
        try:
            runs.check_folder(path, kind, document)
        except InputError as error:
            return str(error)

    if message := hosts.from_first(f"{path} is suitable", error_message):
        raise InputError(message)
    return RunFolder(kind, path, document)


@dataclasses.dataclass(frozen=True)
class RunSettings(ZooSettings):
    """Settings of a command on the members of one zoo."""

    zoo: Annotated[Path | None, optional("DIR", "as for python -m experiments.zoo")] = None
    """Folder of the zoo; missing members are trained."""
    out: Annotated[Path | None, optional("DIR", "under runs/, named by the command and the settings")] = None
    """Folder of the results."""

    def zoo_path(self) -> Path:
        """Return the folder of the zoo."""
        return self.zoo or zoo_folder(self.zoo_config())

    @contextlib.contextmanager
    def run(
        self,
        kind: str,
        dataset: Dataset,
        document: Mapping[str, Any],
        phases: Callable[[Path], Sequence[dry_run.Phase]],
        *,
        seeds: Sequence[int] | None = None,
        keep: Collection[int] = (),
    ) -> Iterator[tuple[Path, Zoo]]:
        """Call `run_on_zoos` for one zoo, by default with all its seeds; the value of `with` is (folder, zoo)."""
        config, path = self.zoo_config(), self.zoo_path()
        out = run_folder(kind, zoo_folder(config).name, document, dataset, self.out, self.part_folder)
        groups = {"members to train": Group(config, self.parse_seeds() if seeds is None else seeds, path)}
        with run_on_zoos(self, groups, dataset, out, phases, keep) as (folder, (trained,)):
            yield folder, trained


@contextlib.contextmanager
def run_on_zoos(
    settings: ZooSettings,
    groups: Mapping[str, Group],
    dataset: Dataset,
    out: RunFolder,
    phases: Callable[[Path], Sequence[dry_run.Phase]] = lambda folder: (),
    keep: Collection[int] = (),
) -> Iterator[tuple[Path, list[Zoo]]]:
    """Train missing members, and lock the run folder for a `with` statement, whose value is (folder, zoos).

    A dry run ends here.

    Args:
      settings: settings of the command.
      groups: the zoos, by the names of the phases of a dry run in which they are trained.
      dataset: the images.
      out: the run folder.
      phases: returns the phases after the training, given the run folder.
      keep: epochs of the snapshots of members.
    """

    def all_phases() -> list[dry_run.Phase]:
        options = {"limit": settings.memory_limit, "keep": keep}
        training = [dry_run.zoo_phase(g.config, dataset, *g[1:], name=name, **options) for name, g in groups.items()]
        return [*training, *phases(out.path)]

    dry_run.stop(settings, next(iter(groups.values())).config, dataset, out.path, all_phases)
    zoos = [settings.train_zoo(g.config, dataset, g.folder, seeds=g.seeds, keep=keep) for g in groups.values()]
    with out.open() as folder:
        yield folder, zoos


def test_percent(members: Zoo, dataset: Dataset, limit: float | None = None) -> np.ndarray:
    """Return the test accuracy of each member in percent; `limit` is the device memory in bytes (`zoo.evaluate`)."""
    return percent(zoo.test_accuracy(members, dataset, max_device_memory=limit), dataset.test.labels.size)


def test_perplexity(members: Zoo, dataset: Dataset, limit: float | None = None) -> np.ndarray:
    """Return exp of the mean cross-entropy on the test part, of each member."""
    options = {"metric": log_likelihood_scores, "max_device_memory": limit}
    scores = zoo.evaluate(members.network, members.members, dataset.test, dataset.mean, dataset.std, **options)
    return np.exp(-np.float64(scores))


for _function in (test_percent, test_perplexity):
    _function.__test__ = False  # pytest would collect it as a test by its name


def diverged(members: Zoo, accuracy: Sequence[float]) -> str:
    """Return the seeds of members with non-finite weights or a NaN accuracy, as in "1, 3"; empty if there are none."""
    seeds = {*members.not_finite, *(seed for seed, a in zip(members.seeds, accuracy, strict=True) if np.isnan(a))}
    return ", ".join(str(seed) for seed in sorted(seeds))


def clean_accuracy(
    folder: Path, members: Zoo, dataset: Dataset, limit: float | None = None, schema: Schema = ACCURACY
) -> np.ndarray:
    """Return `test_percent` of each member; it is computed only if the table in the folder lacks members."""
    table, seeds = ResultTable(folder, schema), pd.DataFrame({"seed": members.seeds})
    if len(table.missing(seeds)):
        table.add(seeds.assign(accuracy=test_percent(members, dataset, limit)))
    return table.select(seeds).accuracy.to_numpy()
