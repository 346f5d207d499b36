"""The cost of training a zoo before it is trained: operations, device memory, and time from a short rehearsal."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Iterable

import jax
import numpy as np

from symjax import representations
from symjax.data import Dataset, Split
from symjax.flops import segment_flops, step_flops
from symjax.freezing import Saturation
from symjax.ops import parallel
from symjax.ops.memory import num_bytes
from symjax.ops.parallel import Execution
from symjax.training import create_state, pad_batches
from symjax.training.loop import device_data
from symjax.zoo.config import ZooConfig
from symjax.zoo.evaluation import EVALUATION_BATCH
from symjax.zoo.jobs import completed_epochs, epochs_program
from symjax.zoo.saturation import comparison_images
from symjax.zoo.stored import StoredMember, abstract_state

REHEARSAL_STEPS = 8
REHEARSAL_BYTES = 2**31  # approximate limit on each device; members that exceed it do not take part in the rehearsal


def remaining_epochs(
    folder: str | pathlib.Path, seeds: Iterable[int], epochs: int, keep: Iterable[int] = ()
) -> dict[int, range]:
    """Return the remaining epochs of each unfinished member of a zoo folder, counted from 0, by seed.

    The folder need not exist.

    Raises:
      InputError: a member was trained past an epoch of `keep` without keeping it, see `symjax.zoo.train`.
    """
    completed = {seed: completed_epochs(StoredMember(pathlib.Path(folder), seed), keep) for seed in seeds}
    return {seed: range(done, epochs) for seed, done in completed.items() if done < epochs}


def training_flops(config: ZooConfig, dataset: Dataset, epochs: Iterable[int]) -> float:
    """Return the floating-point operations of these epochs of a member, see `epoch_flops`.

    Frozen layers cost less. With a rule the result is an upper bound: no layer is frozen, and all are compared after
    each epoch.
    """
    counts = Counter(config.frozen(epoch) for epoch in epochs)
    comparisons = 0.0 if config.rule is None else counts.total() * comparison_flops(config, config.rule, dataset)
    return comparisons + sum(count * epoch_flops(config, dataset, frozen) for frozen, count in counts.items())


def comparison_flops(config: ZooConfig, rule: Saturation, dataset: Dataset) -> float:
    """Return the floating-point operations of one pass of the images of a rule through the layers of a member.

    There is one pass after each epoch that is compared, and one before the first. The measure is not counted.
    """
    network, examples = config.network(dataset), len(comparison_images(rule, dataset))
    return examples * sum(segment_flops(network, dataset.train.images.shape[1:])[: len(network.points)])


def epoch_flops(config: ZooConfig, dataset: Dataset, frozen: int = 0) -> float:
    """Return the floating-point operations of an epoch of one member; its first `frozen` segments are not trained.

    Convolutions are counted as direct convolutions, in every form of execution.
    """
    network, image = config.network(dataset), dataset.train.images.shape[1:]
    steps = len(dataset.train) // config.recipe.batch_size
    labels = dataset.train.labels
    target = jax.ShapeDtypeStruct(labels.shape[1:], labels.dtype)
    step = step_flops(network, image, config.recipe, frozen, target=target)
    return steps * step + len(dataset.validation) * sum(segment_flops(network, image))


def rehearse(config: ZooConfig, dataset: Dataset, execution: Execution, devices: tuple, members: int) -> float | None:
    """Return the floating-point operations per second of one device while all `devices` train `members`.

    Operations are counted as in `epoch_flops`. The function trains a few steps on random examples, first to compile and
    then to measure. Fewer members train if `members` would need more than `REHEARSAL_BYTES` of a device. If a single
    member would, nothing is allocated and the result is None.
    """
    config = config.resolved_for(dataset)
    batch = config.recipe.batch_size
    members = min(members, len(devices) * int(REHEARSAL_BYTES // _bytes_of_member(config, dataset)))
    if not members:
        return None
    small = dataclasses.replace(
        dataset,
        train=_random(dataset.train, min(len(dataset.train), REHEARSAL_STEPS * batch)),
        validation=_random(dataset.validation, min(len(dataset.validation), EVALUATION_BATCH)),
    )
    network = config.network(dataset).with_form(execution.conv)
    shared = parallel.replicate(device_data(small, pad_batches(small.validation, EVALUATION_BATCH)), devices)
    create = jax.jit(create_state, static_argnums=(0, 1, 2), compiler_options=parallel.compiler_options(effort=0))
    state = jax.device_get(create(network, config.recipe, len(small.train) // batch, 0))
    states = parallel.stack([state] * members)
    program = epochs_program(network, config.recipe, execution, devices)
    states, _ = jax.block_until_ready(program(states, shared))
    begin = time.perf_counter()
    jax.block_until_ready(program(states, shared))
    seconds = time.perf_counter() - begin
    per_device = -(-members // len(devices))
    return per_device * epoch_flops(config, small) / seconds


def _bytes_of_member(config: ZooConfig, dataset: Dataset) -> int:
    """Estimate the memory of training a member: states before and after, gradients, activations and their gradients."""
    network, image = config.network(dataset), dataset.train.images.shape[1:]
    state = num_bytes(abstract_state(config, network, len(dataset.train)))
    points, dtype = range(len(network.points)), dataset.input_dtype
    activations = representations.bytes_per_image(network, image, points, dtype=dtype)
    images = config.recipe.batch_size + EVALUATION_BATCH + REHEARSAL_STEPS * config.recipe.batch_size
    return 3 * state + 4 * config.recipe.batch_size * activations + images * int(np.prod(image)) * dtype.itemsize


def _random(split: Split, count: int) -> Split:
    """Return `count` examples, drawn with replacement."""
    chosen = np.random.default_rng(0).integers(0, len(split), count)
    return Split(split.images[chosen], split.labels[chosen])
