"""Train one member and pool batch-norm statistics. `symjax.zoo` trains many members."""

from symjax.training.evaluation import accuracy, pad_batches
from symjax.training.evaluation import percent as percent
from symjax.training.evaluation import pool_moments as pool_moments
from symjax.training.loop import TrainData, TrainState, create_state, device_data, train_epoch
from symjax.training.recipe import Recipe
from symjax.training.task import accuracy_scores as accuracy_scores
from symjax.training.task import cross_entropy as cross_entropy
from symjax.training.task import log_likelihood_scores as log_likelihood_scores

__all__ = ["Recipe", "TrainData", "TrainState", "accuracy", "create_state", "device_data", "pad_batches", "train_epoch"]
