"""The time-step experiments: planted recurrent states, and the command on a small text."""

import numpy as np
import pandas as pd
import pytest

import symjax
from experiments import dynamics, recurrent, zoo
from experiments.recurrent import DIRECT, KEY, POSITIONS, REPEATS, UNRELATED, conclusion, distances, interval, verdict
from symjax import data
from symjax.errors import InputError
from symjax.ops.result_table import ResultTable
from symjax.similarity import MEASURES

INDEX = ["measure", "experiment", "share", "step"]
WIDTH, EXAMPLES, LENGTH, STEPS = 4, 200, 12, 6
CONTEXTS = np.random.default_rng(0).integers(0, 9, (EXAMPLES, LENGTH))
START = np.random.default_rng(1).normal(size=(EXAMPLES, WIDTH))
ROTATION = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]


def rotated(tokens):
    """A linear RNN whose state is a rotation of the state before, whatever the tokens are."""
    states = [START]
    while len(states) < tokens.shape[1]:
        states.append(states[-1] @ ROTATION)
    return {"layer": np.float32(np.stack(states, axis=1))}


def of_token(tokens):
    """A state that depends on the token at its position alone."""
    return {"layer": np.float32(np.random.default_rng(3).normal(size=(9, WIDTH))[tokens])}


def measured(states, measures=("cca_distance", *DIRECT), shares=(10, 50)):
    return distances(states, CONTEXTS, shares, STEPS, measures).set_index(INDEX).sort_index().value


def test_cca_sees_that_rotated_states_are_equal_and_other_distances_do_not():
    table = measured(rotated)
    assert len(table) == 3 * ((STEPS - 1) + 1 + 2 * 6)
    np.testing.assert_allclose(table["cca_distance", POSITIONS], 0, atol=1e-5)
    np.testing.assert_allclose(table["cca_distance", REPEATS], 0, atol=1e-5)
    assert table["cca_distance", UNRELATED].item() > 0.7
    last = START @ np.linalg.matrix_power(ROTATION, LENGTH - 1)
    for step in range(STEPS - 1):
        then = START @ np.linalg.matrix_power(ROTATION, LENGTH - STEPS + step)
        cosine = 1 - np.mean(np.sum(then * last, 1) / np.linalg.norm(then, axis=1) / np.linalg.norm(last, axis=1))
        euclidean = np.linalg.norm(then - last, axis=1).mean() / np.linalg.norm(last, axis=1).mean()
        assert table["cosine", POSITIONS, 0, step] == pytest.approx(cosine, abs=1e-5)
        assert table["euclidean", POSITIONS, 0, step] == pytest.approx(euclidean, abs=1e-5)
    assert table["cosine", POSITIONS].max() > 0.1 and table["euclidean", POSITIONS].max() > 0.3
    # k rotations, from any place in the context.
    for share in (10, 50):
        turned = START @ np.linalg.matrix_power(ROTATION, 3)
        cosine = 1 - np.mean(np.sum(turned * START, 1) / np.sum(START**2, 1))
        assert table["cosine", REPEATS, share, 3] == pytest.approx(cosine, abs=1e-5)


def test_states_of_single_tokens_stay_in_repeats_and_differ_between_positions():
    table = measured(of_token, ("cosine", "euclidean"))
    np.testing.assert_allclose(table[:, REPEATS], 0, atol=1e-6)
    assert (table[:, POSITIONS] > 0.3).all()


def test_words_follow_the_intervals():
    def rows(late, growths):
        parts = []
        for seed, growth in enumerate(growths):
            parts += [(POSITIONS, 0, seed, step, value) for step, value in ((0, 1.0), (3, late), (4, 0.2))]
            parts += [(REPEATS, share, seed, 6, value) for share, value in ((1, 0.1), (81, 0.1 + growth))]
            parts += [(UNRELATED, 0, seed, 0, 1.0)]
        table = pd.DataFrame(parts, columns=["experiment", "share", "seed", "step", "value"])
        return table.assign(measure="cca_distance", layer="layer1", channels=4, beginnings=100)

    text = conclusion(rows(0.9, (0.4, 0.5, 0.6)), "layer1")
    half = 0.1 / np.sqrt(3) * 4.302653  # Student's t of 2 degrees of freedom
    assert (
        "at token 3 the distance from the last token is 0.900 ± 0.000 of that at token 0 (high until late: yes)" in text
    )
    assert f"larger by 0.500 ± {half:.3f} at 81 %" in text and text.endswith("(states move late, not early: yes)")
    assert "late: no)" in conclusion(rows(0.1, (0.4, 0.5, 0.6)), "layer1")
    assert conclusion(rows(0.9, (-0.3, 0.5, 0.6)), "layer1").endswith("early: not settled)")
    assert conclusion(rows(0.9, (0.5,)), "layer1").endswith("early: not settled)")
    few = rows(0.9, (0.4, 0.5)).assign(beginnings=lambda table: np.where(table.share == 1, 8, 100))
    assert conclusion(few, "layer1").endswith("; too few different contexts to compare shares")
    assert np.isnan(interval(pd.Series([1.0, np.nan]))[0]) and verdict((np.nan, np.nan), 0) == "not settled"


def settings(tmp_path, **options):
    text = tmp_path / "rhyme.txt"
    text.write_text("one for the master, two for the dame\n" * 40)
    small = {"seeds": "2", "epochs": 1, "width": 4, "examples": 40, "context": 10, "steps": 4, "shares": "20,80"}
    small |= {"measures": "cca_distance", "zoo": tmp_path / "zoo", "out": tmp_path / "out", "model": "rnn"}
    return recurrent.Settings(dataset=f"{text}?length=8", **{**small, **options})


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
def test_the_command_extends_what_is_there(tmp_path, monkeypatch):
    summary = recurrent.main(settings(tmp_path, layers="layer2"))
    table = ResultTable(tmp_path / "out", recurrent.ROWS)
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert not rows.duplicated(list(KEY)).any() and len(rows) == 2 * 3 * (3 + 1 + 2 * 4)
    assert np.isfinite(rows.value).all() and "per token" in summary.title
    assert all((tmp_path / "out" / f"{name}.png").exists() for name in summary.figures)
    more = recurrent.requested(["cca_distance"], [0, 1], ["layer2"], [20, 50, 80], 4)
    assert set(table.missing(more).share) == {50}
    monkeypatch.setattr(recurrent, "distances", None)  # nothing is computed again
    assert recurrent.main(settings(tmp_path, layers="layer2")).conclusion == summary.conclusion


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shares": "5"}, "shares: got '5'"),
        ({"steps": 11}, "steps: got 11, expected at most those of a context, 10"),
        ({"examples": 10**6}, "examples, context: the text has"),
        ({"test_size": 5}, "dataset: test examples of rhyme are not consecutive"),
        ({"measures": "cka"}, "'cka' is a similarity"),
        ({"model": "mcnn"}, "dataset: mcnn"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        recurrent.main(settings(tmp_path, **options))


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
def test_positions_are_the_samples_of_other_commands(tmp_path):
    common = {"dataset": settings(tmp_path).dataset, "model": "rnn", "seeds": "2", "epochs": 1, "width": 4}
    options = {"measures": "cca", "examples": 12, "zoo": tmp_path / "zoo", "out": tmp_path / "dynamics"}
    dynamics.main(dynamics.Settings(**common, **options))
    rows = pd.read_csv(tmp_path / "dynamics" / "results.csv").set_index(["seed", "epoch", "layer", "end_layer"]).value
    dataset = data.load(common["dataset"])
    inputs = dataset.test.images[:12]
    then, end = (symjax.zoo.load(tmp_path / "zoo", epoch=epoch) for epoch in (0, 1))
    samples = [
        np.asarray(members.network.features(members.member(1), inputs)["layer2"]).reshape(12 * 8, 4)
        for members in (then, end)
    ]
    assert rows[1, 0, "layer2", "layer2"] == pytest.approx(float(MEASURES["cca"].fn(*samples)), abs=1e-4)
    summary = zoo.main(zoo.Settings(**common, out=tmp_path / "zoo"))
    kept = pd.read_csv(tmp_path / "zoo" / "accuracy.csv")
    scores = symjax.zoo.evaluate(
        end.network, end.members, dataset.test, None, None, metric=symjax.training.log_likelihood_scores
    )
    np.testing.assert_allclose(kept.perplexity, np.exp(-scores), rtol=1e-5)
    assert f"perplexity {kept.perplexity.mean():.2f}" in summary.conclusion
