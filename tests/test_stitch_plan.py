"""Arguments of plans, fits and pairs."""

import dataclasses

import jax.numpy as jnp
import pytest
from stitch_helpers import trained
from sweep_helpers import CONFIG, make_plan

from symjax.data import Split
from symjax.errors import InputError
from symjax.pairs import all_pairs, draw_pairs
from symjax.stitching import (
    FitConfig,
    Sweep,
    fit,
)

# --- the fit against plain loops ---


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_family_progress_is_one_half_at_the_halfway_epoch(epochs):
    config = FitConfig(epochs=epochs)
    progress = [
        float(fit.family_progress(config, jnp.int32(e), jnp.float32(s))) for e in range(epochs) for s in (0, 0.999)
    ]
    second = [e >= config.halfway_epoch for e in range(epochs) for _ in range(2)]
    assert [value >= 0.5 for value in progress] == second
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] < 1


@pytest.mark.parametrize(("epochs", "reported"), [(1, True), (2, False)])
def test_families_that_need_two_epochs_are_reported(epochs, reported):
    plan = make_plan("full,birkhoff:0.2,softsort", dataclasses.replace(CONFIG, epochs=epochs))
    expected = "Warning: some parameters of birkhoff:0.2 are trained only with 2 or more epochs of the stitches."
    assert plan.epochs_warning == (expected if reported else "")


@pytest.mark.parametrize("bad", [{"schedule": "cosin"}, {"optimizer": "adamw"}, {"translate": -1}])
def test_fit_settings_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FitConfig(**bad)


# --- arguments ---


def test_pairs_are_drawn_by_a_seed():
    seeds = (3, 0, 8, 5)
    every = all_pairs(seeds)
    assert len(every) == 12 == len(set(every)) and all(a != b and {a, b} <= set(seeds) for a, b in every)
    assert draw_pairs(seeds, "all") == every
    drawn = draw_pairs(seeds, 12, 7)
    assert set(drawn) == set(every) and drawn != every
    for count in range(1, 12):
        assert draw_pairs(seeds, count, 7) == drawn[:count]
    assert len({tuple(draw_pairs(seeds, 6, seed)) for seed in range(5)}) == 5
    assert draw_pairs((1, 2), 1, 0) in ([(1, 2)], [(2, 1)])
    either = draw_pairs(seeds, "all", ordered=False)
    assert either == [(0, 3), (0, 5), (0, 8), (3, 5), (3, 8), (5, 8)]
    some = draw_pairs(seeds, "4", 7, ordered=False)
    assert some == draw_pairs(seeds[::-1], 6, 7, ordered=False)[:4] and set(some) < set(either)


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (((1,), 1), "seeds: got 1 member"),
        (((1,), "all"), "seeds: got 1 member"),
        ((range(4000), 4), "seeds: got 4000, expected seeds that make at most 10000000 ordered pairs"),
        (((1, 2), 0), "pairs: got 0, expected 1 to 2 with 2 members, or all"),
        (((1, 2), 3), "pairs: got 3, expected 1 to 2"),
        (((1, 2), "some"), "pairs: got 'some', expected 1 to 2"),
        (((1, 2), 1, -1), "pair_seed: got -1"),
        (((1, 2), 1, 2**32), "pair_seed: got 4294967296"),
    ],
)
def test_pairs_that_cannot_be_drawn(arguments, expected):
    with pytest.raises(InputError, match=expected):
        draw_pairs(*arguments)


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({"epochs": 0}, "epochs: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"learning_rates": ()}, "learning_rates: "),
        ({"learning_rates": (0.1, 0.0)}, "learning_rates: "),
        ({"learning_rates": (float("nan"),)}, "learning_rates: "),
        ({"learning_rates": (float("inf"),)}, "learning_rates: "),
        ({"learning_rates": (0.1, 0.1)}, "learning_rates: .*once"),
        ({"start": "zero"}, "start: got 'zero', expected one of auto, identity"),
        ({"eval_batch_size": 0}, "eval_batch_size: got 0"),
    ],
)
def test_bad_configurations(settings, expected):
    with pytest.raises(InputError, match=expected):
        FitConfig(**settings)


def test_plans_that_do_not_fit_the_data():
    dataset, _ = trained()
    with pytest.raises(InputError, match="families: got rank5, expected a rank of at most 4, the channels of relu1"):
        Sweep(make_plan("full,rank5"), dataset)
    with pytest.raises(InputError, match="batch_size: got 73, expected at most 72, the number of training examples"):
        Sweep(make_plan("full", dataclasses.replace(CONFIG, batch_size=73)), dataset)
    with pytest.raises(InputError, match="validation: "):
        nothing = Split(dataset.validation.images[:0], dataset.validation.labels[:0])
        Sweep(make_plan("full"), dataclasses.replace(dataset, validation=nothing))
    for empty in ({"families": ()}, {"points": ()}):
        with pytest.raises(InputError, match="at least one of each"):
            Sweep(dataclasses.replace(make_plan("full"), **empty), dataset)
