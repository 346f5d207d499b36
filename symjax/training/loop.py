"""Training one member: a pure function of its state, epoch by epoch. Other members come in by `symjax.parallel`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from symjax.birkhoff.checks import is_concrete, scalar
from symjax.checks import can_be_key, integer, integer_fields, one_of, short
from symjax.data import Dataset, augment, epoch_indices, normalize
from symjax.data.dataset import check_augmentation
from symjax.errors import InputError
from symjax.network import Member, Network
from symjax.network.member import merge, select
from symjax.spelling import name_of, one_line
from symjax.training.evaluation import Batches, accuracy
from symjax.training.task import accuracy_scores, cross_entropy

PyTree = Any


@dataclass(frozen=True)
class Recipe:
    """How a member is trained; the defaults are those of Godfrey et al. 2022.

    Adam with the learning rate halved after every quarter of the run; weight decay is an L2 penalty on kernels, not on
    biases nor on batch norm.

    Attributes:
      flip, translate: the augmentation, see `symjax.data.augment`. None: what the data set asks for (`Dataset.flip`),
        which `symjax.zoo.train` puts in its place; images of your own are augmented only where the recipe says so.
      optimizer: "adam", or "adamw", whose weight decay is no penalty: kernels shrink by the learning rate times it. Or
        an `optax.GradientTransformation`, or a function of the number of steps in an epoch that returns one; it has
        its own learning rate and decay, so that those of the recipe stay at their defaults.
      schedule: "halving" as above, or "cosine" to zero at the end of the run.
      warmup: the share of the run over which the learning rate rises linearly to what the schedule says.
      loss: a function of the outputs and targets of a batch, the scalar to be minimised, a mean over examples. None:
        the cross-entropy of integer classes (`symjax.training.cross_entropy`).
      metric: a function of the outputs and targets of a batch with a score for each example, (examples,). The mean of
        its scores stands wherever results have an "accuracy". None: whether the largest logit is at the class
        (`symjax.training.accuracy_scores`).

    A recipe is a static argument of compiled programs: make functions once and pass the same ones again, or everything
    is compiled again.
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
        scalar("warmup", self.warmup, "a share of the run, from 0 and under 1", lambda value: 0 <= value < 1)
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
            if field.name in OF_NAMED_OPTIMIZERS and getattr(self, field.name) != field.default:
                raise InputError(f"{field.name}: is for optimizers given by name; yours has its own")

    @property
    def own_optimizer(self) -> bool:
        """Whether the optimizer is the caller's, and not one of symjax's by name."""
        return isinstance(self.optimizer, optax.GradientTransformation) or callable(self.optimizer)

    @property
    def functions(self) -> dict[str, Any]:
        """Those of loss, metric and optimizer that are the caller's."""
        given = {name: getattr(self, name) for name in FUNCTIONS}
        return {name: value for name, value in given.items() if value is not None and not isinstance(value, str)}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dict, with the names of functions."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {name: name_of(function) for name, function in self.functions.items()}


FUNCTIONS = ("loss", "metric", "optimizer")
OF_NAMED_OPTIMIZERS = ("learning_rate", "weight_decay", "schedule", "warmup")


class TrainState(NamedTuple):
    """All that a member's further training depends on."""

    member: Member
    opt_state: PyTree
    seed: jax.Array  # int32
    epoch: jax.Array  # int32, epochs done

    __repr__ = one_line


class TrainData(NamedTuple):
    """What all members share: images on the device, and how they are normalised."""

    images: jax.Array  # (n, height, width, channels), uint8
    labels: jax.Array  # (n,), int32
    mean: jax.Array | None  # (channels,); None where inputs are not normalised
    std: jax.Array | None  # (channels,)
    validation: Batches | None  # None where nothing is validated on the way

    __repr__ = one_line


def optimizer(recipe: Recipe, steps_per_epoch: int) -> optax.GradientTransformation:
    """What `recipe` says, for a run of so many steps per epoch."""
    if recipe.own_optimizer:
        own = recipe.optimizer
        own = own if isinstance(own, optax.GradientTransformation) else own(steps_per_epoch)
        if not isinstance(own, optax.GradientTransformation):
            raise InputError(f"optimizer: it returned {short(own)}, expected an optax.GradientTransformation")
        return own
    total = recipe.epochs * steps_per_epoch
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=_is_kernel)
    rate = SCHEDULES[recipe.schedule](recipe.learning_rate, total)
    if recipe.warmup:
        rate = _warmed_up(rate, max(1, round(recipe.warmup * total)))
    return OPTIMIZERS[recipe.optimizer](rate, decay)


def _halving(learning_rate: float, total: int) -> optax.Schedule:
    """The rate halves after each quarter of all steps."""
    # Step t of the run lies in quarter 4 * t // total. Quarters of very short runs may begin with one step; there the
    # halvings multiply.
    halvings: dict[int, float] = {}
    for quarter in (1, 2, 3):
        step = -(-total * quarter // 4)
        halvings[step] = halvings.get(step, 1.0) * 0.5
    return optax.piecewise_constant_schedule(learning_rate, halvings)


def _warmed_up(rate: optax.Schedule, steps: int) -> optax.Schedule:
    """Linearly up to the schedule's own in so many steps, the first of which is not zero."""
    return lambda step: rate(step) * jnp.minimum(1.0, (step + 1) / steps)


SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "halving": _halving,
    "cosine": optax.cosine_decay_schedule,
}
OPTIMIZERS: dict[str, Callable[[optax.Schedule, optax.GradientTransformation], optax.GradientTransformation]] = {
    "adam": lambda rate, decay: optax.chain(decay, optax.adam(rate)),
    "adamw": lambda rate, decay: optax.chain(optax.scale_by_adam(), decay, optax.scale_by_learning_rate(rate)),
}


def apply_gradients(tx: optax.GradientTransformation, grads, opt_state, params):
    """One optax step: (new params, new optimizer state)."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def _is_kernel(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def create_state(network: Network, recipe: Recipe, steps_per_epoch: int, seed: jax.Array) -> TrainState:
    """A fresh member from its seed alone."""
    integer("steps_per_epoch", steps_per_epoch, 1)
    whole = isinstance(seed, jax.Array) and seed.ndim == 0 and jnp.issubdtype(seed.dtype, jnp.integer)
    if not whole or is_concrete(seed):
        seed = integer("seed", int(seed) if whole else seed)
    member = network.init(jax.random.fold_in(jax.random.key(seed), 0))
    opt_state = optimizer(recipe, steps_per_epoch).init(member.params)
    return TrainState(member, opt_state, jnp.asarray(seed, jnp.int32), jnp.zeros((), jnp.int32))


def train_epoch(
    network: Network, recipe: Recipe, state: TrainState, data: TrainData, frozen: int = 0
) -> tuple[TrainState, dict]:
    """One pass over the training images in an order of the member's own, then validation, if there are images for it.

    Of `network` it uses `apply` alone where nothing is frozen.

    What the network computes up to its stitch point number `frozen` is not trained (static; see `train_step`). `flip`
    and `translate` of the recipe may not be None here.

    Returns:
      The next state, and metrics: `loss` and `accuracy` (of the training batches as they were seen, in [0, 1]),
      `validation_accuracy` (in [0, 1]). For another `metric` of the recipe accuracies are the mean of its scores.
    """
    if type(frozen) is not int or frozen != 0:
        frozen = integer("frozen", frozen, 0, len(network.points))
    steps_per_epoch = data.images.shape[0] // recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    drop_key = jax.random.fold_in(key, 2)  # not of the split, which gives the same two keys as before there was a third
    order = epoch_indices(order_key, data.images.shape[0], recipe.batch_size)

    def step(carry, inputs):
        member, opt_state = carry
        index, indices = inputs
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=recipe.flip, translate=recipe.translate)
        labels = data.labels[indices]

        random = jax.random.fold_in(drop_key, index)
        return train_step(
            network, tx, member, opt_state, images, labels, frozen, key=random, loss=recipe.loss, metric=recipe.metric
        )

    inputs = (jnp.arange(steps_per_epoch, dtype=jnp.int32), order)
    (member, opt_state), (losses, scores) = lax.scan(step, (state.member, state.opt_state), inputs)
    metrics = {"loss": losses.mean(), "accuracy": scores.mean()}
    if data.validation is not None:
        metrics["validation_accuracy"] = accuracy(
            lambda images: network.apply(member, normalize(images, data.mean, data.std)),
            data.validation,
            recipe.metric,
        )
    return TrainState(member, opt_state, state.seed, state.epoch + 1), metrics


def train_step(
    network: Network,
    tx: optax.GradientTransformation,
    member: Member,
    opt_state: PyTree,
    images: jax.Array,
    labels: jax.Array,
    frozen: int = 0,
    *,
    key: jax.Array | None = None,
    loss: Callable[[PyTree, jax.Array], jax.Array] | None = None,
    metric: Callable[[PyTree, jax.Array], jax.Array] | None = None,
):
    """One step on a batch of normalised images: ((member, optimizer state), (loss, share of right answers)).

    `loss` and `metric` are as of `Recipe`; in place of the share is the mean score of another metric.

    Parameters that the front up to the stitch point number `frozen` reads stay as they are: the front runs in inference
    mode, so that its features are fixed, and for them neither gradients nor updates are computed. What is left of their
    cost is the forward pass. `key` is for random operations of the network.
    """
    fixed: frozenset[str] = frozenset()
    run = partial(network.apply, x=images)
    if frozen:
        carried, fixed = network.front(member, images, frozen - 1), network.read_by_front(frozen - 1)
        run = partial(network.tail, carried=carried, point=frozen - 1)

    def trained_part(params):
        return select(params, lambda path: f".params{path}" not in fixed) if fixed else params

    def loss_fn(trained):
        whole = Member(merge(member.params, trained), member.state)
        outputs, state = run(whole, mode="train", key=key, with_state=True)
        score = jnp.mean((metric or accuracy_scores)(outputs, labels).astype(jnp.float32))
        return (loss or cross_entropy)(outputs, labels), (state, score)

    trained = trained_part(member.params)
    (value, (state, score)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    update = partial(_apply_to_part, trained_part) if fixed else apply_gradients
    params, opt_state = update(tx, grads, opt_state, member.params)
    return (Member(params, state), opt_state), (value, score)


def _apply_to_part(trained_part: Callable[[PyTree], PyTree], tx, grads, opt_state, params):
    """`apply_gradients` to those parameters that `trained_part` keeps; the others stay as they are.

    An optimizer that sees all parameters together (`optax.flatten`, `optax.multi_transform`) gets zeros for the
    gradients of the others, and what it would do to them is left out. Of any other its part alone is run.
    """
    structure, trained = jax.tree.structure(params), trained_part(params)

    def is_params(node):
        return jax.tree.structure(node) == structure

    part = jax.tree.map(lambda node: trained_part(node) if is_params(node) else node, opt_state, is_leaf=is_params)
    if _is_of(tx, trained, part):
        trained, part = apply_gradients(tx, grads, part, trained)
        return merge(params, trained), merge(opt_state, part)
    grads = merge(jax.tree.map(jnp.zeros_like, params), grads)
    updated, opt_state = apply_gradients(tx, grads, opt_state, params)
    return merge(params, trained_part(updated)), opt_state


def _is_of(tx: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> bool:
    """Whether `opt_state` is what the optimizer holds for these parameters alone."""
    try:
        begun = jax.eval_shape(tx.init, params)
        _, after = jax.eval_shape(partial(apply_gradients, tx), params, opt_state, params)
    except Exception:  # whatever an optimizer raises that cannot do without the others
        return False
    return tree_types(begun) == tree_types(opt_state) == tree_types(after)


def tree_types(tree: PyTree) -> tuple[Any, list[tuple]]:
    """The structure of a pytree of arrays, and the shapes and types of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def data_shapes(dataset: Dataset, validation_batches: Batches | None) -> TrainData:
    """Shapes and types of `device_data`, of which nothing is made: `jax.eval_shape` would send the images."""

    def shape(array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))

    train = dataset.train
    return jax.tree.map(shape, TrainData(train.images, train.labels, dataset.mean, dataset.std, validation_batches))


def device_data(dataset: Dataset, validation_batches: Batches | None) -> TrainData:
    """A data set's training part on the device."""
    train = dataset.train
    data = TrainData(train.images, train.labels, dataset.mean, dataset.std, None)
    return jax.tree.map(jnp.asarray, data)._replace(validation=validation_batches)
