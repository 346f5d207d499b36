"""Train one member: an epoch is a pure function of its state. `symjax.ops.parallel` lifts it over members."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from symjax.checks import integer, is_concrete
from symjax.data import Dataset, augment, epoch_indices, normalize
from symjax.network import Member, Network
from symjax.network.member import merge, select
from symjax.spelling import one_line
from symjax.training.evaluation import Batches, accuracy
from symjax.training.recipe import Recipe, optimizer
from symjax.training.task import accuracy_scores, cross_entropy

PyTree = Any


class TrainState(NamedTuple):
    """All values on which the further training of a member depends."""

    member: Member
    opt_state: PyTree
    seed: jax.Array  # int32
    epoch: jax.Array  # int32, completed epochs

    def __repr__(self):
        return one_line(self)


class TrainData(NamedTuple):
    """The data that all members share, on the device."""

    images: jax.Array | np.ndarray  # (n, ...); images are (n, height, width, channels), uint8
    labels: jax.Array | np.ndarray  # (n, ...); classes are (n,), int32
    mean: jax.Array | np.ndarray | None  # (channels,); None if inputs are not normalized
    std: jax.Array | np.ndarray | None  # (channels,)
    validation: Batches | None  # None without validation after each epoch

    def __repr__(self):
        return one_line(self)


def apply_gradients(tx: optax.GradientTransformation, grads, opt_state, params):
    """Apply one optax step; return (params, optimizer state)."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state


def initial_member(network: Network, seed: jax.Array | int) -> Member:
    """Return the member with which the training of a seed starts."""
    return network.init(jax.random.fold_in(jax.random.key(seed), 0))


def create_state(network: Network, recipe: Recipe, steps_per_epoch: int, seed: jax.Array) -> TrainState:
    """Return the initial state of a member, which depends on its seed only.

    Args:
      network: the network.
      recipe: the settings of the training.
      steps_per_epoch: the number of full batches of the training images.
      seed: an integer from 0.

    Raises:
      InputError: an argument that is not an integer in its range.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, symjax
      >>> from symjax import training
      >>> def init(key):
      ...     return {"w": jax.random.normal(key, (3, 2))}
      >>> def linear(params, x):
      ...     return x @ params["w"]
      >>> net = symjax.Network.from_function(linear, init=init, example=np.zeros((1, 3), np.float32))
      >>> state = training.create_state(net, training.Recipe(epochs=2), steps_per_epoch=5, seed=3)
      >>> int(state.seed), int(state.epoch), state.member.params["w"].shape
      (3, 0, (3, 2))
    """
    integer("steps_per_epoch", steps_per_epoch, 1)
    is_scalar_array = isinstance(seed, jax.Array) and seed.ndim == 0 and jnp.issubdtype(seed.dtype, jnp.integer)
    if not is_scalar_array or is_concrete(seed):
        seed = integer("seed", int(seed) if is_scalar_array else seed)
    member = initial_member(network, seed)
    opt_state = optimizer(recipe, steps_per_epoch).init(member.params)
    return TrainState(member, opt_state, jnp.asarray(seed, jnp.int32), jnp.zeros((), jnp.int32))


def train_epoch(
    network: Network, recipe: Recipe, state: TrainState, data: TrainData, frozen: int = 0
) -> tuple[TrainState, dict]:
    """Train a member for one pass over the training images in an order that depends on its seed, then validate it.

    Args:
      network: the network. Without frozen layers only its `apply` is used.
      recipe: the settings of the training; `flip` and `translate` must not be None here.
      state: the state of the member.
      data: the data that all members share; without validation images the member is not validated.
      frozen: the network up to this stitch point, counted from 1, is not trained (static; see `train_step`).

    Returns:
      The next state, and metrics: `loss` and `accuracy`, the means over the training batches, each before its update,
      and `validation_accuracy`. Accuracies are in [0, 1]; with a `metric` in the recipe they are means of its scores.

    Raises:
      InputError: `frozen` is not an integer from 0 to the number of points, or there are fewer images than a batch has.

    Example:
      >>> import jax, numpy as np, symjax
      >>> from symjax import training
      >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 2
      >>> dataset = symjax.data.load({"x_train": x, "y_train": y, "x_test": x, "y_test": y}, validation=0.4)
      >>> def linear(params, x):
      ...     return x @ params["w"]
      >>> def init(key):
      ...     return {"w": jax.random.normal(key, (3, 2))}
      >>> net = symjax.Network.from_function(linear, init=init, example=x[:1])
      >>> recipe = training.Recipe(epochs=2, batch_size=2, flip=False, translate=0)
      >>> state = training.create_state(net, recipe, steps_per_epoch=2, seed=0)
      >>> data = training.device_data(dataset, training.pad_batches(dataset.validation, 2))
      >>> state, metrics = training.train_epoch(net, recipe, state, data)
      >>> int(state.epoch), sorted(metrics)
      (1, ['accuracy', 'loss', 'validation_accuracy'])
    """
    if type(frozen) is not int or frozen != 0:
        frozen = integer("frozen", frozen, 0, len(network.points))
    steps_per_epoch = data.images.shape[0] // recipe.batch_size
    tx = optimizer(recipe, steps_per_epoch)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 1), state.epoch)
    order_key, augment_key = jax.random.split(key)
    drop_key = jax.random.fold_in(key, 2)  # splitting into three would change the other two keys
    order = epoch_indices(order_key, data.images.shape[0], recipe.batch_size)

    def step(carry, inputs):
        member, opt_state = carry
        index, indices = inputs
        images = normalize(data.images[indices], data.mean, data.std)
        images = augment(jax.random.fold_in(augment_key, index), images, flip=recipe.flip, translate=recipe.translate)
        labels = data.labels[indices]
        step_key = jax.random.fold_in(drop_key, index)
        functions = {"loss": recipe.loss, "metric": recipe.metric}
        return train_step(network, tx, member, opt_state, images, labels, frozen, key=step_key, **functions)

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
    """Take one step on a batch of normalized images: ((member, optimizer state), (loss, accuracy)).

    `loss` and `metric` are those of `Recipe`; with a metric its mean score replaces the accuracy. `key` is for random
    operations of the network.

    With `frozen` > 0 the front, which ends at the stitch point of this number, counted from 1, is not trained. It runs
    in inference mode, so that its features are fixed, and costs only a forward pass.
    """
    fixed: frozenset[str] = frozenset()
    run = partial(network.apply, x=images)
    if frozen:
        carried, fixed = network.front(member, images, frozen - 1), network.read_by_front(frozen - 1)
        run = partial(network.tail, carried=carried, point=frozen - 1)

    def trained_params(params):
        return select(params, lambda path: f".params{path}" not in fixed) if fixed else params

    def loss_fn(trained):
        current = Member(merge(member.params, trained), member.state)
        outputs, state = run(current, mode="train", key=key, with_state=True)
        score = jnp.mean((metric or accuracy_scores)(outputs, labels).astype(jnp.float32))
        return (loss or cross_entropy)(outputs, labels), (state, score)

    trained = trained_params(member.params)
    (value, (state, score)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    update = partial(_apply_to_subset, trained_params) if fixed else apply_gradients
    params, opt_state = update(tx, grads, opt_state, member.params)
    return (Member(params, state), opt_state), (value, score)


def _apply_to_subset(trained_params: Callable[[PyTree], PyTree], tx, grads, opt_state, params):
    """Apply `apply_gradients` to the parameters that `trained_params` selects; the others stay unchanged.

    An optimizer that combines all parameters (`optax.flatten`, `optax.multi_transform`) gets zeros for the gradients of
    the others, and its updates of them are dropped. Any other optimizer runs on the selected parameters only.
    """
    structure, trained = jax.tree.structure(params), trained_params(params)

    def is_params(node):
        return jax.tree.structure(node) == structure

    subset = jax.tree.map(lambda node: trained_params(node) if is_params(node) else node, opt_state, is_leaf=is_params)
    if _is_state_of(tx, trained, subset):
        trained, subset = apply_gradients(tx, grads, subset, trained)
        return merge(params, trained), merge(opt_state, subset)
    grads = merge(jax.tree.map(jnp.zeros_like, params), grads)
    updated, opt_state = apply_gradients(tx, grads, opt_state, params)
    return merge(params, trained_params(updated)), opt_state


def _is_state_of(tx: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> bool:
    """Return whether `opt_state` is a state of the optimizer for these parameters."""
    try:
        initial = jax.eval_shape(tx.init, params)
        _, after = jax.eval_shape(partial(apply_gradients, tx), params, opt_state, params)
    except Exception:  # any error of an optimizer that needs all parameters
        return False
    return tree_types(initial) == tree_types(opt_state) == tree_types(after)


def tree_types(tree: PyTree) -> tuple[Any, list[tuple]]:
    """Return the structure of a pytree of arrays, and the shapes and dtypes of its leaves."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def data_shapes(dataset: Dataset, validation_batches: Batches | None) -> TrainData:
    """Return shapes and dtypes of `device_data` without a transfer; `jax.eval_shape` would send the images."""

    def shape(array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))

    train = dataset.train
    return jax.tree.map(shape, TrainData(train.images, train.labels, dataset.mean, dataset.std, validation_batches))


def device_data(dataset: Dataset, validation_batches: Batches | None) -> TrainData:
    """Copy the training data of a data set to the device.

    Args:
      dataset: the data set.
      validation_batches: the result of `pad_batches` for the validation examples, already on the device; None for a
        training without validation.

    Returns:
      The data as `train_epoch` takes them.

    Example:
      >>> import numpy as np, symjax
      >>> from symjax import training
      >>> x, y = np.eye(6, 3, dtype=np.float32), np.arange(6) % 2
      >>> dataset = symjax.data.load({"x_train": x, "y_train": y, "x_test": x, "y_test": y}, validation=0.4)
      >>> data = training.device_data(dataset, training.pad_batches(dataset.validation, 2))
      >>> data.images.shape, data.validation.mask.shape
      ((4, 3), (1, 2))
    """
    train = dataset.train
    data = TrainData(train.images, train.labels, dataset.mean, dataset.std, None)
    return jax.tree.map(jnp.asarray, data)._replace(validation=validation_batches)
