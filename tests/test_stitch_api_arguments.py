"""Arguments, warnings and saved results of `symjax.stitch`."""

import doctest
import re
from functools import partial

import jax
import numpy as np
import pytest
from stitch_api_helpers import (
    CNN,
    MLP,
    ONE,
    closeness,
    draw,
    linear,
    of_function,
    of_nnx,
    planted,
    residual,
    squared,
    vectors,
)

import symjax
from symjax import InputError
from symjax.ops.parallel import Execution
from symjax.pairs import all_pairs
from symjax.stitching import (
    FitConfig,
    Plan,
    Sweep,
    load_stitch,
    memory_budget,
    parse_families,
)
from symjax.stitching.junction import parse_point_pairs
from symjax.stitching.results import StitchResults, pair_name


@pytest.mark.slow
def test_results_of_different_points_are_saved_and_loaded(tmp_path):
    """Rows of equal and of different points in one folder; members of two networks under the same seeds."""
    (network, _), b = of_nnx(lambda rngs: MLP(4, rngs), 0, (5,)), of_nnx(lambda rngs: MLP(3, rngs), 0, (5,))
    train, test = symjax.data.Split(*vectors()), symjax.data.Split(*vectors(1, 30))
    dataset = symjax.data.Dataset("own", train, test, test, (), None, None)
    config = FitConfig(epochs=1, batch_size=12, flip=False, translate=0)
    make = partial(Plan, families=parse_families("full"), config=config, execution=Execution("map", "matmul"))
    members = {seed: network.init(jax.random.key(seed)) for seed in (0, 1)}
    results, pairs = StitchResults(tmp_path), all_pairs((0, 1))[:1]
    within, between = make(network, (0, (0, 1))), make(network, ((0, 1),), network_b=b[0])
    (result,) = Sweep(within, dataset, devices=jax.devices()[:1]).run(members.get, pairs)
    results.add(result, {0: 50.0, 1: 60.0})
    assert not results.missing(pairs, within)
    table = results.table(pairs, within)
    assert table.layer_b.tolist() == ["relu1", "relu2"] and table.clean_accuracy.eq(55).all()
    assert len(results.table(pairs, make(network, (0,)))) == 1
    assert results.missing(pairs, make(network, (1, (0, 1)))) == {make(network, (1,)): pairs}
    stitch, state = load_stitch(tmp_path, (0, 1), "relu1", "full", members[1].state, layer_b="relu2")
    for loaded, made in zip(
        jax.tree.leaves((stitch, state)), jax.tree.leaves(result.stitches["relu1", "relu2", "full"]), strict=True
    ):
        np.testing.assert_array_equal(loaded, made)
    (result,) = Sweep(between, dataset, devices=jax.devices()[:1]).run(
        members.get, [(0, 0)], member_b=lambda seed: b[1]
    )
    assert result.stitches["relu1", "relu2", "full"][0].matrix.shape == (4, 4)
    parts, usage = memory_budget.split_to_fit(between, dataset, np.inf)
    assert parts == [between] and usage.bytes_for(1) > 0
    results.add(result, {0: 50.0}, {0: 70.0})
    assert results.table([(0, 0)], between).clean_accuracy.tolist() == [60] and pair_name((0, 0)) == "0-0"


def test_points_by_name_in_two_networks():
    """Points are given as pairs with a colon, as a name that both networks have, or as all that can be stitched."""
    mlps = [of_nnx(lambda rngs, width=width: MLP(width, rngs), 0, (5,))[0] for width in (4, 6)]
    assert parse_point_pairs(*mlps, "relu2:relu1, relu1,relu1:relu1") == ((0, 0), (1, 0))
    assert parse_point_pairs(*mlps, "all") == parse_point_pairs(mlps[0], mlps[0], "all") == ((0, 0), (1, 1))
    cnn = of_nnx(lambda rngs: CNN(3, 1, rngs), 0, (8, 8, 1))[0]
    plain = of_function(linear, draw(0, first=(5, 4), second=(4, 3)), np.zeros((1, 5), np.float32))[0]
    assert parse_point_pairs(mlps[0], plain, "all") == ((0, 0),)
    blocks = [
        of_function(
            residual,
            draw(0, first=(5, 4), inner=(4, width), back=(width, 4), last=(4, 3)),
            np.zeros((1, 5), np.float32),
        )[0]
        for width in (3, 2)
    ]
    assert parse_point_pairs(*blocks, "all") == ((0, 0), (1, 1), (2, 2), (3, 3))
    for nets, text, message in (
        ((mlps[0], plain), "relu2", "layers: got 'relu2', expected a stitch point of linear: relu1"),
        ((mlps[0], plain), "relu1:", "layers: got '', expected a stitch point of linear"),
        (mlps, " ,", "layers: got none, expected relu1, relu2, or all"),
        (mlps, 3, "layers: got 3, expected comma-separated names"),
        (
            (plain, cnn),
            "all",
            "layers: got 'all' between .*: none that can be stitched have equal names.* of linear, relu1",
        ),
        (
            (blocks[0], plain),
            "all",
            "layers: got 'all' .*: none have equal names; expected pairs such as stem:relu1 of",
        ),
    ):
        with pytest.raises(InputError, match=f"^{message}"):
            parse_point_pairs(*nets, text)


def refused(**changes):
    """Return the error message of a call; nothing is compiled."""
    a, b, _ = planted()
    arguments = (
        {"a": a, "b": b, "at": "relu1", "families": "full", "train": vectors(), "test": vectors()} | ONE | changes
    )
    with pytest.raises(InputError) as caught:
        symjax.stitch(arguments.pop("a"), arguments.pop("b"), arguments.pop("at"), **arguments)
    return str(caught.value)


@pytest.mark.parametrize("family", ["identity", "matched", "orthogonal", "birkhoff", "birkhoff_published", "softsort"])
def test_square_families_refuse_unequal_widths(family):
    message = refused(families=f"full,{family}")
    given = "got 4 channels at relu1 of A and 6 at relu1 of B"
    assert message == f"families: {given}, expected equal widths for {family}"


X, Y = vectors()


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"at": "relu9"}, "at: got 'relu9', expected a stitch point of linear: relu1"),
        ({"at": ("relu1", "relu2")}, "at: got 'relu2', expected a stitch point"),
        ({"at": []}, "at: got none, expected some of relu1"),
        ({"families": None}, "families: got None"),
        ({"seed": -1}, "seed: got -1"),
        ({"families": "rank5"}, "families: got rank5, expected a rank of at most 4, the channels of relu1"),
        ({"families": "none"}, "families: got 'none', expected one of"),
        ({"start": "identity"}, "start: got .*, expected equal widths for 'identity'"),
        ({"a": planted()[0][0]}, "a: got Network"),
        ({"b": (planted()[1][0], planted()[0][1])}, r"b: variables: got shape \(5, 4\), expected \(5, 6\)"),
        ({"train": X}, r"train: got [^:]*expected \(inputs, targets\)"),
        ({"train": (X, Y[:-1])}, "train: inputs, targets: got 60 and 59"),
        ({"train": (X[:, :4], Y)}, r"inputs: got float32\[60, 5\], expected as in train"),
        ({"train": (X[:, :4], Y), "test": (X[:, :4], Y)}, r"got inputs float32\[n, 4\], expected float32\[n, 5\]"),
        ({"train": (X.astype(int), Y), "test": (X.astype(int), Y)}, r"got inputs int32\[n, 5\], expected float32"),
        ({"train": (X, Y + 1)}, r"network: got float32\[7, 3\] from linear for 7 examples, expected \(7, 4\), a logit"),
        ({"train": (X, X), "test": (X, X)}, "loss: got none for targets that are not classes"),
        ({"train": (X, X), "test": (X, X), "loss": squared}, "metric: got none for targets that are not classes"),
        ({"metric": squared}, r"metric: got float32\[\] for 7 examples, expected a score for each example"),
        ({"loss": closeness}, r"loss: got float32\[7\] for 7 examples, expected a number"),
        ({"loss": "mse"}, "loss: got 'mse', expected a function"),
        ({"validation": 0.0}, "validation: "),
        ({"batch_size": 100}, "batch_size: got 100, expected at most 48, the number of training"),
        ({"epoch": 3}, "epoch: got an unknown option, expected one of epochs, batch_size"),
        ({"b": of_nnx(partial(CNN, 3, 1), 0, (8, 8, 1))}, r"points: got features of shapes \(4,\) at relu1 of linear"),
    ],
)  # fmt: skip
def test_refusals(changes, expected):
    assert re.search(expected, message := refused(**changes)), message


def test_numerical_problems_are_warnings():
    a, b, _ = planted()
    with pytest.warns(
        UserWarning, match="in 1 stitch the loss was not finite .full at relu1.; see StitchResult.curves"
    ):
        result = symjax.stitch(a, b, "relu1", families="full", train=(X, Y), test=(X, Y), **ONE, learning_rates=(1e38,))
    assert np.isnan(result.table.penalty).all()


def test_a_single_epoch_of_birkhoff_is_a_warning():
    a, *_ = planted()
    with pytest.warns(UserWarning, match="some parameters of birkhoff are trained only with 2 or more epochs"):
        symjax.stitch(a, a, "relu1", families="full,birkhoff", train=(X, Y), test=(X, Y), **ONE)


@pytest.mark.slow
def test_the_example_runs():
    assert doctest.testmod(symjax.stitching.api).failed == 0


def test_names_that_are_imported_when_they_are_used():
    assert {"Network", "stitch", "stitch_point"} <= {*dir(symjax)} & {*symjax.__all__}
    assert symjax.stitch is symjax.stitching.stitch and symjax.zoo.__name__ == "symjax.zoo"
    with pytest.raises(AttributeError, match="stich"):
        symjax.stich  # noqa: B018
