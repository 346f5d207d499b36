"""The folder of a run: where it is, whose it is, and how good the networks are that it looks at."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from symjax import zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import files, hosts, runs
from symjax.ops.result_table import ResultTable, Schema
from symjax.training import log_likelihood_scores, percent

ACCURACY = Schema("accuracy", {"seed": int}, ("accuracy",), recomputable=True)
ACCURACY_B = dataclasses.replace(ACCURACY, name="accuracy_b")  # of the second zoo, where there is one


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that belongs to one configuration of one command."""

    kind: str
    path: Path
    document: dict[str, Any]

    def open(self) -> AbstractContextManager[Path]:
        """Holds the folder, see `runs.open_folder`."""
        return runs.open_folder(self.path, self.kind, self.document)


def run_folder(
    kind: str,
    name: str,
    document: Mapping[str, Any],
    dataset: Dataset,
    out: Path | None,
    part_folder: Callable[[Path], Path] = lambda folder: folder,
) -> RunFolder:
    """The folder `out`, or one under runs/ that is named by the settings; nothing is made yet.

    Args:
      kind: the command.
      name: what the folder's name begins with.
      document: all that the results depend on, but for keys of their rows. A digest of the test images is added:
        the zoo's own covers training and validation alone.
      dataset: the images.
      out: what the user says.
      part_folder: from that folder to the one of a task, see `sharing.SharedSettings`.

    Raises:
      InputError: there is a folder already, of another configuration, or none can be made. So it is known before
        anything is trained.
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in (dataset.test.images, dataset.test.labels):
        digest.update(np.ascontiguousarray(array).data)
    document = {**document, "test_digest": digest.hexdigest()}
    path = part_folder(out or Path("runs", kind, f"{name}-{files.fingerprint(document)}"))

    def fault() -> str | None:
        try:
            runs.check_folder(path, kind, document)
        except InputError as error:
            return str(error)

    if message := hosts.from_first(f"{path} is free", fault):
        raise InputError(message)
    return RunFolder(kind, path, document)


def test_percent(members: zoo.Zoo, dataset: Dataset, limit: float | None = None) -> np.ndarray:
    """Test accuracy of each member, in percent; `limit` is in bytes of a device, as of `zoo.evaluate`."""
    return percent(zoo.test_accuracy(members, dataset, max_device_memory=limit), dataset.test.labels.size)


def test_perplexity(members: zoo.Zoo, dataset: Dataset, limit: float | None = None) -> np.ndarray:
    """exp of the mean cross-entropy on the test part, of each member."""
    options = {"metric": log_likelihood_scores, "max_device_memory": limit}
    scores = zoo.evaluate(members.network, members.members, dataset.test, dataset.mean, dataset.std, **options)
    return np.exp(-np.float64(scores))


test_percent.__test__ = test_perplexity.__test__ = (
    False  # pytest collects what is called test_* wherever it is imported
)


def diverged(members: zoo.Zoo, accuracy: Sequence[float]) -> str:
    """The seeds of members whose weights, or else logits, behind their `accuracy`, are not finite; as "1, 3"."""
    lost = {*members.not_finite, *(seed for seed, a in zip(members.seeds, accuracy, strict=True) if np.isnan(a))}
    return ", ".join(str(seed) for seed in sorted(lost))


def clean_accuracy(
    folder: Path, members: zoo.Zoo, dataset: Dataset, limit: float | None = None, schema: Schema = ACCURACY
) -> np.ndarray:
    """Return `test_percent` of each member; it is read from the folder's table where the table has it."""
    table, seeds = ResultTable(folder, schema), pd.DataFrame({"seed": members.seeds})
    if len(table.missing(seeds)):
        table.add(seeds.assign(accuracy=test_percent(members, dataset, limit)))
    return table.select(seeds).accuracy.to_numpy()
