"""Trains networks that differ in their seed alone, and prints how accurate each is.

With no argument: 4 narrow Myrtle CNNs on scikit-learn's digits. The same command again reuses what is there, goes on
with what was interrupted and trains only missing seeds.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import pandas as pd

from experiments.settings import ZooSettings, optional, run_command, zoo_folder
from symjax import runs, zoo


@dataclasses.dataclass(frozen=True)
class Settings(ZooSettings):
    out: Annotated[Path | None, optional("DIR", "runs/zoo/ and a name made from the settings")] = None
    """The folder of this zoo."""


def main(settings: Settings) -> None:
    seeds, config = settings.parse_seeds(), settings.zoo_config()
    dataset = settings.load_dataset()
    folder = settings.out or zoo_folder(config)
    trained = zoo.train(config, dataset, seeds, folder)
    table = pd.DataFrame(
        {
            "seed": trained.seeds,
            "validation": 100 * trained.validation_accuracy,
            "test": 100 * zoo.test_accuracy(trained, dataset),
        }
    )
    runs.write_csv(folder / "accuracy.csv", table)
    print(f"{trained.network} on {dataset.name}, kept in {folder}; accuracies in percent:\n")
    mean = {"seed": "mean"} | table.drop(columns="seed").mean().to_dict()
    print(pd.concat([table, pd.DataFrame([mean])]).to_string(index=False, float_format="%.2f"))


if __name__ == "__main__":
    run_command(main, Settings)
