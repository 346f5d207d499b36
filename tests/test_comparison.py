"""`symjax.compare`: one table of values, intervals and p values of two networks, from arrays and files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import symjax
from symjax import InputError, compare
from symjax.comparison import COLUMNS, Comparison
from symjax.similarity import MEASURES

RNG = np.random.default_rng(0)
SIGNAL = RNG.normal(size=(30, 3))


def layer(width):
    return (SIGNAL @ RNG.normal(size=(3, width)) + RNG.normal(size=(30, width))).astype(np.float32)


A = {"relu1": layer(4), "relu2": layer(5)}
B = {"relu1": layer(4), "relu2": layer(6), "<out>": layer(4)}


def test_values_and_matrix():
    result = compare(A, B, ["cka", "procrustes_distance"], names=("one", "other"))
    assert isinstance(result, Comparison) and isinstance(result, symjax.Comparison)
    assert tuple(result.table.columns) == COLUMNS[:4] and len(result.table) == 2 * 2 * 3
    matrix = result.matrix("cka")
    assert list(matrix.index) == list(A) and list(matrix.columns) == list(B)
    np.testing.assert_allclose(matrix.loc["relu2", "<out>"], MEASURES["cka"].fn(A["relu2"], B["<out>"]), atol=1e-6)
    assert repr(result) == "Comparison(one: 2 layers, other: 3 layers; 30 examples; cka, procrustes_distance)"
    page = result._repr_html_()
    assert "&lt;out&gt;" in page and "<out>" not in page and "calibrated" not in page and page.count("<tr") == 13
    figure = result.plot()
    zeros = compare({"relu1": A["relu1"], "relu2": -np.ones((30, 2))}, A, lambda x, y: -1e-5 * jnp.vdot(x, x)).plot()
    assert "0.00" in [text.get_text() for text in zeros.axes[0].texts]
    assert [axes.get_title() for axes in figure.axes] == ["CKA", "procrustes_distance"]
    assert figure.get_supxlabel() == "layer of other" and figure.get_supylabel() == "layer of one"
    with pytest.raises(InputError, match=r"^measure: got 'cca' \(did you mean cka\?\), expected"):
        result.matrix("cca")


def test_intervals_and_p_values_are_those_of_error_bars_and_permutation_test():
    options = {
        "layers": "same",
        "estimator": "gretton",
        "num_resamples": 20,
        "num_permutations": 9,
        "seed": 3,
        "level": 0.8,
    }
    first = compare(A, {"relu2": B["relu2"]}, "cka", **options).table
    assert tuple(first.columns) == COLUMNS and len(first) == 1
    assert first.equals(compare(A, {"relu2": B["relu2"]}, "cka", **options).table)
    row, key = first.iloc[0], jax.random.key(3)
    bars = symjax.error_bars("cka_gretton", A["relu2"], B["relu2"], key, 20, 0.8)
    np.testing.assert_allclose(row[["value", "low", "high"]].astype(float), [bars.estimate, bars.low, bars.high], 1e-5)
    assert (
        row.p
        == float(symjax.permutation_test("cka_gretton", A["relu2"], B["relu2"], key, 9).p_value)
        == pytest.approx(0.1)
    )
    wide = RNG.normal(size=(80, 5)), RNG.normal(size=(80, 6))  # padded, since halves have examples enough
    bars, own = symjax.error_bars("cka", *wide, key, 20), compare(*wide, "cka", num_resamples=20, seed=3).table
    np.testing.assert_allclose(own.loc[0, ["low", "high"]].astype(float), [bars.low, bars.high], atol=1e-6)
    assert set(COLUMNS) - set(own) == {"p", "calibrated"}
    own = compare(A["relu1"], A["relu1"], lambda x, y: jnp.vdot(x, y), num_permutations=9)
    assert set(COLUMNS) - set(own.table) == {"low", "high"}
    assert own.table.p[0] == pytest.approx(0.1) and own.table.layer_a[0] == own.table.layer_b[0] == "layer"
    assert own.plot().axes[0].get_title(loc="left") == "The same layer of two networks\n(one pair)"
    distance = compare(A["relu1"], A["relu1"], "procrustes_distance", num_permutations=9).table
    assert distance.value[0] < 1e-3 and distance.p[0] == pytest.approx(0.1)  # the small ones are extreme


def test_offsets_change_no_interval_of_what_does_not_depend_on_them():
    a, b = ({"relu1": np.float64(side["relu1"])} for side in (A, B))
    options = {"measures": "cka", "num_resamples": 4, "num_permutations": 3}
    table, far = compare(a, b, **options).table, compare({"relu1": a["relu1"] + 1e8}, b, **options).table
    np.testing.assert_allclose(far.iloc[:, 3:], table.iloc[:, 3:], atol=1e-5)


def test_files_and_ids(tmp_path):
    np.savez(tmp_path / "first.npz", **A, ids=np.arange(30))
    (tmp_path / "second").mkdir()
    order = np.arange(30)[::-1]
    for name, array in B.items():
        np.save(tmp_path / "second" / f"{name.strip('<>')}.npy", array[order])
    paths = str(tmp_path / "first.npz"), tmp_path / "second"
    with pytest.raises(InputError, match="^ids: got 29 at example 0 of 'second', expected 0, as in 'first'"):
        compare(*paths, "cka", ids=(None, order))
    result = compare(*paths, "cka", ids=(None, order), join="inner")
    assert result.names == ("first", "second") and result.examples == 30
    expected = compare(A, B, "cka").matrix("cka").to_numpy()
    np.testing.assert_allclose(result.matrix("cka")[["relu1", "relu2", "out"]], expected, atol=1e-6)


@pytest.mark.slow
def test_maps_of_torch_and_tokens():
    maps = RNG.normal(size=(30, 2, 3, 3)).astype(np.float32)  # two channels first
    one = compare(
        {"conv": maps}, {"conv": maps.transpose(0, 2, 3, 1).mean((1, 2))}, "cka", layout="nchw", samples="pool"
    )
    np.testing.assert_allclose(one.table.value, 1, atol=1e-5)
    tokens = RNG.normal(size=(30, 4, 4)).astype(np.float32)
    assert compare({"tokens": tokens}, {"tokens": tokens}, "cka", num_permutations=3).table.p[0] == 0.25


@pytest.mark.slow
def test_masked_tokens():
    tokens = RNG.normal(size=(30, 4, 3)).astype(np.float32)
    mask = np.arange(4) < RNG.integers(1, 5, (30, 1))
    first, other = {"tokens": tokens}, {"tokens": tokens[..., :2]}
    own = compare(first, other, "cka", mask=mask, samples="pool", num_resamples=4).table
    pooled = [np.where(mask[..., None], x["tokens"], 0).sum(1) / mask.sum(1, keepdims=True) for x in (first, other)]
    expected = compare(*pooled, "cka", num_resamples=4).table
    np.testing.assert_allclose(own.iloc[:, 3:6].astype(float), expected.iloc[:, 3:6].astype(float), atol=1e-5)
    value = compare(first, other, "cca", mask=mask).table.value[0]
    np.testing.assert_allclose(value, MEASURES["cca"].fn(tokens[mask], tokens[mask][:, :2]), atol=1e-5)
    with pytest.raises(InputError, match="^mask: got one with num_resamples or num_permutations"):
        compare(first, other, "cca", mask=mask, num_permutations=3)


def test_mistakes():
    for wrong, arguments, options in [
        (r"^measures: got 'ckaa' \(did you mean cka\?\), expected one of", (A, B, "ckaa"), {}),
        (
            r"^layers 'conv' \(x\) and 'relu1' \(y\) by svcca: y: got shape .*; use samples='pool'",
            ({"conv": np.ones((30, 2, 2, 3))}, {"relu1": B["relu1"]}),
            {},
        ),
        ("^a: got no layer", ({}, B), {}),
        ("^b: got$", (A, "x" * 3 + ".npy"), {}),
        ("^names: got .*expected two different names", (A, B), {"names": ["a", "a"]}),
        ("^ids: got 3 sequences, expected two", (A, B), {"ids": (1, 2, 3)}),
        ("^num_resamples: got -1", (A, B), {"num_resamples": -1}),
        ("^level: got 2", (A, B, "cka"), {"num_resamples": 2, "level": 2}),
        (r"^b\['relu1'\]: got 29 examples, expected 30, as in a\['relu1'\]", (A, {"relu1": B["relu1"][1:]}), {}),
        (r"^b: got NaN .*\(layer 'relu1' of model 'b'\)", (A, {"relu1": B["relu1"] * np.nan}), {}),
        ("^a: got a list of arrays, expected a mapping", ([A["relu1"], A["relu2"]], B), {}),
        ("^a: got None, expected an array", (None, B), {}),
        (r"^a\['net'\]: got .'relu1'.*, expected an array", ({"net": A}, B), {}),
        (r"^a\['x'\]: got .*expected an array", ({"x": [[1, 2], [3]]}, B), {}),
        (r"^a\['x'\]: got shape \(30,\), expected \(examples, ..., channels\)$", ({"x": np.ones(30)}, B), {}),
        ("^power: got an unknown option", (A, B), {"power": 1}),
    ]:
        with pytest.raises(InputError, match=wrong.replace("^b: got$", "^path: got xxx.npy, which does not exist")):
            compare(*arguments, **options)
