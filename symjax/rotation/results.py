"""The folder of a rotation run: tables of results and of learning curves, and the models' fingerprints.

    results.csv       a row for each model, layer, member, kind and repeat: accuracies and penalties in percent
    curves.csv        loss and accuracies (percent) of each epoch
    structures.json   the fingerprint of each model's code
    parts/            the tables by model, layer and member, see `symjax.result_table`

A part is written when its retraining is done, its rows of results.csv last: where a row exists, the rest does.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from symjax import hosts, runs
from symjax.errors import InputError
from symjax.result_table import ResultTable, Schema
from symjax.rotation.plan import Case, Found

KEY = {"model": str, "layer": str, "seed": int, "kind": str, "repeat": int}
PART = ("model", "layer", "seed")
ROWS = Schema("results", KEY, ("accuracy", "baseline", "penalty", "val_accuracy", "loss"), PART)
CURVES = Schema("curves", {**KEY, "epoch": int}, ("loss", "accuracy", "val_accuracy"), PART)
STRUCTURES = "structures.json"

Unit = tuple[str, str, int, list[Case]]  # model, layer, seed, and matrices


class RotationResults:
    """The contents of the folder of a rotation run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._rows, self._curves = ResultTable(folder, ROWS), ResultTable(folder, CURVES)

    def structures(self) -> dict[str, str]:
        """Of each model that has rows the fingerprint of its structure (`symjax.models.structure`)."""
        path = self.folder / STRUCTURES
        return runs.read_json(path) if path.exists() else {}

    def check(self, structures: Mapping[str, str]) -> None:
        """An InputError where there are rows of these models with another structure."""
        there = self.structures()
        if changed := [name for name in structures if there.get(name, structures[name]) != structures[name]]:
            raise InputError(
                f"folder: {self.folder} has rows of another structure of {', '.join(changed)}: {runs.STRUCTURE}; "
                "take another folder (--out), or delete this one"
            )

    def keep(self, structures: Mapping[str, str]) -> None:
        """Keeps the structures of models that are to have rows; an InputError as of `check`."""
        self.check(structures)
        if hosts.is_first():
            runs.write_json(self.folder / STRUCTURES, {**self.structures(), **structures})

    def missing(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units that lack rows, each with the cases that it lacks."""
        keys = [(*unit, *case) for *unit, cases in units for case in cases]
        missing: dict[tuple, list[Case]] = {}
        for *unit, kind, repeat in self._rows.missing(pd.DataFrame(keys, columns=list(KEY))).itertuples(index=False):
            missing.setdefault(tuple(unit), []).append(Case(kind, repeat))
        return [(*unit, cases) for unit, cases in missing.items()]

    def add(self, model: str, seed: int, baseline: float, results: Sequence[Found]) -> None:
        """Write the results of retraining; `baseline` is the member's own test accuracy in percent."""
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
        """Write results.csv and curves.csv from the parts; of several processes the first alone."""
        self._rows.assemble()
        self._curves.assemble()

    def table(self, models, layers, seeds, cases) -> pd.DataFrame:
        """Return the rows of these models, layers, members and cases, in their order."""
        return self._rows.select(_requested(models, layers, seeds, cases))

    def curves(self, models, layers, seeds, cases) -> pd.DataFrame:
        """Return the learning curves of these, in their order."""
        return self._curves.select(_requested(models, layers, seeds, cases))

    def merge(self, folders: Sequence[Path]) -> int:
        """Write the results of all `folders`, among which this one is; return how many rows there are."""
        for folder in folders:
            self.keep(RotationResults(folder).structures())
        rows = pd.concat([ResultTable(folder, ROWS).rows() for folder in folders], ignore_index=True)
        self._curves.merge(folders, details_of=rows)
        return self._rows.merge(folders)


def _requested(models, layers, seeds, cases: Iterable[Case]) -> pd.DataFrame:
    """The keys of the rows of these, by model, layer, kind, member and repeat."""
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
    """conv1, conv2, ...."""
    return f"conv{point + 1}"
