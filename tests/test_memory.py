"""Memory estimates of programs, groups within a memory limit, and --dry-run."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from stitch_helpers import SEEDS, flags, scratch, settings, trained

import experiments.dry_run
import experiments.stitch
import experiments.zoo
import symjax.representations
from experiments.command import run_command
from symjax import zoo
from symjax.errors import InputError
from symjax.flops import segment_flops, step_flops
from symjax.ops import memory, parallel
from symjax.ops.compiler import compiler_options
from symjax.ops.memory import MemoryEstimate, estimate_memory, num_bytes, parse_bytes, spell_bytes
from symjax.ops.parallel import Execution
from symjax.representations import representations
from symjax.stitching import Plan, memory_budget, parse_families
from symjax.zoo import estimate, jobs, training

# --- numbers ---


@pytest.mark.parametrize(
    ("text", "count"),
    [("16GB", 16 * 10**9), ("1.5 GiB", 3 * 2**29), (".5mb", 500_000), (" 800 KB ", 800_000), ("2tib", 2**41)],
)
def test_bytes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "16", "GB", "-1GB", "0GB", "16 G", "1e3MB", "nan GB", "1.2.3GB"])
def test_what_is_no_size(text):
    with pytest.raises(InputError, match="max_device_memory: got .* expected a number with a unit"):
        parse_bytes(text)


def test_bytes_are_reported():
    assert [spell_bytes(n) for n in (512, 1_500_000, 2.5e9, 3e12)] == ["0.512 KB", "1.5 MB", "2.5 GB", "3 TB"]


def test_members_that_fit():
    usage = MemoryEstimate(fixed=100, per_member=30)
    assert [usage.max_members(limit) for limit in (130, 159, 160, 1000)] == [1, 1, 2, 30]
    assert all(
        usage.bytes_for(usage.max_members(limit)) <= limit < usage.bytes_for(usage.max_members(limit) + 1)
        for limit in range(130, 400)
    )
    with pytest.raises(InputError, match="one member needs"):
        usage.max_members(129)


# --- predictions ---


def steps(member, shared):
    """Compute a few products in a loop, which needs workspace."""
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ shared @ (shared.T @ x.T) @ x), member)


@pytest.mark.parametrize("members", ["map", "vmap"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_predictions_are_what_the_compiler_says_of_more_members(members, count):
    execution = Execution(members, "matmul")
    member, shared = jax.ShapeDtypeStruct((64, 96), jnp.float32), jax.ShapeDtypeStruct((96, 96), jnp.float32)
    usage = estimate_memory(steps, execution, member, shared)
    stacked = jax.ShapeDtypeStruct((count, 64, 96), jnp.float32)
    lifted = jax.jit(lambda members, shared: parallel.each(lambda m: steps(m, shared), execution)(members))
    analysis = lifted.lower(stacked, shared).compile().memory_analysis()
    whole = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    assert whole - 1024 <= usage.bytes_for(count) <= 1.1 * whole + num_bytes(member)  # but for a loop's counters


@pytest.mark.slow
def test_a_zoo_needs_more_for_more_members():
    dataset, members = trained()
    config = settings().zoo_config()
    network = config.network(dataset).with_form("matmul")
    one_by_one, together = (
        jobs.training_program(config, dataset, Execution(how, "matmul")).memory for how in ("map", "vmap")
    )
    state = num_bytes(jobs.abstract_state(config, network, len(dataset.train)))
    assert one_by_one.per_member == pytest.approx(2 * state, rel=0.05)  # and metrics
    assert together.per_member > 5 * one_by_one.per_member  # workspace of its own
    assert one_by_one.fixed > dataset.train.images.nbytes + dataset.validation.images.nbytes


# --- zoos in groups ---


@pytest.mark.slow
def test_groups_train_what_all_train_at_once(tmp_path, monkeypatch):
    dataset, members = trained()
    config, devices = settings().zoo_config(), jax.devices()[:1]
    usage = jobs.training_program(config, dataset, parallel.default_execution()).memory
    groups, train_jobs = [], jobs.train_jobs
    monkeypatch.setattr(training, "train_jobs", lambda *a: groups.append(len(a[3])) or train_jobs(*a))
    options = {"devices": devices, "progress": False}
    bounded = zoo.train(config, dataset, SEEDS, tmp_path / "a", max_device_memory=usage.bytes_for(2), **options)
    assert groups == [2, 1]
    at_once = zoo.train(config, dataset, SEEDS, tmp_path / "b", **options)
    assert groups == [2, 1, 3]
    jax.tree.map(np.testing.assert_array_equal, bounded.members, at_once.members)
    with pytest.raises(InputError, match="max_device_memory: .* one member needs"):
        zoo.train(config, dataset, SEEDS, tmp_path / "c", max_device_memory=usage.bytes_for(1) - 1, **options)


@pytest.mark.parametrize("members", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_new_members_are_made_one_at_a_time(tmp_path, monkeypatch, members):
    """New members are created on their device, in the memory of training one, and equal those of a `vmap`."""
    dataset, config = trained()[0], settings().zoo_config()
    execution, device = Execution(members, "matmul"), jax.devices()[1]
    network, steps = config.network(dataset).with_form("matmul"), len(dataset.train) // config.recipe.batch_size
    create, lying, devices = jobs.creation(network, config.recipe, steps), [], []
    analysis = create.lower(jax.ShapeDtypeStruct((), jnp.int32)).compile().memory_analysis()
    shared = num_bytes(jax.eval_shape(lambda: jobs.device_data(dataset, None)))
    usage = jobs.training_program(config, dataset, execution).memory
    assert shared + analysis.output_size_in_bytes + analysis.temp_size_in_bytes < usage.bytes_for(1)

    def watched(seed):
        lying.append(sum(array.nbytes for array in jax.live_arrays()))
        made = create(seed)
        devices.append({leaf.device for leaf in jax.tree.leaves(made)})
        return made

    monkeypatch.setattr(jobs, "creation", lambda *_: watched)
    new_jobs = [jobs.Job(zoo.stored.StoredMember(tmp_path, seed), 0) for seed in (3, 0, 2**31 - 1)]
    jobs._prepare(config, network, len(dataset.train), new_jobs, device)
    assert len(set(lying)) == 1 and devices == [{device}] * 3
    together = jax.vmap(lambda seed: jobs.create_state(network, config.recipe, steps, seed))
    options = compiler_options(effort=0)
    seeds = np.int32([job.stored.seed for job in new_jobs])
    at_once = jax.jit(together, compiler_options=options)(seeds)
    jax.tree.map(
        np.testing.assert_array_equal, parallel.stack([job.state for job in new_jobs]), jax.device_get(at_once)
    )


# --- evaluation and features in groups ---


@pytest.fixture
def sizes(monkeypatch):
    """Record the number of members of each call of a program over members."""
    counts, over_members = [], parallel.over_members

    def watched(*arguments, **options):
        run = over_members(*arguments, **options)
        return lambda members, shared: counts.append(parallel.count_members(members)) or run(members, shared)

    monkeypatch.setattr(parallel, "over_members", watched)
    zoo.evaluation._evaluation_program.cache_clear()
    symjax.representations._features_program.cache_clear()
    yield counts
    zoo.evaluation._evaluation_program.cache_clear()
    symjax.representations._features_program.cache_clear()


@pytest.mark.parametrize("accuracy", [zoo.test_accuracy, zoo.train_accuracy])
@pytest.mark.slow
def test_evaluation_in_groups_finds_the_same(sizes, accuracy):
    dataset, members = trained()
    own = accuracy is zoo.train_accuracy
    split = dataset.train if own else dataset.test
    usage = zoo.evaluation_program(members.network, split, per_member_labels=own).memory
    for devices, groups in ((jax.devices()[:1], [2, 2]), (jax.devices(), [3])):
        sizes.clear()
        bounded = accuracy(members, dataset, devices=devices, max_device_memory=usage.bytes_for(2))
        assert sizes == groups
        np.testing.assert_array_equal(bounded, accuracy(members, dataset, devices=devices))
        assert sizes == [*groups, 3]
    with pytest.raises(InputError, match="max_device_memory: .* one member needs"):
        accuracy(members, dataset, max_device_memory=usage.bytes_for(1) - 1)


@pytest.mark.parametrize("samples", ["positions", slow("pool")])
def test_features_in_groups_are_the_same(sizes, samples):
    dataset, members = trained()
    sizes.clear()  # of the training, where this is the first test
    images, devices = dataset.test.images[:20], jax.devices()[:1]
    options_of_program = {"samples": samples, "batch_size": 8}
    usage = symjax.representations.features_program(members.network, (8, 8, 1), (0, 1), **options_of_program).memory
    options = {"samples": samples, "devices": devices, "batch_size": 8}
    arguments = members, images, dataset.mean, dataset.std
    bounded = representations(*arguments, **options, max_device_memory=usage.bytes_for(2))
    assert sizes == [2, 2] * 3  # three batches
    whole = representations(*arguments, **options)
    assert sizes[6:] == [3] * 3
    jax.tree.map(np.testing.assert_array_equal, bounded, whole)
    size = symjax.representations.bytes_per_image(members.network, (8, 8, 1), (0, 1), samples=samples)
    assert sum(array.nbytes for array in whole.values()) == 3 * 20 * size
    with pytest.raises(InputError, match="max_device_memory: .* one member needs"):
        representations(*arguments, max_device_memory=1000)


def test_groups_on_all_devices_and_with_leaves_of_both_kinds():
    run = parallel.over_members(lambda member, shared: (member[0] + shared, member[1]), Execution("vmap", "matmul"))
    members = (np.arange(7.0, dtype=np.float32), np.arange(14, dtype=np.int32).reshape(7, 2))
    for size in (None, 1, 2, 3, 7, 9):
        result = parallel.in_groups(run, size)(members, np.float32(1))
        np.testing.assert_array_equal(result[0], members[0] + 1)
        np.testing.assert_array_equal(result[1], members[1])


# --- sweeps in parts ---


def plan_of(families):
    dataset, members = trained()
    network, config = members.network, settings().fit_config(settings().zoo_config().recipe)
    return Plan(network, (0, 1), parse_families(families), config, parallel.default_execution()), dataset


def test_parts_fit_and_are_the_whole(monkeypatch):
    plan, dataset = plan_of("full,rank1,lasso,matched")
    sizes = {}

    def usage(part, _):
        """Return a simple estimate; the real one takes seconds of compilation."""
        return sizes.setdefault(part, MemoryEstimate(100, 10 * len(part.points) * len(part.families)))

    monkeypatch.setattr(memory_budget, "estimate", usage)
    for limit in (180, 150, 125, 115):
        parts = memory_budget.split_to_fit(plan, dataset, limit)[0]
        stitches = [s for part in parts for s in itertools.product(part.points, part.families)]
        assert sorted(map(str, stitches)) == sorted(map(str, itertools.product(plan.points, plan.families)))
        assert all(usage(part, None).bytes_for(1) <= limit for part in parts)
    assert memory_budget.split_to_fit(plan, dataset, 180)[0] == [plan]
    with pytest.raises(InputError, match=r"max_device_memory: got 0.109 KB, expected 0.11 KB .* single stitch"):
        memory_budget.split_to_fit(plan, dataset, 109)


def test_the_largest_parts_are_of_each_stretch_the_most_families():
    plan, _ = plan_of("full,rank1,lasso,matched")
    few, many = (dataclasses.replace(plan, points=(0,), families=plan.families[:n]) for n in (1, 2))
    late = dataclasses.replace(plan, points=(1,), families=plan.families[2:])
    assert (
        memory_budget.largest_parts([few, many, late]) == [many, late] == memory_budget.largest_parts([many, late, few])
    )


@pytest.mark.slow
def test_what_a_plan_needs():
    plan, dataset = plan_of("full,rank1")
    closed, _ = plan_of("identity")
    whole, alone = memory_budget.estimate(plan, dataset), memory_budget.estimate(closed, dataset)
    pair = 2 * num_bytes(jax.tree.map(lambda leaf: leaf[0], trained()[1].members))
    assert whole.bytes_for(1) >= alone.bytes_for(1) > pair
    assert whole.fixed > dataset.train.images.nbytes


@pytest.mark.slow
def test_a_bounded_command_finds_the_same(tmp_path, monkeypatch):
    """The sweep runs in two parts of one stitch each; one of them is not trained."""
    argv = [*flags(scratch()), "--families", "full,identity", "--layers", "relu2", "--stitch-epochs", "1"]
    argv += ["--pairs", "1", "--out"]
    monkeypatch.chdir(tmp_path)
    run_command(experiments.stitch.main, experiments.stitch.Settings, [*argv, "whole"])
    parts = []
    monkeypatch.setattr(
        memory_budget, "estimate", lambda part, _: parts.append(part) or MemoryEstimate(0, len(part.families) * 10**9)
    )
    run_command(experiments.stitch.main, experiments.stitch.Settings, [*argv, "parts", "--max-device-memory", "1GB"])
    # The whole, and the larger half: before anything is trained, and when it runs.
    assert [len(part.families) for part in parts] == [2, 1] * 2
    assert Path("whole", "results.csv").read_text() == Path("parts", "results.csv").read_text()


# --- operations ---


def test_operations_of_an_epoch():
    dataset, members = trained()
    config = settings().zoo_config()
    network = config.network(dataset)
    image = dataset.train.images.shape[1:]
    expected = 6 * step_flops(network, image, config.recipe) + 18 * sum(
        segment_flops(network, image)
    )  # 72 = 6 * 12 images
    assert estimate.epoch_flops(config, dataset) == pytest.approx(expected)


# --- the commands ---


def dry(module, *argv):
    run_command(module.main, module.Settings, [str(word) for word in (*argv, "--dry-run")])


@pytest.fixture
def rehearsed(monkeypatch, tmp_path):
    """Replace rehearsals by 1 GFLOP/s for each device."""
    trained()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(estimate, "rehearse", lambda *_: 1e9)
    return tmp_path


def lines(capsys):
    return {line[:27].strip(): line[27:].split() for line in capsys.readouterr().out.splitlines()[2:-3]}


def test_a_dry_run_writes_nothing_and_tells_what_is_there(rehearsed, capsys):
    argv = flags(scratch())
    there = scratch() / "zoo"
    before = sorted(there.rglob("*"))
    dry(experiments.zoo, *argv[:-2], "--out", there, "--seeds", "5")
    values = lines(capsys)
    assert values["to do"] == ["2"] and values["done"] == ["3"]
    dataset, _ = trained()
    flops = estimate.epoch_flops(settings().zoo_config(), dataset)
    assert float(values["operations"][0]) == pytest.approx(2 * 6 * flops, rel=0.01)
    assert float(values["time on 1 device"][0]) == pytest.approx(12 * flops / 1e9, rel=0.01)
    assert float(values["time on 8 devices"][0]) == pytest.approx(6 * flops / 1e9, rel=0.01)  # members are not cut
    assert sorted(there.rglob("*")) == before and not list(rehearsed.iterdir())
    dry(experiments.zoo, *argv[:-2], "--out", there)
    assert "All results exist" in capsys.readouterr().out


def test_a_dry_run_of_stitches(rehearsed, capsys, monkeypatch):
    argv = [*flags(scratch()), "--families", "full,identity", "--pairs", "3"]
    monkeypatch.setattr(memory_budget, "estimate", lambda part, _: MemoryEstimate(10**9, 5 * 10**8 * len(part.points)))
    dry(experiments.stitch, *argv, "--out", "new")
    values = lines(capsys)
    assert values["to do"] == ["0", "3"] and values["done"] == ["3", "0"]
    assert values["device memory"][-2:] == ["2", "GB"] and not list(rehearsed.iterdir())
    dry(experiments.stitch, *argv, "--out", "new", "--max-device-memory", "1.5GB")
    assert lines(capsys)["device memory"][-2:] == ["1.5", "GB"]


@pytest.mark.slow
def test_a_rehearsal_that_would_take_much_memory_is_not_held(monkeypatch, capsys):
    """With a million classes or a huge width nothing is allocated, and the table is complete."""
    dataset, _ = trained()
    monkeypatch.setattr(estimate, "create_state", lambda *_: pytest.fail("allocated"))
    monkeypatch.setattr(estimate, "REHEARSAL_BYTES", 2**27)
    classes = dataclasses.replace(dataset, class_names=tuple(map(str, range(1_000_000))))
    wide = settings(width=10_000).zoo_config()
    for config, images in ((settings().zoo_config(), classes), (wide, dataset)):
        phase = experiments.dry_run.Phase("members to train", 4, 0, 1e9)
        text = experiments.dry_run.report("title", config, images, [phase])
        assert "No times: " in text and "1.00e+09" in text and "time on" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (720, "12 min"), (19_080, "5.3 h"), (1_036_800, "12 days")]
)
def test_times_are_text(seconds, text):
    assert experiments.dry_run.spell_seconds(seconds) == text


def test_bad_bounds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained()
    monkeypatch.setattr(zoo, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit, match="2"):
        run_command(
            experiments.stitch.main, experiments.stitch.Settings, [*flags(scratch()), "--max-device-memory", "lots"]
        )
    assert "max-device-memory: got 'lots'" in capsys.readouterr().err


def test_exhausted_memory_is_reported(monkeypatch, capsys):
    def exhausted(_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    monkeypatch.setattr(experiments.zoo, "main", exhausted)
    exhausted.__module__ = "experiments.zoo"
    with pytest.raises(SystemExit, match="1"):
        run_command(exhausted, experiments.zoo.Settings, [])
    assert "--max-device-memory" in capsys.readouterr().err
    assert memory.advice(ValueError("another")) is None


def test_a_dry_run_refuses_what_the_command_refuses(rehearsed, capsys):
    zoo_flags = flags(scratch())[:-2]
    for extra, named in (
        (["--translate", "9"], "translate: got 9"),
        (["--validation", "0"], "validation: "),
        (["--batch-size", "73"], "batch-size: got 73"),
        (["--out", scratch() / "zoo", "--width", "2"], "another configuration"),
        (["--distributed"], "dry-run: got --dry-run with --distributed, expected one"),
    ):
        with pytest.raises(SystemExit, match="2"):
            dry(experiments.zoo, *zoo_flags, *extra)
        assert named in capsys.readouterr().err
    assert not list(rehearsed.iterdir())
