"""A stitch run's folder: one table row per pair, layer and family, learning curves, and the stitches themselves.

    results.csv        one row per pair x layer x family, accuracies and penalties in percent
    curves.csv         loss and accuracy (percent) per pair, layer, family and epoch
    stitches/3-5.npz   the stitches of the pair with front 3 and tail 5
    parts/             what results.csv and curves.csv are assembled from, pair by pair

A pair's files are written when the pair is done, stitches first; `results.csv` is assembled from them, so that it is
complete or as before. Rows have keys (pair, layer, family), and layer_b where a stitch leads to another point or
network: what is there is never computed again. Between different networks rows say which (network_a, network_b), and
how good either is (clean_accuracy_a, clean_accuracy_b; clean_accuracy is their mean).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax import hosts, runs
from symjax.checks import integers
from symjax.checks import path as checked_path
from symjax.errors import InputError
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Stitch
from symjax.stitching.sweep import PairResult
from symjax.summary import mean_and_deviation, with_both_layers

COLUMNS = (
    "pair",
    "model_a",
    "model_b",
    "layer",
    "layer_index",
    "starred",
    "family",
    "hyperparameter",
    "start",
    "learning_rate",
    "clean_accuracy",
    "stitched_accuracy",
    "penalty",
    "val_accuracy",
    "sparsity",
)
# Columns where B's point or network is not A's; the last four, of different networks alone.
BETWEEN = ("layer_b", "resize", "network_a", "network_b", "clean_accuracy_a", "clean_accuracy_b")
KEY = ["pair", "layer", "family"]
FACTORS = ("left", "right")  # arrays of a stitch of low rank beside its matrix, which is their product


def pair_name(pair: tuple[int, int]) -> str:
    """How a pair is named: front-tail."""
    return f"{pair[0]}-{pair[1]}"


MISSED = 1e-3  # a residual from which on a projection counts as failed; those of good ones are under 1e-4


def trouble(curves: pd.DataFrame, where: str = "curves.csv") -> str:
    """A sentence on what went wrong numerically in training, by rows of curves.csv; empty if nothing did."""
    told, key = [], ["pair", "layer", "layer_b", "family", "learning_rate"]
    curves = curves.reindex(columns=[*key, "loss", "residual"])  # no families that train: no columns
    for what, wrong in (
        ("the loss was not finite", ~np.isfinite(curves.loss.astype(float))),
        (f"the projection missed its constraint by more than {MISSED:g}", curves.residual > MISSED),
    ):
        if len(rows := curves[wrong]):
            stitches = dict.fromkeys(f"{row.family} at {row.layer}" for row in with_both_layers(rows).itertuples())
            count = len(rows[key].drop_duplicates())
            told.append(f"in {count} stitch{'es' * (count > 1)} {what} ({', '.join(stitches)})")
    return f"Beware: {'; '.join(told)}; see {where}." if told else ""


class Results:
    """What a stitch folder holds."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def record(self, **settings: Any) -> None:
        """Keeps in config.json what was asked for last, which is no part of the configuration."""
        document = runs.read_json(self.folder / runs.CONFIG)
        request = {key: list(value) for key, value in settings.items()}
        runs.write_json(self.folder / runs.CONFIG, {**document, "request": request})

    def rows(self) -> pd.DataFrame:
        """All rows there are."""
        frames = [runs.read_csv(path, COLUMNS) for path in sorted((self.folder / "parts").glob("*.rows.csv"))]
        if not frames:
            return pd.DataFrame(columns=list(COLUMNS))
        return _with_layer_b(pd.concat(frames, ignore_index=True))

    def curves(self, pairs=None, plan: Plan | None = None) -> pd.DataFrame:
        """All learning curves there are, or those of these pairs and of the plan's layers and families."""
        frames = [runs.read_csv(path) for path in sorted((self.folder / "parts").glob("*.curves.csv"))]
        if not frames:
            return pd.DataFrame()
        curves = _with_layer_b(pd.concat(frames, ignore_index=True))
        return curves if plan is None else self._of_plan(curves, pairs, plan)

    def missing(self, pairs: Iterable[tuple[int, int]], plan: Plan) -> dict[Plan, list[tuple[int, int]]]:
        """The wanted rows that are not there, and no others: plans with fewer points and families, and their pairs."""
        rows = self.rows()
        existing = set(zip(*(rows[name] for name in KEY), _layer_b(rows), strict=True))
        found: dict[Plan, list[tuple[int, int]]] = {}
        for pair in pairs:
            families: dict[tuple[int, ...], list] = {}
            for family in plan.families:
                points = tuple(
                    point
                    for point, at in zip(plan.points, plan.junctions, strict=True)
                    if (pair_name(pair), at.front.name, family.label, at.tail.name) not in existing
                )
                if points:
                    families.setdefault(points, []).append(family)
            for points, theirs in families.items():
                found.setdefault(replace(plan, points=points, families=tuple(theirs)), []).append(pair)
        return found

    def add(
        self,
        result: PairResult,
        clean: dict[int, float],
        clean_b: dict[int, float] | None = None,
        networks: tuple[str, str] | None = None,
    ) -> None:
        """Adds a pair's results to the folder; rows with the same key take the place of older ones.

        Args:
          result: of the pair.
          clean: seed to accuracy, of members without a stitch.
          clean_b: likewise of tails, where they are of another network.
          networks: how the networks of fronts and of tails are called then.
        """
        for name in ("parts", "stitches"):
            runs.make_folder(self.folder / name)
        a, b = result.pair
        accuracies = {"clean_accuracy_a": clean[a], "clean_accuracy_b": (clean_b or clean)[b]}
        name, clean_accuracy = pair_name(result.pair), float(np.mean(list(accuracies.values())))
        between = {} if networks is None else {**dict(zip(BETWEEN[2:4], networks, strict=True)), **accuracies}
        rows = pd.DataFrame(
            {
                **row,
                "pair": name,
                "model_a": a,
                "model_b": b,
                "clean_accuracy": clean_accuracy,
                "penalty": clean_accuracy - row["stitched_accuracy"],
                **between,
            }
            for row in result.rows
        )
        rows = rows[[*COLUMNS, *(name for name in BETWEEN if name in rows)]]
        path = self.folder / "stitches" / f"{name}.npz"
        arrays = runs.read_npz(path) if path.exists() else {}
        for key, (stitch, stats) in result.stitches.items():
            prefix = f"{'/'.join(key)}/"
            arrays = {key: value for key, value in arrays.items() if not key.startswith(prefix)}
            arrays |= {f"{prefix}matrix": stitch.matrix, f"{prefix}bias": stitch.bias}
            if stitch.factors is not None:
                arrays |= {f"{prefix}{name}": a for name, a in zip(FACTORS, stitch.factors, strict=True)}
            arrays |= {f"{prefix}stats/{key}": value for key, value in flatten(stats).items()}
        runs.write_npz(path, arrays)
        curves = pd.DataFrame({"pair": name, **row} for row in result.curves)
        self._merge(f"{name}.curves.csv", curves, ["pair", "layer", "family", "learning_rate", "epoch"])
        self._merge(f"{name}.rows.csv", rows, KEY)
        self.assemble()

    def _merge(self, name: str, frame: pd.DataFrame, key: list[str]) -> None:
        path = self.folder / "parts" / name
        if frame.empty:
            return
        if path.exists():
            frame = _with_layer_b(pd.concat([runs.read_csv(path), frame]))
            frame = frame.drop_duplicates([*key, *frame.columns.intersection(["layer_b"])], keep="last")
        runs.write_csv(path, frame)

    def assemble(self) -> None:
        """Writes results.csv and curves.csv from the pairs' parts; of several processes the first alone."""
        if not hosts.is_first():
            return
        order = ["model_a", "model_b", "layer_index"]
        runs.write_csv(self.folder / "results.csv", self.rows().sort_values(order, kind="stable"))
        curves = self.curves()
        if not curves.empty:
            runs.write_csv(self.folder / "curves.csv", curves)

    def table(self, pairs, plan) -> pd.DataFrame:
        """The rows of these pairs and of the plan's layers and families, in the plan's order."""
        return self._of_plan(self.rows(), pairs, plan)

    @staticmethod
    def _of_plan(table: pd.DataFrame, pairs, plan: Plan) -> pd.DataFrame:
        """The rows of these pairs and of the plan's layers and families; by layer and family, in the plan's order."""
        points = {(at.front.name, at.tail.name): (at.a, at.b) for at in plan.junctions}
        labels, names = [family.label for family in plan.families], {pair_name(pair) for pair in pairs}
        rows = list(zip(table.pair, zip(table.layer, _layer_b(table), strict=True), table.family, strict=True))
        chosen = [i for i, (pair, at, family) in enumerate(rows) if pair in names and at in points and family in labels]
        order = sorted(chosen, key=lambda i: (points[rows[i][1]], labels.index(rows[i][2])))
        return table.iloc[order].reset_index(drop=True)

    @staticmethod
    def summary(table: pd.DataFrame) -> pd.DataFrame:
        """Families down, layers across: mean and standard deviation (n - 1) of the penalty over pairs."""
        table = with_both_layers(table)
        grouped = table.groupby(["family", "layer"], sort=False).penalty
        text = mean_and_deviation(grouped, 1).unstack("layer")
        return text[list(table.layer.unique())].loc[list(table.family.unique())]


def _layer_b(table: pd.DataFrame) -> pd.Series:
    """The layer of B in each row, which is that of A where the table names none."""
    return table.layer_b.fillna(table.layer) if "layer_b" in table else table.layer


def _with_layer_b(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `layer_b` in every row, where it is in one."""
    return table.assign(layer_b=_layer_b(table)) if "layer_b" in table else table


def load_stitch(
    folder: str | Path, pair: tuple[int, int], layer: str, family: str, like: Any, *, layer_b: str | None = None
) -> tuple[Stitch, Any]:
    """A saved stitch and the batch-norm statistics of its tail, for `evaluate_stitch`.

    Args:
      folder: of the run.
      like: the statistics of the tail's own member, for their structure.
      pair: seeds of front and tail.
      layer, family, layer_b: as in results.csv.

    Raises:
      InputError: for a stitch that is not there, or a broken file.
    """
    if len(integers("pair", pair)) != 2:
        raise InputError(f"pair: got {pair}, wanted the seeds of front and tail")
    path = checked_path("folder", folder) / "stitches" / f"{pair_name(pair)}.npz"
    arrays, prefix = runs.read_npz(path), f"{layer}/{f'{layer_b}/' if layer_b not in (None, layer) else ''}{family}/"
    found = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if "matrix" not in found:
        known = sorted({key.rpartition("/matrix")[0] for key in arrays if key.endswith("/matrix")})
        raise InputError(f"layer, family: {path} has no {prefix[:-1]}; it has {', '.join(known)}")
    stats = {key.removeprefix("stats/"): value for key, value in found.items() if key.startswith("stats/")}
    factors = tuple(found[name] for name in FACTORS) if FACTORS[0] in found else None
    return Stitch(found["matrix"], found["bias"], factors), unflatten(stats, like)


def flatten(stats: Any) -> dict[str, np.ndarray]:
    """The leaves of a statistics pytree by their paths, such as [1]['norm']['mean']."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(stats)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """The inverse of `flatten`, given a pytree of the same structure (the tail's own statistics)."""
    if set(leaves) != set(flatten(like)):
        raise InputError("stats: the saved statistics belong to another model")
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[jax.tree_util.keystr(path)], like)
