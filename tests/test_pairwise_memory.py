"""Blocks, tiles and devices of all pairs: bounded memory, and values that do not depend on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import names
from pairwise_helpers import EXAMPLES, SAME, zoo

from symjax.similarity import MEASURES, pair_blocks, pairwise


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_only_models_of_wanted_pairs_are_prepared(monkeypatch):
    a, b, prepared = zoo(6), zoo(4, seed=1), []
    prepare = pair_blocks._prepare_layer

    def watched(split, array, *others):
        prepared.append(np.asarray(array))
        return prepare(split, array, *others)

    monkeypatch.setattr(pair_blocks, "_prepare_layer", watched)
    for options, computed in (
        ({"pairs": [(4, 1)]}, [a["layer0"][[1, 4]]]),
        ({"against": b, "pairs": [(5, 0), (5, 3)]}, [a["layer0"][[5]], b["layer0"][[0, 3]]]),
        ({"pairs": []}, []),
    ):
        prepared.clear()
        result = pairwise(a, "cka", **options)
        assert len(prepared) == len(computed) and all(map(np.array_equal, prepared, computed))
        assert result.values.shape == (1, 6, 1, 4 if "against" in options else 6)
        for i, j in options["pairs"]:
            expected = MEASURES["cka"].fn(a["layer0"][i], options.get("against", a)["layer0"][j])
            np.testing.assert_allclose(result.select(model_a=i, model_b=j)[0, 0], expected, atol=SAME)


@pytest.mark.parametrize(
    "measure",
    ["cka_distance", "pwcca"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("wreath_procrustes", "fourier_cca", "soft_matching")],
)
@pytest.mark.few(1)
def test_memory_and_devices_do_not_change_values(measure):
    a = zoo(5)
    assert len(jax.devices()) == 2
    values = pairwise(a, measure).values
    one_device = pairwise(a, measure, devices=jax.devices()[1:]).values
    np.testing.assert_allclose(one_device, values, atol=2e-7)
    share = 4 * 3 * (EXAMPLES**2 * 4 if measure == "cka_distance" else a["layer0"][0].nbytes)
    for memory in (1, share):  # blocks of 1, and of 3 and 2; other tiles, so sums in another order
        np.testing.assert_allclose(pairwise(a, measure, memory=memory).values, values, atol=3e-6)


def test_blocks_count_all_that_is_made_of_a_representation():
    """Of PWCCA on few examples the way back to neurons is larger than the basis."""
    wide = np.random.default_rng(0).normal(size=(6, EXAMPLES, 50 * EXAMPLES)).astype(np.float32)
    split, devices = MEASURES["pwcca"].split((wide.shape[1:],)), tuple(jax.local_devices()[:1])
    memory = 4 * 2 * wide[0].nbytes
    blocks, *_ = pair_blocks.prepare(split, pair_blocks.Representations((wide,), wide.dtype), memory, devices)
    of_a_block = [sum(leaf.nbytes for leaf in jax.tree.leaves(block.prepared)) for block in blocks]
    assert len(blocks) > 1 and max(of_a_block) <= memory / 4


def test_tiles_cover_what_is_wanted_and_little_more():
    rng = np.random.default_rng(0)
    for _ in range(200):
        requested = rng.random(rng.integers(1, 40, 2)) < rng.choice([0.02, 0.5, 1])
        if rng.random() < 0.3:
            requested = np.triu(np.ones((len(requested), len(requested)), bool))
        if not requested.any():
            continue
        max_waste = rng.choice([pair_blocks.MAX_WASTE, pair_blocks.MAX_WASTE_OF_NUMBERS])
        edges = pair_blocks._edges(requested, 32, max_waste)
        starts = pair_blocks._tiles(requested, edges)
        covered = np.zeros_like(requested)
        for i, j in starts:
            assert i >= 0 and j >= 0
            covered[i : i + edges[0], j : j + edges[1]] = True
        assert covered[requested].all()
        assert len(starts) * edges[0] * edges[1] <= max_waste * requested.sum()


def equations(jaxpr):
    """All equations of a program, those of the programs inside of it too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("measure", [parameter for parameter in names if MEASURES[parameter.values[0]].split])
@pytest.mark.few(2)
def test_matrices_are_decomposed_one_by_one_on_a_cpu(measure):
    """Two devices that decompose a batch each can wait for ever for jaxlib's threads."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4, EXAMPLES, 3, 4, 2)).astype(np.float32)
    split = MEASURES[measure].split((maps.shape[1:],))
    devices = tuple(jax.local_devices()[:1])
    ((block,), *_) = pair_blocks.prepare(split, pair_blocks.Representations((maps,), maps.dtype), 2**31, devices)
    one = jax.tree.map(lambda leaf: leaf[0], block.prepared)
    size = split.product.size(one, one)
    part = block.prepared._replace(data=split.product.downsample(jnp.asarray(block.prepared.data), size))
    programs = [
        jax.make_jaxpr(split.prepare)(maps[0]),
        jax.make_jaxpr(partial(pair_blocks._tile, split, (2, 2)))(np.zeros(2, np.int32), (part, part)),
    ]
    if split.exact is not None:
        programs.append(jax.make_jaxpr(split.compare_exactly)(one, one))
    names = ("svd", "qr", "eigh", "cholesky", "householder_product")
    decompositions = [e for program in programs for e in equations(program.jaxpr) if e.primitive.name in names]
    assert all(equation.invars[0].aval.ndim == 2 for equation in decompositions)
    assert decompositions or measure not in ("cca", "svcca", "pwcca", "pls", "fourier_cca", "procrustes_distance")
