"""How members are trained: the settings, and the optimizer that they describe."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import optax

from symjax.checks import can_be_key, integer_fields, one_of, scalar, short
from symjax.data.dataset import check_augmentation
from symjax.errors import InputError
from symjax.spelling import name_of

PyTree = Any


@dataclass(frozen=True)
class Recipe:
    """How a member is trained. The defaults are those of Godfrey et al. 2022.

    By default Adam halves the learning rate after every quarter of the training, and weight decay is an L2 penalty on
    kernels, but not on biases and parameters of batch norms.

    A recipe is a static argument of compiled programs. Create functions once and reuse them; a new function object
    compiles everything again.

    Attributes:
      epochs, batch_size, learning_rate, weight_decay: settings of the training.
      flip, translate: the augmentation, see `symjax.data.augment`. None: the setting of the data set (`Dataset.flip`),
        which `symjax.zoo.train` substitutes; data sets of your own are not augmented by default.
      optimizer: "adam"; "adamw", with decoupled weight decay: kernels shrink by the learning rate times the decay; an
        `optax.GradientTransformation`; or a function of the number of steps per epoch that returns one. With an optax
        optimizer, `learning_rate`, `weight_decay`, `schedule` and `warmup` must have their defaults.
      schedule: "halving" as above, or "cosine" to zero at the end of the training.
      warmup: the share of the training during which the learning rate increases linearly to that of the schedule.
      loss: a function of outputs and targets of a batch that returns the scalar to minimize, a mean over examples.
        None: the cross-entropy of integer classes (`symjax.training.cross_entropy`).
      metric: a function of outputs and targets of a batch that returns a score per example, (examples,). The mean
        score replaces the accuracy in all results. None: 1 if the largest logit is that of the class, else 0
        (`symjax.training.accuracy_scores`).

    Raises:
      InputError: a value is out of range, or a function is not hashable.

    Example:
        >>> from symjax.training import Recipe
        >>> Recipe(epochs=10, schedule="cosine").to_json()["schedule"]
        'cosine'
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    flip: bool | None = None
    translate: int | None = None
    optimizer: str | optax.GradientTransformation | Callable[[int], optax.GradientTransformation] = "adam"
    schedule: str = "halving"
    warmup: float = 0.0
    loss: Callable[[PyTree, jax.Array], jax.Array] | None = None
    metric: Callable[[PyTree, jax.Array], jax.Array] | None = None

    def __post_init__(self):
        check_augmentation(self)
        self._check_functions()
        one_of("schedule", self.schedule, SCHEDULES)
        scalar("warmup", self.warmup, "a share of the training, from 0 and under 1", lambda value: 0 <= value < 1)
        integer_fields(self, epochs=(1, 10**6 - 1), batch_size=(1, 2**31 - 1))
        rate = scalar("learning_rate", self.learning_rate, "a positive number", lambda value: 0 < value < math.inf)
        decay = scalar("weight_decay", self.weight_decay, "a number from 0", lambda value: 0 <= value < math.inf)
        object.__setattr__(self, "learning_rate", rate)
        object.__setattr__(self, "weight_decay", decay)

    def _check_functions(self) -> None:
        for name in FUNCTIONS:
            if not can_be_key(getattr(self, name)):
                raise InputError(
                    f"{name}: got {short(getattr(self, name))}, which is not hashable; expected a function"
                )
        for name in ("loss", "metric"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                given = short(getattr(self, name))
                raise InputError(f"{name}: got {given}, expected a function of outputs and targets, or None")
        if not self.own_optimizer:
            one_of("optimizer", self.optimizer, OPTIMIZERS)
            return
        for field in fields(self):
            if field.name in NAMED_OPTIMIZER_FIELDS and getattr(self, field.name) != field.default:
                value = getattr(self, field.name)
                raise InputError(f"{field.name}: got {value!r} with an optax optimizer, expected the default")

    @property
    def own_optimizer(self) -> bool:
        """Whether the optimizer is given by the caller and not by name."""
        return isinstance(self.optimizer, optax.GradientTransformation) or callable(self.optimizer)

    @property
    def functions(self) -> dict[str, Any]:
        """The caller's loss, metric and optimizer, by name."""
        values = {name: getattr(self, name) for name in FUNCTIONS}
        return {name: value for name, value in values.items() if value is not None and not isinstance(value, str)}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict with the names of functions."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {name: name_of(function) for name, function in self.functions.items()}


FUNCTIONS = ("loss", "metric", "optimizer")
NAMED_OPTIMIZER_FIELDS = ("learning_rate", "weight_decay", "schedule", "warmup")


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return the optimizer of a recipe."""
    if not isinstance(tx := recipe.optimizer, str):
        tx = tx if isinstance(tx, optax.GradientTransformation) else tx(steps_per_epoch)
        if not isinstance(tx, optax.GradientTransformation):
            raise InputError(f"optimizer: got {short(tx)}, expected an optax.GradientTransformation")
        return tx
    total = recipe.epochs * steps_per_epoch
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=_is_kernel)
    rate = SCHEDULES[recipe.schedule](recipe.learning_rate, total)
    if recipe.warmup:
        rate = _with_warmup(rate, max(1, round(recipe.warmup * total)))
    return OPTIMIZERS[tx](rate, decay)


def _halving(learning_rate: float, total: int) -> optax.Schedule:
    """Return a schedule that halves the rate after each quarter of all steps."""
    # Step t is in quarter 4 * t // total. If several quarters of a short run start at one step, their factors multiply.
    halvings: dict[int, float] = {}
    for quarter in (1, 2, 3):
        step = -(-total * quarter // 4)
        halvings[step] = halvings.get(step, 1.0) * 0.5
    return optax.piecewise_constant_schedule(learning_rate, halvings)


def _with_warmup(rate: optax.Schedule, steps: int) -> optax.Schedule:
    """Return a schedule that increases linearly to `rate` in `steps` steps; its first value is not zero."""
    return lambda step: rate(step) * jnp.minimum(1.0, (step + 1) / steps)


SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "halving": _halving,
    "cosine": optax.cosine_decay_schedule,
}
OPTIMIZERS: dict[str, Callable[[optax.Schedule, optax.GradientTransformation], optax.GradientTransformation]] = {
    "adam": lambda rate, decay: optax.chain(decay, optax.adam(rate)),
    "adamw": lambda rate, decay: optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(rate)),
}


def _is_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
