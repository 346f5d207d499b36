"""The values of similarity measures, and the predictions, of the networks in the tests of ReSi."""

import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.features import FeatureSettings, samples_option
from experiments.resi_data import Group
from experiments.resi_scores import PAIR, STITCH
from symjax.data import normalize
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.ops.parallel import default_execution
from symjax.ops.progress import progress_bar
from symjax.ops.result_table import ResultTable, Schema
from symjax.similarity import MEASURES, pairwise
from symjax.similarity.channels import pad_channels
from symjax.stitching import FitConfig, Plan, Sweep, parse_families
from symjax.zoo import Zoo

ROWS = Schema(
    "results", {"test": str, "measure": str, **dict.fromkeys(PAIR, str)}, ("value",), order=("test", "measure")
)
MODELS = Schema("models", {"model": str}, ("accuracy",))
AGREEMENT = Schema("agreement", {"model_a": str, "model_b": str}, ("agreement",))


def fill(results: ResultTable, tests: Sequence["Compared"], measures: Sequence[str], samples: str) -> pd.DataFrame:
    """Compute the missing values of measures, all tests of a measure together; return the keys of all."""
    requested = pd.concat([test.requested(measures) for test in tests])
    missing = results.missing(requested)
    representations = {}
    for test in tests:
        if test.test in missing.test.unique():
            representations |= test.representations()
    with progress_bar(desc="measures", unit="measure", total=missing.measure.nunique(), disable=missing.empty) as bar:
        for measure, rows in missing.groupby("measure", sort=False):
            options = samples_option(measure, samples)
            try:
                values = measured(measure, representations, rows, options)
            except InputError:  # of layers that the measure cannot compare
                others = rows.test != "layers"
                if others.all():
                    raise
                values = np.full(len(rows), np.nan)
                if others.any():
                    values[others] = measured(measure, representations, rows[others], options)
            results.add(rows.assign(value=values))
            bar.update()
    return requested


def measured(measure: str, representations: dict, rows: pd.DataFrame, options: dict) -> np.ndarray:
    """Return the value of each pair of representations, the mean over both orders."""
    sides = [pd.MultiIndex.from_frame(rows[["test", f"model_{side}", f"layer_{side}"]]) for side in "ab"]
    keys = sides[0].append(sides[1]).unique()
    arrays = [representations[key] for key in keys]
    if MEASURES[measure].zero_channels:  # one width, so that all pairs have one program
        width = max(x.shape[-1] for x in arrays)
        arrays = [pad_channels(x, width) for x in arrays]
    a, b = (keys.get_indexer(side) for side in sides)
    compared = pairwise(
        {i: {"": x} for i, x in enumerate(arrays)}, measure, pairs=list(zip(a, b, strict=True)), **options
    )
    values = compared.values[0, :, 0]
    return (values[a, b] + values[b, a]) / 2


@partial(jax.jit, static_argnums=0)
def predict(network: Network, member: Member, images: jax.Array, mean, std) -> jax.Array:
    """Return the predicted classes of images."""
    outputs = jax.lax.map(lambda x: network.apply(member, normalize(x[None], mean, std))[0], images, batch_size=256)
    return outputs.argmax(-1)


class Compared:
    """The networks of one test."""

    def __init__(
        self, test, groups: Sequence[Group], zoos: Sequence[Zoo], number: int, layers, settings: FeatureSettings
    ):
        self.test, self.layers, self.settings = test, layers, settings
        self.dataset = groups[0].dataset
        self.network: Network = zoos[0].network
        members = [zoo.members for zoo in zoos]
        self.members: Member = jax.tree.map(
            lambda *leaves: jnp.concatenate([leaf[:number] for leaf in leaves]), *members
        )
        self.models = [
            f"{group.name}/{seed}" for group, zoo in zip(groups, zoos, strict=True) for seed in zoo.seeds[:number]
        ]
        self.pairs = list(itertools.combinations(self.models, 2))

    def requested(self, measures: Iterable[str]) -> pd.DataFrame:
        """Return the keys of the rows of measures."""
        if self.test == "layers":
            keys = [(model, a, model, b) for model in self.models for a, b in itertools.combinations(self.layers, 2)]
        else:
            keys = [(a, *self.layers, b, *self.layers) for a, b in self.pairs]
        return pd.DataFrame([(self.test, name, *key) for name in measures for key in keys], columns=list(ROWS.key))

    def representations(self) -> dict[tuple[str, str, str], np.ndarray]:
        """Return the features (n, ...) by test, model and layer."""
        features = self.settings.features(self.network, self.members, self.dataset, self.layers)
        return {(self.test, m, name): x[i] for i, m in enumerate(self.models) for name, x in features.items()}

    def fill_stitches(self, results: ResultTable, families: str, point: int) -> pd.DataFrame:
        """Compute missing similarities by stitching; return the keys of all.

        The similarity of two networks is minus the mean penalty of the stitches in both directions.
        """
        requested = self.requested(f"{STITCH}{name}" for name in families.split(","))
        if not len(results.missing(requested)):
            return requested
        config = FitConfig(eval_batch_size=256)
        plan = Plan(self.network, (point,), parse_families(families), config, default_execution())
        directed = [pair for pair in itertools.permutations(range(len(self.models)), 2)]
        accuracy, values, (layer,) = self.accuracies(), {}, self.layers
        sweep = Sweep(plan, self.dataset, num_pairs=len(directed))
        with progress_bar(desc=f"stitches {self.test}", unit="pair", total=len(directed)) as bar:
            for result in sweep.run(self.member, directed):
                a, b = sorted(result.pair)
                clean = (accuracy[a] + accuracy[b]) / 2
                for row in result.rows:
                    name = f"{STITCH}{row['family']}", self.models[a], layer, self.models[b], layer
                    values.setdefault(name, []).append(row["stitched_accuracy"] - clean)
                bar.update()
        rows = pd.DataFrame([(self.test, *name) for name in values], columns=list(ROWS.key))
        results.add(rows.assign(value=[float(np.mean(both)) for both in values.values()]))
        return requested

    @cached_property
    def classes(self) -> np.ndarray:
        """Return the predicted classes of the test images, (members, n)."""
        data = self.dataset.test.images, self.dataset.mean, self.dataset.std
        return np.stack([predict(self.network, self.member(index), *data) for index in range(len(self.models))])

    def member(self, index: int) -> Member:
        """Return one network."""
        return jax.tree.map(lambda leaf: leaf[index], self.members)

    def accuracies(self) -> np.ndarray:
        """Return the test accuracy of each network in percent."""
        return 100 * (self.classes == self.dataset.test.labels).mean(-1)

    def fill_models(self, table: ResultTable) -> None:
        """Compute missing accuracies."""
        rows = pd.DataFrame({"model": self.models})
        if len(table.missing(rows)):
            table.add(rows.assign(accuracy=self.accuracies()))

    def fill_agreement(self, table: ResultTable) -> None:
        """Compute the missing shares of test images for which two networks predict the same class."""
        rows = pd.DataFrame(self.pairs, columns=list(AGREEMENT.key))
        if len(table.missing(rows)):
            classes = dict(zip(self.models, self.classes, strict=True))
            table.add(rows.assign(agreement=[float((classes[a] == classes[b]).mean()) for a, b in self.pairs]))
