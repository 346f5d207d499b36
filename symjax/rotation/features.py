"""The frozen front's features, within bounded memory: kept where they fit, else made again, chunk by chunk."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data
from symjax.data import Dataset, Split, batches
from symjax.memory import Need, need_of, num_bytes
from symjax.network import Member, Network
from symjax.parallel import Execution, over_members, replicate
from symjax.training import Recipe
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData

FRONT_BATCH = 64  # images on each device


class FrontProgram:
    """The front of one network up to a point's pre-activations, compiled once for all members and data.

    Args:
      network, point: where the front ends.
      augmentation: its `flip` and `translate` are used where images come with a key.
      execution: the network's; batches go one after another on each device, whatever it says of members.
      devices: that batches spread over.
    """

    def __init__(self, network: Network, point: int, augmentation: Recipe, execution: Execution, devices):
        self.network, self.point, self.devices = network, point, devices

        def features(batch, shared):
            member, mean, std = shared
            images = data.normalize(batch["images"], mean, std)
            if "key" in batch:
                key = jax.random.wrap_key_data(batch["key"])
                images = data.augment(key, images, flip=augmentation.flip, translate=augmentation.translate)
            return network.pre_activation(member, images, point)

        self._features, self._execution = features, dataclasses.replace(execution, members="map")
        self._run = over_members(features, self._execution, devices=devices)

    def features_of(self, images: int, image: Sequence[int]) -> jax.ShapeDtypeStruct:
        """The shape and type of the features of so many images (h, w, c)."""
        seen = jax.ShapeDtypeStruct((images, *image), jnp.float32)
        return jax.eval_shape(lambda m, x: self.network.pre_activation(m, x, self.point), self.network.shapes, seen)

    def bytes_per_image(self, dataset: Dataset) -> int:
        """Of the features of one image."""
        return num_bytes(self.features_of(1, dataset.train.images.shape[1:]))

    def need(self, image: Sequence[int], augment: bool) -> Need:
        """The device memory that a batch of images (h, w, c) takes, augmented or not; compiles the program."""
        batch = {"images": jax.ShapeDtypeStruct((FRONT_BATCH, *image), jnp.uint8)}
        if augment:
            batch["key"] = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        channels = jax.ShapeDtypeStruct(image[-1:], jnp.float32)
        return need_of(self._features, self._execution, batch, (self.network.shapes, channels, channels))

    @property
    def batch_size(self) -> int:
        """How many images go through at a time."""
        return FRONT_BATCH * len(self.devices)

    def batches(self, member: Member, images: np.ndarray, mean, std, key=None) -> Iterator[jax.Array]:
        """Features (batch_size, h, w, c) on every device, of all images, the last repeated to fill the last batch.

        Images are augmented where there is a key.
        """
        (cut,), _ = batches((images,), self.batch_size)
        for i, batch in enumerate(cut):
            items = {"images": batch.reshape(-1, FRONT_BATCH, *batch.shape[1:])}
            if key is not None:
                # The same for the same images, whatever the number of devices.
                numbers = i * len(self.devices) + jnp.arange(len(self.devices), dtype=jnp.int32)
                keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
                items["key"] = np.asarray(jax.random.key_data(keys))
            found = self._run(items, (member, mean, std))
            yield replicate(found.reshape(-1, *found.shape[2:]), self.devices)


class Features:
    """Features of a data set by one member's front.

    Training images come in blocks of one size, all of them in one where they fit. Then, without augmentation, they are
    computed once and kept, and so are those of the validation images. Otherwise each epoch cuts a new permutation of
    the images into blocks and computes the features of each when its turn comes, for all tails alike; the images left
    over, fewer than blocks, sit the epoch out, as in each block those that fill no training batch do.

    Args:
      program: the front.
      member: whose front.
      dataset: the images.
      blocks: into how many the training images are cut; `count_blocks` says how many a memory wants.
      augment: whether training images are augmented anew each epoch.
      key: of the permutations and the augmentation.
    """

    def __init__(self, program: FrontProgram, member: Member, dataset: Dataset, blocks: int, *, augment: bool, key):
        self._program, self._member, self._dataset = program, jax.tree.map(np.asarray, member), dataset
        self._augment, self._key = augment, key
        self.blocks = blocks

    @property
    def kept(self) -> bool:
        """Whether the features of the training images are computed once."""
        return self.blocks == 1 and not self._augment

    def training(self, epoch: int) -> Iterator[TrainData]:
        """The blocks of an epoch, as training data without validation."""
        if self.kept:
            yield self._everything
            return
        train, key = self._dataset.train, jax.random.fold_in(self._key, epoch)
        order = np.asarray(jax.random.permutation(key, len(train)))
        size = len(train) // self.blocks
        for block in range(self.blocks):
            chosen = order[block * size : (block + 1) * size]
            key_of_block = jax.random.fold_in(key, 1 + block) if self._augment else None
            yield self._data(Split(train.images[chosen], train.labels[chosen]), key_of_block)

    def evaluation(self, split: Split) -> Iterator[Batches]:
        """All examples of a split, one padded batch at a time."""
        if split is self._dataset.validation and self.blocks == 1:
            yield from self._validation
        else:
            yield from self._batches(split)

    @cached_property
    def _everything(self) -> TrainData:
        return self._data(self._dataset.train, None)

    @cached_property
    def _validation(self) -> list[Batches]:
        return list(self._batches(self._dataset.validation))

    def _data(self, split: Split, key) -> TrainData:
        features = jnp.concatenate(list(self._features(split.images, key)))[: len(split)]
        labels, nothing, one = jnp.asarray(split.labels), jnp.float32(0), jnp.float32(1)  # features are not normalised
        return replicate(TrainData(features, labels, nothing, one, None), self._program.devices)

    def _batches(self, split: Split) -> Iterator[Batches]:
        (labels,), mask = batches((split.labels,), self._program.batch_size)
        mask = mask.astype(np.float32)
        for features, *others in zip(self._features(split.images, None), labels, mask, strict=True):
            yield Batches(*(array[None] for array in (features, *others)))

    def _features(self, images, key):
        return self._program.batches(self._member, images, self._dataset.mean, self._dataset.std, key)


def count_blocks(program: FrontProgram, dataset: Dataset, budget: float, batch_size: int) -> int:
    """Into how many blocks training images are cut so that features take `budget` bytes on each device, about.

    One where those of the validation images fit beside them, otherwise two or more. A block is not smaller than a
    training batch, and must fit beside its copy while it is put together. By numbers of images alone, not of devices,
    so that results do not depend on these; validation images then fill whole batches, which takes a little more.
    """
    size = program.bytes_per_image(dataset)
    if (len(dataset.train) + len(dataset.validation)) * size <= budget:
        return 1
    wanted = max(2, -(-len(dataset.train) * size // max(1, int(budget))))
    return max(1, min(wanted, len(dataset.train) // batch_size))


def share_budget(
    programs: Sequence[FrontProgram], dataset: Dataset, budget: float, batch_size: int
) -> list[tuple[list[FrontProgram], int]]:
    """Fronts whose features lie side by side within `budget` bytes, and into how many blocks each cuts its images.

    The blocks are a front's own, so that the order of its images does not depend on the others. A front that needs
    several is alone, since each block about fills the budget.
    """
    shares: list[tuple[list[FrontProgram], int]] = []
    images = len(dataset.train) + len(dataset.validation)
    for program in programs:
        blocks = count_blocks(program, dataset, budget, batch_size)
        for others, theirs in shares:
            sizes = sum(one.bytes_per_image(dataset) for one in (*others, program))
            if theirs == blocks == 1 and images * sizes <= budget:
                others.append(program)
                break
        else:
            shares.append(([program], blocks))
    return shares
