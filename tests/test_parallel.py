"""The member axis: the same results however members execute and spread over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax import parallel
from symjax.errors import InputError
from symjax.parallel import Execution

VMAP, MAP = Execution(members="vmap", conv="matmul"), Execution(members="map", conv="matmul")


def solve(member, shared):
    """Something that is not linear, not elementwise, and returns another structure than it takes."""
    product = jnp.tanh(member["a"] @ shared["b"])
    return {"sum": product.sum(), "product": product, "seed": member["seed"] + 1}


def members_and_shared(count):
    rng = np.random.default_rng(0)
    members = {"a": rng.normal(size=(count, 4, 5)).astype(np.float32), "seed": np.arange(count, dtype=np.int32)}
    return members, {"b": rng.normal(size=(5, 3)).astype(np.float32)}


def expected(members, shared):
    product = np.tanh(members["a"].astype(np.float64) @ shared["b"])
    return {"sum": product.sum((1, 2)), "product": product, "seed": members["seed"] + 1}


@pytest.mark.parametrize("execution", [VMAP, MAP], ids=["vmap", "map"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("num_devices", [1, 2])
def test_results_are_those_of_each_member(execution, count, num_devices):
    devices = jax.devices()[:num_devices]
    assert len(devices) == num_devices
    members, shared = members_and_shared(count)
    run = parallel.over_members(solve, execution, devices=devices)
    results = run(members, parallel.replicate(shared, devices))
    wanted = expected(members, shared)
    assert set(results) == set(wanted)
    for name in wanted:
        assert results[name].shape == wanted[name].shape
        np.testing.assert_allclose(results[name], wanted[name], atol=1e-5)


def test_members_spread_over_all_devices_by_default():
    members, shared = members_and_shared(4)
    run = parallel.over_members(solve, MAP)
    results = run(members, shared)
    assert results["product"].sharding.device_set == set(jax.devices()) and len(jax.devices()) == 2
    # What comes out goes in again.
    again = run({"a": jnp.concatenate([results["product"]] * 2, axis=-1)[..., :5], "seed": results["seed"]}, shared)
    np.testing.assert_array_equal(again["seed"], members["seed"] + 2)


def test_one_device_other_than_the_first():
    second = jax.devices()[1:]
    members, shared = members_and_shared(3)
    shared = parallel.replicate(shared, second)
    results = parallel.over_members(solve, VMAP, devices=second)(members, shared)
    assert results["product"].devices() == shared["b"].devices() == set(second)
    np.testing.assert_allclose(results["product"], expected(*members_and_shared(3))["product"], atol=1e-5)


def test_a_member_does_not_feel_the_others():
    members, shared = members_and_shared(3)
    members["a"][1] = np.nan
    results = parallel.over_members(solve, MAP)(members, shared)
    assert np.isnan(results["sum"]).tolist() == [False, True, False]


def test_each_inside_a_program():
    members, shared = members_and_shared(3)
    for execution in (VMAP, MAP):
        results = jax.jit(parallel.each(lambda member: solve(member, shared), execution))(members)
        np.testing.assert_allclose(results["product"], expected(members, shared)["product"], atol=1e-5)


@pytest.mark.parametrize("execution", [VMAP, MAP], ids=["vmap", "map"])
@pytest.mark.parametrize("share", [1, 2])
def test_devices_that_share_a_member_divide_its_items(execution, share):
    execution = dataclasses.replace(execution, share=share)
    members, shared = members_and_shared(2)
    others = {name: np.concatenate([leaf, leaf[:1]]) for name, leaf in members.items()}  # an odd number

    def of_member(bias, shared):
        def task(items, cost):
            return parallel.Task(lambda item: solve(item | {"a": item["a"] + bias}, shared), items, cost)

        rows = parallel.by_examples(lambda batch: {"row": batch @ shared["b"]}, execution)
        return (
            parallel.each_of_all([task(members, 1), task(others, 3)], execution),
            rows(others["a"][:, 0]),
            rows(members["a"][:, 0]),
        )

    run = parallel.over_members(of_member, execution)
    results = run(np.float32([0, 1, -1]), shared)
    for bias, index in ((0, 0), (1, 1), (-1, 2)):
        (few, many), odd, even = jax.tree.map(lambda leaf, index=index: np.asarray(leaf)[index], results)
        for found, items in ((few, members), (many, others)):
            wanted = expected(items | {"a": items["a"] + np.float32(bias)}, shared)
            for name in wanted:
                np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
        for found, items in ((odd, others), (even, members)):
            np.testing.assert_allclose(found["row"], items["a"][:, 0] @ shared["b"], atol=1e-5)


def test_what_is_over_is_divided_by_cost():
    # One item over for each task: the costliest goes to one device, the others to the other until it is level.
    np.testing.assert_array_equal(parallel.divide([5, 5, 5, 5], [4, 3, 2, 1], 2), [[3, 2], [2, 3], [2, 3], [3, 2]])
    np.testing.assert_array_equal(parallel.divide([1, 5], [1, 2], 3), [[0, 0, 1], [2, 2, 1]])
    for counts in ([0, 7], [8, 3]):
        assert parallel.divide(counts, [1, 1], 4).sum(1).tolist() == counts


def test_stack_and_take_are_inverse():
    members, _ = members_and_shared(3)
    one_by_one = [parallel.take(members, i) for i in range(3)]
    assert one_by_one[2]["a"].shape == (4, 5)
    jax.tree.map(np.testing.assert_array_equal, parallel.stack(one_by_one), members)
    np.testing.assert_array_equal(parallel.take(members, np.array([2, 0]))["seed"], [2, 0])


def test_unequal_leading_axes_are_an_error():
    members, _ = members_and_shared(3)
    assert parallel.count_members(members) == 3
    for wrong in ({"seed": np.arange(2)}, {"seed": np.int32(0)}):
        with pytest.raises(InputError, match="leading axes"):
            parallel.count_members(members | wrong)


def test_every_backend_has_a_default():
    assert parallel.default_execution() == parallel.default_execution("cpu")
    assert isinstance(parallel.default_execution("a backend of tomorrow"), Execution)
