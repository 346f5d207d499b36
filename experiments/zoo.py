"""Train networks that differ in their seed only, and print their accuracies.

By default 4 narrow Myrtle CNNs are trained on scikit-learn's digits. Running the same command again continues
interrupted training and trains missing seeds only.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd

from experiments import dry_run
from experiments.command import run_command
from experiments.defaults import optional
from experiments.features import classes_at_positions
from experiments.folders import diverged, test_perplexity
from experiments.registry import Experiment, PublishedTable
from experiments.settings import zoo_folder
from experiments.sharing import SharedSettings
from experiments.summary import Summary
from symjax import zoo
from symjax.ops import files, hosts
from symjax.ops.result_table import Schema
from symjax.tables import over_networks
from symjax.zoo.merging import merge_members


@dataclasses.dataclass(frozen=True)
class Members:
    """The members in the folder of a zoo."""

    folder: Path

    def merge(self, folders: Sequence[Path]) -> int:
        """Copy the members of all `folders`, which include this one; return the number of finished ones."""
        finished, unfinished = merge_members(folders, self.folder)
        for seed, epochs in sorted(unfinished.items()):
            print(f"not finished: seed {seed}, after {epochs} epochs", file=sys.stderr)
        return len(finished)


ACCURACY = Schema("accuracy", {"seed": int}, ("validation", "test"), recomputable=True)
EXPERIMENT = Experiment(
    place=10,
    published={
        "clean accuracy on CIFAR-10": PublishedTable(
            ("clean accuracy (%)",),
            {"mCNN": (91.4,), "resnet20": (89.8,), "resnet18": (93.0,), "mCNN without batch norm": (87.4,)},
        )
    },
    results=Members,
    unit="finished members",
    reports_unfinished=True,
)


@dataclasses.dataclass(frozen=True)
class Settings(SharedSettings):
    out: Annotated[Path | None, optional("DIR", "under runs/zoo/, named by the settings")] = None
    """Folder of the zoo."""


def main(settings: Settings) -> Summary:
    seeds, config = settings.part(settings.parse_seeds(), "seeds"), settings.zoo_config()
    dataset = settings.load_dataset()
    folder = settings.part_folder(settings.out or zoo_folder(config))
    dry_run.stop(
        settings,
        config,
        dataset,
        folder,
        lambda: [dry_run.zoo_phase(config, dataset, seeds, folder, settings.memory_limit)],
    )
    trained = settings.train_zoo(config, dataset, folder, seeds=seeds)
    hosts.continue_on_first("the zoo is trained")
    table = pd.DataFrame(
        {
            "seed": trained.seeds,
            "validation": 100 * trained.validation_accuracy,
            "test": 100 * zoo.test_accuracy(trained, dataset, max_device_memory=settings.memory_limit),
        }
    )
    if classes_at_positions(dataset):
        table["perplexity"] = test_perplexity(trained, dataset, settings.memory_limit)
    files.write_csv(folder / f"{ACCURACY.name}.csv", table)
    rows = table.set_index("seed")
    rows.loc["mean"] = rows.mean()
    text = f"Test accuracy {rows.test['mean']:.2f} %, {over_networks(len(seeds), 'on average')}"
    if "perplexity" in rows:
        text += f", perplexity {rows.perplexity['mean']:.2f}"
    if seeds_diverged := diverged(trained, table.test):
        text += f", except seeds {seeds_diverged}, which have diverged: their weights or logits are not finite"
    return Summary(
        folder,
        f"{trained.network} on {dataset.name}",
        f"{text}.",
        {f"accuracy in percent{', and perplexity' * ('perplexity' in rows)}": rows.map("{:.2f}".format)},
    )


if __name__ == "__main__":
    run_command(main, Settings)
