"""Evaluate measures on all pairs of many representations: the layers of the models of one zoo, or of two."""

import warnings

import jax
import numpy as np

from symjax.checks import flag, scalar, sequence
from symjax.errors import InputError
from symjax.ops.progress import progress_bar
from symjax.similarity import pair_blocks
from symjax.similarity.cca_checks import few_examples_message
from symjax.similarity.inputs import FewExamplesWarning, LayoutWarning, NumericalWarning, warn_user
from symjax.similarity.pairwise_checks import (
    as_measures,
    check_layers,
    keep_folds,
    layer_groups,
    measure_options,
    model_mask,
    samples_of_mask,
    translation_invariant,
)
from symjax.similarity.pairwise_result import Pairwise
from symjax.similarity.pairwise_side import PairwiseSide
from symjax.similarity.position_mask import as_mask

MAX_SHOWN = 12  # largest number of pairs of layers in a warning
MAX_VALUES = 2**28  # of one measure, with those for layers that a model lacks


def pairwise(
    representations,
    measure,
    *,
    against=None,
    pairs="all",
    layers="all",
    models=None,
    against_models=None,
    memory=2**31,
    devices=None,
    layout=None,
    mask=None,
    progress=False,
    **options,
):
    """Evaluate a measure, or several, on all pairs of representations.

    `values[k, i, l, j]` = fn(layer k of model i, layer l of model j).

    The computation on a single representation (a kernel matrix, an orthonormal basis, unit norms) runs once per
    representation and not once per pair, and many pairs are computed at a time. Values equal those of the measure's own
    function up to rounding. Small distances are computed again from differences, so that they keep their digits. The
    distance of a representation from itself is exactly 0. Pairs are distributed over all devices. For a symmetric
    measure each pair is computed once.

    Programs are compiled for padded shapes, so that few of them serve networks of any widths; few networks have one. A
    measure without a split form (`Measure.split` is None) is called pair by pair, on one device. Maps whose size does
    not divide the other side's, such as 8 x 8 and 14 x 14, are enlarged and prepared again for each pair of blocks,
    which needs as much additional memory. Not differentiable: use the measure's function in a loss.

    A `NumericalWarning` of a measure about single representations is issued once, with the number of the others.

    The default `rcond` of cca, pwcca and fourier_cca, and the rounding that svcca and eigenspace_overlap drop, depend
    on the width after padding. Where few networks have one width, it is that of the widest. A wider network can
    therefore change values of others with directions near this limit; a `NumericalWarning` of cca, pwcca and
    eigenspace_overlap reports these.

    Args:
        representations: mapping from names of layers to arrays (models, n, d), tokens (models, n, t, c) or maps
            (models, n, h, w, c), NumPy or JAX. All but the first two axes may differ between layers. Or, for models of
            any layers and widths, a mapping from models to mappings from layers to arrays (n, d), (n, t, c) or
            (n, h, w, c), such as the `Activations` of files.
        measure: a name in `MEASURES`, a `Measure`, or a traceable function fn(x, y) -> 0-d array, which is treated as
            not symmetric; or several of these.
        against: a second set of representations of the same examples to compare with; None compares the first set with
            itself.
        pairs: pairs of models: "all", which includes each model with itself, or a list of (label, label). Without
            `against`, (i, j) also stands for (j, i).
        layers: "all" compares every layer with every layer; "same" only layers of equal names.
        models, against_models: labels of models; by default 0, 1, ..., or the keys of a mapping from models.
        memory: approximate number of bytes for compared representations on each device. Two prepared representations
            must fit in any case. `memory` does not bound the host's memory, which holds all L layers of M models in
            prepared form: M L n^2 numbers for kernel matrices (CKA in Gram form, wreath CKA), otherwise at most about
            twice the size of the representations.
        devices: devices to compute on; by default all local devices.
        layout: layout of maps, "nhwc", or "nchw" for arrays (models, n, c, h, w). None means "nhwc", with a
            `LayoutWarning` where an array looks like "nchw".
        mask: which tokens or pixels of the examples count in all models, (n, t) or (n, h, w); see `as_matrix`. It does
            not apply to vectors (n, d).
        progress: whether to show a progress bar of the pairs.
        options: options of the measure's function, such as samples="pool"; of several measures, each takes those that
            it has.

    Returns:
        `Pairwise`; for several measures {name: `Pairwise`}. For a set compared with itself it contains both orders of
        each pair. Values of layers that a model lacks are NaN, and not `computed`.

    Raises:
        InputError: arrays, numbers of models or numbers of examples that do not match; unknown measure, label or
            option; layers that the measure cannot compare; so many names of layers that values exceed `MAX_VALUES`;
            NaN or infinite entries, with their layer and model.

    Example:
        >>> import numpy as np
        >>> from symjax import pairwise
        >>> layers = {"conv1": np.random.default_rng(0).normal(size=(3, 12, 4))}  # 3 models, 12 examples, 4 channels
        >>> result = pairwise(layers, "cka", models=["a", "b", "c"])
        >>> result.values.shape
        (1, 3, 1, 3)
        >>> float(round(result.select(layer_a="conv1", model_a="a", layer_b="conv1", model_b="a"), 4))
        1.0
    """
    several, measures = as_measures("measure", measure)
    a = PairwiseSide("representations", representations, "models", models, layout)
    b = a if against is None else PairwiseSide("against", against, "against_models", against_models, layout)
    if a.examples != b.examples:
        raise InputError(f"against: got {b.examples} examples, expected as many as in representations, {a.examples}")
    memory = scalar("memory", memory, "a positive number of bytes", lambda value: 0 < value < np.inf)
    devices = tuple(jax.local_devices()) if devices is None else sequence("devices", devices, "devices")
    if not devices:
        raise InputError("devices: got none, expected one or more")
    dtype, settings = np.promote_types(a.dtype, b.dtype), measure_options(measures, options)
    measures = [measure.with_properties_of(settings[measure.name]) for measure in measures]
    if mask is not None:
        mask, samples = as_mask(mask), samples_of_mask(measures, settings)
        if not (a.has_positions or b.has_positions):
            raise InputError("mask: got one for vectors (models, n, d), expected tokens (models, n, t, c) or maps")
        for side in dict.fromkeys((a, b)):
            side.reduce(samples, mask, translation_invariant(measures))
        if samples == "positions":
            keep_folds(measures, settings, mask)
    groups, chosen_models = layer_groups(layers, a, b), model_mask(pairs, a, b)
    messages = [check_layers(measure, a, b, groups, dtype, settings[measure.name]) for measure in measures]
    for side in dict.fromkeys((a, b)):
        side.require_in_range(dtype, translation_invariant(measures))
    requested = _requested(a, b, groups, chosen_models)
    mirrored = (requested.sum() - np.einsum("kiki->", requested.astype(int))) // 2 if b is a else 0
    total = sum(int(requested.sum() - mirrored * measure.symmetric) for measure in measures)
    results = {}
    with progress_bar(desc="pairwise", unit="pair", total=total, disable=not flag("progress", progress)) as bar:
        for measure, of_measure in zip(measures, messages, strict=True):
            values, numerical = np.full(requested.shape, np.nan, dtype), {}
            for group in groups if requested.any() else ():
                few, of_numbers = _evaluate(
                    measure, a, b, group, requested, values, settings[measure.name], memory, devices, bar.update
                )
                of_measure |= few
                numerical |= of_numbers
            _warn(measure, a, b, of_measure)
            _warn_of_numbers(measure, numerical)
            names = a.layers, a.models, b.layers, b.models
            results[measure.name] = Pairwise(measure.name, values, requested.copy(), *names, b is a)
    return results if several else results[measures[0].name]


def _requested(a, b, groups, mask):
    """Return booleans (layers a, models a, layers b, models b), true for values to compute."""
    shape = (len(a.layers), len(a.models), len(b.layers), len(b.models))
    if np.prod(shape, dtype=float) > MAX_VALUES:
        raise InputError(
            f"representations: got {shape[0]} names of layers in {shape[1]} models, expected fewer; give layers that "
            "correspond to each other the same name in all models"
        )
    pairs = np.zeros(shape, bool)
    for rows, columns in groups:
        pairs[np.ix_(rows, range(shape[1]), columns, range(shape[3]))] = mask[None, :, None, :]
    return pairs & a.present[:, :, None, None] & b.present


def _evaluate(measure, a, b, group, requested, values, options, memory, devices, update):
    """Set `values` of the requested pairs of a group of layers.

    Returns:
        Messages about few examples by layers, and those of numerical warnings by name of the representation.
    """
    rows, columns = group
    chosen = requested[np.ix_(rows, range(len(a.models)), columns, range(len(b.models)))]
    if not chosen.any():
        return {}, {}
    used = np.flatnonzero(chosen.any((0, 2, 3))), np.flatnonzero(chosen.any((0, 1, 2)))
    padded = measure.zero_channels or measure.counts_channels
    left, *left_at = right, *right_at = a.select(rows, used[0], values.dtype, padded)
    if b is not a:
        right, *right_at = b.select(columns, used[1], values.dtype, padded)
    place = tuple(index[:, None] for index in left_at) + tuple(index[None] for index in right_at)
    mask, messages, numerical = requested[place], {}, {}
    if measure.split is None:
        computed = _pair_by_pair(measure, left, right, mask, options, update)
    else:
        split = measure.split(tuple(dict.fromkeys((*left.shapes, *right.shapes))), **options)
        sides = [pair_blocks.prepare(split, side, memory, devices) for side in ((left,) if b is a else (left, right))]
        (left_blocks, left_directions, _), (right_blocks, right_directions, _) = sides[0], sides[-1]
        blocks = left_blocks, right_blocks
        certain = measure.kind == "distance" and measure.ends_at_equal and b is a
        computed = pair_blocks.all_pairs(split, left, right, mask, measure.symmetric, devices, blocks, update, certain)
        for side, index, (*_, of_side) in zip((a, b), (left_at, right_at), sides, strict=False):
            numerical |= {side.name_of(index[0][i], index[1][i]): message for i, message in of_side.items()}
        if left_directions is not None:
            samples = left_blocks[0].prepared.data.shape[-1]
            messages = _few_directions(samples, left_directions, left_at[0], right_directions, right_at[0])
    if measure.kind == "distance" and measure.ends_at_equal and b is a:
        computed = np.where(np.eye(len(computed), dtype=bool) & ~np.isnan(computed), 0, computed)
    values[place] = computed
    return messages, numerical


def _few_directions(samples, left, left_layers, right, right_layers):
    """Return messages by layers of both sides, from the number of directions of each representation."""
    most_left, most_right = (
        {layer: int(directions[layers == layer].max()) for layer in np.unique(layers).tolist()}
        for directions, layers in ((left, left_layers), (right, right_layers))
    )
    return {
        (k, m): few_examples_message(samples, p, q, "svcca")
        for k, p in most_left.items()
        for m, q in most_right.items()
    }


def _pair_by_pair(measure, a, b, mask, options, update):
    """Return values computed by the measure's own function, one pair at a time.

    For a symmetric measure with a is b, `mask` is symmetric.
    """
    values = np.full(mask.shape, np.nan, a.dtype)
    once = measure.symmetric and a is b
    with warnings.catch_warnings():
        for category in (FewExamplesWarning, LayoutWarning):  # issued once for all pairs by the caller
            warnings.simplefilter("ignore", category)
        for i, j in np.argwhere(np.triu(mask) if once else mask):
            values[i, j] = measure.fn(a.array_at(i), b.array_at(j), **options)
            update()
    return np.where(np.tri(len(values), k=-1, dtype=bool), values.T, values) if once else values


def _warn_of_numbers(measure, messages):
    """Issue one `NumericalWarning` for all representations that have a message."""
    if messages:
        name, message = next(iter(messages.items()))
        others = len(messages) - 1
        more = f" (and {others} more representation{'s' if others > 1 else ''})" if others else ""
        warn_user(f"{measure.name}: {name}{more}: {message}", NumericalWarning)


def _warn(measure, a, b, messages):
    """Warn of the pairs of layers that have a message."""
    pairs = [(k, m) for (k, m), message in messages.items() if message and (b is not a or k <= m)]
    if pairs:
        shown = [f"{a.layers[k]!r} and {b.layers[m]!r}" for k, m in pairs[:MAX_SHOWN]]
        where = ", ".join([*shown, f"and {len(pairs) - MAX_SHOWN} more"] if len(pairs) > MAX_SHOWN else shown)
        message = f"{measure.name}: few examples for layers {where}: {messages[pairs[0]]}"
        warn_user(message, FewExamplesWarning)
