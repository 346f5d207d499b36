"""Figures show the numbers of the table, and files are complete."""

import itertools

import numpy as np
import pandas as pd
import pytest
from campaign import slow
from matplotlib.container import BarContainer

from symjax.plots import chosen_values, curves, distance_matrix, freezing, mean_curves, over_layers, penalties, sparsity
from symjax.plots.style import distinct_styles


def make_table(layers=2, families=("identity", "full", "rank1"), pairs=3, starred=False, seed=0):
    rng = np.random.RandomState(seed)
    rows = [
        {
            "pair": f"{p}-{p + 1}",
            "layer": f"relu{i}",
            "layer_index": i,
            "starred": starred and i % 2 == 1,
            "family": family,
            "penalty": 90 * rng.rand() - 2,
            "clean_accuracy": 90.0,
        }
        for i in range(layers)
        for family in families
        for p in range(pairs)
    ]
    return pd.DataFrame(rows)


def make_curves(layers=2, families=("full", "rank1"), pairs=2, rates=(0.1, 0.01), epochs=3):
    rng = np.random.RandomState(0)
    return pd.DataFrame(
        {
            "pair": f"{p}-9",
            "layer": f"relu{i}",
            "family": f,
            "learning_rate": r,
            "epoch": e,
            "accuracy": 100 * rng.rand(),
        }
        for i in range(layers)
        for f in families
        for p in range(pairs)
        for r in rates
        for e in range(1, epochs + 1)
    )


def assert_saved(path):
    assert sorted(p.name for p in path.parent.iterdir()) == [f"{path.name}.pdf", f"{path.name}.png"]


def assert_whole(path):
    """Of tests marked `figures`."""
    png, pdf = (path.with_name(f"{path.name}{suffix}").read_bytes() for suffix in (".png", ".pdf"))
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and png.endswith(b"IEND\xaeB`\x82") and len(png) > 5000
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") and len(pdf) > 3000
    assert_saved(path)


def bar_containers(figure):
    (axes,) = figure.axes
    return [container for container in axes.containers if isinstance(container, BarContainer)]


def bars(figure):
    """For each family, heights and half lengths of error bars, if any, at each layer."""
    series = []
    for container in bar_containers(figure):
        heights = [p.get_height() for p in container.patches]
        if container.errorbar is None:
            errors = None
        else:
            (_, _, (lines,)) = container.errorbar.lines
            errors = [np.ptp(segment[:, 1]) / 2 for segment in lines.get_segments()]
        series.append((heights, errors))
    return series


@pytest.mark.figures
@pytest.mark.parametrize("pairs", [1, slow(4)])
def test_bars_are_means_and_deviations(tmp_path, pairs):
    table = make_table(layers=3, pairs=pairs, families=("identity", "full", "lasso:0.1", "lasso:0.01", "rank7", "mine"))
    figure = penalties(table, tmp_path / "penalties")
    assert_whole(tmp_path / "penalties")
    for (heights, errors), family in zip(bars(figure), table.family.unique(), strict=True):
        of_layer = [table[(table.family == family) & (table.layer == f"relu{i}")].penalty for i in range(3)]
        np.testing.assert_allclose(heights, [np.mean(values) for values in of_layer], rtol=1e-9)
        if pairs == 1:
            assert errors is None  # nothing is known of the deviation
        else:
            np.testing.assert_allclose(errors, [np.std(values, ddof=1) for values in of_layer], rtol=1e-6)
    title = figure.axes[0].get_title(loc="left")
    assert ("over 4 pairs" if pairs > 1 else "(one pair;") in title and "90.0 %" in title
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert len(set(names)) == 6 and "lasso 0.01" in names and "mine" in names
    colors = {patch.get_facecolor() for patch in legend.get_patches()}
    assert len(colors) == 6


def test_a_mean_with_a_failed_run_has_no_bar():
    table = make_table()
    table.loc[0, "penalty"] = np.nan
    heights = np.array([[bar.get_height() for bar in container] for container in bar_containers(penalties(table))])
    assert np.isnan(heights[0, 0]) and np.isnan(heights).sum() == 1


def test_bars_of_a_layer_stand_apart(tmp_path):
    figure = penalties(make_table(layers=4, families=tuple("abcdefg")), tmp_path / "p")
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for c in bar_containers(figure) for p in c.patches)
    assert len(spans) == 28 and all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    ticks = figure.axes[0].get_xticks()
    assert [round((a + b) / 2) for a, b in spans] == np.repeat(ticks, 7).tolist()


@pytest.mark.figures
def test_many_layers_with_stars(tmp_path):
    figure = penalties(make_table(layers=19, starred=True), tmp_path / "many")
    assert_whole(tmp_path / "many")
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == [f"relu{i}{'*' * (i % 2)}" for i in range(19)]
    assert penalties(make_table(layers=1, pairs=1, families=("full",)), tmp_path / "one").axes


@pytest.mark.figures
def test_curves_are_means_over_pairs_at_the_best_rate(tmp_path):
    table = make_curves()
    figure = curves(table, tmp_path / "curves")
    assert_whole(tmp_path / "curves")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["relu0", "relu1"]
    for axes, layer in zip(panels, ("relu0", "relu1"), strict=True):
        for line, family in zip(axes.lines, ("full", "rank1"), strict=True):
            chosen = table[(table.layer == layer) & (table.family == family)]
            by_rate = {rate: rows.groupby("epoch").accuracy.mean() for rate, rows in chosen.groupby("learning_rate")}
            best = max(by_rate.values(), key=lambda means: means[3])
            np.testing.assert_allclose(line.get_ydata(), best, rtol=1e-9)
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])


def test_curves_of_one_epoch_are_points():
    lines = curves(make_curves(epochs=1)).axes[0].lines
    assert {line.get_marker() for line in lines} == {"o"} and {len(line.get_xdata()) for line in lines} == {1}
    assert curves(make_curves()).axes[0].lines[0].get_marker() == "None"


def test_curves_of_uneven_tables(tmp_path):
    assert curves(pd.DataFrame(), tmp_path / "none") is None and not list(tmp_path.iterdir())
    table = make_curves(layers=5, pairs=1, rates=(0.1,))
    table = table[(table.layer != "relu2") | (table.family == "full")]  # a family that one layer does not have
    figure = curves(table, tmp_path / "curves")
    assert_saved(tmp_path / "curves")
    assert [len(axes.lines) for axes in figure.axes if axes.get_visible()] == [2, 2, 1, 2, 2]


def test_classes_look_different():
    styles = distinct_styles(range(100))
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 100
    first = [np.asarray(styles[i]["color"]) for i in range(10)]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(first, 2)) > 0.25
    assert len({styles[i]["marker"] for i in range(10)}) == 10


def test_sparsities_have_one_scale(tmp_path):
    table = make_table(layers=5, families=("lasso:0.1", "lasso:1", "birkhoff"))
    table = table.assign(sparsity=0.5, penalty=table.penalty * (1 + table.layer_index))
    figure = sparsity(table, tmp_path / "sparsity")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len({axes.get_ylim() for axes in panels}) == 1 and len({axes.get_xlim() for axes in panels}) == 1
    assert [bool(axes.get_xlabel()) for axes in panels] == [False, True, True, True, True]
    assert "over 3 pairs" in figure.get_suptitle()


def test_choices_are_counts(tmp_path):
    chosen = pd.DataFrame(
        {"pair": f"{p}-9", "layer": layer, "hyperparameter": value}
        for layer, values in {"relu1": (0.1, 0.1, 0.1, 10.0), "relu2": (1.0, 10.0, 10.0, 0.1)}.items()
        for p, value in enumerate(values)
    )
    figure = chosen_values(chosen, [0.1, 1.0, 5.0, 10.0], tmp_path / "c")
    assert_saved(tmp_path / "c")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    heights = {layer: [bar.get_height() for bar in axes.patches] for layer, axes in panels.items()}
    assert heights == {"relu1": [3, 0, 0, 1], "relu2": [1, 1, 0, 2]}
    for axes in panels.values():
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1", "5", "10"]
        np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in axes.patches], axes.get_xticks())


@pytest.mark.parametrize("pairs", [1, 3])
def test_sparsity_has_a_point_for_each_family(tmp_path, pairs):
    families = ("lasso:0.1", "full", "lasso:1", "birkhoff")
    table = make_table(layers=2, families=families, pairs=pairs)
    table = table.assign(sparsity=np.random.RandomState(1).rand(len(table)))
    figure = sparsity(table, tmp_path / "s")
    assert_saved(tmp_path / "s")
    for axes, layer in zip((axes for axes in figure.axes if axes.get_visible()), ("relu0", "relu1"), strict=True):
        grouped = table[table.layer == layer].groupby("family")[["sparsity", "penalty"]]
        mean, deviation = grouped.mean(), grouped.std()
        marks = dict(zip(families, axes.containers, strict=True))
        for family, container in marks.items():
            point, _, spans = container
            np.testing.assert_allclose([*point.get_xdata(), *point.get_ydata()], mean.loc[family])
            halves = [np.ptp(lines.get_segments()[0], axis=0).max() / 2 for lines in spans]
            np.testing.assert_allclose(halves, deviation.loc[family] if pairs > 1 else [], rtol=1e-6)
        assert [marks[family][0].get_marker() for family in families] == ["o", "s", "o", "*"]
        np.testing.assert_allclose(axes.lines[0].get_xydata(), mean.loc[["lasso:0.1", "lasso:1"]])


@pytest.mark.parametrize("seeds", [1, 3])
def test_freezing_shows_accuracies_and_shares(tmp_path, seeds):
    rng = np.random.RandomState(0)
    metrics = pd.DataFrame(
        {"schedule": s, "seed": k, "epoch": e, "validation_accuracy": rng.rand()}
        for s in ("normal", "linear")
        for k in range(seeds)
        for e in (1, 2, 3)
    )
    shares = {"normal": [1.0, 1.0, 1.0], "linear": [1.0, 0.6, 0.25]}
    cost = pd.DataFrame({"schedule": s, "epoch": e, "share": v} for s, vs in shares.items() for e, v in enumerate(vs))
    figure = freezing(metrics, cost, tmp_path / "f")
    assert_saved(tmp_path / "f")
    assert ("of one network" if seeds == 1 else "over 3 networks") in figure.get_suptitle()
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == list(shares)
    for line, band, steps, (name, share) in zip(
        left.lines, left.collections, right.patches, shares.items(), strict=True
    ):
        grouped = 100 * metrics[metrics.schedule == name].pivot(index="epoch", columns="seed").validation_accuracy
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([[1, 2, 3], grouped.mean(axis=1)]))
        deviation = grouped.std(axis=1).fillna(0)
        edge = band.get_paths()[0].vertices
        for epoch in (1, 2, 3):
            height = np.ptp(edge[edge[:, 0] == epoch, 1])
            assert height == pytest.approx(2 * deviation[epoch], abs=1e-6)
        np.testing.assert_allclose(steps.get_data().values, 100 * np.array(share))
        np.testing.assert_allclose(steps.get_data().edges, [0, 1, 2, 3])
        assert line.get_color() == tuple(steps.get_edgecolor()[:3])


def test_figures_say_what_they_show(tmp_path):
    assert "over 2 pairs, the best learning rate" in curves(make_curves(), tmp_path / "a").get_suptitle()
    assert "one pair)" in curves(make_curves(pairs=1, rates=(0.1,)), tmp_path / "b").get_suptitle()
    chosen = make_table(pairs=4, families=("birkhoff",)).assign(hyperparameter=1.0)
    assert "of 4 pairs" in chosen_values(chosen, [0.1, 1.0], tmp_path / "c").get_suptitle()
    rows = [{"schedule": s, "seed": k, "epoch": e} for s in ("normal", "linear") for k in (0, 1) for e in (1, 2)]
    metrics, cost = pd.DataFrame(rows).assign(validation_accuracy=0.5), pd.DataFrame(rows).assign(share=1.0)
    figure = freezing(metrics, cost[cost.seed == 0], tmp_path / "d")
    assert "over 2 networks" in figure.get_suptitle()
    classes = pd.DataFrame({"seed": 0, "epoch": 1, "layer": "relu1", "class": list("ab"), "value": [0.2, 0.3]})
    assert over_layers(classes, tmp_path / "e", title="what it shows").get_suptitle() == "what it shows"


def test_a_long_legend_leaves_space_for_the_panels():
    lines = [f"a method with a long name, and its group {i}" for i in range(10)]
    rows = [(panel, line, t, t * i) for panel in "ab" for i, line in enumerate(lines) for t in (0, 1)]
    table = pd.DataFrame(rows, columns=["panel", "line", "t", "value"])
    figure = mean_curves(table, x="t", line="line", panel="panel")
    figure.draw_without_rendering()
    assert all(axes.get_window_extent().height / figure.dpi > 1 for axes in figure.axes)


def test_mean_curves_show_all_means_and_cut_wide_intervals():
    rows = [(panel, k, 10.0 * k + shift) for panel in "ab" for k in range(1, 9) for shift in (-200.0, 0.0, 200.0)]
    table = pd.DataFrame(rows, columns=["layer", "k", "value"]).assign(method="pca")
    figure = mean_curves(table, x="k", line="method", panel="layer", xlabel="k", ylabel="value")
    for axes in figure.axes:
        (curve,) = axes.lines
        np.testing.assert_allclose(curve.get_xydata(), [(k, 10 * k) for k in range(1, 9)])
        (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
        assert 0 < low + 20 < 10 + 20 and 80 < high < 100 and left < 1 and 8 < right < 10
    bounds = table.groupby(["layer", "k"], as_index=False).value.mean().assign(method="pca", low=1.0, high=2.0)
    options = {"x": "k", "line": "method", "panel": "layer", "xlabel": "k", "ylabel": "value"}
    figure = mean_curves(bounds, interval=("low", "high"), xscale="log", **options)
    (band,) = figure.axes[0].collections
    assert set(band.get_paths()[0].vertices[:, 1]) == {1.0, 2.0} and figure.axes[0].get_xscale() == "log"
    figure.canvas.draw()
    (low, high), labels = figure.axes[0].get_ylim(), [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert low < 1 and high > 80 and {"1", "2", "4", "8"} <= set(labels)


def test_colors_of_a_distance_matrix_are_those_of_different_models():
    distances = pd.DataFrame([[0, 0.5, 0.6], [0.5, 0, 0.4], [0.6, 0.4, 0]])
    (image,) = distance_matrix(distances, ["a", "a", "b"]).axes[0].collections
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()).reshape(3, 3), np.eye(3, dtype=bool))
    assert image.get_clim() == (0.4, 0.6)
    (image,) = distance_matrix(distances.iloc[:1, :1], ["a"]).axes[0].collections
    assert image.get_array().ravel().tolist() == [0]
