"""Whether penalties agree with the published finding: G_ReLU costs little, orthogonal more and more with depth."""

import itertools
import math

import pandas as pd
from scipy.special import stdtrit

from symjax.rotation.results import KEY
from symjax.summary import mean

LITTLE = 2.0  # percentage points over no matrix; the published penalties of G_ReLU are 0, 1.8 and 1.4


def gaps(rows: pd.DataFrame, kind: str = "orthogonal", over: str = "g_relu") -> tuple[pd.DataFrame, str]:
    """The penalty of one kind minus that of another (percentage points), paired by repeat: units down, layers across.

    Units are independent draws: members, each the mean over its repeats, or the repeats where there is one member.

    Args:
      rows: of one model, as of results.csv, layers in their order. Units that lack a layer or a kind are left out.
      kind, over: the two kinds.

    Returns:
      The gaps, and what the units are.
    """
    kinds = rows.set_index(list(KEY)[1:]).penalty.unstack("kind").reindex(columns=[kind, over])
    unit = "seed" if rows.seed.nunique() > 1 else "repeat"
    gap = (kinds[kind] - kinds[over]).groupby(["layer", unit]).agg(mean).unstack("layer")
    return gap.reindex(columns=rows.layer.unique()).dropna(), {"seed": "members", "repeat": "matrices"}[unit]


def against_published(rows: pd.DataFrame) -> str:
    """Which parts of the finding hold for a ReLU network, by 95 % intervals (Student's t) of paired differences.

    Three claims: G_ReLU costs at most `LITTLE` points more than retraining without a matrix; orthogonal costs more than
    G_ReLU; that gap grows from each layer to the next, and from the first to the last. A claim holds where the
    intervals of all its layers (or steps) lie on its side. It fails where that of any lies on the other, made longer so
    that all of them hold together (Bonferroni): of many layers one is off by chance. In one member intervals are of
    matrices alone: they say nothing of other members.

    Source: Godfrey et al. 2022 (arXiv 2205.14258), section 3.
    """
    if not {"orthogonal", "g_relu"} <= set(rows.kind):
        return "The published finding needs the kinds g_relu and orthogonal."
    gap, units = gaps(rows)
    if len(gap) < 2:
        count = f"{len(gap)} of the {units}"
        return f"Whether that is as published cannot be told from {count}: wanted 2 or more."
    below = LITTLE - gaps(rows, "g_relu", "none")[0]
    claims = [
        _claim(f"g_relu costs little, at most {LITTLE:g} more than none", below, LITTLE),
        _claim("orthogonal costs more than g_relu", gap),
        _claim("the more so the deeper, by", _growth(gap)),
    ]
    verdicts = {verdict for verdict, _ in claims}
    whole = "fails" if "fails" in verdicts else "holds" if verdicts == {"holds"} else "is not settled"
    told = "; ".join(text for _, text in claims)
    return f"The published finding {whole} as a whole. Points, 95 % intervals over {len(gap)} {units}: {told}."


def _growth(gap: pd.DataFrame) -> pd.DataFrame:
    """By how much it grows from each layer to the next, and from the first to the last."""
    layers = list(gap.columns)
    steps = list(itertools.pairwise(layers))
    steps += [(layers[0], layers[-1])] * (len(steps) > 1)
    return pd.DataFrame({f"{before} to {after}": gap[after] - gap[before] for before, after in steps}, gap.index)


def _claim(words: str, values: pd.DataFrame, minus: float | None = None) -> tuple[str, str]:
    """Whether all columns are above zero in the mean, and that in words; told as `minus` less the values, if given."""
    if len(values) < 2 or not len(values.columns):
        return "not settled", f"{words}: not to be told from these layers and kinds"
    verdicts, parts = [], []
    one, together = (stdtrit(len(values) - 1, 1 - 0.025 / count) for count in (1, len(values.columns)))
    for name, column in values.items():
        estimate, error = column.mean(), column.std() / math.sqrt(len(column))
        half = one * error
        verdicts.append(
            "holds" if estimate - half > 0 else "fails" if estimate + together * error < 0 else "not settled"
        )
        shown = estimate if minus is None else minus - estimate
        parts.append(f"{name} {shown:.1f} ± {half:.1f} {verdicts[-1]}")
    whole = "fails" if "fails" in verdicts else "holds" if set(verdicts) == {"holds"} else "not settled"
    return whole, f"{words}: {whole} ({', '.join(parts)})"
