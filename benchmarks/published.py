"""The published procedure in PyTorch, with which the speed of symjax is compared.

Members of a zoo are trained one at a time, and stitches (one layer, one family) one at a time, with the usual
optimizations: channels last, no gradients of frozen parameters, batched augmentation on the device, fused optimizers,
no device synchronization inside an epoch, optional bfloat16 autocast. Where published code deviates from the
description of the method, this code follows the description: the front is in eval mode, buffers of the tail are copied,
statistics are re-estimated with the rounded stitch, and the test set is not used for choices.

    python -m benchmarks.published --width 16 --images 2048

Layers are numbered from 1: layer l is the stitch point after the l-th ReLU, before its pooling. Accuracies are
fractions, penalties percentage points.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    message = "benchmarks.published compares against PyTorch, which is not installed: pip install torch"
    raise ModuleNotFoundError(message, name="torch") from error

from torch import nn
from torch.nn import functional

from benchmarks.operations import FAMILIES, LAYERS, member_step_flops, rank_of, sweep_flops

MEAN = (125.307, 122.961, 113.8575)
DEVIATION = (51.5865, 50.847, 51.255)
SHIFT = 2  # pixels
SWEEPS = 16  # Sinkhorn iterations after each step


# --- timing ---


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
def _cudnn_benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _autocast(device: torch.device, enabled: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


# --- model ---


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


# --- images ---


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


# --- training and testing one model ---


@_cudnn_benchmark()
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
        with _autocast(device, autocast):
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


def _accuracy(model: nn.Module, data: Images, batch_size: int, autocast: bool) -> float:
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    with torch.no_grad(), _autocast(data.device, autocast):
        for batch, targets in data.slices(batch_size):
            correct += (model(batch).argmax(dim=1) == targets).sum()
    return correct.item() / len(data)


@_cudnn_benchmark()
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
        return _accuracy(model, data, batch_size, autocast)


# --- stitches ---


def sinkhorn_(matrix: torch.Tensor, sweeps: int = SWEEPS) -> torch.Tensor:
    """Normalize rows and columns in place; rows and columns of zeros stay zero."""
    tiny = torch.finfo(matrix.dtype).tiny
    for _ in range(sweeps):
        matrix.div_(matrix.sum(dim=1, keepdim=True).clamp_min_(tiny))
        matrix.div_(matrix.sum(dim=0, keepdim=True).clamp_min_(tiny))
    return matrix


class BirkhoffStitch(nn.Module):
    """P diag(s) as a 1x1 convolution; only P until `scale()` is called."""

    def __init__(self, channels: int):
        super().__init__()
        self.permutation = nn.Parameter(sinkhorn_(torch.rand(channels, channels)))
        self.scales = nn.Parameter(torch.ones(channels), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        matrix = self.permutation * self.scales if self.scales.requires_grad else self.permutation
        return functional.conv2d(features, matrix[:, :, None, None])

    def scale(self) -> None:
        self.scales.requires_grad_(True)

    @torch.no_grad()
    def project(self) -> None:
        sinkhorn_(self.permutation.relu_())
        if self.scales.requires_grad:
            self.scales.relu_()

    @torch.no_grad()
    def round(self) -> None:
        rows, columns = linear_sum_assignment(self.permutation.cpu().numpy(), maximize=True)
        self.permutation.zero_()
        self.permutation[torch.as_tensor(rows), torch.as_tensor(columns)] = 1.0


def make_stitch(family: str, channels: int) -> nn.Module:
    if family == "full":
        return nn.Conv2d(channels, channels, 1, bias=False)
    if family == "birkhoff":
        return BirkhoffStitch(channels)
    rank = rank_of(family)
    return nn.Sequential(nn.Conv2d(channels, rank, 1, bias=False), nn.Conv2d(rank, channels, 1, bias=False))


# --- stitching ---


def _frozen_copy(segments: nn.Sequential, autocast: bool) -> nn.Sequential:
    """Return a deep copy with buffers and without gradients; with autocast its convolutions are cast once."""
    frozen = copy.deepcopy(segments).requires_grad_(False)
    if autocast:
        for module in frozen.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(torch.bfloat16)
    return frozen


def _train_stitch(
    front: nn.Sequential,
    stitch: nn.Module,
    tail: nn.Sequential,
    data: Images,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    alpha: float,
    augment: bool,
    autocast: bool,
    generator: torch.Generator,
) -> None:
    front.eval()
    stitch.train()
    tail.train()  # the tail normalizes with the statistics of the stitched features
    birkhoff = isinstance(stitch, BirkhoffStitch)
    optimizer = torch.optim.SGD(stitch.parameters(), lr=lr, fused=True)
    total, step = epochs * data.steps(batch_size), 0
    for _ in range(epochs):
        for batch, targets in data.shuffled(batch_size, augment, generator):
            if birkhoff and step == total // 2:
                stitch.scale()
            optimizer.zero_grad(set_to_none=True)
            with _autocast(data.device, autocast):
                with torch.no_grad():
                    features = front(batch)
                loss = functional.cross_entropy(tail(stitch(features)), targets)
            if birkhoff:
                loss = loss - alpha * torch.linalg.matrix_norm(stitch.permutation)
            loss.backward()
            optimizer.step()
            if birkhoff:
                stitch.project()
            step += 1


def _reestimate(stitched: nn.Sequential, tail: nn.Sequential, data: Images, batch_size: int, autocast: bool) -> None:
    """Set the running statistics of the tail to the mean of batch statistics over the data, weighted by batch size.

    For equal batches this equals momentum=None of BatchNorm, but needs no device synchronization.
    """
    norms = [module for module in tail.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return  # after the last ReLU there is nothing to re-estimate
    stitched.eval()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    count = 0
    with torch.no_grad(), _autocast(data.device, autocast):
        for batch, _ in data.slices(batch_size):
            count += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / count
            stitched(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


@_cudnn_benchmark()
def stitch_sweep(
    model_a: MyrtleCNN,
    model_b: MyrtleCNN,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    families: Sequence[str] = FAMILIES,
    epochs: int,
    batch_size: int = 32,
    eval_batch_size: int | None = None,
    lr: float | Mapping[str, float],
    autocast: bool = False,
    device: torch.device | str = "cpu",
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    layers: Sequence[int] = LAYERS,
    alpha: float = 0.1,
    augment: bool = True,
    seed: int = 0,
    mean: Sequence[float] = MEAN,
    deviation: Sequence[float] = DEVIATION,
    seconds: Seconds | None = None,
) -> list[dict[str, Any]]:
    """Stitch one pair at every layer with every family: train the stitch, round it, re-estimate statistics, and test.

    Rows have layer, family, accuracy, penalty, clean_a, clean_b and the seconds of the stitch by part (training_s,
    ...). The times of the whole sweep, including the two clean evaluations, are added to `seconds`. `lr` is one
    learning rate, or one for each family.
    """
    device, seconds = torch.device(device), Seconds() if seconds is None else seconds
    eval_batch_size = eval_batch_size or quick_batch(device)
    rates = {family: lr[family] if isinstance(lr, Mapping) else lr for family in families}
    with seconds.clock("preparation", device):
        model_a, model_b = (model.to(device, memory_format=torch.channels_last) for model in (model_a, model_b))
        train_data, test_data = (Images(*split, device, mean, deviation) for split in (train, test))
        validation_data = None if validation is None else Images(*validation, device, mean, deviation)
    with seconds.clock("evaluation", device):
        clean_a, clean_b = (_accuracy(model, test_data, eval_batch_size, autocast) for model in (model_a, model_b))
    rows = []
    for layer in layers:
        for family in families:
            spent = Seconds()
            with spent.clock("preparation", device):
                front = _frozen_copy(model_a.segments[:layer], autocast)
                tail = _frozen_copy(model_b.segments[layer:], autocast)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    stitch = make_stitch(family, model_a.width * 2 ** (layer - 1))
                stitch = stitch.to(device, memory_format=torch.channels_last)
                stitched = nn.Sequential(front, stitch, tail)
                generator = torch.Generator(device).manual_seed(seed)
            with spent.clock("training", device):
                _train_stitch(
                    front, stitch, tail, train_data,
                    epochs=epochs, batch_size=batch_size, lr=rates[family], alpha=alpha,
                    augment=augment, autocast=autocast, generator=generator,
                )  # fmt: skip
            with spent.clock("reestimation", device):
                if isinstance(stitch, BirkhoffStitch):
                    stitch.round()
                _reestimate(stitched, tail, train_data, eval_batch_size, autocast)
            row: dict[str, Any] = {"layer": layer, "family": family}
            with spent.clock("evaluation", device):
                if validation_data is not None:
                    row["validation_accuracy"] = _accuracy(stitched, validation_data, eval_batch_size, autocast)
                row["accuracy"] = _accuracy(stitched, test_data, eval_batch_size, autocast)
            row["penalty"] = 100 * ((clean_a + clean_b) / 2 - row["accuracy"])
            row |= {"clean_a": clean_a, "clean_b": clean_b}
            row |= {f"{part.name}_s": getattr(spent, part.name) for part in fields(spent)}
            rows.append(row)
            for part in fields(spent):
                setattr(seconds, part.name, getattr(seconds, part.name) + getattr(spent, part.name))
    return rows


# --- command ---


def load_splits(npz: str | None, images: int, test_images: int, seed: int = 0) -> tuple[tuple, tuple]:
    """Return (train, test) from a file with train_images, train_labels, test_images, test_labels; or random images."""
    if npz is not None:
        with np.load(npz) as arrays:
            train, test = ((arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test"))
        return tuple(a[:images] for a in train), tuple(a[:test_images] for a in test)
    draw = np.random.default_rng(seed)
    return tuple(
        (draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), draw.integers(0, 10, count))
        for count in (images, test_images)
    )


def _report(name: str, seconds: float, flops: int | None = None) -> None:
    speed = f"{flops / seconds / 1e9:9.1f} GFLOP/s" if flops and seconds > 0 else ""
    print(f"{name:<34}{seconds:9.3f} s{speed}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description="Time the published procedure in PyTorch."
    )
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=2048, help="training images")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--eval-batch-size", type=int, help="64 on a CPU, 500 on a GPU by default")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of a member")
    parser.add_argument("--stitch-epochs", type=int, default=1)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--layers", nargs="+", type=int, default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate of the stitches")
    parser.add_argument(
        "--npz", help="file with train_images, train_labels, test_images, test_labels; random images otherwise"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--autocast", action="store_true", help="use bfloat16 autocast")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    train, test = load_splits(args.npz, args.images, args.test_images, args.seed)
    device = torch.device(args.device)
    shared: dict[str, Any] = {"batch_size": args.batch_size, "autocast": args.autocast, "device": device}
    member: dict[str, Any] = {"width": args.width, **shared}
    sweep: dict[str, Any] = {
        "families": args.families,
        "layers": args.layers,
        "eval_batch_size": args.eval_batch_size,
        "lr": args.lr,
        **shared,
    }

    # Warm-up: PyTorch selects and builds kernels on first use.
    few = max(2 * args.batch_size, args.eval_batch_size or quick_batch(device))
    small = tuple(tuple(array[:few] for array in split) for split in (train, test))
    warm = train_member(*(array[: 2 * args.batch_size] for array in train), epochs=1, seed=args.seed, **member)
    stitch_sweep(warm, warm, *small, epochs=1, seed=args.seed, **{**sweep, "families": args.families[:1]})

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}, {'bfloat16 autocast' if args.autocast else 'float32'}")
    print(f"width {args.width}, {len(train[1])} training and {len(test[1])} test images, batch {args.batch_size}")
    images_seen = args.epochs * max(1, len(train[1]) // args.batch_size) * min(args.batch_size, len(train[1]))
    models = []
    for number in (1, 2):
        spent = Seconds()
        models.append(train_member(*train, epochs=args.epochs, seed=args.seed + number, seconds=spent, **member))
        _report(f"member {number}, {args.epochs} epoch(s)", spent.training, images_seen * member_step_flops(args.width))
    spent = Seconds()
    rows = stitch_sweep(*models, train, test, epochs=args.stitch_epochs, seed=args.seed, seconds=spent, **sweep)
    counted = sweep_flops(
        args.width, train=len(train[1]), test=len(test[1]), epochs=args.stitch_epochs, batch_size=args.batch_size,
        families=args.families, layers=args.layers,
    )  # fmt: skip
    for part in fields(spent):
        _report(f"sweep, {part.name}", getattr(spent, part.name), counted.get(part.name))
    _report("sweep, all", spent.total, sum(counted.values()))
    for family in args.families:
        _report(f"  training {family}", sum(row["training_s"] for row in rows if row["family"] == family))
    print(f"clean accuracy {rows[0]['clean_a']:.4f} {rows[0]['clean_b']:.4f}")
    for row in rows:
        print(f"layer {row['layer']} {row['family']:<10} accuracy {row['accuracy']:.4f} penalty {row['penalty']:6.2f}")


if __name__ == "__main__":
    main()
