"""Whether penalties agree with the published finding: G_ReLU costs less than orthogonal, the more so the deeper."""

import math

import pandas as pd
from scipy.special import stdtrit

from symjax.rotation.results import KEY


def gaps(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Orthogonal penalty minus G_ReLU's (percentage points), kinds of one repeat paired: units down, layers across.

    Units are independent draws: members, each the mean over its repeats, or the repeats where there is one member.

    Args:
      rows: of one model, as of results.csv, layers in their order. Units that lack a layer or a kind are left out.

    Returns:
      The gaps, and what the units are.
    """
    kinds = rows.set_index(KEY[1:]).penalty.unstack("kind").reindex(columns=["orthogonal", "g_relu"])
    unit = "seed" if rows.seed.nunique() > 1 else "repeat"
    gap = (kinds.orthogonal - kinds.g_relu).groupby(["layer", unit]).mean().unstack("layer")
    return gap.reindex(columns=rows.layer.unique()).dropna(), {"seed": "members", "repeat": "matrices"}[unit]


def against_published(rows: pd.DataFrame) -> str:
    """A sentence on whether the finding holds for a ReLU network, by 95 % intervals (Student's t) of paired gaps.

    Two claims: the gap, averaged over layers, is positive; that at the last layer exceeds that at the first. A claim
    holds or fails where the interval excludes zero. In one member the interval is of matrices alone: it says nothing
    of other members.

    Source: Godfrey et al. 2022 (arXiv 2205.14258), section 3.
    """
    if not {"orthogonal", "g_relu"} <= set(rows.kind):
        return "The published finding needs the kinds g_relu and orthogonal."
    gap, units = gaps(rows)
    if len(gap) < 2:
        return f"Whether it is as published cannot be told from {len(gap)} of the {units}."
    told = [f"orthogonal costs {_claim(gap.mean(axis=1))} more than g_relu"]
    if gap.shape[1] > 1:
        first, last = gap.columns[[0, -1]]
        told.append(f"the gap grows by {_claim(gap[last] - gap[first])} from {first} to {last}")
    return f"Published claims, 95 % intervals over {len(gap)} {units}: {'; '.join(told)}."


def _claim(values: pd.Series) -> str:
    """Mean and half the interval's length, and whether it lies above zero."""
    mean = values.mean()
    half = stdtrit(len(values) - 1, 0.975) * values.std() / math.sqrt(len(values))
    verdict = "holds" if mean - half > 0 else "fails" if mean + half < 0 else "not settled"
    return f"{mean:.1f} ± {half:.1f} ({verdict})"
