"""The memorize command: distances within and across two groups, planted and trained."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from stitch_helpers import scratch, trained

import experiments.features
import experiments.memorize as command_module
from experiments import summary
from experiments.command import run_command
from experiments.memorize import distances
from experiments.memorize_summary import GROUPS, PAIR, conclusion, format_means, gaps, group_table
from symjax import zoo
from symjax.errors import InputError
from symjax.ops import files
from symjax.ops.result_table import ResultTable
from symjax.plots import group_distances as draw
from symjax.representations import representations
from symjax.similarity import MEASURES, group_means, mean_over_pairs

SEEDS = (0, 1, 2)


# --- means of groups ---


def test_group_means_are_means_over_the_pairs_of_each_kind():
    rng = np.random.default_rng(0)
    labels = ["b", "a", "a", "b", "a", "b", "b"]
    pairs = np.array(list(itertools.combinations(range(7), 2)))[rng.permutation(21)]
    pairs[::2] = pairs[::2, ::-1]
    values = rng.uniform(size=(21, 2))
    means = group_means(values, pairs, labels)
    assert list(means) == [("b", "b"), ("b", "a"), ("a", "a")]
    for (one, other), mean in means.items():
        chosen = [sorted((labels[i], labels[j])) == sorted((one, other)) for i, j in pairs]
        np.testing.assert_allclose(mean.estimate, values[chosen].mean(0), rtol=1e-6)
        expected = mean_over_pairs(values[chosen], pairs[chosen])
        np.testing.assert_allclose(mean.standard_error, expected.standard_error)


def test_error_bars_across_groups_are_of_models_not_of_pairs():
    """v_ij = a_i + b_j: the standard error of the mean is that of 4 + 4 numbers, not of 16."""
    rng = np.random.default_rng(1)
    pairs = np.array(list(itertools.product(range(4), range(4, 8))))
    errors, means = [], []
    for _ in range(300):
        effects = rng.normal(size=8)
        estimates = group_means((effects[pairs[:, 0]] + effects[pairs[:, 1]]).astype(np.float32), pairs, "aaaabbbb")
        errors.append(float(estimates["a", "b"].standard_error) ** 2)
        means.append(float(estimates["a", "b"].estimate))
    # (2 k - 1) / (2 k - 2) of the variance 2 / k, k = 4.
    assert np.mean(errors) == pytest.approx(7 / 6 * 2 / 4, rel=0.1)
    assert np.var(means) == pytest.approx(2 / 4, rel=0.2)


@pytest.mark.parametrize("relation", [0.0, 0.5])
def test_error_bars_across_groups_without_equal_seeds(relation):
    """v_ij = a_i + b_j, i != j, as the command has them: by how much the error is too wide, or too narrow."""
    k, rng = 4, np.random.default_rng(3)
    pairs = np.array([(i, k + j) for i in range(k) for j in range(k) if i != j])
    a, noise = rng.normal(size=(2, k, 4000))
    b = relation * a + np.sqrt(1 - relation**2) * noise
    effects = np.concatenate([a, b])
    interval = group_means(effects[pairs[:, 0]] + effects[pairs[:, 1]], pairs, "aaaabbbb")["a", "b"]
    true = 2 * (1 + relation) / k
    factor = (2 * k - 1) / (2 * (1 + relation)) * (((k - 1) ** 2 + 1) / (k - 1) ** 3 - 2 * relation / (k - 1) ** 2)
    assert np.mean(np.square(interval.standard_error)) == pytest.approx(factor * true, rel=0.05)
    assert np.var(interval.estimate) == pytest.approx(true, rel=0.1)


def test_bad_pairs_of_groups():
    for pairs, named in ((np.zeros((2, 3), int), "pairs: got shape"), (np.array([[0, 9]]), "positions of 3 models")):
        with pytest.raises(InputError, match=named):
            group_means(np.ones(len(pairs[:1])), pairs, "aab")


# --- planted groups ---


def planted(closer: float, early: float = 0.0):
    """Two layers of 2 x 4 networks: in the second generalizing ones have `closer` less noise, in the first `early`."""
    rng = np.random.default_rng(0)
    models = [(group, seed) for group in GROUPS for seed in range(4)]
    common = rng.normal(size=(200, 5))
    noise = {"generalizing": 1 - closer, "memorizing": 1.0}
    early = {"generalizing": 0.1, "memorizing": 0.1 + early}

    def network(noise):
        turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
        return (common + noise * rng.normal(size=(200, 5))) @ turn

    layers = {
        "early": np.stack([network(early[group]) for group, _ in models]),
        "late": np.stack([network(noise[group]) for group, _ in models]),
    }
    pairs = [(i, j) for i, j in itertools.combinations(range(8), 2) if models[i][1] != models[j][1]]
    return pd.concat([distances(layers, measure, pairs, models) for measure in ("pwcca", "svcca")])


KNOWN = pd.DataFrame({"train": [100.0, 99.0], "test": [90.0, 10.0]}, index=list(GROUPS))


def test_planted_groups_are_found():
    rows = planted(0.6)
    means = group_table(rows)
    table = means.set_index(["measure", "pairs", "layer"])["mean"]
    for measure in ("pwcca", "svcca"):
        late = [table[measure, kind, "late"] for kind in ("generalizing", "across", "memorizing")]
        assert late == sorted(late) and late[0] < late[2] - 0.1
        assert abs(table[measure, "memorizing", "early"] - table[measure, "generalizing", "early"]) < 0.05
    text = conclusion(rows, ["early", "late"], KNOWN)
    assert text.count(": as published") == 2 and "fit only" not in text
    assert format_means(means[means.measure == "pwcca"], ["early", "late"]).shape == (3, 2)


def test_groups_that_are_alike_settle_nothing():
    text = conclusion(planted(0.0), ["early", "late"], KNOWN)
    assert text.count(": not settled (generalizing networks are not shown to be closer in late layers, the early") == 2


def test_groups_the_other_way_round_are_not_published():
    turned = conclusion(planted(-1.0), ["early", "late"], KNOWN)
    assert turned.count(": not as published (generalizing networks are not closer in late layers, the early") == 2


def with_gaps(early: float, spread: float):
    """Rows of 2 x 4 networks: gaps of `early`, which networks spread by so much, and .2; .05 is where it ends."""
    rows, effects = [], spread * np.array([1, -1, 1, -1]) / 2
    for i, j in itertools.combinations(range(4), 2):
        for group in GROUPS:
            gap = np.array([early + effects[i] + effects[j], 0.2]) if group == "memorizing" else np.zeros(2)
            rows += [("m", layer, group, i, group, j, 0.5 + g) for layer, g in zip("ab", gap, strict=True)]
    return pd.DataFrame(rows, columns=["measure", "layer", *PAIR, "distance"])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("early", "spread", "verdict", "word"),
    [
        (0.02, 0.005, "as published", ""),
        (0.02, 0.05, "not settled", "not shown to be "),
        (0.0, 0.08, "not settled", "not shown to be "),
        (0.07, 0.05, "not settled", "not shown to be "),
        (0.07, 0.005, "not as published", "not "),
    ],
)
def test_the_early_gap_is_judged_by_its_interval(early, spread, verdict, word, sign):
    text = conclusion(with_gaps(sign * early, spread), ["a", "b"], KNOWN)
    assert f": {verdict} (generalizing networks are closer in late layers" in text
    assert text.endswith(f", the early gap is {word}under 25% of the late one)")


def test_networks_that_do_not_know_their_labels_show_nothing():
    text = conclusion(planted(0.6), ["early", "late"], KNOWN.assign(train=[100.0, 60.0]))
    assert (
        "fit only 60.0 %" in text
        and text.count("no conclusion, as the labels are not fitted") == 2
        and "as published" not in text
    )


def test_a_large_early_gap_is_not_published():
    text = conclusion(planted(0.6, early=0.5), ["early", "late"], KNOWN)
    assert text.count(": not as published") == 2 and text.count("the early gap is not under 25%") == 2


def test_a_distance_that_is_not_defined_is_reported(tmp_path):
    rows = planted(0.6).reset_index(drop=True)
    chosen = (rows.measure == "pwcca") & (rows.layer == "late") & (rows.group_a == rows.group_b)
    rows.loc[rows[chosen & (rows.group_a == "memorizing")].index[0], "distance"] = np.nan
    means, whole = group_table(rows), group_table(planted(0.6))
    lost = (means.measure == "pwcca") & (means.layer == "late") & (means.pairs == "memorizing")
    assert lost.sum() == 1 and means[lost][["mean", "standard_error", "low", "high"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(means[~lost], whole[~lost])
    lines = conclusion(rows, ["early", "late"], KNOWN).splitlines()
    assert lines[0] == "pwcca: 1 of 48 distances are NaN, in late" and ": as published" in lines[1] and len(lines) == 2
    draw(means, tmp_path / "groups")
    assert "nan" in format_means(means[means.measure == "pwcca"], ["early", "late"]).loc["memorizing", "late"]


def test_error_bars_of_gaps_leave_a_seed_out_of_both_groups():
    """What a seed adds in both groups alike is no error of the gap; by hand, the jackknife over seeds."""
    rng = np.random.default_rng(2)
    own, shared = rng.normal(size=(2, 5)), 100 * rng.normal(size=5)
    rows, gap = [], np.zeros((5, 5))
    for i, j in itertools.combinations(range(5), 2):
        for group, effect in zip(GROUPS, own, strict=True):
            value = effect[i] * effect[j] + shared[i] + shared[j]
            gap[i, j] += value if group == "memorizing" else -value
            rows += [("m", "a", group, i, group, j, 0.0), ("m", "b", group, i, group, j, value)]
    first, last, growth, below, above = gaps(
        pd.DataFrame(rows, columns=["measure", "layer", *PAIR, "distance"]), "a", "b"
    )
    without = [np.delete(np.delete(gap, s, 0), s, 1).sum() / 6 for s in range(5)]
    assert first.estimate == first.standard_error == 0
    for bound in (below, above):
        assert bound.estimate == pytest.approx(last.estimate / 4, abs=1e-4)
        assert bound.standard_error == pytest.approx(last.standard_error / 4, rel=1e-3)
    for bound in (last, growth):
        assert bound.estimate == pytest.approx(gap.sum() / 10, abs=1e-4)
        assert bound.standard_error == pytest.approx(np.sqrt(4 * np.var(without)), rel=1e-3)


def test_the_figure_shows_means_and_intervals(tmp_path):
    means = group_table(planted(0.6))
    figure = draw(means, tmp_path / "groups")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_ylabel() for axes in shown] == ["PWCCA distance", "SVCCA distance"]
    for axes, measure in zip(shown, ("pwcca", "svcca"), strict=True):
        for container, kind in zip(axes.containers, (*GROUPS, "across"), strict=True):
            chosen = means[(means.measure == measure) & (means.pairs == kind)]
            np.testing.assert_allclose(container[0].get_ydata(), chosen["mean"])
            spans = [np.ptp(line[:, 1]) for line in container[2][0].get_segments()]
            np.testing.assert_allclose(spans, chosen.high - chosen.low, rtol=1e-5)
    assert (tmp_path / "groups.pdf").exists()


def test_blocks_of_pairs_are_written_one_by_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    zoos = [SimpleNamespace(seeds=SEEDS, network=None, members=rng.normal(size=(3, 20, 4))) for _ in GROUPS]
    settings = SimpleNamespace(features=lambda network, members, dataset, layers: {"a": members})
    path, requested = tmp_path / "results.csv", []
    monkeypatch.setattr(experiments.features, "MODELS_IN_BLOCK", 1)
    monkeypatch.setattr(experiments.features, "PAIRS_IN_BLOCK", 1)

    def compare():
        return command_module.compare(ResultTable(tmp_path, command_module.ROWS), settings, zoos, None, ["a"], ["cka"])

    def stopped(*rest):
        requested.append(rest[2])
        if len(requested) == 4:
            raise KeyboardInterrupt
        return distances(*rest)

    monkeypatch.setattr(command_module, "distances", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare()
    assert len(files.read_csv(path)) == 3
    assert len(compare()) == 12 and len(requested) == 4 + 9 and not files.read_csv(path).duplicated().any()


# --- the command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    trained()  # writes the data set
    return tmp_path_factory.mktemp("memorize")


def command(folder, *others, out="run"):
    values = {"dataset": scratch() / "stripes.npz", "model": "stitch_tiny", "width": 8, "seeds": len(SEEDS)}
    values |= {"epochs": 50, "batch-size": 12, "learning-rate": 0.02, "validation": 0.2, "zoo": folder / "zoo"}
    argv = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    argv += ["--out", str(folder / out), *map(str, others)]
    run_command(command_module.main, command_module.Settings, argv)
    return folder / out


@pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")
def test_rows_are_the_measures_and_the_groups_what_they_are_called(folder, capsys, monkeypatch):
    out = command(folder, "--measures", "cka")
    printed = capsys.readouterr().out
    dataset, _ = trained()
    zoos = {name: zoo.load(folder / "zoo" / name) for name in GROUPS}
    assert [z.config.labels for z in zoos.values()] == ["true", "permuted"]
    accuracy = files.read_csv(out / "accuracy.csv").groupby("group")[["train", "test"]].mean()
    assert (accuracy.train > 0.95).all()  # by heart
    assert accuracy.test.generalizing > 0.6 > accuracy.test.memorizing
    assert f"{100 * accuracy.train.memorizing:.2f}" in printed
    rows = files.read_csv(out / "results.csv")
    assert len(rows) == 2 * (3 + 3 + 6) and not rows.duplicated(list(rows.columns[:-1])).any()
    assert (rows.seed_a != rows.seed_b).all()
    features = {
        name: representations(z, dataset.train.images, dataset.mean, dataset.std, samples="pool")
        for name, z in zoos.items()
    }
    for row in rows.itertuples():
        x = features[row.group_a][row.layer][SEEDS.index(row.seed_a)]
        y = features[row.group_b][row.layer][SEEDS.index(row.seed_b)]
        expected = 1 - (MEASURES["cka"].fn(x, y) + MEASURES["cka"].fn(y, x)) / 2
        np.testing.assert_allclose(row.distance, expected, atol=2e-4)
    assert printed.count("cka: memorizing networks are farther") == 1
    # The same again computes nothing; another measure is added.
    requested = []
    original = command_module.distances
    monkeypatch.setattr(command_module, "distances", lambda *a: requested.append(a[1]) or original(*a))
    command(folder, "--measures", "cka")
    assert not requested and capsys.readouterr().out == printed
    assert summary.read(out).conclusion in printed
    command(folder, "--measures", "cka", "--dry-run")
    assert "All results exist" in capsys.readouterr().out
    command(folder, "--measures", "cka_lange,cka")
    assert requested == ["cka_lange"]
    more = files.read_csv(out / "results.csv")
    pd.testing.assert_frame_equal(more[more.measure == "cka"].reset_index(drop=True), rows)
    # Seeds in another order are the same pairs.
    capsys.readouterr()
    command(folder, "--measures", "cka", "--seeds", "2,0,1")
    assert requested == ["cka_lange"] and len(files.read_csv(out / "results.csv")) == len(more)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    "words,named",
    [
        (["--seeds", "2"], "seeds: got 2 for each group, expected 3 or more"),
        (["--measures", "cosine"], "'cosine' is unknown"),
        (["--layers", "relu9"], "relu9"),
        (["--examples", "2"], "examples: got 2"),
    ],
)
def test_bad_flags_are_one_line(words, named, folder, capsys):
    with pytest.raises(SystemExit) as end:
        command(folder, *words, out="bad")
    error = capsys.readouterr().err
    assert end.value.code == 2 and named in error and error.count("\n") == 1
    assert not Path(folder / "bad").exists()
