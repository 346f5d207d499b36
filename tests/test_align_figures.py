"""Figures and conclusions of the align command."""

import numpy as np
import pandas as pd
import pytest
from campaign import slow
from stitch_helpers import trained

import experiments.align
import experiments.features
from symjax.errors import InputError
from symjax.plots import by_layer, heatmaps
from symjax.plots.similarity import is_distance
from symjax.similarity import MEASURES, pairwise


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, on a zoo that is trained once."""
    trained()
    monkeypatch.chdir(tmp_path)


# --- the command ---


def test_a_value_that_is_none_does_not_vanish_from_the_finding():
    rows = [("cka", 0, "relu1", j, "relu1", value) for j, value in ((1, 0.5), (2, np.nan))]
    table = pd.DataFrame(rows, columns=list(experiments.align.ROWS.required))
    assert "cka nan and nan" in experiments.align.conclusion(table, ["relu1"])


# --- figures ---


def table(measures=("cka", "wreath_cka"), layers=3, pairs=4, same=()):
    rng = np.random.default_rng(0)
    names = [f"relu{i}" for i in range(layers)]
    return pd.DataFrame(
        {"measure": m, "model_a": p, "layer_a": a, "model_b": p + 1, "layer_b": b, "value": rng.uniform(0.1, 0.9)}
        for m in measures
        for p in range(pairs)
        for a in names
        for b in names
        if a == b or m not in same
    )


def test_heat_maps_show_means(tmp_path):
    rows = table(same=("svcca",), measures=("cka", "svcca", "procrustes"))
    figure = heatmaps(rows, tmp_path / "h")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["CKA", "orthogonal Procrustes"]
    for axes, measure in zip(shown, ("cka", "procrustes"), strict=True):
        mean = rows[rows.measure == measure].groupby(["layer_a", "layer_b"]).value.mean()
        assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in mean]
        np.testing.assert_allclose(axes.collections[0].get_array().ravel(), mean)
    assert heatmaps(table(same=("cka",), measures=("cka",)), tmp_path / "none") is None
    assert not (tmp_path / "none.png").exists()


def test_a_model_compared_with_itself_is_in_no_mean(tmp_path):
    noise = np.float32(np.random.default_rng(0).normal(size=(2, 3, 40, 6)))
    similarities = pairwise(dict(zip("ab", noise, strict=True)), "cka")
    rows = similarities.to_frame()
    apart = ~np.eye(3, dtype=bool)
    means = similarities.values.transpose(0, 2, 1, 3)[:, :, apart].mean(
        -1
    )  # near 0, with the models themselves over .3
    assert np.abs(means).max() < 0.1
    (axes,) = heatmaps(rows, tmp_path / "h").axes
    np.testing.assert_allclose(axes.collections[0].get_array(), means, atol=1e-6)
    (axes,) = by_layer(rows, tmp_path / "b").axes
    assert "3 pairs" in axes.get_title(loc="left")
    heights = [bar.get_height() for container in axes.containers[1::2] for bar in container]
    np.testing.assert_allclose(heights, np.diag(means), atol=1e-6)
    # Equal labels of two sets are two models; of one model alone there is nothing else to show.
    two_sets = pairwise({"a": noise[0]}, "cka", against={"b": noise[1]})
    (axes,) = heatmaps(two_sets.to_frame(), tmp_path / "h").axes
    np.testing.assert_allclose(axes.collections[0].get_array().ravel(), two_sets.values.mean(), atol=1e-6)
    alone = pairwise({"a": noise[0, :1], "b": noise[1, :1]}, "cka")
    (axes,) = heatmaps(alone.to_frame(), tmp_path / "h").axes
    np.testing.assert_allclose(axes.collections[0].get_array(), alone.values[:, 0, :, 0], atol=1e-6)
    with pytest.raises(InputError, match="^table: got no rows of equal layers of different models"):
        by_layer(alone.to_frame(), tmp_path / "b")


def test_heat_maps_of_two_sides_with_layers_of_their_own(tmp_path):
    rows = table(pairs=2, measures=("cka",))
    rows = rows[rows.layer_b != "relu2"].assign(layer_b=rows.layer_b.str.replace("relu", "conv"))
    (axes,) = heatmaps(rows, tmp_path / "h").axes
    mean = rows.groupby(["layer_a", "layer_b"]).value.mean().unstack()
    np.testing.assert_allclose(axes.collections[0].get_array(), mean)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["conv0", "conv1"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["relu0", "relu1", "relu2"]


@pytest.mark.figures
@pytest.mark.parametrize("layers", [1, 2, slow(12), 13, slow(19)])
@pytest.mark.few(1)
def test_heat_maps_of_any_number_of_layers_have_numbers_that_fit(layers, tmp_path):
    rows = table(layers=layers, pairs=1, measures=("procrustes_distance", "cka"))
    if layers == 1:
        assert heatmaps(rows, tmp_path / "h") is None
        return
    rows.loc[rows.value < 0.2, "value"] *= -1  # with a sign they are widest
    figure = heatmaps(rows, tmp_path / "h")
    for axes in figure.axes:
        assert len(axes.texts) == layers**2
        square = axes.get_window_extent().width / layers
        assert max(text.get_window_extent().width for text in axes.texts) < square


def test_distances_are_called_so(tmp_path):
    for measure in MEASURES.values():
        assert is_distance(measure.name) == (measure.kind == "distance")
    rows = table(measures=("cka", "procrustes_distance"))
    rows.loc[rows.measure == "procrustes_distance", "value"] *= 0.3
    one, two = heatmaps(rows, tmp_path / "h").axes
    assert one.collections[0].get_clim() == (0, 1) and two.collections[0].get_clim()[1] < 0.3
    for measures, label in (
        (("cka",), "similarity"),
        (("procrustes_distance",), "distance"),
        (("cka", "procrustes_distance"), "similarity or distance"),
    ):
        assert by_layer(table(measures=measures), tmp_path / "b").axes[0].get_ylabel() == label


def test_bars_show_means_and_deviations(tmp_path):
    rows = table(same=("wreath_cka",))
    equal = rows[rows.layer_a == rows.layer_b].groupby(["measure", "layer_a"]).value
    turned = rows.assign(model_a=rows.model_b, model_b=rows.model_a)  # as of a measure that is not symmetric
    rows = pd.concat([rows, turned[turned.measure == "cka"]])
    (axes,) = by_layer(rows, tmp_path / "b").axes
    assert "4 pairs" in axes.get_title(loc="left")
    heights = [bar.get_height() for container in axes.containers[1::2] for bar in container]
    np.testing.assert_allclose(heights, equal.mean())
    spans = [np.ptp(line[:, 1]) for c in axes.containers[::2] for line in c.lines[2][0].get_segments()]
    np.testing.assert_allclose(spans, 2 * equal.std(), rtol=1e-6)
