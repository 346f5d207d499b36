"""The folder of a stitching run: the tables of results and of learning curves, and the stitches.

    results.csv        a row per pair, layer and family: accuracies and penalties in percent
    curves.csv         loss and accuracy (percent) per pair, layer, family and epoch
    stitches/3-5.npz   the stitches of the pair with front 3 and tail 5
    parts/             the tables of each pair, see `symjax.ops.result_table`

The files of a pair are written when the pair is complete, its rows of results.csv last. So if a row exists, its curves
and stitch exist too.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from symjax.checks import integers, text
from symjax.checks import path as checked_path
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.result_table import ResultTable, Schema
from symjax.stitching.controls import DEFAULTS, label
from symjax.stitching.families import Family
from symjax.stitching.junction import Junction
from symjax.stitching.plan import Plan, is_possible
from symjax.stitching.stitched import Stitch
from symjax.stitching.summary import penalty_table
from symjax.stitching.sweep import PairResult
from symjax.tables import with_both_layers

KEY = {"pair": str, "layer": str, "layer_b": str, "family": str}  # and control and objective, where there are others
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
ORDER = ("model_a", "model_b", "layer_index")
ROWS = Schema("results", KEY, COLUMNS, part=("pair",), order=ORDER, optional=DEFAULTS)
CURVES = Schema(
    "curves", {**KEY, "learning_rate": float, "epoch": int}, ("loss", "accuracy"), part=("pair",), optional=DEFAULTS
)
FACTORS = ("left", "right")  # arrays of a stitch of low rank, whose product is its matrix
RESIDUAL_LIMIT = 1e-3  # a projection fails if its residual is larger; residuals of successful ones are under 1e-4


def pair_name(pair: tuple[int, int]) -> str:
    """Return the name of a pair of seeds: front-tail."""
    return f"{pair[0]}-{pair[1]}"


def numerical_warnings(curves: pd.DataFrame, where: str = "curves.csv") -> str:
    """Return a sentence about losses that are not finite and failed projections; "" if there are none.

    Args:
      curves: the rows of curves.csv.
      where: the name of the table, for the sentence.
    """
    warnings, key = [], ["pair", "layer", "layer_b", "family", *DEFAULTS, "learning_rate"]
    curves = curves.reindex(columns=[*key, "loss", "residual"])  # without families that train, the table is empty
    for problem, is_affected in (
        ("the loss was not finite", ~np.isfinite(curves.loss.astype(float))),
        (f"the projection missed its constraint by more than {RESIDUAL_LIMIT:g}", curves.residual > RESIDUAL_LIMIT),
    ):
        if len(rows := curves[is_affected]):
            stitches = dict.fromkeys(f"{row.family} at {row.layer}" for row in with_both_layers(rows).itertuples())
            count = len(rows[key].drop_duplicates())
            warnings.append(f"in {count} stitch{'es' * (count > 1)} {problem} ({', '.join(stitches)})")
    return f"Warning: {'; '.join(warnings)}; see {where}." if warnings else ""


class StitchResults:
    """The tables and stitches in the folder of a stitching run."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._rows, self._curves = ResultTable(folder, ROWS), ResultTable(folder, CURVES)

    def record(self, **settings: Any) -> None:
        """Write the last request, which is not part of the configuration, into config.json."""
        document = files.read_json(self.folder / files.CONFIG)
        request = {key: list(value) for key, value in settings.items()}
        files.write_json(self.folder / files.CONFIG, {**document, "request": request})

    def missing(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> dict[Plan, list[tuple[int, int]]]:
        """Return plans of the points and families of `plan` without a row, each with its pairs."""
        missing = set(self._rows.missing(_requested(pairs, plan)).itertuples(index=False, name=None))
        plans: dict[Plan, list[tuple[int, int]]] = {}
        for pair in pairs:

            def is_missing(junction: Junction, family: Family, pair=pair) -> bool:
                return _row_key(pair, junction, family) in missing

            for part in plan.parts(is_missing):
                plans.setdefault(part, []).append(pair)
        return plans

    def add(
        self,
        result: PairResult,
        clean: dict[int, float],
        clean_b: dict[int, float] | None = None,
        networks: tuple[str, str] | None = None,
    ) -> None:
        """Write the results of a pair; they replace older ones of the same layers and families.

        Args:
          result: the result of the pair.
          clean: accuracies of the members without a stitch, by seed.
          clean_b: accuracies of the tails by seed, if they are members of another network.
          networks: the names of the networks of fronts and of tails, if they differ.
        """
        a, b = result.pair
        clean_a, clean_b = clean[a], (clean_b or clean)[b]
        pair = {"pair": pair_name(result.pair), "model_a": a, "model_b": b}
        pair["clean_accuracy"] = float(np.mean([clean_a, clean_b]))
        network_columns: dict[str, Any] = {}
        if networks is not None:
            network_columns = dict(zip(("network_a", "network_b"), networks, strict=True))
            network_columns |= {"clean_accuracy_a": clean_a, "clean_accuracy_b": clean_b}
        rows = _with_layer_b(
            {**pair, **row, "penalty": pair["clean_accuracy"] - row["stitched_accuracy"], **network_columns}
            for row in result.rows
        )
        self._write_stitches(result)
        if result.curves:
            self._curves.add(_with_layer_b({"pair": pair["pair"], **row} for row in result.curves))
        self._rows.add(rows)
        self.assemble()

    def _write_stitches(self, result: PairResult) -> None:
        files.make_folder(self.folder / "stitches")
        path = self.folder / "stitches" / f"{pair_name(result.pair)}.npz"
        arrays: dict[str, Any] = files.read_npz(path) if path.exists() else {}
        for key, (stitch, stats) in result.stitches.items():
            prefix = f"{'/'.join(key)}/"
            arrays = {key: value for key, value in arrays.items() if not key.startswith(prefix)}
            arrays |= {f"{prefix}matrix": stitch.matrix, f"{prefix}bias": stitch.bias}
            if stitch.factors is not None:
                arrays |= {f"{prefix}{name}": a for name, a in zip(FACTORS, stitch.factors, strict=True)}
            arrays |= {f"{prefix}stats/{key}": value for key, value in flatten(stats).items()}
        files.write_npz(path, arrays)

    def assemble(self) -> None:
        """Write results.csv and curves.csv from the parts of the pairs, in the first process."""
        self._rows.assemble()
        self._curves.assemble()

    def table(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> pd.DataFrame:
        """Return the rows of `pairs` and of the layers and families of `plan`, in its order."""
        return self._rows.select(_requested(pairs, plan))

    def curves(self, pairs: Sequence[tuple[int, int]], plan: Plan) -> pd.DataFrame:
        """Return the learning curves of `pairs` and of the layers and families of `plan`, in its order."""
        return self._curves.select(_requested(pairs, plan))

    def merge(self, folders: Sequence[Path]) -> int:
        """Write the results of all `folders`, which include this one; return the number of rows.

        Raises:
          InputError: two folders have different results of one pair, layer and family.
        """
        tables = {folder: ResultTable(folder, ROWS).rows() for folder in folders}
        pairs = sorted(set(itertools.chain.from_iterable(rows.pair for rows in tables.values())))
        files.make_folder(self.folder / "stitches")
        for pair in pairs:
            prefixes = {f: tuple(_prefix(*key) for key in _keys(rows, pair)) for f, rows in tables.items()}
            _merge_arrays(f"stitches/{pair}.npz", {f: names for f, names in prefixes.items() if names}, self.folder)
        self._curves.merge(folders, details_of=ROWS)
        return self._rows.merge(folders)

    @staticmethod
    def summary(table: pd.DataFrame) -> pd.DataFrame:
        """Return `penalty_table`."""
        return penalty_table(table)


def _with_layer_b(rows: Iterable[dict]) -> pd.DataFrame:
    """Return a table with the column `layer_b`, by default equal to `layer`."""
    return pd.DataFrame({"layer_b": row["layer"], **row} for row in rows)


def _requested(pairs: Iterable[tuple[int, int]], plan: Plan) -> pd.DataFrame:
    """Return the keys of the rows of `pairs` and `plan`, sorted by layer, family and pair."""
    keys = [
        _row_key(pair, junction, family)
        for junction in sorted(plan.junctions, key=lambda junction: (junction.layer_index, junction.b))
        for family in plan.families
        if is_possible(junction, family)
        for pair in sorted(pairs)
    ]
    return pd.DataFrame(keys, columns=ROWS.full_key)


def _row_key(pair: tuple[int, int], junction: Junction, family: Family) -> tuple[str, ...]:
    layer, layer_b, *others = junction.key
    return (pair_name(pair), layer, layer_b, family.label, *others)


def _prefix(layer: str, layer_b: str, family: str) -> str:
    """Return the prefix of the names of the arrays of a stitch."""
    return "/".join((*dict.fromkeys((layer, layer_b)), family, ""))


def _keys(rows: pd.DataFrame, pair: str) -> Iterator[tuple[str, str, str]]:
    rows = rows[rows.pair == pair]
    for layer, layer_b, *names in rows[["layer", "layer_b", "family", *DEFAULTS]].itertuples(index=False, name=None):
        yield layer, layer_b, label(*names)


def _merge_arrays(name: str, prefixes: dict[Path, tuple[str, ...]], out: Path) -> None:
    """Write the arrays of the files `name` of all folders whose names start with one of the folder's prefixes."""
    merged: dict[str, tuple[Path, np.ndarray]] = {}
    for folder, folder_prefixes in prefixes.items():
        for key, array in files.read_npz(folder / name).items():
            if key.startswith(folder_prefixes):
                other, first = merged.setdefault(key, (folder, array))
                if first.dtype != array.dtype or not np.array_equal(first, array, equal_nan=array.dtype.kind == "f"):
                    raise InputError(
                        f"folders: got different arrays {key} in {name} of {other} and {folder}, expected equal ones; "
                        "leave one of the folders out, or delete the row's files in one"
                    )
    files.write_npz(out / name, {key: array for key, (_, array) in merged.items()})


def load_stitch(
    folder: str | Path, pair: tuple[int, int], layer: str, family: str, like: Any, *, layer_b: str | None = None
) -> tuple[Stitch, Any]:
    """Return a saved stitch and the state of its tail (batch statistics), for `evaluate_stitch`.

    Args:
      folder: the folder of the stitching run.
      pair: the seeds of front and tail.
      layer, family, layer_b: as in results.csv. The stitches of controls are named as in full@noise, those of other
        objectives as in full@match or full@noise@match.
      like: a state with the structure of the result, such as that of the tail's member.

    Returns:
      (`Stitch`, state), with NumPy arrays.

    Raises:
      InputError: the stitch does not exist, or the file is damaged.

    Example:
        >>> import pathlib, tempfile, numpy as np
        >>> from symjax import stitching
        >>> from symjax.ops import files
        >>> arrays = {"relu1/full/matrix": np.eye(2), "relu1/full/bias": np.zeros(2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pathlib.Path(folder, "stitches").mkdir()
        ...     files.write_npz(pathlib.Path(folder, "stitches", "3-5.npz"), arrays)
        ...     stitch, state = stitching.load_stitch(folder, (3, 5), "relu1", "full", like={})
        >>> stitch.matrix.shape
        (2, 2)
    """
    if len(integers("pair", pair)) != 2:
        raise InputError(f"pair: got {pair}, expected the seeds of front and tail")
    for name, value in {"layer": layer, "family": family, "layer_b": layer if layer_b is None else layer_b}.items():
        text(name, value)
    path = checked_path("folder", folder) / "stitches" / f"{pair_name(pair)}.npz"
    arrays, prefix = files.read_npz(path), _prefix(layer, layer if layer_b is None else layer_b, family)
    saved = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if "matrix" not in saved:
        known = sorted({key.rpartition("/matrix")[0] for key in arrays if key.endswith("/matrix")})
        raise InputError(f"layer, family: got {prefix[:-1]}, expected one of {path}: {', '.join(known)}")
    stats = {key.removeprefix("stats/"): value for key, value in saved.items() if key.startswith("stats/")}
    factors = (saved[FACTORS[0]], saved[FACTORS[1]]) if FACTORS[0] in saved else None
    return Stitch(saved["matrix"], saved["bias"], factors), unflatten(stats, like)


def flatten(stats: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a pytree by their paths, such as [1]['norm']['mean']."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(stats)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def unflatten(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """Invert `flatten`, given a pytree of the same structure."""
    if set(leaves) != set(flatten(like)):
        raise InputError("like: got the state of another model, expected that of the tail")
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[jax.tree_util.keystr(path)], like)
