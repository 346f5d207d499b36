"""Plans on the tiny zoo, shared by the tests of fits and sweeps."""

import jax
import numpy as np
from stitch_helpers import trained

from symjax.ops.parallel import Execution
from symjax.stitching import (
    FitConfig,
    Plan,
    parse_families,
)

MAP = Execution("map", "matmul")
FAMILIES = "identity,matched,full,orthogonal,lasso:0.01,birkhoff,birkhoff_published,softsort,rank2"
PLAIN = {"batch_size": 12, "flip": False, "translate": 0}
CONFIG = FitConfig(epochs=10, learning_rates=(0.003, 0.03), eval_batch_size=32, **PLAIN)
SGD = FitConfig(epochs=2, optimizer="sgd", learning_rates=(1e-3,), eval_batch_size=32, **PLAIN)


def make_plan(families=FAMILIES, config=CONFIG, points=(0, 1), execution=MAP, network=None):
    return Plan(network or trained()[1].network, points, parse_families(families), config, execution)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def by_key(result):
    return {(row["layer"], row["family"]): row for row in result.rows}
