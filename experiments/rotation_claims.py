"""Compare penalties with the published claims: G_ReLU costs little; orthogonal costs more, increasingly with depth."""

import itertools
import math

import pandas as pd

from symjax.rotation.results import KEY
from symjax.tables import mean

SMALL_PENALTY = 2.0  # percentage points above no matrix; the published penalties of G_ReLU are 0, 1.8 and 1.4


def penalty_gaps(rows: pd.DataFrame, kind: str = "orthogonal", reference: str = "g_relu") -> tuple[pd.DataFrame, str]:
    """Return the penalty of `kind` minus that of `reference` in percentage points, paired by repeat.

    Rows of the result are independent units: members, each the mean over its repeats, or the repeats of a single
    member. Columns are layers.

    Args:
      rows: rows of one model as in results.csv, layers in order. Units that lack a layer or a kind are left out.
      kind: a kind of matrix.
      reference: the kind to subtract.

    Returns:
      (gaps, "members" or "matrices").
    """
    kinds = rows.set_index(list(KEY)[1:]).penalty.unstack("kind").reindex(columns=[kind, reference])
    unit = "seed" if rows.seed.nunique() > 1 else "repeat"
    gap = (kinds[kind] - kinds[reference]).groupby(["layer", unit]).agg(mean).unstack("layer")
    return gap.reindex(columns=rows.layer.unique()).dropna(), {"seed": "members", "repeat": "matrices"}[unit]


def compare_with_published(rows: pd.DataFrame) -> str:
    """Say which published claims hold for a ReLU network, by 95 % intervals (Student's t) of paired differences.

    The three claims are: (1) G_ReLU costs at most `SMALL_PENALTY` points more than retraining without a matrix;
    (2) orthogonal costs more than G_ReLU; (3) this gap grows from each layer to the next, and from the first to the
    last. A claim holds if the intervals of all its layers (or steps) lie on its side of zero. It fails if the interval
    of any layer lies on the other side, at a level that is corrected for the number of layers (Bonferroni). With one
    member, intervals are over its matrices and do not extend to other members.

    Reference: Godfrey et al. 2022 (arXiv 2205.14258), section 3.
    """
    if not {"orthogonal", "g_relu"} <= set(rows.kind):
        return "A comparison with the published result needs the kinds g_relu and orthogonal."
    gap, units = penalty_gaps(rows)
    if len(gap) < 2:
        return f"A comparison with the published result needs 2 or more of the {units}; there is {len(gap)}."
    below = SMALL_PENALTY - penalty_gaps(rows, "g_relu", "none")[0]
    claims = [
        _claim(f"g_relu costs at most {SMALL_PENALTY:g} more than none", below, SMALL_PENALTY),
        _claim("orthogonal costs more than g_relu", gap),
        _claim("the gap grows with depth, by", _growth(gap)),
    ]
    verdicts = {verdict for verdict, _ in claims}
    whole = "fails" if "fails" in verdicts else "holds" if verdicts == {"holds"} else "is not settled"
    details = "; ".join(text for _, text in claims)
    return f"The published result {whole} as a whole. Points, 95 % intervals over {len(gap)} {units}: {details}."


def _growth(gap: pd.DataFrame) -> pd.DataFrame:
    """Return the growth of the gap from each layer to the next, and from the first to the last."""
    layers = list(gap.columns)
    steps = list(itertools.pairwise(layers))
    steps += [(layers[0], layers[-1])] * (len(steps) > 1)
    return pd.DataFrame({f"{before} to {after}": gap[after] - gap[before] for before, after in steps}, gap.index)


def _claim(words: str, values: pd.DataFrame, minus: float | None = None) -> tuple[str, str]:
    """Return the verdict whether the means of all columns are above zero, and its text.

    The text shows the means, or `minus` - mean if `minus` is given.
    """
    if len(values) < 2 or not len(values.columns):
        return "not settled", f"{words}: undecided for these layers and kinds"
    from scipy.special import stdtrit  # imported here for a fast --help

    verdicts, parts = [], []
    single, joint = (stdtrit(len(values) - 1, 1 - 0.025 / count) for count in (1, len(values.columns)))
    for name, column in values.items():
        estimate, error = column.mean(), column.std() / math.sqrt(len(column))
        half = single * error
        verdicts.append("holds" if estimate - half > 0 else "fails" if estimate + joint * error < 0 else "not settled")
        shown = estimate if minus is None else minus - estimate
        parts.append(f"{name} {shown:.1f} ± {half:.1f} {verdicts[-1]}")
    whole = "fails" if "fails" in verdicts else "holds" if set(verdicts) == {"holds"} else "not settled"
    return whole, f"{words}: {whole} ({', '.join(parts)})"
