"""Train and test one model in PyTorch, for `benchmarks.published`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    message = "benchmarks.published compares against PyTorch, which is not installed: pip install torch"
    raise ModuleNotFoundError(message, name="torch") from error

from torch import nn
from torch.nn import functional

MEAN = (125.307, 122.961, 113.8575)
DEVIATION = (51.5865, 50.847, 51.255)
SHIFT = 2  # pixels


@dataclass
class Seconds:
    """Seconds by part of the procedure; functions add their times to it."""

    preparation: float = 0.0  # normalizing and transferring images, building and copying models
    training: float = 0.0
    reestimation: float = 0.0  # rounding, and batch-norm statistics of the tail
    evaluation: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @property
    def total(self) -> float:
        return sum(getattr(self, part.name) for part in fields(self))

    @contextlib.contextmanager
    def clock(self, part: str, device: torch.device) -> Iterator[None]:
        _synchronize(device)
        start = time.perf_counter()
        yield
        _synchronize(device)
        setattr(self, part, getattr(self, part) + time.perf_counter() - start)


def quick_batch(device: torch.device) -> int:
    """Return the batch size for evaluation: on a CPU 64 is 1.6 times as fast as 500, which exceeds the cache."""
    return 500 if device.type == "cuda" else 64


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def cudnn_benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def autocast_of(device: torch.device, enabled: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


class MyrtleCNN(nn.Module):
    """Four 3x3 convolutions of widths c, 2c, 4c, 8c, each with batch norm and ReLU, and a dense layer, for 32x32x3
    images.

    `segments` is the network split after each ReLU: segments[:l] is the front up to layer l, segments[l:] the tail.
    """

    def __init__(self, width: int = 64, classes: int = 10):
        super().__init__()
        self.width = width
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        pools = (False, False, True, True)
        segments = [
            nn.Sequential(
                *([nn.MaxPool2d(2)] if pool else []),
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )
            for inputs, outputs, pool in zip(channels[:-1], channels[1:], pools, strict=True)
        ]
        head = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(channels[-1], classes))
        self.segments = nn.Sequential(*segments, head)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.segments(images)


class Images:
    """A labeled split on the device, normalized and padded with zeros once."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, device: torch.device, mean=MEAN, deviation=DEVIATION):
        pixels = torch.as_tensor(np.array(images)).to(device).to(torch.float32)  # examples, height, width, channels
        pixels.sub_(torch.tensor(mean, device=device)).div_(torch.tensor(deviation, device=device))
        self.padded = functional.pad(pixels, (0, 0, SHIFT, SHIFT, SHIFT, SHIFT))
        self.plain = self.padded[:, SHIFT:-SHIFT, SHIFT:-SHIFT]
        self.labels = torch.as_tensor(np.array(labels, dtype=np.int64)).to(device)
        self.device = device
        self.height, self.width = images.shape[1:3]

    def __len__(self) -> int:
        return len(self.labels)

    def slices(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all examples in order; the last batch may be smaller."""
        for start in range(0, len(self), batch_size):
            batch = self.plain[start : start + batch_size].contiguous()
            yield batch.permute(0, 3, 1, 2), self.labels[start : start + batch_size]  # a channels-last view

    def shuffled(
        self, batch_size: int, augment: bool, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield one epoch of full batches in random order; the remainder is dropped."""
        order = torch.randperm(len(self), generator=generator, device=self.device)
        for batch in range(self.steps(batch_size)):
            indices = order[batch * batch_size : (batch + 1) * batch_size]
            images = self._augmented(indices, generator) if augment else self.plain[indices]
            yield images.permute(0, 3, 1, 2), self.labels[indices]

    def steps(self, batch_size: int) -> int:
        return max(1, len(self) // batch_size)

    def _augmented(self, indices: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Select, translate and flip images in one gather."""
        draws = torch.randint(2 * SHIFT + 1, (2, len(indices), 1), generator=generator, device=self.device)
        flip = torch.rand((len(indices), 1), generator=generator, device=self.device) < 0.5
        columns = torch.arange(self.width, device=self.device)
        columns = torch.where(flip, columns.flip(0), columns) + draws[0]
        rows = torch.arange(self.height, device=self.device) + draws[1]
        return self.padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]


@cudnn_benchmark()
def train_member(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    width: int,
    batch_size: int,
    epochs: int,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int,
    augment: bool = True,
    autocast: bool = False,
    graphs: bool = False,
    device: torch.device | str = "cpu",
    classes: int = 10,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    seconds: Seconds | None = None,
) -> MyrtleCNN:
    """Train a model by Adam; the learning rate is halved after each quarter of the run.

    Weight decay applies to weights, including batch-norm scales, not to biases. With `graphs` (CUDA only) a step is
    captured as a CUDA graph after the first few, and replayed for the rest of the training.
    """
    device, seconds = torch.device(device), Seconds() if seconds is None else seconds
    with seconds.clock("preparation", device):
        data = Images(images, labels, device, mean, deviation)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MyrtleCNN(width, classes)
        model = model.to(device, memory_format=torch.channels_last).train()
        generator = torch.Generator(device).manual_seed(seed)
        decayed = [value for name, value in model.named_parameters() if name.endswith("weight")]
        others = [value for name, value in model.named_parameters() if not name.endswith("weight")]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        rate = torch.tensor(lr, device=device) if graphs else lr  # a CUDA graph needs the rate in device memory
        optimizer = torch.optim.Adam(groups, lr=rate, fused=True, capturable=graphs)

    def train_step(batch, targets):
        optimizer.zero_grad(set_to_none=True)
        with autocast_of(device, autocast):
            loss = functional.cross_entropy(model(batch), targets)
        loss.backward()
        optimizer.step()

    run = _replayed(train_step, device) if graphs else train_step
    total, step = epochs * data.steps(batch_size), 0
    with seconds.clock("training", device):
        for _ in range(epochs):
            for batch, targets in data.shuffled(batch_size, augment, generator):
                set_rate(optimizer, lr * 0.5 ** (4 * step // total))
                run(batch, targets)
                step += 1
    return model.eval()


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


GRAPH_WARMUP = 3  # steps before the capture, on a separate stream, as CUDA graphs require


def _replayed(step, device: torch.device):
    """Return `step` captured as a CUDA graph after a few runs; all tensors must have the same shapes and layouts."""
    stream, graph, buffers, runs = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), [], 0

    def run(*tensors):
        nonlocal runs
        runs += 1
        if runs <= GRAPH_WARMUP:
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                step(*tensors)
            torch.cuda.current_stream(device).wait_stream(stream)
            return
        if not buffers:
            buffers.extend(tensor.clone() for tensor in tensors)
            with torch.cuda.graph(graph):  # records without computing
                step(*buffers)
        for buffer, tensor in zip(buffers, tensors, strict=True):
            buffer.copy_(tensor)
        graph.replay()

    return run


def accuracy(model: nn.Module, data: Images, batch_size: int, autocast: bool) -> float:
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    with torch.no_grad(), autocast_of(data.device, autocast):
        for batch, targets in data.slices(batch_size):
            correct += (model(batch).argmax(dim=1) == targets).sum()
    return correct.item() / len(data)


@cudnn_benchmark()
def evaluate(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *,
    autocast: bool = False,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    seconds: Seconds | None = None,
) -> float:
    """Return the accuracy over examples (not the mean over batches), on the device of the model."""
    device, seconds = next(model.parameters()).device, Seconds() if seconds is None else seconds
    with seconds.clock("preparation", device):
        data = Images(images, labels, device, mean, deviation)
    with seconds.clock("evaluation", device):
        return accuracy(model, data, batch_size, autocast)
