"""The folder of a rotation run: tables of results and of learning curves, and fingerprints of the models.

    results.csv       one row per model, layer, member, kind and repeat: accuracies and penalties in percent
    curves.csv        loss and accuracies (percent) of each epoch
    structures.json   the fingerprint of the code of each model
    parts/            the tables by model, layer and member, see `symjax.ops.result_table`

A part is written when its retraining is complete. Its rows of results.csv are written last, so that a row implies that
its curves exist.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from symjax.errors import InputError
from symjax.ops import files, hosts, runs
from symjax.ops.result_table import ResultTable, Schema
from symjax.rotation.plan import CaseResult, RotationCase

KEY = {"model": str, "layer": str, "seed": int, "kind": str, "repeat": int}
PART = ("model", "layer", "seed")
ROWS = Schema("results", KEY, ("accuracy", "baseline", "penalty", "val_accuracy", "loss"), PART)
CURVES = Schema("curves", {**KEY, "epoch": int}, ("loss", "accuracy", "val_accuracy"), PART)
STRUCTURES = "structures.json"

Unit = tuple[str, str, int, list[RotationCase]]  # model, layer, seed, cases


class RotationResults:
    """The results in the folder of a rotation run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._rows, self._curves = ResultTable(folder, ROWS), ResultTable(folder, CURVES)

    def structures(self) -> dict[str, str]:
        """Return the fingerprint of the structure of each model that has rows (`symjax.network.structure`)."""
        path = self.folder / STRUCTURES
        return files.read_json(path) if path.exists() else {}

    def check_structures(self, structures: Mapping[str, str]) -> None:
        """Raise an InputError if existing rows of these models are of another structure."""
        existing = self.structures()
        if changed := [name for name in structures if existing.get(name, structures[name]) != structures[name]]:
            raise InputError(
                f"folder: {self.folder} has rows of another structure of {', '.join(changed)}: {runs.STRUCTURE}; "
                "use another folder (--out), or delete this one"
            )

    def add_structures(self, structures: Mapping[str, str]) -> None:
        """Write the structures of models whose rows will be added; raise an InputError as `check_structures` does."""
        self.check_structures(structures)
        if hosts.is_first():
            files.write_json(self.folder / STRUCTURES, {**self.structures(), **structures})

    def missing(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units with missing rows, each with its missing cases."""
        keys = [(*unit, *case) for *unit, cases in units for case in cases]
        missing: dict[tuple, list[RotationCase]] = {}
        for *unit, kind, repeat in self._rows.missing(pd.DataFrame(keys, columns=list(KEY))).itertuples(index=False):
            missing.setdefault(tuple(unit), []).append(RotationCase(kind, repeat))
        return [(*unit, cases) for unit, cases in missing.items()]

    def add(self, model: str, seed: int, baseline: float, results: Sequence[CaseResult]) -> None:
        """Write results of retraining; `baseline` is the test accuracy of the member itself in percent."""
        rows, curves = [], []
        for result in results:
            key = {"model": model, "layer": layer_name(result.point), "seed": seed, **result.case._asdict()}
            accuracies = {"accuracy": result.accuracy, "baseline": baseline, "penalty": baseline - result.accuracy}
            rows.append({**key, **accuracies, "val_accuracy": result.val_accuracy, "loss": result.history[-1]["loss"]})
            curves += [{**key, **epoch} for epoch in result.history]
        self._curves.add(pd.DataFrame(curves)[list(CURVES.required)])
        self._rows.add(pd.DataFrame(rows))
        self.assemble()

    def assemble(self) -> None:
        """Write results.csv and curves.csv from the parts, in the first process only."""
        self._rows.assemble()
        self._curves.assemble()

    def table(self, models, layers, seeds, cases) -> pd.DataFrame:
        """Return the rows of these models, layers, members and cases, in their order."""
        return self._rows.select(_requested(models, layers, seeds, cases))

    def curves(self, models, layers, seeds, cases) -> pd.DataFrame:
        """Return the learning curves of these models, layers, members and cases, in their order."""
        return self._curves.select(_requested(models, layers, seeds, cases))

    def merge(self, folders: Sequence[Path]) -> int:
        """Write the results of all `folders`, which include this one; return the number of rows."""
        for folder in folders:
            self.add_structures(RotationResults(folder).structures())
        self._curves.merge(folders, details_of=ROWS)
        return self._rows.merge(folders)


def _requested(models, layers, seeds, cases: Iterable[RotationCase]) -> pd.DataFrame:
    """Return the keys of rows, sorted by model, layer, kind, member and repeat."""
    kinds: dict[str, list[int]] = {}
    for case in cases:
        kinds.setdefault(case.kind, []).append(case.repeat)
    keys = [
        (model, layer, seed, kind, repeat)
        for model in models
        for layer in layers
        for kind, repeats in kinds.items()
        for seed in seeds
        for repeat in repeats
    ]
    return pd.DataFrame(keys, columns=list(KEY))


def layer_name(point: int) -> str:
    """Return the name of a point in tables: conv1, conv2, ...."""
    return f"conv{point + 1}"
