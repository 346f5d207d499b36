"""What training a zoo will cost, before it is trained: operations, device memory, and time after a short rehearsal."""

import dataclasses
import pathlib
import time
from collections import Counter
from collections.abc import Iterable

import jax
import numpy as np

from symjax import parallel, representations
from symjax.data import Dataset, Split
from symjax.flops import segment_flops, step_flops
from symjax.memory import num_bytes
from symjax.parallel import Execution
from symjax.training import create_state, pad_batches
from symjax.training.loop import device_data
from symjax.zoo.config import ZooConfig
from symjax.zoo.jobs import epochs_program, plan
from symjax.zoo.saturation import looked_at
from symjax.zoo.stored import StoredMember, abstract_state
from symjax.zoo.trained import EVALUATION_BATCH

REHEARSED = 8  # training steps
REHEARSAL_BYTES = 2**31  # on each device, about; a rehearsal that would take more is of fewer members, or of none


def epochs_to_go(
    folder: str | pathlib.Path, seeds: Iterable[int], epochs: int, keep: Iterable[int] = ()
) -> dict[int, range]:
    """The epochs, from 0, that members are still to be trained in a zoo folder, which need not be there.

    Members that are finished, and kept after all epochs of `keep`, are left out; one that is finished but not kept is
    trained again, see `symjax.zoo.train`.
    """
    jobs = {seed: plan(StoredMember(pathlib.Path(folder), seed), epochs, keep) for seed in seeds}
    return {seed: range(job.start, job.stop) for seed, job in jobs.items() if job is not None}


def training_flops(config: ZooConfig, dataset: Dataset, epochs: Iterable[int]) -> float:
    """Floating-point operations of these epochs, as of `epoch_flops`, with what `config` freezes in each.

    Of a rule the most that they can take: nothing is ever frozen, and each epoch is looked at.
    """
    counts = Counter(config.frozen(epoch) for epoch in epochs)
    looks = 0.0 if config.rule is None else counts.total() * look_flops(config, dataset)
    return looks + sum(count * epoch_flops(config, dataset, frozen) for frozen, count in counts.items())


def look_flops(config: ZooConfig, dataset: Dataset) -> float:
    """Floating-point operations of a pass of the examples by which a rule freezes, through one member's layers.

    One for each epoch that is compared, and one before the first. What the measure takes is not counted.
    """
    network, examples = config.network(dataset), len(looked_at(config.rule, dataset))
    return examples * sum(segment_flops(network, dataset.train.images.shape[1:])[: len(network.points)])


def epoch_flops(config: ZooConfig, dataset: Dataset, frozen: int = 0) -> float:
    """Floating-point operations of an epoch of one member, convolutions counted plainly.

    The first `frozen` segments are not trained.
    """
    network, image = config.network(dataset), dataset.train.images.shape[1:]
    steps = len(dataset.train) // config.recipe.batch_size
    labels = dataset.train.labels
    target = jax.ShapeDtypeStruct(labels.shape[1:], labels.dtype)
    step = step_flops(network, image, config.recipe, frozen, target=target)
    return steps * step + len(dataset.validation) * sum(segment_flops(network, image))


def rehearse(config: ZooConfig, dataset: Dataset, execution: Execution, devices: tuple, members: int) -> float | None:
    """Floating-point operations per second of one of `devices`, as `epoch_flops` counts, in training `members` on all.

    A few steps on some examples, once to compile and once on the clock; nothing is kept. Of fewer members where they
    would take more than `REHEARSAL_BYTES` of a device; None, and nothing is allocated, where one would.
    """
    config = config.on(dataset)
    batch = config.recipe.batch_size
    members = min(members, len(devices) * int(REHEARSAL_BYTES // _bytes_of_member(config, dataset)))
    if not members:
        return None
    small = dataclasses.replace(
        dataset,
        train=_random(dataset.train, min(len(dataset.train), REHEARSED * batch)),
        validation=_random(dataset.validation, min(len(dataset.validation), EVALUATION_BATCH)),
    )
    network = config.network(dataset).with_form(execution.conv)
    shared = parallel.replicate(device_data(small, pad_batches(small.validation, EVALUATION_BATCH)), devices)
    create = jax.jit(create_state, static_argnums=(0, 1, 2), compiler_options=parallel.compiler_options(effort=0))
    one = jax.device_get(create(network, config.recipe, len(small.train) // batch, 0))
    states = parallel.stack([one] * members)
    program = epochs_program(network, config.recipe, execution, devices)
    states, _ = jax.block_until_ready(program(states, shared))
    began = time.perf_counter()
    jax.block_until_ready(program(states, shared))
    seconds = time.perf_counter() - began
    most = -(-members // len(devices))  # on one device
    return most * epoch_flops(config, small) / seconds


def _bytes_of_member(config: ZooConfig, dataset: Dataset) -> int:
    """Roughly what training a member takes: its state before and after, its gradients, and activations both ways."""
    network, image = config.network(dataset), dataset.train.images.shape[1:]
    state = num_bytes(abstract_state(config, network, len(dataset.train)))
    points, dtype = range(len(network.points)), dataset.input_dtype
    activations = representations.bytes_per_image(network, image, points, dtype=dtype)
    images = config.recipe.batch_size + EVALUATION_BATCH + REHEARSED * config.recipe.batch_size
    return 3 * state + 4 * config.recipe.batch_size * activations + images * int(np.prod(image)) * dtype.itemsize


def _random(split: Split, count: int) -> Split:
    """So many examples, drawn with replacement."""
    chosen = np.random.default_rng(0).integers(0, len(split), count)
    return Split(split.images[chosen], split.labels[chosen])
