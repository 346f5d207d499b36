"""Compare the layers of two networks by several measures, with intervals and p values."""

import dataclasses
import html
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from symjax import activations, checks
from symjax.errors import InputError, renamed
from symjax.ops.progress import progress_bar
from symjax.similarity import Measure, calibrate, error_bars, pairwise
from symjax.similarity.channels import common_width, pad_channels
from symjax.similarity.pairwise_checks import as_measures, measure_options, samples_of_mask, translation_invariant
from symjax.similarity.pairwise_side import channels_last_array, masked_matrix
from symjax.similarity.position_mask import as_mask
from symjax.similarity.resampling import check_level

__all__ = ["Comparison", "compare"]

MEASURES = ("cka", "svcca", "procrustes")
INTERVAL, CHANCE = ("low", "high"), ("p", "calibrated")  # columns that are computed on request
COLUMNS = ("layer_a", "layer_b", "measure", "value", *INTERVAL, *CHANCE)
MAX_ROWS = 60  # of the table in a notebook


@dataclass(frozen=True, repr=False)
class Comparison:
    """Values of several measures between the layers of two networks.

    Attributes:
      table: a data frame with a row for each pair of layers and each measure, and the columns layer_a, layer_b,
        measure and value; with `num_resamples` also low and high (ends of the interval), and with `num_permutations`
        also p and calibrated.
      names: names of both networks.
      examples: the number of examples.
    """

    table: Any
    names: tuple[str, str]
    examples: int

    def matrix(self, measure: str):
        """Return the values of a measure as a data frame: layers of the first network by layers of the second.

        Raises:
          InputError: the table has no such measure.
        """
        measure = checks.one_of("measure", measure, self.table.measure.unique())
        rows = self.table[self.table.measure == measure]
        values = rows.pivot(index="layer_a", columns="layer_b", values="value")
        return values.loc[self.table.layer_a.unique(), self.table.layer_b.unique()]

    def plot(self, path: str | Path | None = None, *, ax: Any = None):
        """Draw a heat map for each measure (`symjax.plots.heatmaps`); for a single layer, or equal layers, bars."""
        from symjax import plots  # imported here, since Matplotlib takes a second

        table = self.table.assign(model_a=self.names[0], model_b=self.names[1], same_model=False)
        return plots.heatmaps(table, path, ax=ax) or plots.by_layer(table, path, ax=ax)

    def __repr__(self) -> str:
        a, b = (self.table[column].nunique() for column in ("layer_a", "layer_b"))
        measures = ", ".join(self.table.measure.unique())
        sides = ", ".join(
            f"{name}: {count} layer{'s' * (count > 1)}" for name, count in zip(self.names, (a, b), strict=True)
        )
        return f"Comparison({sides}; {self.examples} examples; {measures})"

    def _repr_html_(self) -> str:
        text = self.table.to_html(index=False, max_rows=MAX_ROWS, float_format="{:.3f}".format, na_rep="")
        return f"<p>{html.escape(repr(self))}</p>{text}"


def compare(
    a,
    b,
    measures=MEASURES,
    *,
    layers: str = "all",
    names: Sequence[str] | None = None,
    ids: Sequence | None = None,
    join: str = "equal",
    num_resamples: int = 0,
    num_permutations: int = 0,
    level: float = 0.95,
    seed: int = 0,
    layout: str | None = None,
    mask=None,
    progress: bool = False,
    **options,
) -> Comparison:
    """Compare the layers of two networks on the same examples.

    Args:
      a, b: {layer: array (n, d), (n, tokens, d) or (n, h, w, c)}, or one such array, or the path of a file or a folder
        (`symjax.activations.load`). Tokens are maps of height 1.
      measures: names in `symjax.similarity.MEASURES`, `Measure`s or functions, or one of these, as in `pairwise`.
      layers: "all" compares every layer with every layer, "same" only layers of equal names.
      names: names of both networks; by default those of the files, or "a" and "b".
      ids: IDs of the examples of a and of b, for sets without IDs of their own; None for a side without IDs.
      join: "equal" requires equal IDs; "inner" compares the examples that both have.
      num_resamples: number of random halves for intervals (`error_bars`); 0 for none.
      num_permutations: number of permutations for p values and calibrated values (`calibrate`), the same for all pairs;
        0 for none.
      level: level of the intervals.
      seed: seed of halves and permutations.
      layout: layout of maps, "nhwc" or "nchw", as in `pairwise`.
      mask: which tokens or pixels count, as in `pairwise`. With `num_resamples` or `num_permutations`, which draw
        examples, only for samples="pool", "first" or "last".
      progress: whether to show progress bars.
      options: options of the measures, such as samples="pool"; each measure is given those that it has.

    Returns:
      `Comparison`.

    Raises:
      InputError: wrong arrays, unequal numbers of examples, or a wrong argument, as in `pairwise`, `error_bars` and
        `calibrate`; files or IDs, as in `symjax.activations.load` and `align`.

    Example:
      >>> import numpy as np, symjax
      >>> rng = np.random.default_rng(0)
      >>> a = {"relu1": rng.normal(size=(50, 4)), "relu2": rng.normal(size=(50, 3))}
      >>> result = symjax.compare(a, {"relu1": 2 * a["relu1"] + 1}, "cka")
      >>> result
      Comparison(a: 2 layers, b: 1 layer; 50 examples; cka)
      >>> bool(result.matrix("cka").loc["relu1", "relu1"] > 0.999)
      True
    """
    names = _names(a, b, names)
    measures = as_measures("measures", measures)[1]
    check_level(level)
    counts = {"num_resamples": num_resamples, "num_permutations": num_permutations}
    num_resamples, num_permutations = (checks.integer(name, count, 0) for name, count in counts.items())
    key = jax.random.key(checks.integer("seed", seed, 0, 2**31 - 1))
    opened = activations.align(
        dict(zip(names, map(_opened, "ab", (a, b)), strict=True)), ids=_ids(names, ids), join=join
    )
    sets = {
        name: {layer: channels_last_array(f"{name}[{layer!r}]", value, layout, False) for layer, value in side.items()}
        for name, side in opened.items()
    }
    _require_equal_counts(sets)
    settings, examples = measure_options(measures, options), len(next(iter(sets[names[0]].values())))
    samples = None if mask is None else samples_of_mask(measures, settings)
    if samples == "positions" and (num_resamples or num_permutations):
        raise InputError(
            "mask: got one with num_resamples or num_permutations, expected samples='pool', 'first' or 'last'"
        )
    one, other = ({name: sets[name]} for name in names)
    shared = {"layout": "nhwc", "mask": mask, "progress": progress}
    with renamed(representations="a", against="b"):
        results = pairwise(one, measures, against=other, layers=layers, **shared, **options)
    measures = [_with_options(measure, settings[measure.name]) for measure in measures]
    if mask is not None and (num_resamples or num_permutations):
        matrix = partial(masked_matrix, as_mask(mask), samples, translation_invariant(measures))
        sets = {
            name: {layer: matrix(f"{name}[{layer!r}]", x) for layer, x in side.items()} for name, side in sets.items()
        }
    rows = []
    pairs = np.argwhere(next(iter(results.values())).computed)
    evaluated = len(measures) * len(pairs) * bool(num_resamples or num_permutations)
    with progress_bar(desc="resampling", unit="pair", total=evaluated, disable=not (progress and evaluated)) as bar:
        for measure in measures:
            result = results[measure.name]
            calibrated, p_values = _calibrated(measure, sets, names, key, num_permutations, layers)
            for k, _, m, _ in pairs:
                layer_a, layer_b = result.layers_a[k], result.layers_b[m]
                low, high = np.nan, np.nan
                if num_resamples:
                    x, y = sets[names[0]][layer_a], sets[names[1]][layer_b]
                    if measure.zero_channels:
                        x, y = _padded(x, y)
                    bars = error_bars(measure, x, y, key, num_resamples, level, layout="nhwc")
                    low, high = float(bars.low), float(bars.high)
                value = float(result.values[k, 0, m, 0])
                ends = low, high, float(p_values[k, m]), float(calibrated[k, m])
                rows.append((layer_a, layer_b, measure.name, value, *ends))
                bar.update(bool(evaluated))
    import pandas as pd  # imported here: `import symjax` does not need it

    not_computed = [*INTERVAL * (not num_resamples), *CHANCE * (not num_permutations)]
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)).drop(columns=not_computed), names, examples)


def _require_equal_counts(sets: Mapping[str, Mapping[str, Any]]) -> None:
    counts = {f"{name}[{layer!r}]": len(array) for name, side in sets.items() for layer, array in side.items()}
    first = next(iter(counts))
    for name, count in counts.items():
        if count != counts[first]:
            raise InputError(f"{name}: got {count} examples, expected {counts[first]}, as in {first}")


def _padded(*sides):
    """Append zero channels, so that few programs serve all widths; not if halves have too few examples for it."""
    widths = [common_width(side.shape[-1]) for side in sides]
    if sum(widths) >= len(sides[0]) // 2:
        return sides
    return [pad_channels(np.asarray(side), width) for side, width in zip(sides, widths, strict=True)]


def _with_options(measure: Measure, options: Mapping[str, Any]) -> Measure:
    """Return the measure with its options, with the same functions for the same options, which are compiled once."""
    layout = {"layout": "nhwc"} if "layout" in inspect.signature(measure.fn).parameters else {}
    items = tuple(sorted({**options, **layout}.items()))
    fn = _partial(measure.fn, items) if checks.can_be_key(items) else _partial.__wrapped__(measure.fn, items)
    split = None if measure.split is None else partial(measure.split, **options)
    return dataclasses.replace(measure.with_properties_of(options), fn=fn, split=split)


@lru_cache(maxsize=256)
def _partial(fn, items):
    return partial(fn, **dict(items))


def _calibrated(measure, sets, names, key, num_permutations, layers) -> tuple[np.ndarray, np.ndarray]:
    """Return null-calibrated values and p values, (layers a, layers b); NaN where there are none."""
    sides = [sets[name] for name in names]
    if not num_permutations:
        return (np.full([len(side) for side in sides], np.nan),) * 2
    pairs = calibrate(measure, sides[0], sides[1], key, num_permutations, layers=layers, layout="nhwc").pairs
    return np.asarray(pairs.calibrated), np.asarray(pairs.p_value)


def _names(a, b, names) -> tuple[str, str]:
    if names is None:
        one, other = (Path(x).stem if isinstance(x, str | Path) else name for x, name in ((a, "a"), (b, "b")))
        return ("a", "b") if one == other else (one, other)
    given = [checks.text("names", name) for name in checks.sequence("names", names, "two names")]
    if len(set(given)) != 2 or len(given) != 2:
        raise InputError(f"names: got {given}, expected two different names")
    return given[0], given[1]


def _ids(names, ids) -> dict[str, Any] | None:
    if ids is None:
        return None
    ids = (ids,) if isinstance(ids, np.ndarray) else checks.sequence("ids", ids, "IDs of a and of b")
    if len(ids) != 2:
        raise InputError(f"ids: got {len(ids)} sequences, expected two, IDs of a and of b")
    return {name: value for name, value in zip(names, ids, strict=True) if value is not None}


def _opened(argument: str, side: Any) -> Mapping:
    """Return a mapping from layers to arrays."""
    if isinstance(side, str | Path):
        return activations.load(side)
    if isinstance(side, Mapping):
        if not side:
            raise InputError(f"{argument}: got no layer, expected one or more")
        return side
    if isinstance(side, list | tuple) and any(np.ndim(item) > 1 for item in side if hasattr(item, "shape")):
        raise InputError(f"{argument}: got a {type(side).__name__} of arrays, expected a mapping from layers to arrays")
    return {"layer": checks.array(argument, side)}
