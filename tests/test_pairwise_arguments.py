"""Arguments, labels and warnings of all pairs."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import slow
from pairwise_helpers import zoo

import symjax
from symjax.errors import InputError
from symjax.similarity import MEASURES, FewExamplesWarning, pairwise


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def test_what_was_asked_before_changes_no_check():
    a = zoo(2)
    pairwise(a, "procrustes", center=True)
    with pytest.raises(InputError, match="center: got 1"):
        pairwise(a, "procrustes", center=1)
    with pytest.raises(InputError, match="devices: got none"):
        pairwise(a, "procrustes", devices=[])


def test_only_few_examples_are_reported():
    def warns(x, y):
        warnings.warn("something else", UserWarning, stacklevel=1)
        return jnp.vdot(x, y)

    own = dataclasses.replace(MEASURES["cka"], fn=warns, split=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pairwise(zoo(2), own, layers="same")
    assert not any(issubclass(one.category, FewExamplesWarning) for one in caught)


def test_labels():
    a = zoo(2, sizes=((2, 2, 3), (2, 2, 4)))
    result = symjax.pairwise(a, "pwcca", models=("m", "n"))
    assert isinstance(result, symjax.Pairwise) and result.layers_a == result.layers_b == ("layer0", "layer1")
    assert result.select(model_a="n", layer_b="layer1").shape == (2, 2)
    assert result.select(layer_a="layer1", model_a="m", layer_b="layer0", model_b="n") == result.values[1, 0, 0, 1]
    frame = result.to_frame()
    assert list(frame.columns) == ["model_a", "layer_a", "model_b", "layer_b", "measure", "value", "same_model"]
    assert len(frame) == 16 and (frame.same_model == (frame.model_a == frame.model_b)).all()
    assert not symjax.pairwise(a, "pwcca", against=a).to_frame().same_model.any()  # equal labels of two sets
    row = frame[
        (frame.model_a == "n") & (frame.layer_a == "layer0") & (frame.model_b == "m") & (frame.layer_b == "layer1")
    ]
    assert row.value.item() == result.values[0, 1, 1, 0]
    with pytest.raises(InputError, match="^layer_a: got 'layer7', expected one of 'layer0', 'layer1'"):
        result.select(layer_a="layer7")


def test_a_function_is_a_measure():
    def differs(first, second, power=1):
        return (first - 2 * second).mean() ** power

    a = {"layer": zoo(2, sizes=((1, 1, 3),))["layer0"]}
    result = symjax.pairwise(a, differs, power=2)
    x, y = np.float64(a["layer"])
    expected = [[(s - 2 * t).mean() ** 2 for t in (x, y)] for s in (x, y)]
    np.testing.assert_allclose(result.values[0, :, 0], expected, rtol=1e-4)
    assert result.measure == "differs"


@pytest.mark.parametrize(
    ("measure", "where"),
    [
        ("cca", "'layer0' and 'layer1', 'layer1' and 'layer1': 30 samples of 3 and 27"),
        slow("svcca", "'layer1' and 'layer1': 30 samples of "),
    ],
)
def test_one_warning_of_few_examples(measure, where):
    a = zoo(2, sizes=((1, 1, 3), (1, 1, 27)))
    with pytest.warns(FewExamplesWarning, match=f"^{measure}: few examples for layers {where}") as warned:
        pairwise(a, measure)
    assert len(warned) == 1 and warned[0].filename == __file__
    pairwise({"layer0": a["layer0"]}, measure)


def test_mistakes_are_reported():
    a = zoo(2, sizes=((2, 2, 3), (1, 2, 3)))
    x = a["layer0"]
    bad = x.copy()
    bad[1, 3, 0, 0, 0] = np.nan
    for wrong, arguments, options in [
        ("^representations: got list", ([x], "cka"), {}),
        ("^representations: got dict", ({}, "cka"), {}),
        (r"^representations\['x'\]: got shape \(2, 30\)", ({"x": x[:, :, 0, 0, 0]}, "cka"), {}),
        (r"^representations\['x'\]: got complex", ({"x": x + 1j}, "cka"), {}),
        (
            r"^representations\['y'\]: got 1 models, expected as many as in layer 'x', 2",
            ({"x": x, "y": x[:1]}, "cka"),
            {},
        ),
        (r"^representations\['y'\]: got 29 examples", ({"x": x, "y": x[:, 1:]}, "cka"), {}),
        ("^representations: got NaN .*layer 'y' of model 1", ({"x": x, "y": bad}, "cka"), {}),
        ("^against: got NaN .*layer 'y' of model 'n'", (a, "cka"), {"against": {"y": bad}, "against_models": "mn"}),
        ("^against: got 29 examples", (a, "cka"), {"against": {"x": x[:, 1:]}}),
        ("^measure: got 'ckaa' .did you mean cka.., expected one of cca, ", (a, "ckaa"), {}),
        ("measure: got a value of tuple, expected a 0-d array", (a, lambda x, y: (x, y)), {}),
        ("measure: got a value of \\(30,\\), expected a 0-d array", (a, lambda x, y: x[:, 0, 0, 0]), {}),
        ("^models: got .* expected 2 different labels", (a, "cka"), {"models": "aa"}),
        ("^against_models: got", (a, "cka"), {"against": a, "against_models": "abc"}),
        ("^pairs: got 'some'", (a, "cka"), {"pairs": "some"}),
        ("^pairs: got 2, expected one of 0, 1", (a, "cka"), {"pairs": [(0, 2)]}),
        ("^pairs: got 3, expected a sequence", (a, "cka"), {"pairs": [3]}),
        ("^layers: got 'some' .did you mean same.., expected", (a, "cka"), {"layers": "some"}),
        (
            "^layers: got 'same', expected one of 'layer0', 'layer1' in against",
            (a, "cka"),
            {"layers": "same", "against": {"z": x}},
        ),
        ("^memory: got 0", (a, "cka"), {"memory": 0}),
        (
            "^bandwith: got an unknown option of cka, expected one of estimator, kernel",
            (a, "cka"),
            {"bandwith": 1},
        ),
        ("^full_output: got an unknown option", (a, "procrustes"), {"full_output": True}),
        ("estimator: got 'a', expected", (a, "cka"), {"estimator": "a"}),
        (r"variance: got \[0.5\]", (a, "svcca"), {"variance": [0.5], "samples": "pool"}),
        ("^layers 'layer0' .* and 'layer1' .*samples='pool' .* samples='flatten' .*; layers='same'", (a, "cca"), {}),
        ("expected at least 4 for the estimator", ({"x": x[:, :3]}, "cka"), {}),
    ]:
        with pytest.raises(InputError, match=wrong):
            pairwise(*arguments, **options)
    with pytest.raises(InputError, match=r"^representations\['x'\]: got a traced array"):
        jax.jit(lambda x: pairwise({"x": x}, "cka").values)(x)
