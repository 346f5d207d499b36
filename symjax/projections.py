"""Project a layer of a network onto few directions and evaluate the rest of the network on the result.

A method gives an ordered list of directions of a layer. For each k the layer's features x become

    mean + left[:, :k] right[:, :k]' (x - mean),

and the tail of the same network computes its output from them: a stitch of rank k of the network to itself. Directions
matter to the network if its accuracy survives with few of them (Raghu et al. 2017, figure 2).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from symjax import data
from symjax.checks import integer, integers, one_of, random_key, sequence, short
from symjax.data.dataset import Split
from symjax.errors import InputError
from symjax.network import Member, Network, StitchPoint
from symjax.ops import parallel
from symjax.similarity import CCA, cca, pca, pls, svcca
from symjax.similarity.inputs import as_matrix, as_pair
from symjax.spelling import one_line
from symjax.stitching.evaluate import batch_scores, over_batches
from symjax.stitching.plan import FitConfig, Plan
from symjax.stitching.stitched import Pair, Stitch
from symjax.training.evaluation import pad_batches

__all__ = ["METHODS", "Projection", "project", "projected_accuracy"]

BATCH, BATCHES = 64, 8  # images in a batch, batches in a call


class Projection(NamedTuple):
    """Directions of a layer with d channels, the most important first."""

    mean: jax.Array  # (d,)
    left: jax.Array  # (d, m)
    right: jax.Array  # (d, m)

    def __repr__(self):
        return one_line(self)

    def stitch(self, k: int) -> Stitch:
        """Return the affine map of channels that keeps the first k directions, with matrix and bias."""
        matrix = self.left[:, :k] @ self.right[:, :k].T
        return Stitch(matrix, self.mean - matrix @ self.mean)


def _principal(x, y, key):
    """Principal components: most variance of the layer."""
    result = pca(x)
    return Projection(result.mean, result.components, result.components)


def _canonical(result: CCA) -> Projection:
    """Regress neurons on variates: the best linear reconstruction from the first k variates."""
    return Projection(result.x_mean, result.x_loadings, result.x_directions)


def _cca(x, y, key):
    """CCA with the same layer of another network: highest correlations."""
    return _canonical(cca(x, y))


def _svcca(x, y, key):
    """SVCCA with the same layer of another network: highest correlations among directions with 99 % of the variance."""
    return _canonical(svcca(x, y, full_output=True)[1])


def _pls(x, y, key):
    """Partial least squares with the same layer of another network: highest covariances."""
    result = pls(x, y)
    return Projection(result.x_mean, result.x_directions, result.x_directions)


def _neurons(x, y, key):
    """Neurons with the largest norms (root mean squares); the others are replaced by their means."""
    order = jnp.argsort(-(x**2).mean(axis=0), stable=True)
    basis = jnp.eye(x.shape[1], dtype=x.dtype)[:, order]
    return Projection(x.mean(axis=0), basis, basis)


def _random(x, y, key):
    """Random orthonormal directions (Haar measure)."""
    basis = jax.random.orthogonal(key, x.shape[1], dtype=x.dtype)
    return Projection(x.mean(axis=0), basis, basis)


METHODS: dict[str, Callable] = {
    "pca": _principal,
    "cca": _cca,
    "svcca": _svcca,
    "pls": _pls,
    "neurons": _neurons,
    "random": _random,
}
"""The methods by name: functions of x, y and a key that return a `Projection`."""

PAIRED = ("cca", "svcca", "pls")
"""The methods that compare the layer with that of another network."""


def project(method: str, x, y=None, *, key: jax.Array | None = None) -> Projection:
    """Return the directions of a layer by one of `METHODS`, the most important first.

    `pca`, `pls`, `neurons` and `random` are orthogonal projections, so left = right. With `cca` and `svcca`, the
    variates h = (x - mean) right are uncorrelated with variance 1, and left has the covariances of neurons with them:
    left[:, :k] h[:k] is the regression of the layer on its first k variates.

    Args:
        method: "pca", "cca", "svcca", "pls", "neurons" or "random".
        x: features of the layer (n, d) or (n, h, w, d), whose pixels are samples.
        y: features of another network for the same examples; required by "cca", "svcca" and "pls".
        key: a random key; required by "random".

    Returns:
        `Projection`.

    Raises:
        InputError: the method is unknown, or an argument that it requires is missing or has a wrong shape.

    Reference: Raghu et al. 2017, section 2 and figure 2.

    Example:
        >>> import numpy as np
        >>> from symjax.projections import project
        >>> x = np.random.default_rng(0).normal(size=(32, 2)) @ np.array([[3.0, 0, 0], [0, 1.0, 0]])
        >>> stitch = project("pca", x).stitch(2)
        >>> bool(np.allclose(x @ stitch.matrix.T + stitch.bias, x, atol=1e-5))
        True
    """
    one_of("method", method, METHODS)
    if y is None and method in PAIRED:
        raise InputError(f"y: got None, expected features of another network, which {method} requires")
    x, y = (as_matrix(x, "x", "positions"), None) if y is None else as_pair(x, y, "positions")
    if method == "random":
        key = random_key("key", key)
    return METHODS[method](x, y, key)


def projected_accuracy(
    network: Network,
    members: Member,
    projections: Mapping[str | int, Sequence[Sequence[Projection]]],
    directions: Mapping[str | int, Sequence[int]],
    split: Split,
    mean,
    std,
    *,
    metric: Callable | None = None,
    batch_size: int = BATCH,
) -> dict[str | int, np.ndarray]:
    """Return the accuracy of members whose features at one point are projected onto the first k directions.

    All members, points, projections and numbers of directions run in one program, which projects one point for each
    accuracy. The state of a member, such as batch-norm statistics, stays as it is.

    Args:
        network: the network of the members.
        members: parameters and state with a leading axis over members.
        projections: for each stitch point, by name or index, and each member a list of projections. The lists of a
            point are equally long.
        directions: for each of these points numbers k of directions, each from 0 to the channels of the point.
        split: inputs as stored, and labels.
        mean, std: of the data set, (channels,); None for inputs without normalization.
        metric: a score of outputs and targets for each example, in place of the accuracy.
        batch_size: inputs in a batch.

    Returns:
        {point: (members, projections, directions)}: accuracies in [0, 1], or mean scores of the metric.

    Raises:
        InputError: a point does not exist, or points, lengths or numbers of directions do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, symjax
        >>> from symjax import data
        >>> from symjax.projections import project, projected_accuracy
        >>> def net(weight, x):
        ...     return symjax.stitch_point(x, "hidden") @ weight
        >>> network = symjax.Network.from_function(net, jnp.eye(2), example=jnp.ones((1, 2)))
        >>> members = jax.tree.map(lambda leaf: leaf[None], network.member(jnp.eye(2)))
        >>> x, labels = jnp.array([[1.0, 0], [0, 1], [2, 0], [0, 2]]), jnp.array([0, 1, 0, 1])
        >>> split, projections = data.Split(x, labels), {"hidden": [[project("pca", x)]]}
        >>> result = projected_accuracy(network, members, projections, {"hidden": [2, 1, 0]}, split, None, None)
        >>> result["hidden"].tolist()
        [[[1.0, 1.0, 0.5]]]
    """
    if not isinstance(projections, Mapping) or not isinstance(directions, Mapping) or not projections:
        raise InputError(
            f"projections: got {short(projections)} and directions {short(directions)}, expected mappings from points"
        )
    if set(projections) != set(directions):
        raise InputError(
            f"directions: got the points {list(directions)}, expected those of projections, {[*projections]}"
        )
    count, mean_std = parallel.count_members(members), data.statistics(mean, std, split.images.shape[-1:])
    indices = {point: network.index(point) for point in projections}
    if len(set(indices.values())) != len(indices):
        raise InputError(f"projections: got the points {[*projections]}, expected each once")
    ks = {
        point: integers("directions", directions[point], 0, network.points[i].channels) for point, i in indices.items()
    }
    stitches = [_stitches(projections[p], ks[p], count, network.points[i]) for p, i in indices.items()]
    states = [_repeat(members.state, stitch.matrix.shape[1]) for stitch in stitches]
    batches = pad_batches(split, integer("batch_size", batch_size, 1))
    run = _scores(network, tuple(indices.values()), metric)
    totals: list[Any] = [0.0] * len(indices)
    for chosen, number in parallel.groups(len(batches.images), min(BATCHES, len(batches.images))):
        shared = (parallel.take(batches, chosen), np.int32(number), *mean_std)
        scores = run((Pair(members, members), [[s] for s in stitches], [[s] for s in states]), shared)
        totals = [t + np.asarray(s.score, np.float64).sum(axis=1) for t, s in zip(totals, scores, strict=True)]
    return {
        point: (total / len(split)).reshape(count, -1, len(ks[point]))
        for point, total in zip(indices, totals, strict=True)
    }


def _stitches(projections, directions: Sequence[int], count: int, point: StitchPoint) -> Stitch:
    """Return the stitches of one point, (members, projections x directions, ...)."""
    projections = [sequence("projections", of_member) for of_member in sequence("projections", projections, "lists")]
    if not all(isinstance(projection, Projection) for of_member in projections for projection in of_member):
        raise InputError(f"projections: got {short(projections)}, expected lists of Projection, as project returns it")
    lengths = {len(of_member) for of_member in projections}
    if len(projections) != count or len(lengths) != 1 or not directions:
        given = f"{len(projections)} lists of {sorted(lengths)} and directions {directions} at {point.name}"
        raise InputError(f"projections: got {given}, expected a list for each of {count} members, equally long")
    stitches = parallel.stack(
        [parallel.stack([p.stitch(k) for p in of_member for k in directions]) for of_member in projections]
    )
    if stitches.matrix.shape[2:] != (point.channels, point.channels):
        given, expected = stitches.matrix.shape[2:], (point.channels, point.channels)
        raise InputError(f"projections: got matrices {given}, expected {expected} at {point.name}")
    return stitches


def _repeat(state: Any, count: int) -> Any:
    """Return the state of members, (members, ...), with a second axis of equal entries."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (len(leaf), count, *leaf.shape[1:])), state)


@lru_cache(maxsize=16)
def _scores(network: Network, points: tuple[int, ...], metric: Callable | None):
    """Cached, so that a process compiles the program once."""
    execution = parallel.default_execution()
    plan = Plan(network, points, (), FitConfig(metric=metric), execution)
    return parallel.over_members(partial(over_batches, partial(batch_scores, plan)), execution, effort=1)
