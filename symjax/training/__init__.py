"""Training one member, and batch-norm statistics; `symjax.zoo` trains many."""

from symjax.training.evaluation import accuracy as accuracy
from symjax.training.evaluation import pad_batches as pad_batches
from symjax.training.evaluation import percent as percent
from symjax.training.evaluation import pool_moments as pool_moments
from symjax.training.loop import Recipe as Recipe
from symjax.training.loop import TrainState as TrainState
from symjax.training.loop import create_state as create_state
from symjax.training.loop import train_epoch as train_epoch
