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
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from benchmarks.operations import FAMILIES, LAYERS, member_step_flops, sweep_flops
from benchmarks.published_stitching import stitch_sweep
from benchmarks.published_training import MyrtleCNN as MyrtleCNN
from benchmarks.published_training import Seconds, quick_batch, torch, train_member
from benchmarks.published_training import evaluate as evaluate


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
