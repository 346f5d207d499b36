"""The recurrent command: distances of known states, the conclusion, and the command on a small text."""

import numpy as np
import pandas as pd
import pytest

import symjax
from experiments import dynamics, recurrent, zoo
from experiments.recurrent import KEY
from experiments.recurrent_distances import DIRECT, POSITIONS, REPEATS, UNRELATED, state_distances
from experiments.recurrent_summary import conclusion, verdict
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
    """Return the states of a linear RNN that rotates its state at each step and ignores the tokens."""
    states = [START]
    while len(states) < tokens.shape[1]:
        states.append(states[-1] @ ROTATION)
    return {"layer": np.float32(np.stack(states, axis=1))}


def token_states(tokens):
    """Return states that depend on the token at their position only."""
    return {"layer": np.float32(np.random.default_rng(3).normal(size=(9, WIDTH))[tokens])}


def distances_by_index(states, measures=("cca_distance", *DIRECT), shares=(10, 50)):
    return state_distances(states, CONTEXTS, shares, STEPS, measures).set_index(INDEX).sort_index().value


def test_cca_distance_of_rotated_states_is_zero_and_other_distances_are_not():
    table = distances_by_index(rotated)
    assert len(table) == 3 * ((STEPS - 1) + 1 + 2 * 6)
    np.testing.assert_allclose(table["cca_distance", POSITIONS], 0, atol=1e-5)
    np.testing.assert_allclose(table["cca_distance", REPEATS], 0, atol=1e-5)
    assert table["cca_distance", UNRELATED].item() > 0.7
    last = START @ np.linalg.matrix_power(ROTATION, LENGTH - 1)
    for step in range(STEPS - 1):
        earlier = START @ np.linalg.matrix_power(ROTATION, LENGTH - STEPS + step)
        norms = np.linalg.norm(earlier, axis=1) * np.linalg.norm(last, axis=1)
        cosine = 1 - np.mean(np.sum(earlier * last, 1) / norms)
        euclidean = np.linalg.norm(earlier - last, axis=1).mean() / np.linalg.norm(last, axis=1).mean()
        assert table["cosine", POSITIONS, 0, step] == pytest.approx(cosine, abs=1e-5)
        assert table["euclidean", POSITIONS, 0, step] == pytest.approx(euclidean, abs=1e-5)
    assert table["cosine", POSITIONS].max() > 0.1 and table["euclidean", POSITIONS].max() > 0.3
    # Three repeats are three rotations, after any share of the context.
    for share in (10, 50):
        repeated = START @ np.linalg.matrix_power(ROTATION, 3)
        cosine = 1 - np.mean(np.sum(repeated * START, 1) / np.sum(START**2, 1))
        assert table["cosine", REPEATS, share, 3] == pytest.approx(cosine, abs=1e-5)


def test_states_that_depend_on_the_token_only_do_not_change_in_repeats():
    table = distances_by_index(token_states, ("cosine", "euclidean"))
    np.testing.assert_allclose(table[:, REPEATS], 0, atol=1e-6)
    assert (table[:, POSITIONS] > 0.3).all()


def test_conclusion_follows_the_intervals():
    def rows(late, growths):
        """Return rows with this distance at token 3, and these growths of the distance from 1 % to 81 %, by network."""
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
    assert f"larger by 0.500 ± {half:.3f} at 81 %" in text and text.endswith("(states change late, not early: yes)")
    assert "late: no)" in conclusion(rows(0.1, (0.4, 0.5, 0.6)), "layer1")
    assert conclusion(rows(0.9, (-0.3, 0.5, 0.6)), "layer1").endswith("early: not settled)")
    assert conclusion(rows(0.9, (0.5,)), "layer1").endswith("early: not settled)")
    few = rows(0.9, (0.4, 0.5)).assign(beginnings=lambda table: np.where(table.share == 1, 8, 100))
    assert conclusion(few, "layer1").endswith("; too few different contexts to compare shares")
    assert verdict((np.nan, np.nan, np.nan), 0) == "not settled"


def settings(tmp_path, **options):
    """Return settings of a small run on a short text."""
    text = tmp_path / "rhyme.txt"
    text.write_text("one for the master, two for the dame\n" * 40)
    small = {"seeds": "2", "epochs": 1, "width": 4, "examples": 40, "context": 10, "steps": 4, "shares": "20,80"}
    small |= {"measures": "cca_distance", "zoo": tmp_path / "zoo", "out": tmp_path / "out", "model": "rnn"}
    return recurrent.Settings(dataset=f"{text}?length=8", **{**small, **options})


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
def test_results_are_extended_and_not_computed_again(tmp_path, monkeypatch):
    summary = recurrent.main(settings(tmp_path, layers="layer2"))
    table = ResultTable(tmp_path / "out", recurrent.ROWS)
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert not rows.duplicated(list(KEY)).any() and len(rows) == 2 * 3 * (3 + 1 + 2 * 4)
    assert np.isfinite(rows.value).all() and "per token" in summary.title
    assert all((tmp_path / "out" / f"{name}.png").exists() for name in summary.figures)
    extended = recurrent.requested(["cca_distance"], [0, 1], ["layer2"], [20, 50, 80], 4)
    assert set(table.missing(extended).share) == {50}
    monkeypatch.setattr(recurrent, "state_distances", None)  # a call would fail
    assert recurrent.main(settings(tmp_path, layers="layer2")).conclusion == summary.conclusion


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": "5"}, "shares: got '5'"),
        ({"steps": 11}, "steps: got 11, expected at most 10, the tokens of a context"),
        ({"examples": 10**6}, "examples, context: got 1000000 contexts of 10 tokens in a text of"),
        ({"test_size": 5}, "dataset: got rhyme, whose test examples are not consecutive"),
        ({"measures": "cka"}, "'cka' is a similarity"),
        ({"model": "mcnn"}, "dataset: got inputs of shape .8,., expected inputs that mcnn"),
    ],
)
def test_wrong_settings_raise(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        recurrent.main(settings(tmp_path, **options))


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
@pytest.mark.slow
def test_dynamics_takes_positions_as_samples_and_zoo_reports_perplexity(tmp_path):
    common = {"dataset": settings(tmp_path).dataset, "model": "rnn", "seeds": "2", "epochs": 1, "width": 4}
    options = {"measures": "cca", "examples": 12, "zoo": tmp_path / "zoo", "out": tmp_path / "dynamics"}
    dynamics.main(dynamics.Settings(**common, **options))
    rows = pd.read_csv(tmp_path / "dynamics" / "results.csv").set_index(["seed", "epoch", "layer", "end_layer"]).value
    dataset = data.load(common["dataset"])
    inputs = dataset.test.images[:12]
    start, end = (symjax.zoo.load(tmp_path / "zoo", epoch=epoch) for epoch in (0, 1))
    samples = [
        np.asarray(members.network.features(members.member(1), inputs)["layer2"]).reshape(12 * 8, 4)
        for members in (start, end)
    ]
    assert rows[1, 0, "layer2", "layer2"] == pytest.approx(float(MEASURES["cca"].fn(*samples)), abs=1e-4)
    summary = zoo.main(zoo.Settings(**common, out=tmp_path / "zoo"))
    accuracies = pd.read_csv(tmp_path / "zoo" / "accuracy.csv")
    scores = symjax.zoo.evaluate(
        end.network, end.members, dataset.test, None, None, metric=symjax.training.log_likelihood_scores
    )
    np.testing.assert_allclose(accuracies.perplexity, np.exp(-scores), rtol=1e-5)
    assert f"perplexity {accuracies.perplexity.mean():.2f}" in summary.conclusion
