"""Zoos: networks that differ in their seed alone, trained together, kept, and found again.

A zoo folder holds `config.json` and one folder per member:

    member-3/epoch-00010/   an Orbax checkpoint of the member's whole training state after 10 epochs
    member-3/metrics.csv    one row per epoch
    member-3/kept-00005.npz parameters, statistics and metrics after 5 epochs, if wanted
    frozen.csv              the schedule of freezing that members have found, where a rule finds one

A checkpoint carries a checksum of its numbers, so that one that was damaged on the disk is an error, never a network.
"""

from symjax.zoo.config import PRECISIONS, ZooConfig
from symjax.zoo.trained import Zoo, evaluate, load, load_history, test_accuracy, train_accuracy
from symjax.zoo.trained import evaluation_need as evaluation_need
from symjax.zoo.training import Group, train, train_together
from symjax.zoo.training import check as check
from symjax.zoo.training import check_epochs as check_epochs
from symjax.zoo.training import check_rule as check_rule

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
