"""Compares the states of recurrent networks at different times, as in two experiments of Morcos et al. 2018.

With no argument: a zoo of 4 small LSTMs on characters of the help pages of Python, and the distance of their states at
different steps by PWCCA, CCA, cosine and Euclidean distance. Positions: states at each of the last 20 tokens of a
context against those at the last one. Repeats: a token is repeated 20 times after different shares of a context, and
the states after repeats are compared with the state before. The zoo is trained where it is missing. The same command
again recomputes nothing; more seeds, measures or shares extend what is there.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import FeatureSettings, classes_at_positions, parse_measures
from experiments.folders import run_folder, test_percent, test_perplexity
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.summary import Summary
from symjax import pairwise, plots, zoo
from symjax.data import Dataset
from symjax.dynamics import checkpoints
from symjax.errors import InputError
from symjax.ops import parallel
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.representations import features_of
from symjax.tables import mean_and_deviation, over_networks

KEY = {"experiment": str, "share": int, "measure": str, "seed": int, "layer": str, "step": int}
ROWS = Schema(
    "results",
    KEY,
    ("value", "beginnings", "channels"),
    order=("experiment", "share", "measure", "layer", "seed", "step"),
)
EXPERIMENT = Experiment(
    place=85,
    published={
        "AWD-LSTM, Morcos et al. 2018, appendices A3 and A4 (figures without numbers in the text)": PublishedTable(
            ("published",),
            {
                "positions": ("CCA distance from the last of 20 steps stays high until late steps",),
                "repeats": (
                    "after 1, 8, 24, 48, 81 % of the tokens: early, states stay similar by CCA; late, distance grows",
                ),
            },
        )
    },
    published_on=None,
)
POSITIONS, UNRELATED, REPEATS = "positions", "unrelated", "repeats"
DIRECT = ("cosine", "euclidean")  # distances of the states as they are
LATE = 0.75  # of the steps; where less than half of the distance is gone by then, it stays high until late


@dataclasses.dataclass(frozen=True)
class Settings(FeatureSettings):
    dataset: str = "text"
    """text, the help pages of Python; the path of a text, or of a folder with its parts, such as those of the Penn
    Treebank or WikiText; or package.module:load, of tokens with the next token as class of each position."""
    model: str = "lstm"
    """lstm, gru, rnn, awd_lstm, or package.module:build."""
    examples: int = 1000
    """Contexts, evenly spaced in the text."""
    context: int = 100
    """Tokens of a context."""
    steps: int = 20
    """Positions that are compared, and repeats of a token."""
    shares: str = "1,8,24,48,81"
    """The percentages of a context after which its last token so far is repeated."""
    measures: str = "pwcca_distance,cca_distance"
    """Distances, beside cosine and Euclidean distance: names of symjax.similarity.MEASURES with commas between."""
    zoo: Annotated[Path | None, optional("DIR", "as python -m experiments.zoo has it")] = None
    """The folder of the zoo; trained there where it is missing."""
    out: Annotated[Path | None, optional("DIR", "runs/recurrent/ and a name made from the settings")] = None
    """The folder of the results."""

    def parse_shares(self) -> tuple[int, ...]:
        """Whole percentages, ascending."""
        parts = [part.strip() for part in self.shares.split(",") if part.strip()]
        if len(parts) < 2 or not all(part.isdecimal() and 1 <= int(part) <= 100 for part in parts):
            raise InputError(f"shares: got {self.shares!r}, expected two or more whole percentages from 1 to 100")
        return tuple(sorted({*map(int, parts)}))


def main(settings: Settings) -> Summary:
    config, seeds = settings.zoo_config(), settings.parse_seeds()
    measures, shares = [*parse_measures(settings.measures, "distance"), *DIRECT], settings.parse_shares()
    dataset = settings.load_dataset()
    contexts = contexts_of(settings, dataset)
    layers = settings.parse_layers(dataset)
    document = {name: getattr(settings, name) for name in ("images", "examples", "context", "steps", "test_size")}
    document |= {"zoo": config.identity(dataset), "layers": layers}
    out = run_folder("recurrent", zoo_folder(config).name, document, dataset, settings.out)
    zoo_path = settings.zoo or zoo_folder(config)

    def phases() -> list[dry_run.Phase]:
        missing = ResultTable(out.path, ROWS).missing(requested(measures, seeds, layers, shares, settings.steps))
        counts = {"to_do": missing.seed.nunique(), "there": len(seeds) - missing.seed.nunique(), "together": 1}
        options = {"images": (1 + len(shares)) * len(contexts), "pool": False, "limit": settings.memory_limit}
        return [
            dry_run.zoo_phase(config, dataset, seeds, zoo_path, settings.memory_limit),
            dry_run.layers_phase("networks to look at", config, dataset, layers, **counts, **options),
        ]

    dry_run.stop(settings, config, dataset, out.path, phases)
    trained = settings.train_zoo(config, dataset, zoo_path)
    with out.open() as folder:
        table = compare(folder, trained, contexts, layers, measures, shares, settings)
        names = {"panel": "measure", "label": "distance", "xlabel": "step"}
        steps = table.rename(columns={"step": "epoch"})
        last = steps[(steps.experiment == REPEATS) & (steps.layer == layers[-1])]
        over = over_networks(len(trained), "mean and deviation")
        title = f"States at a position and at the last one ({over})"
        plots.over_time(steps[steps.experiment == POSITIONS], folder / "positions", line="layer", title=title, **names)
        title = f"{layers[-1]}: states after repeats of a token and before ({over})"
        last = last.assign(after=last.share.map("after {} %".format))
        plots.over_time(last, folder / "repeats", line="after", title=title, **names)
        accuracy = test_percent(trained, dataset, settings.memory_limit).mean()
        perplexity = test_perplexity(trained, dataset, settings.memory_limit).mean()
        return Summary(
            folder,
            f"{trained.network.name} on {dataset.name}, {len(contexts)} contexts of {settings.context} tokens; "
            f"accuracy {accuracy:.2f} %, perplexity {perplexity:.2f} per token",
            conclusion(table, layers[-1]),
            tables(table, layers[-1], len(trained)),
            ("positions", "repeats"),
        )


def contexts_of(settings: Settings, dataset: Dataset) -> np.ndarray:
    """Return contexts (examples, context), evenly spaced in the text of which the examples are consecutive windows."""
    for name, least in {"examples": 4, "context": 2, "steps": 2}.items():
        if (value := getattr(settings, name)) < least:
            raise InputError(f"{name}: got {value}, expected {least} or more")
    if settings.steps > settings.context:
        raise InputError(f"steps: got {settings.steps}, expected at most those of a context, {settings.context}")
    split = getattr(dataset, settings.images)
    tokens, following = split.images.reshape(-1), split.labels.reshape(-1)
    if not classes_at_positions(dataset) or not np.array_equal(tokens[1:], following[:-1]):
        raise InputError(
            f"dataset: {settings.images} examples of {dataset.name} are not consecutive windows of a text, with the "
            "next token at each position; expected text, and images=test without test_size"
        )
    last = len(tokens) - settings.context
    if last + 1 < settings.examples:
        raise InputError(f"examples, context: the text has {len(tokens)} tokens, expected more or smaller ones")
    starts = np.linspace(0, last, settings.examples).astype(int)
    return tokens[starts[:, None] + np.arange(settings.context)]


def repeats_of(steps: int) -> tuple[int, ...]:
    """Return numbers of repeats after which states are compared, closer early."""
    return checkpoints(steps, 7)[1:]


def requested(measures, seeds, layers, shares, steps: int) -> pd.DataFrame:
    """All combinations of the key."""
    of = {POSITIONS: ((0,), range(steps - 1)), UNRELATED: ((0,), (0,)), REPEATS: (shares, repeats_of(steps))}
    parts = [
        pd.MultiIndex.from_product([[name], of_shares, measures, sorted(seeds), layers, of_steps], names=list(KEY))
        for name, (of_shares, of_steps) in of.items()
    ]
    return pd.concat([part.to_frame(index=False) for part in parts], ignore_index=True)


def compare(folder: Path, trained: zoo.Zoo, contexts, layers, measures, shares, settings: Settings) -> pd.DataFrame:
    """Rows of all networks; those that the folder lacks are computed, network by network."""
    results = ResultTable(folder, ROWS)
    for i, seed in enumerate(progress_bar(iterable=trained.seeds, desc="states", unit="network")):
        missing = results.missing(requested(measures, [seed], layers, shares, settings.steps))
        if missing.empty:
            continue
        member = parallel.take(trained.members, np.array([i]))
        options = {"layers": ",".join(layers), "max_device_memory": settings.memory_limit}

        def states(tokens, member=member, options=options):
            features = features_of(trained.network, member, tokens, None, None, **options)
            return {layer: array[0] for layer, array in features.items()}

        of_shares = sorted(missing.share[missing.experiment == REPEATS].unique().tolist())
        lacking = [measure for measure in measures if measure in set(missing.measure)]
        rows = distances(states, contexts, of_shares, settings.steps, lacking).assign(seed=seed)
        results.add(rows.merge(missing))  # on the key
    return results.select(requested(measures, trained.seeds, layers, shares, settings.steps))


def distances(
    states: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    contexts: np.ndarray,
    shares: Sequence[int],
    steps: int,
    measures: Sequence[str],
) -> pd.DataFrame:
    """Return the distances of both experiments for one network.

    Args:
      states: from tokens (n, length) to {layer: states (n, length, channels)}; a state depends on the tokens up to its
        position.
      contexts: tokens (n, length).
      shares: percentages of the tokens after which the last one is repeated.
      steps: positions that are compared, the last ones, and repeats.
      measures: names of `MEASURES` and of `DIRECT`.

    Returns:
      A table with the columns of `ROWS` but for the seed; `beginnings` counts different ones among the tokens on which
      states depend, and `channels` those of the layer. Experiment "unrelated" has the states at the first
      position of other contexts against those at the last position.
    """
    length = contexts.shape[1]
    # The repeats of all shares have one length, so that one program computes the states.
    padded = np.concatenate([contexts, np.repeat(contexts[:, -1:], steps, axis=1)], axis=1)
    parts = []
    for layer, array in states(padded).items():
        by_step = np.moveaxis(array[:, length - steps : length], 1, 0)
        unrelated = np.roll(by_step[:1], len(array) // 2, axis=1)
        rows = _rows(np.concatenate([by_step[:-1], unrelated]), by_step[-1], measures, [*range(steps - 1), UNRELATED])
        parts.append(rows.assign(experiment=POSITIONS, share=0, layer=layer, beginnings=_distinct(contexts)))
    for share in shares:
        first = max(1, round(length * share / 100))  # tokens before the repeats
        repeated = padded.copy()
        repeated[:, first:] = padded[:, first - 1 : first]
        for layer, array in states(repeated).items():
            by_step = np.moveaxis(array[:, [first - 1, *(first - 1 + step for step in repeats_of(steps))]], 1, 0)
            rows = _rows(by_step[1:], by_step[0], measures, repeats_of(steps))
            beginnings = _distinct(contexts[:, :first])
            parts.append(rows.assign(experiment=REPEATS, share=share, layer=layer, beginnings=beginnings))
    table = pd.concat(parts, ignore_index=True)
    unrelated = table.step == UNRELATED
    table.loc[unrelated, ["experiment", "step"]] = UNRELATED, 0
    return table.astype({"step": int})


def _distinct(tokens: np.ndarray) -> int:
    return len(np.unique(tokens, axis=0))


def _rows(history: np.ndarray, reference: np.ndarray, measures: Sequence[str], steps: Sequence[int]) -> pd.DataFrame:
    """Return distances of states (steps, n, channels) from a reference (n, channels), by measure and step."""
    parts = []
    for measure in measures:
        if measure in DIRECT:
            values = _direct(measure, np.float64(history), np.float64(reference))
        else:
            values = pairwise({"": history}, measure, against={"": reference[None]}).values.reshape(-1)
        parts.append(pd.DataFrame({"measure": measure, "step": list(steps), "value": np.asarray(values, float)}))
    return pd.concat(parts, ignore_index=True).assign(channels=history.shape[-1])


def _direct(measure: str, history: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 - cos, or the Euclidean distance by the norm of the reference; the mean over examples."""
    if measure == "euclidean":
        norms = np.linalg.norm(reference, axis=-1).mean()
        return np.linalg.norm(history - reference, axis=-1).mean(axis=1) / norms
    norms = np.linalg.norm(history, axis=-1) * np.linalg.norm(reference, axis=-1)
    return (1 - np.sum(history * reference, axis=-1) / norms).mean(axis=1)


def tables(table: pd.DataFrame, layer: str, count: int) -> dict[str, pd.DataFrame]:
    """Means of the distances of the last layer, positions and repeats."""
    rows = table[table.layer == layer]
    last = rows.step[rows.experiment == REPEATS].max()
    positions = rows[rows.experiment == POSITIONS]
    shown = sorted({*np.rint(np.linspace(0, last - 2, 5)).astype(int).tolist()})
    at = positions[positions.step.isin(shown)].assign(at=lambda chosen: chosen.step.map("token {}".format))
    unrelated = rows[rows.experiment == UNRELATED].assign(at="another context")
    repeats = rows[(rows.experiment == REPEATS) & (rows.step == last)]
    few = repeats.beginnings <= 2 * repeats.channels
    repeats = repeats.assign(at=repeats.share.map("{} %".format) + few.map({True: " *", False: ""}))
    words = over_networks(count)
    return {
        f"{layer}: distance of states at a token from those at token {last - 1}, {words}": _spelled([at, unrelated]),
        f"{layer}: distance after {last} repeats from the state before, by the share of a context, {words} (* too few "
        "different beginnings for CCA to tell states apart, left out of the conclusion)": _spelled([repeats]),
    }


def _spelled(parts: list[pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat(parts)
    text = mean_and_deviation(table.groupby(["measure", "at"], sort=False).value, 3).unstack("at")
    return text.loc[list(table.measure.unique()), list(dict.fromkeys(table["at"]))]


def conclusion(table: pd.DataFrame, layer: str) -> str:
    """What the last layer shows, a line for each measure, with 95 % intervals over networks (Student's t)."""
    lines = []
    for measure, rows in table[table.layer == layer].groupby("measure", sort=False):
        wide = {
            name: part.pivot(index="seed", columns=["share", "step"], values="value")
            for name, part in rows.groupby("experiment")
        }
        positions, repeats = wide[POSITIONS][0], wide[REPEATS]
        late = int(LATE * (positions.columns.max() + 1))
        kept = interval(positions[late] / positions[0])
        last = repeats.columns.get_level_values("step").max()
        # Of n beginnings states span up to n directions, and two such spaces of c channels each meet if n < 2 c.
        shares = rows[(rows.experiment == REPEATS) & (rows.beginnings > 2 * rows.channels)].share
        if shares.nunique() < 2:
            growth = "too few different contexts to compare shares"
        else:
            early, late_share = shares.min(), shares.max()
            larger = interval(repeats[late_share, last] - repeats[early, last])
            growth = (
                f"after {last} repeats it is larger by {spell(larger)} at {late_share} % of a context than at "
                f"{early} % (states move late, not early: {verdict(larger, 0.0)})"
            )
        lines.append(
            f"{measure}: at token {late} the distance from the last token is {spell(kept)} of that at token 0 (high "
            f"until late: {verdict(kept, 0.5)}); {growth}"
        )
    return "\n".join(lines)


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the mean, and half the width of its 95 % interval (NaN of one network)."""
    count = len(values)
    error = values.std(skipna=False) / math.sqrt(count) if count > 1 else math.nan
    return float(values.mean(skipna=False)), float(error * stdtrit(count - 1, 0.975)) if count > 1 else math.nan


def spell(estimate: tuple[float, float]) -> str:
    return f"{estimate[0]:.3f}" + (f" ± {estimate[1]:.3f}" if math.isfinite(estimate[1]) else "")


def verdict(estimate: tuple[float, float], threshold: float) -> str:
    """Return whether the interval is above the threshold."""
    centre, half = estimate
    return "yes" if centre - half > threshold else "no" if centre + half < threshold else "not settled"


if __name__ == "__main__":
    run_command(main, Settings)
