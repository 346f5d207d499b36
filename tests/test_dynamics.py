"""Learning dynamics of constructed layers: convergence epochs and class correlations."""

import jax
import numpy as np
import pandas as pd
import pytest
from campaign import slow
from scipy import stats

from experiments.classes import class_table
from experiments.classes import conclusion as class_conclusion
from experiments.dynamics import conclusion
from experiments.history import agreement, convergence, format_means
from symjax import plots
from symjax.dynamics import (
    chance_correlation,
    checkpoints,
    class_correlations,
    convergence_epoch,
    epoch_above,
    similarity_to_end,
)
from symjax.errors import InputError

EPOCHS = (0, 1, 2, 4)


def orthonormal(rng, *shape):
    """Return centered orthonormal columns."""
    x = rng.normal(size=shape)
    return np.linalg.qr(x - x.mean(0))[0]


def planted(seed=0):
    """Layer one is final at the first checkpoint up to a linear map; layer two moves there in a straight line."""
    rng = np.random.default_rng(seed)
    basis = orthonormal(rng, 300, 16)
    one, two, start = basis[:, :4], basis[:, 4:10], basis[:, 10:]
    turns = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in EPOCHS]
    share = [epoch / EPOCHS[-1] for epoch in EPOCHS]
    history = {
        "one": np.stack([start[:, :4], *(2.5 * one @ turn + 1 for turn in turns[1:])]),
        "two": np.stack([(1 - t) * start + t * two for t in share]),
    }
    return {layer: np.float32(array) for layer, array in history.items()}, {"one": one, "two": two}, np.array(share)


# --- similarity to the end ---


@pytest.mark.parametrize("measure", [slow("svcca"), slow("pwcca"), "cca"])
def test_a_planted_history_has_its_closed_form(measure):
    history, end, share = planted()
    rows = similarity_to_end(history, end, measure, EPOCHS)
    table = rows.set_index(["layer", "end_layer", "epoch"]).value.unstack("epoch")
    np.testing.assert_allclose(table.loc["one", "one"], [0, 1, 1, 1], atol=1e-5)
    # Every direction has gone the same way: its cosine with the end.
    np.testing.assert_allclose(table.loc["two", "two"], share / np.hypot(share, 1 - share), atol=1e-5)
    np.testing.assert_allclose(table.loc["two", "one"], 0, atol=1e-5)
    np.testing.assert_allclose(table.loc["one", "two"], [0, 0, 0, 0], atol=1e-5)


@pytest.mark.slow
def test_maps_that_differ_in_size_are_compared_by_name():
    rng = np.random.default_rng(0)
    history = {"a": rng.normal(size=(3, 40, 4, 4, 2)), "b": rng.normal(size=(3, 40, 2, 2, 3))}
    history = {layer: np.float32(array) for layer, array in history.items()}
    end = {layer: array[-1] for layer, array in history.items()}
    for measure, options, pairs in (("svcca", {}, 2), ("cka", {}, 4), ("svcca", {"samples": "pool"}, 4)):
        rows = similarity_to_end(history, end, measure, (0, 1, 2), **options)
        assert len(rows) == 3 * pairs
        same = rows[(rows.layer == rows.end_layer) & (rows.epoch == 2)].value
        np.testing.assert_allclose(same, 1, atol=1e-5)


def test_the_finding_names_the_layer_that_is_first(tmp_path):
    tables = []
    for seed in range(3):
        history, end, _ = planted(seed)
        tables.append(similarity_to_end(history, end, "cca", EPOCHS).assign(seed=seed, measure="cca"))
    table = pd.concat(tables)
    ends = convergence(table[table.layer == table.end_layer], "measure", "layer")
    one, two = (ends[ends.layer == layer] for layer in ("one", "two"))
    np.testing.assert_allclose(one.converged, 0.9, atol=1e-4)
    np.testing.assert_allclose(one.settled, 0.95, atol=1e-4)
    # 0.9 and 0.95 lie on the line from 1 / sqrt(2) at epoch 2 to 1 at epoch 4.
    half = np.sqrt(0.5)
    np.testing.assert_allclose(two.converged, 2 + 2 * (0.9 - half) / (1 - half), atol=1e-4)
    np.testing.assert_allclose(two.settled, 2 + 2 * (0.95 - half) / (1 - half), atol=1e-4)
    assert "two after 3.7: a test whether" in conclusion(ends, ["one", "two"])
    assert "+1.00 ± 0.00, above 0 in 3 of 3 networks" in conclusion(ends, ["one", "two"])
    assert format_means(ends.assign(value=ends.settled), "measure", "layer").loc["cca", "one"] == "0.95 ± 0.00"
    for draw, panels in ((plots.layers_by_layers, 4), (plots.layers_by_time, 1)):
        figure = draw(table, tmp_path / draw.__name__)
        assert len(figure.axes) == panels and (tmp_path / f"{draw.__name__}.png").exists()
    (axes,) = plots.layers_by_time(table, tmp_path / "time").axes
    shown = np.asarray(axes.collections[0].get_array()).reshape(2, 4)
    np.testing.assert_allclose(shown[1], [0, 1, 1, 1], atol=1e-5)  # the lowest layer is below
    words = {"panel": "measure", "line": "layer", "label": "similarity", "title": ""}
    (axes,) = plots.over_time(table[table.layer == table.end_layer], tmp_path / "curves", **words).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0, 1, 1, 1], atol=1e-5)
    assert plots.layers_by_layers(table[table.layer == table.end_layer], tmp_path / "none") is None


def test_an_order_of_layers_needs_networks_that_agree():
    def ends(*networks):
        rows = [
            ("cka", layer, seed, at) for seed, row in enumerate(networks) for layer, at in zip("abcd", row, strict=True)
        ]
        return pd.DataFrame(rows, columns=["measure", "layer", "seed", "settled"])

    agreed = conclusion(ends((0, 1, 2, 3), (0, 2, 3, 5), (1, 0, 2, 3)), list("abcd"))
    assert "d after 3.7: lower layers converge first" in agreed and "above 0 in 3 of 3" in agreed
    assert f"{np.mean([1, 1, 0.8]):+.2f} ± {np.std([1, 1, 0.8], ddof=1):.2f}" in agreed
    # The means are in order, and one network makes them so.
    one = conclusion(ends((0, 10, 20, 30), (3, 2, 1, 0), (2, 3, 0, 1)), list("abcd"))
    assert "not shown that lower layers converge first" in one and "above 0 in 1 of 3" in one
    alone = conclusion(ends((0, 1, 2, 3)), list("abcd"))
    assert "needs 2 networks and 3 layers" in alone and alone.endswith("rank correlation of depth and epoch +1.00")
    lost = conclusion(ends((0, 1, 2, 3), (0, 2, 3, 5), (1, np.nan, 2, 3)), list("abcd"))
    assert "1 of 3 networks are left out" in lost and "above 0 in 2 of 2" in lost
    assert "no network has an epoch for every layer" in conclusion(ends((0, 1, 2, np.nan)), list("abcd"))


# --- when ---


def test_epochs_of_convergence():
    assert convergence_epoch([0, 1, 2], [0.0, 1.0, 1.0]) == pytest.approx(0.9)
    assert convergence_epoch([0, 10], [0.2, 0.6], share=0.25) == pytest.approx(2.5)
    assert convergence_epoch([0, 10], [0.6, 0.2], share=0.25) == pytest.approx(2.5)  # downwards, too
    assert convergence_epoch([0, 1, 2, 3], [0.0, 1.0, 0.0, 1.0]) == pytest.approx(2.9)  # and stays there
    assert convergence_epoch([3, 4], [0.5, 0.5]) == 3
    assert np.isnan(convergence_epoch([0, 1], [np.nan, 1.0]))
    assert epoch_above([0, 2, 4], [0.0, 0.8, 1.0], 0.9) == pytest.approx(3)
    assert epoch_above([0, 2], [0.95, 1.0], 0.9) == 0
    assert np.isnan(epoch_above([0, 2], [0.1, 0.5], 0.9))
    for epochs, values in (([0, 0], [1, 2]), ([0, 1], [1]), ([], [])):
        with pytest.raises(InputError, match="epochs: got"):
            epoch_above(epochs, values, 0.5)
    with pytest.raises(InputError, match="share: got 0"):
        convergence_epoch([0, 1], [0, 1], 0)


def test_checkpoints_are_few_and_early():
    assert checkpoints(3) == (0, 1, 2, 3) and checkpoints(11) == tuple(range(12))
    many = checkpoints(50)
    assert many[:3] == (0, 1, 2) and many[-1] == 50 and 8 <= len(many) <= 12
    assert (np.diff(many)[1:] >= np.diff(many)[:-1] - 1).all()


# --- classes ---


def least_squares_correlation(x, y):
    """Return R of a least-squares regression with an intercept, in float64."""
    design = np.column_stack([np.ones(len(x)), np.float64(x)])
    fitted = design @ np.linalg.lstsq(design, np.float64(y), rcond=None)[0]
    return np.sqrt(max(0.0, 1 - np.sum((y - fitted) ** 2) / np.sum((y - np.mean(y)) ** 2)))


def test_class_correlations_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    flat = rng.normal(size=(2, 80, 5)) + np.eye(3, 5)[labels]
    flat[0, :, 4] = 2 * flat[0, :, 3]  # dependent, and dead
    flat[1, :, 2] = 1.0
    maps = rng.normal(size=(2, 80, 3, 2, 4))
    with jax.enable_x64(True):
        rows = class_correlations({"flat": flat, "maps": maps}, labels, ["a", "b", "c", "none"], (0, 7))
    assert len(rows) == 2 * 2 * 4
    table = rows.set_index(["layer", "epoch", "class"]).value
    for i, epoch in enumerate((0, 7)):
        for k, name in enumerate("abc"):
            indicator = np.float64(labels == k)
            assert table["flat", epoch, name] == pytest.approx(least_squares_correlation(flat[i], indicator), abs=1e-9)
            expected = least_squares_correlation(maps[i].reshape(-1, 4), np.repeat(indicator, 6))
            assert table["maps", epoch, name] == pytest.approx(expected, abs=1e-9)
        assert np.isnan(table["flat", epoch, "none"])


def test_planted_classes_are_learned_in_their_order():
    """One feature becomes the indicator of class b at once, another becomes that of class a gradually."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 4
    moments = []
    for epoch in range(5):
        noise = 10.0 * rng.normal(size=(600, 2))
        clear = [1.0 if epoch else 0.0, epoch / 4]
        moments.append(
            [
                c * 100 * (labels == k) + (1 - c) * noise[:, i]
                for i, (c, k) in enumerate(zip(clear, (1, 0), strict=True))
            ]
        )
    history = {"last": np.float32(np.stack(moments).transpose(0, 2, 1) + 1e-3 * rng.normal(size=(5, 600, 2)))}
    rows = class_correlations(history, labels, list("abcd"), range(5)).assign(seed=0, measure="cca")
    table = rows.set_index(["class", "epoch"]).value
    assert table["b", 0] < 0.15 and (table["b"].iloc[1:] > 0.999).all()
    ends = convergence(rows, "measure", "class")
    by_class = ends.set_index("class").converged
    assert by_class["b"] == pytest.approx(0.9, abs=0.01) and by_class["a"] > 1
    order = list(class_table(ends[ends["class"].isin(["a", "b"])]).index)
    assert order == ["b", "a"]
    # One network has no other to agree with.
    assert class_conclusion(ends[ends["class"].isin(["a", "b"])], "last") == "last: first b, a, last b, a"


def of_networks(orders):
    """Return correlations at the end, networks by classes, as `class_conclusion` takes them."""
    return pd.DataFrame(
        {"class": f"c{k}", "seed": seed, "converged": value}
        for seed, order in enumerate(orders)
        for k, value in enumerate(order)
    )


def test_independent_orders_of_classes_are_no_agreement():
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.broadcast_to(np.arange(10.0), (200, 4, 10)), axis=-1)
    correlations = np.array([agreement(pd.DataFrame(order), 999) for order in orders])
    # The mean over 6 pairs of correlations of variance 1 / (n - 1): over 200 draws its error is 0.01.
    assert abs(correlations[:, 0].mean()) < 0.03 and correlations[:, 0].std() == pytest.approx(
        1 / np.sqrt(6 * 9), rel=0.15
    )
    assert 0.02 < (correlations[:, 1] < 0.05).mean() < 0.09 and abs(correlations[:, 1].mean() - 0.5) < 0.06
    text = class_conclusion(of_networks(orders[0]), "last")
    assert "; no agreement of networks in the order shown (mean rank correlation of two networks" in text


def test_a_common_order_of_classes_is_agreement():
    noise = np.random.default_rng(0).normal(size=(4, 10))
    text = class_conclusion(of_networks(np.arange(10) + noise), "last")
    assert text.startswith("last: first c0, c1, last c8, c9; networks agree in the order (")
    assert text.endswith("permutation test: p = 0.0001)")
    relation, p = agreement(pd.DataFrame(np.arange(10) + noise))
    pairs = [stats.spearmanr(noise[i] + np.arange(10), noise[j] + np.arange(10))[0] for i in range(4) for j in range(i)]
    assert relation == pytest.approx(np.mean(pairs)) and p == 1e-4
    # A class that one network never learns has no place in any order; two networks with two classes show nothing.
    orders = np.arange(10) + noise
    orders[1, 9] = np.nan
    assert f"two networks {agreement(pd.DataFrame(orders[:, :9]))[0]:+.2f}" in class_conclusion(
        of_networks(orders), "last"
    )
    assert "no agreement of networks in the order shown" in class_conclusion(of_networks([[1, 2], [1, 2]]), "last")
    assert class_conclusion(of_networks([[1, 1, 1], [1, 2, 3]]), "last").endswith("last c1, c2")  # one has no order


@pytest.mark.slow
def test_chance_is_what_unrelated_labels_have():
    rng = np.random.default_rng(0)
    history = {"layer": np.float32(rng.normal(size=(60, 101, 9)))}
    rows = class_correlations(history, rng.integers(0, 2, 101), ["a", "b"], range(60))
    assert np.mean(rows.value**2) == pytest.approx(chance_correlation(9, 101) ** 2, rel=0.1)
    assert chance_correlation(9, 101) == pytest.approx(0.3) and chance_correlation(50, 20) == 1


def test_bad_labels():
    history = {"layer": np.zeros((1, 6, 2), np.float32)}
    for labels, named in (
        ([0] * 5, "labels: got shape"),
        ([0, 1, 2, 0, 1, 2], "labels: got 0 to 2, expected 0 to 1"),
    ):
        with pytest.raises(InputError, match=named):
            class_correlations(history, labels, ["a", "b"], [0])
