"""The results in the folders of `benchmarks.faults`, and their differences."""

import io
import json
import pathlib

import numpy as np
import pandas as pd


def leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return temporary files and folders."""
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp") or "-tmp" in path.name]


def split_results(results: dict[str, np.ndarray | str]) -> tuple[dict, dict, dict]:
    """Return arrays, numeric columns of tables, and other results; of texts only that they exist."""
    arrays, tables, rest = {}, {}, {}
    for name, value in results.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            arrays[name] = value
        elif name.endswith(".csv"):
            for column, values in pd.read_csv(io.StringIO(value)).items():
                if values.dtype.kind == "f":
                    tables[f"{name}: {column}"] = values.to_numpy()
                else:
                    rest[f"{name}: {column}"] = values.to_csv()
        else:
            rest[name] = value if isinstance(value, np.ndarray) else "there"
    return arrays, tables, rest


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the absolute differences of entries: 0 for two NaN, infinity for NaN and a number."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.astype(np.float64) - other)
    return np.where(np.isnan(one) & np.isnan(other) | (one == other), 0, np.nan_to_num(apart, nan=np.inf))


def folder_contents(folder: pathlib.Path) -> dict[str, np.ndarray | str]:
    """Return the contents of a run folder by name: weights, arrays, the text of tables, conclusions, names of files."""
    import jax

    from experiments import summary
    from symjax import zoo
    from symjax.ops import files

    contents = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if any(part.startswith("epoch-") for part in path.parts):  # in a checkpoint, which is compared after loading
            continue
        if path.suffix == ".npz":
            contents |= {f"{name}: {key}": array for key, array in files.read_npz(path).items()}
        elif path.suffix == ".csv":
            contents[name] = path.read_text()
        elif path.name == summary.SUMMARY:
            document = files.read_json(path)
            contents[name] = json.dumps([document[key] for key in ("title", "conclusion", "tables", "figures")])
        else:
            contents[name] = "there"
    for config in sorted(folder.rglob("config.json")):
        if files.read_json(config)["kind"] == "zoo":
            trained = zoo.load(config.parent)
            name = str(config.parent.relative_to(folder))
            for path, leaf in jax.tree.leaves_with_path(trained.members):
                for seed, array in zip(trained.seeds, leaf, strict=True):
                    contents[f"{name}: seed {seed}{jax.tree_util.keystr(path)}"] = np.asarray(array)
    return contents


def differences(name: str, one: dict[str, np.ndarray | str], other: dict[str, np.ndarray | str]) -> list[str]:
    """Return a line for each result that is not equal in both, bit by bit."""

    def bits(value: np.ndarray | str | None):
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    keys = sorted(one.keys() | other.keys())
    return [f"{name}: {key} differs" for key in keys if bits(one.get(key)) != bits(other.get(key))]
