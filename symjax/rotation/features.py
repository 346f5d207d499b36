"""Features of the frozen front in bounded memory: cached if they fit, otherwise recomputed block by block."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data
from symjax.data import Dataset, Split, batches
from symjax.network import Member, Network
from symjax.ops.memory import MemoryEstimate, estimate_memory, num_bytes
from symjax.ops.parallel import Execution, over_members, replicate
from symjax.training import Recipe
from symjax.training.evaluation import Batches
from symjax.training.loop import TrainData

FRONT_BATCH = 64  # images on each device


class FrontProgram:
    """The front of a network up to the pre-activations of one point, compiled once for all members and data.

    Args:
      network: the network of the members.
      point: index of the stitch point at which the front ends.
      augmentation: a recipe whose `flip` and `translate` are used for images that come with a key.
      execution: how the network runs. Batches run one after another on each device, for every value of `members`.
      devices: the devices over which batches are spread.
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

    def features_shape(self, images: int, image: Sequence[int]) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of the features of `images` images of shape (h, w, c)."""
        batch = jax.ShapeDtypeStruct((images, *image), jnp.float32)
        return jax.eval_shape(lambda m, x: self.network.pre_activation(m, x, self.point), self.network.shapes, batch)

    def bytes_per_image(self, dataset: Dataset) -> int:
        """Return the bytes of the features of one image."""
        return num_bytes(self.features_shape(1, dataset.train.images.shape[1:]))

    def memory(self, image: Sequence[int], augment: bool) -> MemoryEstimate:
        """Return the device memory of a batch of images (h, w, c), augmented or not; compiles the program."""
        batch = {"images": jax.ShapeDtypeStruct((FRONT_BATCH, *image), jnp.uint8)}
        if augment:
            batch["key"] = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        channels = jax.ShapeDtypeStruct(image[-1:], jnp.float32)
        return estimate_memory(self._features, self._execution, batch, (self.network.shapes, channels, channels))

    @property
    def batch_size(self) -> int:
        """The number of images in a batch on all devices."""
        return FRONT_BATCH * len(self.devices)

    def batches(self, member: Member, images: np.ndarray, mean, std, key=None) -> Iterator[jax.Array]:
        """Yield the features (batch_size, h, w, c) of all images, replicated to every device.

        The last image is repeated to fill the last batch. Images are augmented if a key is given.
        """
        (image_batches,), _ = batches((images,), self.batch_size)
        for i, batch in enumerate(image_batches):
            items = {"images": batch.reshape(-1, FRONT_BATCH, *batch.shape[1:])}
            if key is not None:
                # Keys depend on the images' positions alone, not on the number of devices.
                numbers = i * len(self.devices) + jnp.arange(len(self.devices), dtype=jnp.int32)
                keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
                items["key"] = np.asarray(jax.random.key_data(keys))
            features = self._run(items, (member, mean, std))
            yield replicate(features.reshape(-1, *features.shape[2:]), self.devices)


class FrontFeatures:
    """Features of a data set, computed by the front of one member.

    Training images are divided into blocks of equal size; one block if all features fit in memory. With one block
    and no augmentation, the features of training and validation images are computed once and cached. Otherwise each
    epoch draws a new permutation of the images and computes the features of one block at a time, for all tails alike.
    The remainder (fewer images than blocks) is not used in that epoch; neither are images of a block that do not fill
    a training batch.

    Args:
      program: the front.
      member: the member whose front it is.
      dataset: the images.
      blocks: number of blocks of training images; see `count_blocks`.
      augment: whether training images are augmented anew in each epoch.
      key: random key of permutations and augmentation.
    """

    def __init__(self, program: FrontProgram, member: Member, dataset: Dataset, blocks: int, *, augment: bool, key):
        self._program, self._member, self._dataset = program, jax.tree.map(np.asarray, member), dataset
        self._augment, self._key = augment, key
        self.blocks = blocks

    @property
    def cached(self) -> bool:
        """Whether the features of the training images are computed once."""
        return self.blocks == 1 and not self._augment

    def training(self, epoch: int) -> Iterator[TrainData]:
        """Yield the blocks of an epoch, as training data without validation."""
        if self.cached:
            yield self._all_training
            return
        train, key = self._dataset.train, jax.random.fold_in(self._key, epoch)
        order = np.asarray(jax.random.permutation(key, len(train)))
        size = len(train) // self.blocks
        for block in range(self.blocks):
            indices = order[block * size : (block + 1) * size]
            block_key = jax.random.fold_in(key, 1 + block) if self._augment else None
            yield self._train_data(Split(train.images[indices], train.labels[indices]), block_key)

    def evaluation(self, split: Split) -> Iterator[Batches]:
        """Yield all examples of a split, one padded batch at a time."""
        if split is self._dataset.validation and self.blocks == 1:
            yield from self._validation
        else:
            yield from self._batches(split)

    @cached_property
    def _all_training(self) -> TrainData:
        return self._train_data(self._dataset.train, None)

    @cached_property
    def _validation(self) -> list[Batches]:
        return list(self._batches(self._dataset.validation))

    def _train_data(self, split: Split, key) -> TrainData:
        features = jnp.concatenate(list(self._features(split.images, key)))[: len(split)]
        labels, mean, std = jnp.asarray(split.labels), jnp.float32(0), jnp.float32(1)  # features are not normalized
        return replicate(TrainData(features, labels, mean, std, None), self._program.devices)

    def _batches(self, split: Split) -> Iterator[Batches]:
        (labels,), mask = batches((split.labels,), self._program.batch_size)
        mask = mask.astype(np.float32)
        for features, *others in zip(self._features(split.images, None), labels, mask, strict=True):
            yield Batches(*(array[None] for array in (features, *others)))

    def _features(self, images, key):
        return self._program.batches(self._member, images, self._dataset.mean, self._dataset.std, key)


def count_blocks(program: FrontProgram, dataset: Dataset, budget: float, batch_size: int) -> int:
    """Return the number of blocks of training images whose features take about `budget` bytes on each device.

    It is 1 if the features of training and validation images fit together, otherwise 2 or more. A block has at least
    one training batch, and it must fit together with a copy of itself while it is assembled. The number, and so the
    results, do not depend on the number of devices. The last batch of validation images is padded, which can take
    slightly more than `budget`.
    """
    size = program.bytes_per_image(dataset)
    if (len(dataset.train) + len(dataset.validation)) * size <= budget:
        return 1
    blocks = max(2, -(-len(dataset.train) * size // max(1, int(budget))))
    return max(1, min(blocks, len(dataset.train) // batch_size))


def group_fronts(
    programs: Sequence[FrontProgram], dataset: Dataset, budget: float, batch_size: int
) -> list[tuple[list[FrontProgram], int]]:
    """Group fronts whose features fit in `budget` bytes together; return each group with its number of blocks.

    The number of blocks of a front is independent of the other fronts, and so is the order of its images. A front that
    needs several blocks is a group with one front, since each of its blocks about fills the budget.
    """
    groups: list[tuple[list[FrontProgram], int]] = []
    images = len(dataset.train) + len(dataset.validation)
    for program in programs:
        blocks = count_blocks(program, dataset, budget, batch_size)
        for group, group_blocks in groups:
            size = sum(front.bytes_per_image(dataset) for front in (*group, program))
            if group_blocks == blocks == 1 and images * size <= budget:
                group.append(program)
                break
        else:
            groups.append(([program], blocks))
    return groups
