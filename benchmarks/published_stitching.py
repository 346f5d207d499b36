"""Train and test stitches one at a time in PyTorch, for `benchmarks.published`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional

from benchmarks.operations import FAMILIES, LAYERS, rank_of
from benchmarks.published_training import (
    DEVIATION,
    MEAN,
    Images,
    MyrtleCNN,
    Seconds,
    accuracy,
    autocast_of,
    cudnn_benchmark,
    quick_batch,
)

SWEEPS = 16  # Sinkhorn iterations after each step


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
            with autocast_of(data.device, autocast):
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
    with torch.no_grad(), autocast_of(data.device, autocast):
        for batch, _ in data.slices(batch_size):
            count += len(batch)
            for norm in norms:
                norm.momentum = len(batch) / count
            stitched(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.eval()


@cudnn_benchmark()
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
        clean_a, clean_b = (accuracy(model, test_data, eval_batch_size, autocast) for model in (model_a, model_b))
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
                    row["validation_accuracy"] = accuracy(stitched, validation_data, eval_batch_size, autocast)
                row["accuracy"] = accuracy(stitched, test_data, eval_batch_size, autocast)
            row["penalty"] = 100 * ((clean_a + clean_b) / 2 - row["accuracy"])
            row |= {"clean_a": clean_a, "clean_b": clean_b}
            row |= {f"{part.name}_s": getattr(spent, part.name) for part in fields(spent)}
            rows.append(row)
            for part in fields(spent):
                setattr(seconds, part.name, getattr(seconds, part.name) + getattr(spent, part.name))
    return rows
