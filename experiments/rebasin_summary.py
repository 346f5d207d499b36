"""Tables, curves and the conclusion of `experiments.rebasin`, and published figures."""

import numpy as np
import pandas as pd

from experiments.registry import PublishedTable
from symjax.alignment.interpolation import height_over_line
from symjax.similarity import mean_over_pairs
from symjax.tables import spell_interval

WIDTHS = ("x1", "x2", "x4", "x8", "x16", "x32")
PUBLISHED = {
    "REPAIR (Jordan et al. 2022), CIFAR-10, ResNet20, test accuracy (%) by width; ends, permuted midpoint, midpoint "
    "with statistics reset (BN) or repaired (LN)": PublishedTable(
        WIDTHS,
        {
            "BN, ends": (93.6, 95.3, 96.1, 96.6, 96.9, 97.0),
            "BN, permuted": (12.7, 16.1, 34.8, 32.3, 16.1, 13.2),
            "BN, permuted, reset": (67.6, 85.5, 92.1, 94.4, 95.4, 96.0),
            "LN, ends": (92.4, 94.5, 95.5, 96.0, 96.2, 96.4),
            "LN, permuted": (50.7, 79.5, 88.5, 90.3, 92.6, 92.3),
            "LN, permuted, repaired": (73.5, 86.8, 92.0, 93.6, 95.2, 95.4),
        },
    ),
    "REPAIR, test accuracy (%); ends, naive, permuted, permuted and repaired midpoint": PublishedTable(
        ("ends", "naive", "permuted", "permuted, repaired"),
        {
            "MNIST, MLP of 1 hidden layer of 128": (98.1, 39.6, 96.8, 97.5),
            "MNIST, MLP of 5 hidden layers": (98.2, 10.6, 93.5, 95.9),
            "CIFAR-10, VGG11": (90.4, None, 73.1, 86.6),
            "CIFAR-10, VGG11-BN": (92.2, 10, 61.3, 88.2),
        },
    ),
    "C2M3 (Crisostomi et al. 2024), five networks merged, test accuracy": PublishedTable(
        ("naive", "MergeMany", "MergeMany, repaired", "C2M3", "C2M3, repaired"),
        {
            "EMNIST, MLP": (0.03, 0.86, None, 0.87, None),
            "CIFAR-10, ResNet x2": (0.10, 0.37, 0.50, 0.40, 0.69),
            "CIFAR-10, VGG16": (0.10, 0.10, 0.57, 0.11, 0.62),
        },
    ),
    "Theus et al. 2025, transformers, barrier of the test loss": PublishedTable(
        ("naive", "activations", "weights", "learned, permutations", "learned, all groups"),
        {
            "CIFAR-10, ViT": (1.69, 1.27, 0.36, 0.45, 0),
            "CIFAR-100, ViT": (2.46, 2.11, 0.69, 0.53, 0),
            "Tiny ImageNet, ViT": (2.84, 1.86, 0.47, 0.29, 0),
            "Tiny Shakespeare, GPT-2": (2.02, 1.43, 0.34, 0.63, 0.02),
            "BookCorpus, GPT-2": (4.34, 4.05, 1.56, 1.60, 0.42),
        },
    ),
}
PAIR = ["model_a", "model_b"]
LINE = ["alignment", "statistics"]
CORRECTIONS = {"interpolated": "", "repair": ", repaired"}


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy at the midpoint and barriers, with intervals, by alignment."""
    lines, table = per_line(rows), {}
    for label, group in lines.groupby("alignment", sort=False):
        table[label] = {}
        for statistics, corrected in group.groupby("statistics", sort=False):
            after = CORRECTIONS[statistics]
            table[label][f"midpoint accuracy (%){after}"] = _interval(corrected, "midpoint", 1)
            table[label][f"test loss barrier{after}"] = _interval(corrected, "barrier", 3)
    ends = lines[lines.statistics == "interpolated"].drop_duplicates(PAIR)
    table["ends"] = {"midpoint accuracy (%)": f"{ends.ends.mean():.1f}"}
    return pd.DataFrame.from_dict(table, orient="index").fillna("").rename_axis("alignment")


def per_line(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each line: accuracy of the ends and in the middle (%), and barriers of loss and accuracy."""
    lines = []
    for (label, statistics, *pair), line in labeled(rows).groupby([*LINE, *PAIR], sort=False):
        line = line.sort_values("t")
        scores = {"midpoint": 100 * np.interp(0.5, line.t, line.test_accuracy)}
        scores["ends"] = 50 * (line.test_accuracy.iloc[0] + line.test_accuracy.iloc[-1])
        scores["barrier"] = height_over_line(line.t.to_numpy(), line.test_loss.to_numpy())
        lines.append({"alignment": label, "statistics": statistics, **dict(zip(PAIR, pair, strict=True)), **scores})
    return pd.DataFrame(lines)


def labeled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the label of their alignment."""
    return rows.assign(alignment=(rows.method + ", " + rows.group).where(rows.method != "none", "naive"))


def curves(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return means of a score over pairs by alignment, correction and position, with intervals."""
    table = []
    for (label, statistics, t), group in labeled(rows).groupby([*LINE, "t"], sort=False):
        mean, low, high = interval(group[score].to_numpy() * (100 if "accuracy" in score else 1), group[PAIR])
        panel = CORRECTIONS[statistics].removeprefix(", ") or "without correction"
        table.append({"alignment": label, "panel": panel, "t": t, "mean": mean, "low": low, "high": high})
    return pd.DataFrame(table)


def merged_table(merged: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of merged networks and their cycle errors."""
    accuracy = {name: (100 * merged[name]).map("{:.1f}".format) for name in ("test_accuracy", "repaired_accuracy")}
    errors = {
        name: merged[name].map(lambda value: "" if np.isnan(value) else f"{value:.2f}")
        for name in ("cycle_error", "pairwise_cycle_error")
    }
    labels = (merged.method + ", " + merged.group).where(merged.method != "none", "naive")
    table = pd.DataFrame({**accuracy, **errors}).set_axis(labels)
    return table.rename(columns=lambda name: name.replace("_", " ")).rename_axis(index=None)


def conclusion(rows: pd.DataFrame) -> str:
    """Return the effect of matching, and whether scales help, with intervals over pairs."""
    lines = per_line(rows)
    naive = lines[(lines.alignment == "naive") & (lines.statistics == "interpolated")][["ends", "midpoint"]].mean()
    text = f"Test accuracy: {naive.ends:.1f} % at the ends, in the middle {naive.midpoint:.1f} % before matching"
    best = lines[lines.alignment != "naive"].groupby(LINE).midpoint.mean()
    text += f" and {best.max():.1f} % after it ({best.idxmax()[0]}{CORRECTIONS[best.idxmax()[1]]})."
    parts = []
    for method in rows[rows.method != "none"].method.unique():
        for statistics, after in CORRECTIONS.items():
            difference = scale_effect(lines, method, statistics)
            if difference is not None:
                mean, low, high = difference
                verdict = "lower" if high < 0 else "higher" if low > 0 else "not settled"
                parts.append(f"{method}{after}: {spell_interval(mean, low, high, 3)}, {verdict}")
    return f"{text} Change of the test loss barrier by scaling: {'; '.join(parts)}." if parts else text


def scale_effect(lines: pd.DataFrame, method: str, statistics: str) -> tuple[float, float, float] | None:
    """Return the change of the loss barrier by scales, the mean over pairs and its interval."""
    own = lines[lines.statistics == statistics].set_index(PAIR)
    without, scaled = (own[own.alignment == f"{method}, {group}"] for group in ("permutation", "scaled_permutation"))
    if not len(without) or not len(scaled):
        return None
    difference = scaled.barrier - without.barrier
    return interval(difference.to_numpy(), difference.index.to_frame())


def interval(values: np.ndarray, pairs: pd.DataFrame) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval over networks.

    Ends are NaN for fewer than three networks, one in all pairs, or a value that is not finite.
    """
    pairs = pairs.to_numpy()
    networks = np.unique(pairs)
    in_all = any((pairs == network).any(1).all() for network in networks)
    if len(networks) < 3 or in_all or not np.isfinite(values).all():
        return float(values.mean()), np.nan, np.nan
    result = mean_over_pairs(np.asarray(values, np.float32), pairs)
    return float(result.estimate), float(result.low), float(result.high)


def _interval(lines: pd.DataFrame, column: str, digits: int) -> str:
    return spell_interval(*interval(lines[column].to_numpy(), lines[PAIR]), digits)
