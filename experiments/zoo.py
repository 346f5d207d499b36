"""Trains networks that differ in their seed alone, and prints how accurate each is.

With no argument: 4 narrow Myrtle CNNs on scikit-learn's digits. The same command again reuses what is there, goes on
with what was interrupted and trains only missing seeds.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import pandas as pd

from experiments import dry_run
from experiments.features import classes_at_positions
from experiments.folders import diverged, test_perplexity
from experiments.settings import optional, run_command, zoo_folder
from experiments.sharing import SharedSettings
from experiments.summary import Summary
from symjax import zoo
from symjax.ops import files, hosts
from symjax.tables import over_networks


@dataclasses.dataclass(frozen=True)
class Settings(SharedSettings):
    out: Annotated[Path | None, optional("DIR", "runs/zoo/ and a name made from the settings")] = None
    """The folder of this zoo."""


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
    files.write_csv(folder / "accuracy.csv", table)
    shown = table.set_index("seed")
    shown.loc["mean"] = shown.mean()
    text = f"Test accuracy {shown.test['mean']:.2f} %, {over_networks(len(seeds), 'on average')}"
    if "perplexity" in shown:
        text += f", perplexity {shown.perplexity['mean']:.2f}"
    if lost := diverged(trained, table.test):
        text += f", but for seeds {lost}, which have diverged: their weights or logits are not finite"
    return Summary(
        folder,
        f"{trained.network} on {dataset.name}",
        f"{text}.",
        {f"accuracy in percent{', and perplexity' * ('perplexity' in shown)}": shown.map("{:.2f}".format)},
    )


if __name__ == "__main__":
    run_command(main, Settings)
