"""Measure the bias of similarity measures for few examples: the mean value by n / d, minus that for many examples.

Two representations of n examples and d neurons are drawn: independent standard normals, which have nothing in common,
and a planted similarity, y = sqrt(s) x + sqrt(1 - s) z with independent normals x and z. The bias is the difference of
means at n and at a large number of examples (`reference`). If a measure rejects so few examples or is not defined,
it has no value.

By default the command compiles four programs for each of 24 measures, in about two minutes of processor time. Running
the same command again recomputes nothing; more runs, ratios or measures extend the results.
"""

import dataclasses
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import parse_measures
from experiments.registry import Experiment
from experiments.summary import Summary
from symjax import plots
from symjax.errors import InputError
from symjax.ops import files, runs
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES, FewExamplesWarning
from symjax.tables import difference_interval, spell_interval

ROWS = Schema("results", {"data": str, "measure": str, "examples": int, "run": int}, ("value",))
EXPERIMENT = Experiment(place=135)
DATA = ("independent", "planted")
MAIN = tuple(
    "cka cka_gretton cka_lange wreath_cka cca cca_mean_square svcca pwcca pls procrustes permutation_procrustes "
    "wreath_procrustes held_out_procrustes soft_matching soft_correlation_match linear_predictivity ridge_predictivity "
    "gulp eigenspace_overlap rsa distance_correlation mutual_knn cknna rank_similarity".split()
)
MAX_COUNT = 10**5  # largest number of neurons, runs and examples


@dataclasses.dataclass(frozen=True)
class Settings:
    measures: str = "main"
    """Comma-separated names of symjax.similarity.MEASURES; main, one or a few of each kind; or all, without distances
    whose similarity is included."""
    neurons: int = 16
    """Neurons d of each representation."""
    ratios: tuple[float, ...] = (0.5, 1.0, 4.0)
    """Ratios n / d, separated by spaces."""
    reference: int = 256
    """Number of examples whose mean value is the reference of the bias."""
    share: float = 0.5
    """Share s of the variance that the representations of the planted similarity have in common."""
    runs: int = 40
    """Random draws for each number of examples, and for the reference."""
    seed: int = 0
    """Seed of all random draws."""
    out: Annotated[Path | None, optional("DIR", "runs/bias/ and a name made from the settings")] = None
    """The folder of the results."""

    def parse_measures(self) -> tuple[str, ...]:
        """Return the names of the measures."""
        return MAIN if self.measures == "main" else tuple(parse_measures(self.measures))

    def examples(self) -> dict[float, int]:
        """Return the number of examples by ratio, ascending."""
        return {ratio: round(ratio * self.neurons) for ratio in sorted(self.ratios)}


def main(settings: Settings) -> Summary:
    names = settings.parse_measures()
    check(settings)
    document = {name: getattr(settings, name) for name in ("neurons", "reference", "share", "seed")}
    path = settings.out or Path("runs", "bias", files.fingerprint(document))
    with runs.open_folder(path, "bias", document) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewExamplesWarning)  # their effect is what is measured
            means = summarize(compute(folder, names, settings), settings)
        files.write_csv(folder / "means.csv", means)
        drawn = means.dropna()
        if len(drawn):
            plots.mean_curves(
                drawn.assign(title=drawn.measure.map(lambda name: MEASURES[name].title or name)),
                folder / "bias",
                x="ratio",
                y="bias",
                line="data",
                panel="title",
                xlabel="n / d",
                ylabel="bias",
                interval=("low", "high"),
                xscale="log",
                sharey=False,
            )
        return Summary(
            folder,
            f"{len(names)} measures of {settings.neurons} neurons; planted share {settings.share:g}",
            conclusion(means),
            {
                f"bias by n / d, {data} data, mean of {settings.runs} runs and 95 % interval": grid(rows)
                for data, rows in means.groupby("data")
            },
            ("bias",) if len(drawn) else (),
        )


def check(settings: Settings) -> None:
    """Raise an InputError for a setting out of its range."""
    for name, low in {"neurons": 1, "runs": 2}.items():
        if not low <= getattr(settings, name) <= MAX_COUNT:
            raise InputError(f"{name}: got {getattr(settings, name)}, expected {low} or more, up to {MAX_COUNT}")
    if settings.reference > MAX_COUNT:
        raise InputError(f"reference: got {settings.reference}, expected at most {MAX_COUNT}")
    if not 0 <= settings.seed < 2**31:
        raise InputError(f"seed: got {settings.seed}, expected an integer from 0 to {2**31 - 1}")
    if not 0 <= settings.share <= 1:
        raise InputError(f"share: got {settings.share}, expected a number from 0 to 1")
    counts = list(settings.examples().values())
    if not counts or len({*counts}) < len(counts) or not 2 <= min(counts) <= max(counts) < settings.reference:
        raise InputError(
            f"ratios: got {settings.ratios}, expected different numbers of examples from 2 to under the reference, "
            f"{settings.reference}"
        )


def compute(folder: Path, names: tuple[str, ...], settings: Settings) -> pd.DataFrame:
    """Return the rows of all measures; compute the missing ones, in groups of one measure and number of examples."""
    examples = [*settings.examples().values(), settings.reference]
    requested = pd.MultiIndex.from_product([DATA, names, examples, range(settings.runs)], names=list(ROWS.key))
    requested = requested.to_frame(index=False)
    results = ResultTable(folder, ROWS)
    missing = results.missing(requested)[["measure", "examples", "run"]].drop_duplicates()
    groups = list(missing.groupby(["measure", "examples"], sort=False))
    with (
        ThreadPoolExecutor(len(jax.local_devices())) as pool,
        progress_bar(desc="bias", unit="program", total=len(groups), disable=missing.empty) as bar,
    ):
        compiled = pool.map(lambda group: compile_measure(*group[0], settings.neurons, 2 * len(group[1])), groups)
        rows = []
        for ((_, count), group), program in zip(groups, compiled, strict=True):
            values = np.full((len(DATA), len(group)), np.nan)
            if program is not None:
                values = np.asarray(program(*draw(settings, int(count), group.run.to_numpy()))).reshape(values.shape)
            rows += [group.assign(data=data, value=value) for data, value in zip(DATA, values, strict=True)]
            bar.update()
            if len(rows) >= len(DATA) * len(examples):  # each addition writes the table
                results.add(pd.concat(rows))
                rows = []
        if rows:
            results.add(pd.concat(rows))
    return results.select(requested)


def draw(settings: Settings, examples: int, runs: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Return representations x and y (2 runs, examples, neurons): all independent ones, then all planted ones."""
    # One key for a run, so that measures are compared on the same draws.
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(runs)
    shape = (2, examples, settings.neurons)
    x, z = jax.vmap(lambda key: jax.random.normal(key, shape), out_axes=1)(keys)
    planted = math.sqrt(settings.share) * x + math.sqrt(1 - settings.share) * z
    return jnp.concatenate([x, x]), jnp.concatenate([z, planted])


def compile_measure(measure: str, examples: int, neurons: int, count: int):
    """Return the program from x and y (count, examples, neurons) to values (count,).

    Return None where the measure rejects so few examples.
    """
    fn, shape = MEASURES[measure].fn, jax.ShapeDtypeStruct((count, examples, neurons), np.float32)
    # Compilation takes a minute and most programs less than a second, so optimization costs more than it saves.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    program = jax.jit(lambda x, y: jax.lax.map(lambda pair: fn(*pair), (x, y)), compiler_options=options)
    try:
        return program.lower(shape, shape).compile()
    except InputError:
        return None


def summarize(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Return the bias with its 95 % interval for each measure, data and ratio, and the mean at the reference."""
    values = {key: rows.value.to_numpy() for key, rows in table.groupby(["measure", "data", "examples"], sort=False)}
    rows = []
    for measure, data in dict.fromkeys((measure, data) for measure, data, _ in values):
        limit = values[measure, data, settings.reference]
        for ratio, count in settings.examples().items():
            bias, low, high = difference_interval(values[measure, data, count], limit)
            rows.append((measure, data, ratio, count, bias, low, high, limit.mean()))
    return pd.DataFrame(rows, columns=["measure", "data", "ratio", "examples", "bias", "low", "high", "reference"])


def grid(means: pd.DataFrame) -> pd.DataFrame:
    """Return bias and interval of each measure (down) by ratio (across), and the mean at the reference."""
    ends = means[["bias", "low", "high"]].to_numpy()
    means = means.assign(text=[spell_interval(*numbers, 3) for numbers in ends])
    text = means.pivot_table(index="measure", columns="ratio", values="text", aggfunc="first", sort=False)
    reference = means.groupby("measure", sort=False).reference.first().map("{:z.3f}".format)
    text = text.rename(columns="n / d = {:g}".format).assign(reference=reference)
    return text.rename_axis(index=None, columns=None)


def conclusion(means: pd.DataFrame) -> str:
    """Return which measures have the largest bias where n = d or nearest to it, and how many show none."""
    ratio = min(means.ratio.unique(), key=lambda value: abs(np.log(value)))
    parts = []
    for data, rows in means[means.ratio == ratio].groupby("data", sort=False):
        known = rows.dropna()
        width = known.measure.map(lambda name: np.ptp(MEASURES[name].range))
        bounded = known.assign(part=known.bias / width)[np.isfinite(width)]
        largest = bounded.loc[bounded.part.abs().sort_values(ascending=False).index[:3]]
        ends = largest[["measure", "bias", "low", "high"]].itertuples(index=False)
        text = ", ".join(f"{name} {spell_interval(*numbers)}" for name, *numbers in ends)
        none = known[(known.low <= 0) & (known.high >= 0)].measure
        parts.append(
            f"{data} data: no bias is significant for {len(none)} of {len(known)} measures"
            f"{' (' + ', '.join(none) + ')' if len(none) else ''}; largest relative to the range: {text or 'none'}"
        )
    return f"Bias at n / d = {ratio:g}. {'. '.join(part[0].upper() + part[1:] for part in parts)}."


if __name__ == "__main__":
    run_command(main, Settings)
