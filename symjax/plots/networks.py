"""Networks by their distances: as points of a plane and as a tree."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symjax.checks import one_of, sequence, short, text
from symjax.errors import InputError
from symjax.plots.style import PAPER, check_table, distinct_styles, finish, make_axes

METHODS = ("average", "complete", "single")
MAX_NAMES = 60  # largest number of networks whose names are drawn
ASYMMETRY = 1e-5  # largest difference between (i, j) and (j, i), relative to the largest distance


def embedding(
    distances: pd.DataFrame,
    path: str | Path | None = None,
    *,
    ax: Any = None,
    groups: Sequence[str] | None = None,
) -> Figure:
    """Draw networks as points whose distances in the plane approximate the given ones (metric MDS).

    The title has the stress that is left, see `scaling`: distances in the figure are reliable only where it is small
    (Kruskal 1964: 0.05 is good, 0.2 is poor).

    Args:
      distances: (networks, networks), symmetric with zeros on the diagonal, with the names of the networks. If its
        columns have a name, such as that of the measure, the title has it.
      path, ax: as in all figures, see `symjax.plots`.
      groups: the name of the group of each network, which has a color; None for one color.

    Returns:
      The figure.

    Raises:
      InputError: the table is not such a matrix, has fewer than two networks or numbers that are not finite; there is
        not one group for each network.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> names = ["a", "b", "c"]
      >>> figure = plots.embedding(pd.DataFrame([[0, 3, 4], [3, 0, 5], [4, 5, 0]], names, names))
      >>> figure.axes[0].get_title()
      'stress 0.000'
    """
    values = _checked(path, distances)
    names = None if groups is None else [text("groups", name) for name in sequence("groups", groups, "names")]
    if names is not None and len(names) != len(values):
        raise InputError(f"groups: got {len(names)}, expected one for each of {len(values)} networks")
    points, stress = scaling(values)
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (4.4, 4.2))
        axes = grid[0, 0]
        members = np.array(["" if names is None else name for name in names or [""] * len(values)])
        for name, style in distinct_styles(dict.fromkeys(members.tolist())).items():
            rows = points[members == name]
            axes.plot(*rows.T, **{**style, "linestyle": "", "markersize": 6}, label=name or None)
        if len(values) <= MAX_NAMES:
            for label, point in zip(distances.index, points, strict=True):
                axes.annotate(str(label), point, (4, 3), textcoords="offset points", fontsize=7, parse_math=False)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.15)
        _title(axes, distances, f"stress {stress:.3f}")
        return finish(figure, path, ax, grid, legend=None if names is None else {})


def dendrogram(
    distances: pd.DataFrame, path: str | Path | None = None, *, ax: Any = None, method: str = "average"
) -> Figure:
    """Draw the tree of a hierarchical clustering of networks.

    The title has the cophenetic correlation, between the distances and the heights at which the tree joins networks.

    Args:
      distances: as in `embedding`.
      path, ax: as in all figures, see `symjax.plots`.
      method: the distance of two clusters, "average", "complete" or "single", of the distances of their networks.

    Returns:
      The figure.

    Raises:
      InputError: as in `embedding`; unknown method.

    Example:
      >>> import pandas as pd
      >>> from symjax import plots
      >>> names = ["a", "b", "c"]
      >>> figure = plots.dendrogram(pd.DataFrame([[0, 5, 1], [5, 0, 5], [1, 5, 0]], names, names))
      >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
      ['b', 'a', 'c']
    """
    from scipy.cluster import hierarchy  # imported in functions, since the import takes half a second
    from scipy.spatial.distance import squareform

    values, method = _checked(path, distances), one_of("method", method, METHODS)
    condensed = squareform(values, checks=False)
    tree = hierarchy.linkage(condensed, method)
    joined = hierarchy.cophenet(tree)
    with matplotlib.rc_context(PAPER):
        figure, grid = make_axes(ax, (1, 1), (4.4, max(2.0, 0.9 + 0.16 * len(values))))
        axes = grid[0, 0]
        labels = [str(label) for label in distances.index]
        options = {"orientation": "left", "color_threshold": 0, "above_threshold_color": "#333333"}
        with matplotlib.rc_context({"lines.linewidth": 1.0}):
            hierarchy.dendrogram(tree, ax=axes, labels=labels, **options)
        axes.tick_params(axis="y", labelsize=8 if len(labels) <= 30 else 5)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        if np.ptp(condensed) > 0 and np.ptp(joined) > 0:
            _title(axes, distances, f"cophenetic correlation {np.corrcoef(condensed, joined)[0, 1]:.3f}")
        return finish(figure, path, ax, grid, xlabel="distance")


def _title(axes: Any, distances: pd.DataFrame, text: str) -> None:
    name = distances.columns.name
    axes.set_title(text if name is None else f"{name}, {text}", fontsize=9, parse_math=False)


def scaling(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Return points (networks, 2) by metric MDS, and their stress.

    SMACOF starts from classical scaling, so that the result is always the same. The stress is Kruskal's stress-1,
    sqrt(sum (d - D)^2 / sum d^2) over pairs, with distances d of points and given distances D; 0 without distances.
    """
    from sklearn.manifold import smacof

    size = distances.max()
    if size == 0:
        return np.zeros((len(distances), 2)), 0.0
    scaled = distances / size
    centering = np.eye(len(scaled)) - 1 / len(scaled)
    eigenvalues, vectors = np.linalg.eigh(-centering @ scaled**2 @ centering / 2)
    start = (vectors * np.sqrt(np.maximum(eigenvalues, 0)))[:, ::-1]
    start = np.pad(start, [(0, 0), (0, 1)])[:, :2]
    points, _ = smacof(scaled, init=start, n_init=1, max_iter=2000, eps=1e-9, normalized_stress=False)
    pairs = np.triu_indices(len(points), 1)
    drawn = np.linalg.norm(points[:, None] - points[None], axis=-1)[pairs]
    stress = np.sqrt(((drawn - scaled[pairs]) ** 2).sum() / (drawn**2).sum())
    return size * points, float(stress)


def _checked(path: str | Path | None, distances: pd.DataFrame) -> np.ndarray:
    """Return the distances as a symmetric matrix."""
    if not isinstance(distances, pd.DataFrame) or len(set(distances.shape)) != 1 or len(distances) < 2:
        raise InputError(
            f"distances: got {short(getattr(distances, 'shape', distances))}, expected a square table of two or more "
            "networks"
        )
    check_table(path, distances, "", name="distances")
    if not all(map(pd.api.types.is_numeric_dtype, distances.dtypes)):
        raise InputError(f"distances: got {set(map(str, distances.dtypes))}, expected numbers")
    values = distances.to_numpy(float)
    if not np.isfinite(values).all():
        raise InputError("distances: got numbers that are not finite, expected finite ones")
    rounding = ASYMMETRY * np.abs(values).max()
    if np.abs(values - values.T).max() > rounding or np.abs(np.diag(values)).max() > rounding or values.min() < 0:
        raise InputError("distances: got another matrix, expected a symmetric one, not negative, with a zero diagonal")
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0)
    return values
