"""Rows and bases of the dissection of zoos."""

from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from symjax.dissection import Dissection, rotation_powers, special_orthogonal
from symjax.ops.result_table import ResultTable, Schema
from symjax.rotation import sample_rotation
from symjax.zoo import ZooConfig

KEY = {"variant": str, "layer": str, "seed": int, "basis": str}
ROWS = Schema("results", KEY, ("exponent", "detectors", "mean_iou"))
UNITS = Schema("units", {**KEY, "unit": int}, ("concept", "iou"))
GROUPS = ("permutation", "g_relu")  # in these bases the units differ from the original ones by order and scale only
ORIGINAL = "Q^0"


class Request(NamedTuple):
    """What is requested of all variants.

    Attributes:
      variants: {name: configuration of the zoo}.
      seeds: seeds of the members.
      layers: names of stitch points.
      powers: exponents a of the rotations Q^a, in ascending order.
    """

    variants: dict[str, ZooConfig]
    seeds: tuple[int, ...]
    layers: list[str]
    powers: tuple[float, ...]

    @property
    def bases(self) -> dict[str, float]:
        """Exponents of the bases by name; NaN for bases that are not powers of the rotation."""
        return {**{power_name(a): a for a in self.powers}, **dict.fromkeys(GROUPS, np.nan)}

    def keys(self, variants=None) -> pd.DataFrame:
        """Return the keys of all rows of these variants, by default of all variants."""
        values = (variants or list(self.variants), self.layers, self.seeds, list(self.bases))
        return pd.MultiIndex.from_product(values, names=list(KEY)).to_frame(index=False)

    def missing_seeds(self, results: ResultTable, variant: str) -> list[int]:
        """Return the seeds of the members with a missing row."""
        return sorted(set(results.missing(self.keys([variant])).seed))


def power_name(exponent: float) -> str:
    """Return the name of the basis Q^a."""
    return f"Q^{exponent:.12g}"


def sample_bases(request: Request, basis_seed: int, seeds, layer: int, channels: int) -> np.ndarray:
    """Return matrices (members, bases, channels, channels) in the order of `Request.bases`; each member has its own."""
    matrices = []
    for seed in seeds:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(basis_seed), seed), layer)
        rotation_key, *group_keys = jax.random.split(key, 1 + len(GROUPS))
        powers = rotation_powers(special_orthogonal(rotation_key, channels), request.powers)
        others = [np.asarray(sample_rotation(k, kind, channels)) for k, kind in zip(group_keys, GROUPS, strict=True)]
        matrices.append([*powers, *others])
    return np.array(matrices)


def to_tables(
    dissection: Dissection, threshold: float, exponents: dict[str, float], seeds
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of units.csv and of results.csv, without the columns variant and layer.

    Args:
      dissection: dissection of the members with these seeds, in the bases of `exponents`.
      threshold: IoU above which a unit detects a concept.
      exponents: {basis: exponent}, as in `Request.bases`.
      seeds: seeds of the members.
    """
    (labels, best), counts = dissection.labels(threshold), dissection.detectors(threshold)
    members, bases, units = labels.shape
    index = pd.MultiIndex.from_product([seeds, list(exponents), range(units)], names=["seed", "basis", "unit"])
    concepts = np.array([*dissection.names, "none"])  # the label -1 is the last entry
    unit_rows = pd.DataFrame({"concept": concepts[labels.ravel()], "iou": best.ravel()}, index).reset_index()
    rows = pd.DataFrame(
        {
            "seed": np.repeat(seeds, bases),
            "basis": [*exponents] * members,
            "exponent": [*exponents.values()] * members,
            "detectors": counts.ravel(),
            "mean_iou": best.mean(axis=-1).ravel(),
        }
    )
    return unit_rows, rows
