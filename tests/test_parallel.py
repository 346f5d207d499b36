"""The member axis: results do not depend on the execution and on the devices."""

import signal
import threading
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from symjax.errors import InputError
from symjax.ops import compiler, parallel, threads
from symjax.ops.compiler import compiler_options
from symjax.ops.parallel import Execution

VMAP, MAP = Execution(members="vmap", conv="matmul"), Execution(members="map", conv="matmul")


def solve(member, shared):
    """A function that is neither linear nor elementwise and changes the structure."""
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
    target = expected(members, shared)
    assert set(results) == set(target)
    for name in target:
        assert results[name].shape == target[name].shape
        np.testing.assert_allclose(results[name], target[name], atol=1e-5)


def test_members_are_sharded_over_all_devices_by_default():
    members, shared = members_and_shared(4)
    run = parallel.over_members(solve, MAP)
    results = run(members, shared)
    assert results["product"].sharding.device_set == set(jax.devices()) and len(jax.devices()) == 2
    # Results are valid inputs.
    again = run({"a": jnp.concatenate([results["product"]] * 2, axis=-1)[..., :5], "seed": results["seed"]}, shared)
    np.testing.assert_array_equal(again["seed"], members["seed"] + 2)


def test_one_device_other_than_the_first():
    second = jax.devices()[1:]
    members, shared = members_and_shared(3)
    shared = parallel.replicate(shared, second)
    results = parallel.over_members(solve, VMAP, devices=second)(members, shared)
    assert results["product"].devices() == shared["b"].devices() == set(second)
    np.testing.assert_allclose(results["product"], expected(*members_and_shared(3))["product"], atol=1e-5)


def test_a_member_is_independent_of_the_others():
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
def test_stacks_of_one_shape_run_as_one(execution):
    traced = []

    def fn(item):
        traced.append(item.shape)
        return item.sum(), 2 * item

    rng = np.random.default_rng(0)
    stacks = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 3), (1, 4), (3, 3), (2, 4), (1, 1))]
    result = jax.jit(lambda stacks: parallel.each_stack(fn, stacks, execution))(stacks)
    assert sorted(traced) == [(1,), (3,), (4,)]
    for stack, (sums, doubled) in zip(stacks, result, strict=True):
        np.testing.assert_allclose(sums, stack.sum(1), rtol=1e-6)
        np.testing.assert_array_equal(doubled, 2 * stack)


@pytest.mark.parametrize("count", [1, 3])
def test_a_single_item_is_not_batched(count):
    """A `vmap` of a loop selects between the old and new values of every item."""

    def halvings(x, step):
        return jax.lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + step), (x, 0.0))[1]

    x, step, run = np.float32([8, 1, 4])[:count], np.float32([1, 1, 10])[:count], parallel.batched(halvings)
    assert run(x, step).tolist() == [3, 0, 20][:count]
    assert ("stablehlo.select" in jax.jit(run).lower(x, step).as_text()) == (count > 1)


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


# --- concurrent tasks ---


def wait_for_the_end(check_stop, seconds=20):
    """Run until `check_stop` raises, at most for `seconds`."""
    for _ in range(100 * seconds):
        time.sleep(0.01)
        check_stop()


def test_tasks_run_concurrently_with_the_settings_of_their_caller():
    started = threading.Barrier(2, timeout=20)

    def task(name, check_stop):
        started.wait()  # requires two concurrent tasks
        check_stop()
        return name, jnp.ones(1).dtype, jax.config.jax_default_matmul_precision

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        result = threads.run_concurrently([partial(task, "a"), partial(task, "b")])
    assert result == [("a", jnp.float64, "highest"), ("b", jnp.float64, "highest")]
    assert (
        threads.run_concurrently([lambda check_stop: (check_stop(), threading.current_thread())])[0][1]
        is threading.current_thread()
    )


@pytest.mark.parametrize("place", [0, 1])
def test_a_task_that_fails_ends_the_others(place):
    ended = []

    def other(check_stop):
        try:
            wait_for_the_end(check_stop)
        except threads.Stopped:
            ended.append(True)
            raise

    def failing(check_stop):
        raise FloatingPointError("planted")

    tasks = [other]
    tasks.insert(place, failing)
    with pytest.raises(FloatingPointError, match="planted"):
        threads.run_concurrently(tasks)
    assert ended == [True]


def test_an_interruption_ends_the_tasks():
    """Ctrl-C interrupts the waiting thread."""
    ended, started = [], threading.Barrier(2, timeout=20)

    def task(check_stop):
        if started.wait() == 0:
            time.sleep(0.1)  # until the pool knows its second thread, which it would not wait for otherwise
            signal.raise_signal(signal.SIGINT)
        try:
            wait_for_the_end(check_stop)
        finally:
            ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.run_concurrently([task, task])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [True, True]


def test_unknown_compiler_options_are_omitted(monkeypatch):
    """They depend on the version of the compiler; a program compiles without them."""
    assert compiler._has_option("xla_backend_optimization_level", 1) and not compiler._has_option(
        "xla_no_such_option", True
    )
    with pytest.raises(jax.errors.JaxRuntimeError):
        compiler._has_option("xla_backend_optimization_level", "a lot")
    monkeypatch.setattr(compiler, "_has_option", lambda name, value: name == "xla_backend_optimization_level")
    for effort, level in enumerate((0, 1, 1)):
        assert compiler_options(effort) == {"xla_backend_optimization_level": level}
    with pytest.raises(InputError, match="effort: got 3"):
        compiler_options(3)
