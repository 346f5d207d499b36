"""The stitch command on the tiny zoo, and a sweep whose results are a function of names."""

import zlib
from typing import ClassVar

import jax
import numpy as np
from stitch_helpers import flags, scratch

import experiments.crossval
import experiments.lasso
import experiments.stitch
import experiments.sweeps
from experiments.command import run_command
from symjax.ops import files
from symjax.stitching import PairResult, Stitch
from symjax.stitching.controls import label
from symjax.stitching.results import KEY, ROWS
from symjax.stitching.sweep import CURVE_COLUMNS

FAMILIES = ["--families", "full,matched,rank1", "--stitch-epochs", "2"]


def command(*others, out):
    argv = [*flags(scratch()), "--out", out, *others]
    run_command(experiments.stitch.main, experiments.stitch.Settings, [str(word) for word in argv])


def contents(folder):
    """All files but the summary, which knows how long all runs took."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "summary.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def table(folder):
    return files.read_csv(folder / "results.csv", ROWS.required)


class FakeSweep:
    """Results that are a function of pair, layer and family alone; keeps what is requested."""

    group_size, evaluation_steps = 2, 1
    requested: ClassVar[list] = []
    fail_at: ClassVar = None

    def __init__(self, plan, dataset, *, num_pairs):
        self.plan = plan

    def run(self, member, pairs, *, member_b, seed, on_epoch, on_evaluation, controls=None):
        for pair in pairs:
            if pair == FakeSweep.fail_at:
                raise KeyboardInterrupt
            rows, curves, stitches = [], [], {}
            for junction in self.plan.junctions:
                columns, layers = junction.columns, junction.layers
                for family in self.plan.families:
                    name = label(family.label, junction.control, junction.objective)
                    FakeSweep.requested.append((pair, layers[0], name))
                    rng = np.random.RandomState(zlib.crc32(f"{pair}{''.join(layers)}{name}".encode()))
                    stitches[*layers, name] = (
                        Stitch(rng.randn(*junction.shape).astype(np.float32), np.zeros(junction.shape[0], np.float32)),
                        jax.tree.map(np.asarray, member_b(pair[1]).state),
                    )
                    row = columns | {"family": family.label}
                    row |= {"hyperparameter": family.hyperparameter, "start": family.start, "sparsity": 0.0}
                    row |= {"learning_rate": 0.01 if family.trains else None}
                    row |= {"agreement": 100 * rng.rand()} if self.plan.config.agreement else {}
                    rows.append(row | {"stitched_accuracy": 100 * rng.rand(), "val_accuracy": 100 * rng.rand()})
                    if family.trains:
                        curve = {name: columns[name] for name in CURVE_COLUMNS if name in columns}
                        curve |= {"family": family.label, "learning_rate": 0.01}
                        curves += [curve | {"epoch": e, "loss": rng.rand(), "accuracy": rng.rand()} for e in (1, 2)]
            on_epoch({"loss": 0.0, "accuracy": 0.0})
            on_evaluation({"loss": 1.0, "accuracy": 0.5})
            yield PairResult(pair, rows, curves, stitches)


def stitches(folder):
    return {path.name: files.read_npz(path) for path in (folder / "stitches").iterdir()}


def assert_alike(folder, other):
    """The same results, whatever the order in which they came."""
    one, two = (table(f).sort_values(list(KEY)).reset_index(drop=True) for f in (folder, other))
    assert one.equals(two)
    jax.tree.map(np.testing.assert_array_equal, stitches(folder), stitches(other))
    order = ["pair", "layer", "family", "learning_rate", "epoch"]
    one, two = (files.read_csv(f / "curves.csv").sort_values(order).reset_index(drop=True) for f in (folder, other))
    assert one.equals(two)
