"""Zoos: networks that differ in their seed alone, trained together, kept, and found again.

A zoo folder holds `config.json` and one folder per member:

    member-3/epoch-00010/   an Orbax checkpoint of the member's whole training state after 10 epochs
    member-3/metrics.csv    one row per epoch
    member-3/kept-00005.npz parameters, statistics and metrics after 5 epochs, if wanted

A checkpoint carries a checksum of its numbers, so that one that was damaged on the disk is an error, never a network.
"""

from symjax.zoo.config import PRECISIONS as PRECISIONS
from symjax.zoo.config import ZooConfig as ZooConfig
from symjax.zoo.config import check_seeds as check_seeds
from symjax.zoo.trained import Zoo as Zoo
from symjax.zoo.trained import evaluate as evaluate
from symjax.zoo.trained import evaluation_need as evaluation_need
from symjax.zoo.trained import load as load
from symjax.zoo.trained import load_history as load_history
from symjax.zoo.trained import test_accuracy as test_accuracy
from symjax.zoo.trained import train_accuracy as train_accuracy
from symjax.zoo.training import Group as Group
from symjax.zoo.training import check as check
from symjax.zoo.training import check_epochs as check_epochs
from symjax.zoo.training import train as train
from symjax.zoo.training import train_together as train_together
