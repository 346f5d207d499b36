"""A changed model never meets what an older one of its name has left."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from zoo_helpers import CONFIG, DATASET

from symjax import models, zoo
from symjax.errors import InputError
from symjax.models.myrtle import Myrtle
from symjax.models.registry import Model
from symjax.network import Network
from symjax.network.structure import structure
from symjax.ops import runs
from symjax.rotation.results import RotationResults

TINY = models.MODELS["tiny"]
IMAGE = {"image_size": 8, "channels": 1}


def entry(monkeypatch, build=Myrtle, **changes):
    """The model "changing", with other options."""
    monkeypatch.setitem(models.MODELS, "changing", Model(build, {**TINY.defaults, **changes}))
    return models.create("changing", classes=3, **IMAGE)


class Doubled(Myrtle):
    def __call__(self, x):
        return 2 * super().__call__(x)


def doubled(rngs, **settings):
    """The same parameters, another function."""
    return Doubled(rngs=rngs, **settings)


def test_any_change_of_a_model_changes_its_structure(monkeypatch):
    changes = ({}, {"norm": False}, {"activation": "sigmoid"}, {"multiples": (1, 3)}, {"pools": (2, 4)})
    networks = [*(entry(monkeypatch, **change) for change in changes), entry(monkeypatch, doubled)]
    prints = [structure(network) for network in networks]
    assert len(set(prints)) == len(prints)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        assert structure(entry(monkeypatch)) == prints[0]
    other = models.create("changing", classes=3, dtype=jnp.bfloat16, **IMAGE)
    assert structure(other) not in prints


def test_keys_that_a_model_holds_count():
    def network(keys):
        return Network.from_function(
            lambda w, x: x @ w + jax.vmap(jax.random.normal)(keys).sum(), jnp.ones((3, 2)), example=jnp.ones((1, 3))
        )

    seeds = (0, 0, 1)
    prints = [structure(network(jax.random.split(jax.random.key(seed), 2))) for seed in seeds]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.slow
def test_structure_is_the_same_in_another_process():
    program = (
        "from symjax import models; from symjax.network.structure import structure;"
        "print(structure(models.create('mcnn', width=2)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == structure(models.create("mcnn", width=2))


def test_a_changed_model_does_not_meet_old_checkpoints(monkeypatch, tmp_path):
    entry(monkeypatch)
    config = dataclasses.replace(CONFIG, model="changing")
    with runs.open_folder(tmp_path / "zoo", "zoo", config.document(DATASET)):
        pass
    entry(monkeypatch, doubled)
    with pytest.raises(InputError, match='(?s)structure: saved "\\w{10}", requested.*the model\'s code has changed'):
        zoo.train(config, DATASET, [0], tmp_path / "zoo", progress=False)
    with pytest.raises(InputError, match="another structure than 'changing' has"):
        zoo.load(tmp_path / "zoo")
    entry(monkeypatch)
    with pytest.raises(InputError, match="expected finished members of .*: none"):
        zoo.load(tmp_path / "zoo")


def test_rows_of_rotations_are_of_one_structure(tmp_path):
    results = RotationResults(tmp_path)
    results.add_structures({"mcnn": "a"})
    results.add_structures({"mcnn_k": "b"})
    with pytest.raises(InputError, match="rows of another structure of mcnn_k:"):
        results.add_structures({"mcnn": "a", "mcnn_k": "c"})
    assert results.structures() == {"mcnn": "a", "mcnn_k": "b"}
