"""Results are shown in one line, arrays by dtype and shape."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo_helpers import CONFIG, DATASET

import symjax
from symjax import data, groups, models, rotation, similarity, stitching, training, zoo
from symjax.similarity.streams.minibatch import Means
from symjax.similarity.streams.moments import Moments
from symjax.spelling import one_line
from symjax.training.evaluation import Batches

MODULES = (symjax, data, groups, models, rotation, similarity, stitching, training, zoo)
CLASSES = {
    value
    for module in MODULES
    for value in (getattr(module, name) for name in module.__all__)
    if inspect.isclass(value) and (hasattr(value, "_fields") or dataclasses.is_dataclass(value))
} | {Moments, Means, Batches}


NO_ARRAYS = {rotation.RotationCase, symjax.Stream, zoo.Group}


@pytest.mark.parametrize("cls", sorted(CLASSES - NO_ARRAYS, key=str), ids=lambda cls: cls.__name__)
def test_whatever_holds_arrays_is_one_line(cls):
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    if dataclasses.is_dataclass(cls) and cls.__repr__ is not one_line:
        return  # configurations
    for whole in (np.zeros((20, 30)), {"a": jnp.zeros((4, 5, 6)), "b": [np.zeros(100)] * 50}, (np.zeros(2000),) * 9):
        if fields:
            result = object.__new__(cls)
            for field in fields:
                object.__setattr__(result, field.name, whole)
        else:
            result = cls(*[whole] * len(cls._fields))
        assert "\n" not in repr(result) and "0., " not in repr(result) and len(repr(result)) < 500
        if cls.__repr__ is not one_line:
            break  # whose fields are arrays


def test_values_of_results():
    members = jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape), leaf.dtype), CONFIG.network(DATASET).shapes)
    metrics = zoo.jobs.Job(None, 0).metrics()
    shown = repr(zoo.Zoo(CONFIG, CONFIG.network(DATASET), (0, 1), members, metrics))
    assert shown.startswith("Zoo(config=ZooConfig(dataset='stripes', model='tiny'") and len(shown) < 500
    assert "seeds=(0, 1)" in shown and "metrics=DataFrame[0, 5]" in shown
    images = f"Split(images=uint8[{len(DATASET.train)}, 8, 8, 1], labels=int32[{len(DATASET.train)}])"
    assert repr(DATASET).startswith(f"Dataset(name='stripes', train={images}") and "\n" not in repr(DATASET)
    matching = symjax.Matching(jnp.arange(3), jnp.ones(3), jnp.eye(3), jnp.zeros(3))
    assert (
        repr(matching) == "Matching(permutation=int32[3], scaling=float32[3], selection=float32[3, 3], bias=float32[3])"
    )
    info = symjax.ProjectionInfo(jnp.bool(True), jnp.int32(7), jnp.float32(1e-7), (jnp.zeros(3), jnp.zeros(3)))
    expected = "ProjectionInfo(converged=True, iterations=7, residual=1e-07, duals=(float32[3], float32[3]))"
    assert repr(info) == expected
    stitch = jax.eval_shape(lambda: stitching.Stitch(jnp.eye(3)))
    assert repr(stitch) == "Stitch(matrix=float32[3, 3], bias=None, factors=None)"
    traced = []
    jax.make_jaxpr(lambda x: traced.append(repr(symjax.Rotation(x, x[0, 0], x[0]))))(jnp.eye(2))
    assert traced == ["Rotation(rotation=float32[2, 2], scaling=float32[], bias=float32[2])"]
    assert len(repr(models.create("resnet20", width=1))) < 120


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: symjax.pairwise({"a": {"l": np.eye(4)}}, "svca"), "svcca"),
        (lambda: symjax.models.create("mcn"), "mcnn"),
        (lambda: symjax.stitching.parse_families("birkhof"), "birkhoff"),
        (lambda: symjax.cka(np.eye(4), np.eye(4), estimator="sung"), "song"),
    ],
)
def test_errors_suggest_the_most_similar_name(call, name):
    with pytest.raises(symjax.InputError, match=rf" \(did you mean {name}\?\), expected"):
        call()
