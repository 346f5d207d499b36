"""The folder of a stitching run: tables of results and of learning curves, and the stitches themselves.

    results.csv        a row for each pair, layer and family: accuracies and penalties in percent
    curves.csv         loss and accuracy (percent) for each pair, layer, family and epoch
    stitches/3-5.npz   the stitches of the pair with front 3 and tail 5
    parts/             the tables pair by pair, see `symjax.result_table`

A pair's files are written when the pair is done, its rows of results.csv last: where a row exists, the rest does.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax import runs
from symjax.checks import integers
from symjax.checks import path as checked_path
from symjax.errors import InputError
from symjax.result_table import ResultTable, Schema
from symjax.stitching.fit import Plan
from symjax.stitching.stitched import Stitch
from symjax.stitching.sweep import PairResult
from symjax.summary import mean_and_deviation, with_both_layers

KEY = {"pair": str, "layer": str, "layer_b": str, "family": str}
COLUMNS = (
    "model_a",
    "model_b",
    "layer_index",
    "starred",
    "hyperparameter",
    "start",
    "learning_rate",
    "clean_accuracy",
    "stitched_accuracy",
    "penalty",
    "val_accuracy",
    "sparsity",
)
ROWS = Schema("results", KEY, COLUMNS, part=("pair",), order=("model_a", "model_b", "layer_index"))
CURVES = Schema("curves", {**KEY, "learning_rate": float, "epoch": int}, ("loss", "accuracy"), part=("pair",))
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


class StitchResults:
    """The contents of the folder of a stitching run."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._rows, self._curves = ResultTable(folder, ROWS), ResultTable(folder, CURVES)

    def record(self, **settings: Any) -> None:
        """Write the last request, which is no part of the configuration, into config.json."""
        document = runs.read_json(self.folder / runs.CONFIG)
        request = {key: list(value) for key, value in settings.items()}
        runs.write_json(self.folder / runs.CONFIG, {**document, "request": request})

    def missing(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> dict[Plan, list[tuple[int, int]]]:
        """Return plans of exactly what has no row, with fewer points and families than `plan`, and their pairs."""
        missing = set(self._rows.missing(_requested(pairs, plan)).itertuples(index=False, name=None))
        plans: dict[Plan, list[tuple[int, int]]] = {}
        for pair in pairs:
            families: dict[tuple, list] = {}
            for family in plan.families:
                points = tuple(
                    point
                    for point, at in zip(plan.points, plan.junctions, strict=True)
                    if (pair_name(pair), at.front.name, at.tail.name, family.label) in missing
                )
                if points:
                    families.setdefault(points, []).append(family)
            for points, of_points in families.items():
                plans.setdefault(replace(plan, points=points, families=tuple(of_points)), []).append(pair)
        return plans

    def add(
        self,
        result: PairResult,
        clean: dict[int, float],
        clean_b: dict[int, float] | None = None,
        networks: tuple[str, str] | None = None,
    ) -> None:
        """Write a pair's results; they replace older ones of the same layers and families.

        Args:
          result: of the pair.
          clean: accuracies of members without a stitch, by seed.
          clean_b: likewise of tails, where they are of another network.
          networks: the names of the networks of fronts and of tails in that case.
        """
        a, b = result.pair
        clean_a, clean_b = clean[a], (clean_b or clean)[b]
        pair = {"pair": pair_name(result.pair), "model_a": a, "model_b": b}
        pair["clean_accuracy"] = float(np.mean([clean_a, clean_b]))
        between = {}
        if networks is not None:
            between = dict(zip(("network_a", "network_b"), networks, strict=True))
            between |= {"clean_accuracy_a": clean_a, "clean_accuracy_b": clean_b}
        rows = _with_layer_b(
            {**pair, **row, "penalty": pair["clean_accuracy"] - row["stitched_accuracy"], **between}
            for row in result.rows
        )
        self._write_stitches(result)
        if result.curves:
            self._curves.add(_with_layer_b({"pair": pair["pair"], **row} for row in result.curves))
        self._rows.add(rows)
        self.assemble()

    def _write_stitches(self, result: PairResult) -> None:
        runs.make_folder(self.folder / "stitches")
        path = self.folder / "stitches" / f"{pair_name(result.pair)}.npz"
        arrays = runs.read_npz(path) if path.exists() else {}
        for key, (stitch, stats) in result.stitches.items():
            prefix = f"{'/'.join(key)}/"
            arrays = {key: value for key, value in arrays.items() if not key.startswith(prefix)}
            arrays |= {f"{prefix}matrix": stitch.matrix, f"{prefix}bias": stitch.bias}
            if stitch.factors is not None:
                arrays |= {f"{prefix}{name}": a for name, a in zip(FACTORS, stitch.factors, strict=True)}
            arrays |= {f"{prefix}stats/{key}": value for key, value in flatten(stats).items()}
        runs.write_npz(path, arrays)

    def assemble(self) -> None:
        """Write results.csv and curves.csv from the pairs' parts; of several processes the first alone."""
        self._rows.assemble()
        self._curves.assemble()

    def table(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> pd.DataFrame:
        """Return the rows of these pairs and of the plan's layers and families, in the plan's order."""
        return self._rows.select(_requested(pairs, plan))

    def curves(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> pd.DataFrame:
        """Return the learning curves of these pairs and of the plan's layers and families, in the plan's order."""
        return self._curves.select(_requested(pairs, plan))

    def merge(self, folders: Sequence[Path]) -> int:
        """Write the results of all `folders`, among which this one is; return how many rows there are.

        Raises:
          InputError: two folders have different results of one pair, layer and family.
        """
        tables = {folder: ResultTable(folder, ROWS).rows() for folder in folders}
        pairs = sorted(set(itertools.chain.from_iterable(rows.pair for rows in tables.values())))
        runs.make_folder(self.folder / "stitches")
        for pair in pairs:
            prefixes = {f: tuple(_prefix(*key) for key in _keys(rows, pair)) for f, rows in tables.items()}
            _merge_arrays(f"stitches/{pair}.npz", {f: names for f, names in prefixes.items() if names}, self.folder)
        self._curves.merge(folders, details_of=pd.concat(tables.values(), ignore_index=True))
        return self._rows.merge(folders)

    @staticmethod
    def summary(table: pd.DataFrame) -> pd.DataFrame:
        """Return mean and standard deviation (n - 1) of the penalty over pairs, families down, layers across."""
        table = with_both_layers(table)
        grouped = table.groupby(["family", "layer"], sort=False).penalty
        text = mean_and_deviation(grouped, 1).unstack("layer")
        return text[list(table.layer.unique())].loc[list(table.family.unique())]


def _with_layer_b(rows: Iterable[dict]) -> pd.DataFrame:
    """A table whose rows all have `layer_b`, which is `layer` where they name none."""
    return pd.DataFrame({"layer_b": row["layer"], **row} for row in rows)


def _requested(pairs: Iterable[tuple[int, int]], plan: Plan) -> pd.DataFrame:
    """The keys of the rows of these pairs, layer by layer and family by family."""
    keys = [
        (pair_name(pair), at.front.name, at.tail.name, family.label)
        for at in sorted(plan.junctions, key=lambda at: (at.a, at.b))
        for family in plan.families
        for pair in sorted(pairs)
    ]
    return pd.DataFrame(keys, columns=list(KEY))


def _prefix(layer: str, layer_b: str, family: str) -> str:
    """The beginning of the names of a stitch's arrays."""
    return "/".join((*dict.fromkeys((layer, layer_b)), family, ""))


def _keys(rows: pd.DataFrame, pair: str) -> Iterable[tuple[str, str, str]]:
    return rows[rows.pair == pair][["layer", "layer_b", "family"]].itertuples(index=False, name=None)


def _merge_arrays(name: str, prefixes: dict[Path, tuple[str, ...]], out: Path) -> None:
    """Write the arrays of all folders' files whose names begin with one of the folder's prefixes."""
    merged: dict[str, tuple[Path, np.ndarray]] = {}
    for folder, beginnings in prefixes.items():
        for key, array in runs.read_npz(folder / name).items():
            if key.startswith(beginnings):
                other, first = merged.setdefault(key, (folder, array))
                if first.dtype != array.dtype or not np.array_equal(first, array, equal_nan=array.dtype.kind == "f"):
                    raise InputError(
                        f"folders: {other} and {folder} have different arrays {key} in {name}; leave one of the "
                        "folders out, or delete the row's files in one"
                    )
    runs.write_npz(out / name, {key: array for key, (_, array) in merged.items()})


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
    arrays, prefix = runs.read_npz(path), _prefix(layer, layer if layer_b is None else layer_b, family)
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
