"""Zoos: networks that differ only in their seed, trained together and stored in one folder.

A zoo folder holds `config.json` and one folder per member:

    member-3/epoch-00010/   an Orbax checkpoint of the member's whole training state after 10 epochs
    member-3/metrics.csv    one row per epoch
    snapshots.json          the epochs whose checkpoints are not deleted when newer ones are saved (`keep` of `train`)
    frozen.csv              the freeze schedule, for a configuration with a freeze rule

A checkpoint contains a checksum of its numbers and the fingerprint of its folder's configuration. Loading a damaged
checkpoint, or one of another zoo, is therefore an error.
"""

from symjax.zoo.checks import check as check
from symjax.zoo.checks import check_rule as check_rule
from symjax.zoo.config import PRECISIONS, ZooConfig
from symjax.zoo.evaluation import evaluate, test_accuracy, train_accuracy
from symjax.zoo.evaluation import evaluation_program as evaluation_program
from symjax.zoo.loading import Zoo, load, load_history
from symjax.zoo.training import Group, train, train_together

__all__ = [
    "PRECISIONS",
    "Group",
    "Zoo",
    "ZooConfig",
    "evaluate",
    "load",
    "load_history",
    "test_accuracy",
    "train",
    "train_accuracy",
    "train_together",
]
