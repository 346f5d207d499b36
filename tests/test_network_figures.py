"""Embedding and dendrogram of networks: positions, stress, order and messages."""

import numpy as np
import pandas as pd
import pytest

from symjax import InputError, plots
from symjax.plots.networks import scaling

RNG = np.random.default_rng(0)


def distances(points):
    values = np.linalg.norm(points[:, None] - points[None], axis=-1)
    names = [f"${i}_" for i in range(len(points))]
    return pd.DataFrame(values, names, names)


def test_points_of_a_plane_are_recovered():
    table = distances(RNG.normal(size=(7, 2)))
    points, stress = scaling(table.to_numpy())
    assert stress < 1e-4
    np.testing.assert_allclose(distances(points), table, atol=1e-3)
    np.testing.assert_array_equal(points, scaling(table.to_numpy())[0])
    assert scaling(np.zeros((3, 3)))[1] == 0
    line, stress = scaling(np.array([[0, 2.0], [2, 0]]))
    assert stress < 1e-6 and abs(np.linalg.norm(line[0] - line[1]) - 2) < 1e-6


def test_stress_is_that_of_the_drawn_points():
    table = distances(RNG.normal(size=(9, 5)))
    points, stress = scaling(table.to_numpy())
    drawn = distances(points).to_numpy()
    expected = np.sqrt(((drawn - table) ** 2).to_numpy().sum() / (drawn**2).sum())
    assert 0.02 < stress == pytest.approx(expected)
    figure = plots.embedding(table, groups=["even", "odd"] * 4 + ["even"])
    (axes,) = figure.axes
    assert axes.get_title() == f"stress {stress:.3f}"
    named = plots.embedding(table.rename_axis(columns="cka_distance")).axes[0]
    assert named.get_title() == f"cka_distance, stress {stress:.3f}"
    assert [text.get_text() for text in axes.texts] == list(table.index)
    even, odd = (line.get_xydata() for line in axes.lines)
    np.testing.assert_allclose(even, points[::2])
    np.testing.assert_allclose(odd, points[1::2])


def test_the_tree_joins_the_closest():
    table = distances(np.array([[0.0], [5.0], [0.1], [5.3], [20.0]]))
    figure = plots.dendrogram(table)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {frozenset(labels[i : i + 2]) for i in (1, 3)} == {frozenset(("$0_", "$2_")), frozenset(("$1_", "$3_"))}
    assert figure.axes[0].get_title().startswith("cophenetic correlation 0.9")
    assert plots.dendrogram(table.iloc[:2, :2]).axes[0].get_title() == ""


@pytest.mark.parametrize("figure", [plots.embedding, plots.dendrogram])
def test_mistakes(figure):
    table = distances(RNG.normal(size=(3, 2)))
    for wrong, given, options in [
        (r"^distances: got \(2, 3\), expected a square table of two or more", table.iloc[:2], {}),
        (r"^distances: got \(1, 1\), expected a square table of two or more", table.iloc[:1, :1], {}),
        ("^distances: got .*, expected numbers", table.astype(str), {}),
        ("^distances: got numbers that are not finite", table.replace(0, np.nan), {}),
        ("^distances: got another matrix, expected a symmetric one", table + np.triu(np.ones((3, 3)), 1), {}),
        ("^distances: got another matrix", table + 1, {}),
        ("^groups: got 2, expected one for each of 3", table, {"groups": ["a", "b"]}),
        ("^method: got 'ward', expected", table, {"method": "ward"}),
    ]:
        if not set(options) <= {"groups" if figure is plots.embedding else "method"}:
            continue
        with pytest.raises(InputError, match=wrong):
            figure(given, **options)
