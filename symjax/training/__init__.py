"""Training one member, and batch-norm statistics; `symjax.zoo` trains many."""

from symjax.training.evaluation import accuracy, pad_batches
from symjax.training.evaluation import percent as percent
from symjax.training.evaluation import pool_moments as pool_moments
from symjax.training.loop import Recipe, TrainData, TrainState, create_state, device_data, train_epoch

__all__ = ["Recipe", "TrainData", "TrainState", "accuracy", "create_state", "device_data", "pad_batches", "train_epoch"]
