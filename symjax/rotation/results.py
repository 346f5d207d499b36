"""A rotation run's folder: a table row per model, layer, member, kind and repeat, and learning curves.

    results.csv       accuracies and penalties in percent
    curves.csv        loss and accuracies (percent) per epoch
    structures.json   of each model the fingerprint of its code
    parts/            what both tables are assembled from, one pair of files per model, layer and member (and per
                      process, where several share its matrices out among them)

A part is written when its retraining is done, curves first: a row is there when all that belongs to it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from symjax import hosts, runs
from symjax.errors import InputError
from symjax.rotation.plan import Case, Found

WHERE = ["model", "layer", "seed"]
KEY = [*WHERE, "kind", "repeat"]
COLUMNS = (*KEY, "accuracy", "baseline", "penalty", "val_accuracy", "loss")
CURVES = (*KEY, "epoch", "loss", "accuracy", "val_accuracy")


STRUCTURES = "structures.json"


class Results:
    """What a rotation folder holds."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

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

    def missing(self, model: str, layer: str, seed: int, cases: Iterable[Case]) -> list[Case]:
        """Those of the cases that have no row."""
        rows = self._all("rows", COLUMNS, name=f"{model}.{layer}.{seed}")
        there = set(rows[["kind", "repeat"]].itertuples(index=False, name=None))
        return [case for case in cases if tuple(case) not in there]

    def add(self, model: str, seed: int, baseline: float, found: Sequence[Found]) -> None:
        """Adds what retraining gave; `baseline` is the member's own test accuracy in percent."""
        for point in dict.fromkeys(one.point for one in found):
            where = {"model": model, "layer": layer_name(point), "seed": seed}
            self._add(where, baseline, [one for one in found if one.point == point])
        self.assemble()

    def _add(self, where: dict, baseline: float, found: Sequence[Found]) -> None:
        """Of one layer."""
        rows, curves = [], []
        for one in found:
            key = {**where, **one.case._asdict()}
            rows.append(
                {
                    **key,
                    "accuracy": one.accuracy,
                    "baseline": baseline,
                    "penalty": baseline - one.accuracy,
                    "val_accuracy": one.val_accuracy,
                    "loss": one.history[-1]["loss"],
                }
            )
            curves += [{**key, **epoch} for epoch in one.history]
        self._merge(self._part(**where, kind="curves"), pd.DataFrame(curves), CURVES, [*KEY, "epoch"])
        self._merge(self._part(**where, kind="rows"), pd.DataFrame(rows), COLUMNS, KEY)

    def assemble(self) -> None:
        """Writes results.csv and curves.csv from the parts; of several processes the first alone."""
        if not hosts.is_first():
            return
        for name, kind, columns in (("results", "rows", COLUMNS), ("curves", "curves", CURVES)):
            # In an order that does not depend on which process computed what.
            rows = self._all(kind, columns).sort_values([*KEY, "epoch"] if kind == "curves" else KEY)
            runs.write_csv(self.folder / f"{name}.csv", rows)

    def table(self, models, layers, seeds, cases) -> pd.DataFrame:
        """The rows of these models, layers, members and cases, in their order."""
        return self._chosen(self._all("rows", COLUMNS), models, layers, seeds, cases)

    def curves(self, models, layers, seeds, cases) -> pd.DataFrame:
        """The learning curves of these, in their order."""
        return self._chosen(self._all("curves", CURVES), models, layers, seeds, cases)

    @staticmethod
    def _chosen(rows, models, layers, seeds, cases) -> pd.DataFrame:
        kinds = list(dict.fromkeys(case.kind for case in cases))
        orders = {"model": list(models), "layer": list(layers), "kind": kinds, "seed": list(seeds)}
        chosen = pd.MultiIndex.from_frame(rows[["kind", "repeat"]]).isin([tuple(case) for case in cases])
        for column, order in orders.items():
            chosen &= rows[column].isin(order)
        by = lambda column: column.map(orders[column.name].index) if column.name in orders else column  # noqa: E731
        return rows[chosen].sort_values([*orders, "repeat"], key=by, kind="stable").reset_index(drop=True)

    def _part(self, model: str, layer: str, seed: int, kind: str) -> Path:
        return self.folder / "parts" / f"{hosts.own_name(f'{model}.{layer}.{seed}')}.{kind}.csv"

    def _all(self, kind: str, columns, name: str = "*") -> pd.DataFrame:
        parts = self.folder / "parts"
        paths = sorted({*parts.glob(f"{name}.{kind}.csv"), *parts.glob(f"{name}+*.{kind}.csv")})
        if not paths:
            return pd.DataFrame(columns=list(columns))
        key = [column for column in (*KEY, "epoch") if column in columns]
        # Of a process that was stopped between curves and rows, another has written the curves once more.
        return pd.concat([runs.read_csv(path, columns) for path in paths]).drop_duplicates(key, ignore_index=True)

    def _merge(self, path: Path, frame: pd.DataFrame, columns, key: list[str]) -> None:
        frame = frame[list(columns)]
        runs.make_folder(path.parent)
        if path.exists():
            frame = pd.concat([runs.read_csv(path, columns), frame]).drop_duplicates(key, keep="last")
        runs.write_csv(path, frame)


def layer_name(point: int) -> str:
    """conv1, conv2, ...."""
    return f"conv{point + 1}"
