"""Compare the states of recurrent networks at different times, as in two experiments of Morcos et al. 2018.

By default the networks are 4 small LSTMs, trained on the characters of Python's help pages. Distances are PWCCA, CCA,
cosine and Euclidean. In the first experiment the states at each of the last 20 tokens of a context are compared with
those at the last token. In the second a token is repeated 20 times after a share of the context, and the states after
the repeats are compared with those before. Missing networks are trained first. Running the same command again
recomputes nothing; more seeds, measures or shares extend the results.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.features import FeatureSettings, classes_at_positions, parse_measures
from experiments.folders import RunSettings, test_percent, test_perplexity
from experiments.recurrent_distances import DIRECT, POSITIONS, REPEATS, UNRELATED, compared_repeats, state_distances
from experiments.recurrent_summary import conclusion, tables
from experiments.registry import Experiment, PublishedTable
from experiments.settings import split
from experiments.summary import Summary
from symjax import plots, zoo
from symjax.data import Dataset
from symjax.errors import InputError
from symjax.ops import parallel
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.representations import features_of
from symjax.tables import over_networks

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
                "positions": ("the CCA distance from the last of 20 steps stays high until late steps",),
                "repeats": (
                    "after 1, 8, 24, 48, 81 % of the tokens: states stay similar by CCA early; the distance grows late",
                ),
            },
        )
    },
    published_on=None,
)


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings, FeatureSettings):
    dataset: str = "text"
    """text, the help pages of Python; the path of a text file, or of a folder with its parts, such as those of the Penn
    Treebank or WikiText; or package.module:load, whose inputs are tokens and whose targets are the next tokens."""
    model: str = "lstm"
    """lstm, gru, rnn or awd_lstm, or package.module:build."""
    examples: int = 1000
    """Number of contexts, evenly spaced in the text."""
    context: int = 100
    """Number of tokens in a context."""
    steps: int = 20
    """Number of positions at the end of a context, which are compared with the last one; and number of repeats of a
    token."""
    shares: str = "1,8,24,48,81"
    """Comma-separated percentages of a context. After each of these shares the token at its end is repeated."""
    measures: str = "pwcca_distance,cca_distance"
    """Comma-separated names of symjax.similarity.MEASURES; distances, not similarities. Cosine and Euclidean distance
    are added."""

    def parse_shares(self) -> tuple[int, ...]:
        """Return the percentages in ascending order."""
        parts = split(self.shares)
        if len(parts) < 2 or not all(part.isdecimal() and 1 <= int(part) <= 100 for part in parts):
            raise InputError(f"shares: got {self.shares!r}, expected two or more whole percentages from 1 to 100")
        return tuple(sorted({*map(int, parts)}))


def main(settings: Settings) -> Summary:
    config, seeds = settings.zoo_config(), settings.parse_seeds()
    measures, shares = [*parse_measures(settings.measures, "distance"), *DIRECT], settings.parse_shares()
    dataset = settings.load_dataset()
    contexts = select_contexts(settings, dataset)
    layers = settings.parse_layers(dataset)
    document = {name: getattr(settings, name) for name in ("images", "examples", "context", "steps", "test_size")}
    document |= {"zoo": config.identity(dataset), "layers": layers}

    def phases(folder: Path) -> list[dry_run.Phase]:
        missing = ResultTable(folder, ROWS).missing(requested(measures, seeds, layers, shares, settings.steps))
        counts = {"to_do": missing.seed.nunique(), "done": len(seeds) - missing.seed.nunique(), "together": 1}
        options = {"images": (1 + len(shares)) * len(contexts), "samples": "positions", "limit": settings.memory_limit}
        return [dry_run.layers_phase("members to compare", config, dataset, layers, **counts, **options)]

    with settings.run("recurrent", dataset, document, phases) as (folder, trained):
        table = compare(folder, trained, contexts, layers, measures, shares, settings)
        draw(table, folder, layers[-1], len(trained))
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


def select_contexts(settings: Settings, dataset: Dataset) -> np.ndarray:
    """Return contexts (examples, context), evenly spaced in the text whose consecutive windows are the examples."""
    for name, least in {"examples": 4, "context": 2, "steps": 4}.items():
        if (value := getattr(settings, name)) < least:
            raise InputError(f"{name}: got {value}, expected {least} or more")
    if settings.steps > settings.context:
        raise InputError(f"steps: got {settings.steps}, expected at most {settings.context}, the tokens of a context")
    split = getattr(dataset, settings.images)
    tokens, following = split.images.reshape(-1), split.labels.reshape(-1)
    if not classes_at_positions(dataset) or not np.array_equal(tokens[1:], following[:-1]):
        raise InputError(
            f"dataset: got {dataset.name}, whose {settings.images} examples are not consecutive windows of a text with "
            "the next token as the target of each position, expected text, and --images test without --test-size"
        )
    last = len(tokens) - settings.context
    if last + 1 < settings.examples:
        raise InputError(
            f"examples, context: got {settings.examples} contexts of {settings.context} tokens in a text of "
            f"{len(tokens)} tokens, expected fewer or shorter ones"
        )
    starts = np.linspace(0, last, settings.examples).astype(int)
    return tokens[starts[:, None] + np.arange(settings.context)]


def requested(measures, seeds, layers, shares, steps: int) -> pd.DataFrame:
    """Return the keys of all rows of these settings."""
    shares_and_steps = {
        POSITIONS: ((0,), range(steps - 1)),
        UNRELATED: ((0,), (0,)),
        REPEATS: (shares, compared_repeats(steps)),
    }
    parts = [
        pd.MultiIndex.from_product([[name], row_shares, measures, sorted(seeds), layers, row_steps], names=list(KEY))
        for name, (row_shares, row_steps) in shares_and_steps.items()
    ]
    return pd.concat([part.to_frame(index=False) for part in parts], ignore_index=True)


def compare(folder: Path, trained: zoo.Zoo, contexts, layers, measures, shares, settings: Settings) -> pd.DataFrame:
    """Compute the rows that the folder lacks, network by network; return all requested rows."""
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

        missing_shares = sorted(missing.share[missing.experiment == REPEATS].unique().tolist())
        missing_measures = [measure for measure in measures if measure in set(missing.measure)]
        rows = state_distances(states, contexts, missing_shares, settings.steps, missing_measures).assign(seed=seed)
        results.add(rows.merge(missing))  # on the key
    return results.select(requested(measures, trained.seeds, layers, shares, settings.steps))


def draw(table: pd.DataFrame, folder: Path, layer: str, networks: int) -> None:
    """Draw the positions of all layers, and the repeats of one layer."""
    names = {"panel": "measure", "label": "distance", "xlabel": "step"}
    over = over_networks(networks, "mean and deviation")
    table = table.rename(columns={"step": "epoch"})  # the name of the horizontal axis in `over_time`
    title = f"States at a position and at the last one ({over})"
    plots.over_time(table[table.experiment == POSITIONS], folder / "positions", line="layer", title=title, **names)
    repeats = table[(table.experiment == REPEATS) & (table.layer == layer)]
    repeats = repeats.assign(after=repeats.share.map("after {} %".format))
    title = f"{layer}: states after repeats of a token and before ({over})"
    plots.over_time(repeats, folder / "repeats", line="after", title=title, **names)


if __name__ == "__main__":
    run_command(main, Settings)
