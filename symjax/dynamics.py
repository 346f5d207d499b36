"""Learning dynamics: the similarity of layers during training (Raghu et al. 2017; Morcos et al. 2018)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from symjax import checks
from symjax.checks import integer, one_of, scalar, sequence
from symjax.errors import InputError, renamed
from symjax.similarity import MEASURES, Pairwise, pairwise

__all__ = [
    "chance_correlation",
    "checkpoints",
    "class_correlations",
    "convergence_epoch",
    "epoch_above",
    "similarity_to_end",
]


def checkpoints(epochs: int, count: int = 12) -> tuple[int, ...]:
    """Return at most `count` epochs from 0 to `epochs`, geometrically spaced; all if there are fewer.

    Args:
        epochs: the last epoch.
        count: the largest number of epochs, 2 or more.

    Raises:
        InputError: an argument is not an integer in its range.

    Example:
        >>> from symjax.dynamics import checkpoints
        >>> checkpoints(50, 6)
        (0, 1, 3, 7, 19, 50)
    """
    epochs, count = integer("epochs", epochs), integer("count", count, 2)
    if epochs < count:
        return tuple(range(epochs + 1))
    spread = np.rint(np.geomspace(1, epochs, count - 1)).astype(int)
    return tuple(sorted({0, *map(int, spread)}))


def similarity_to_end(
    history: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray], measure: str, epochs: Sequence[int], **options
) -> pd.DataFrame:
    """Compute the similarity of each layer at several epochs with each layer at the end of the training.

    The preparation of each representation is computed once (`symjax.similarity.pairwise`). For a measure that is not
    symmetric, x is the layer at the epoch and y the layer at the end.

    Args:
        history: {layer: representations (epochs, n, d) or (epochs, n, h, w, c)}.
        end: {layer: representation at the end of the training (n, d) or (n, h, w, c)}, of the same layers and examples.
        measure: a name in `MEASURES`.
        epochs: the epochs of `history`.
        options: options of the measure.

    Returns:
        A table with columns epoch, layer, end_layer and value. If pixels are samples and the maps of layers differ in
        size, it has rows of equal layers only.

    Raises:
        InputError: as in `pairwise`.

    Example:
        >>> import numpy as np
        >>> from symjax.dynamics import similarity_to_end
        >>> start, end = np.random.default_rng(0).normal(size=(2, 30, 3))
        >>> history = {"relu1": np.stack([start, end])}
        >>> table = similarity_to_end(history, {"relu1": end}, "cka", epochs=(0, 10))
        >>> table.columns.tolist(), round(float(table.value.iloc[1]), 4)
        (['epoch', 'layer', 'end_layer', 'value'], 1.0)
    """
    history, end = _check_layers("history", history, (3, 4, 5)), _check_layers("end", end, (2, 3, 4))
    epochs = _check_epochs(epochs, history)
    one_of("measure", measure, MEASURES)
    shapes = {np.shape(array)[2:-1] for array in history.values()}
    pooled = options.get("samples", "positions") != "positions"
    crossed = len(shapes) == 1 or pooled or not MEASURES[measure].one_map_size
    with renamed(representations="history", against="end"):
        result: Pairwise = pairwise(
            history,
            measure,
            against={layer: array[None] for layer, array in end.items()},
            layers="all" if crossed else "same",
            models=epochs,
            against_models=("end",),
            **options,
        )
    frame = result.to_frame().rename(columns={"model_a": "epoch", "layer_a": "layer", "layer_b": "end_layer"})
    return frame[["epoch", "layer", "end_layer", "value"]]


def class_correlations(
    history: Mapping[str, np.ndarray], labels, classes: Sequence[str], epochs: Sequence[int]
) -> pd.DataFrame:
    """Compute the CCA of each layer with the indicator of each class, at several epochs (after Raghu et al. 2017).

    CCA with one variable, 1 for examples of the class and 0 for others, is the multiple correlation

        R = max over directions w of corr(X w, indicator),   R^2 the share of the indicator's variance that X explains,

    in [0, 1], invariant to invertible linear maps of X. For labels that are independent of X, n examples and d
    features, the mean of R^2 is d / (n - 1) (see `chance_correlation`), which is the reference for layers of different
    widths.

    Args:
        history: {layer: representations (epochs, n, d) or maps (epochs, n, h, w, c)}; pixels of maps are samples of the
            class of their image.
        labels: (n,) integers, indices into `classes`.
        classes: names of the classes.
        epochs: the epochs of `history`.

    Returns:
        A table with columns epoch, layer, class and value. The value is NaN for a class with no or all examples.

    Raises:
        InputError: as in `pairwise`; labels and examples differ in number, or a label is not an index into `classes`.

    Example:
        >>> import numpy as np
        >>> from symjax.dynamics import class_correlations
        >>> labels = np.arange(20) % 2
        >>> features = np.random.default_rng(0).normal(size=(1, 20, 2))
        >>> features[..., 0] = labels
        >>> table = class_correlations({"relu1": features}, labels, ("even", "odd"), epochs=(5,))
        >>> table["class"].tolist(), table.value.round(3).tolist()
        (['even', 'odd'], [1.0, 1.0])
    """
    history = _check_layers("history", history, (3, 4, 5))
    epochs, classes = _check_epochs(epochs, history), sequence("classes", classes, "names")
    labels = checks.numpy_array("labels", labels)
    if not classes or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise InputError(f"classes: got {checks.short(classes)}, expected one or more different names")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels: got {labels.dtype}, expected integers")
    count = {np.shape(array)[1] for array in history.values()}
    if labels.ndim != 1 or count != {len(labels)}:
        raise InputError(f"labels: got shape {list(labels.shape)}, expected one for each of {sorted(count)} examples")
    if len(labels) and not (0 <= labels.min() and labels.max() < len(classes)):
        raise InputError(f"labels: got {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}")
    present = [i for i in range(len(classes)) if 0 < np.sum(labels == i) < len(labels)]
    frames = []
    for layer, array in history.items():
        pixels = (1,) * (np.ndim(array) - 3)
        indicators = {
            classes[i]: np.broadcast_to(
                (labels == i).astype(np.asarray(array).dtype).reshape(1, -1, *pixels, 1), (1, *np.shape(array)[1:-1], 1)
            )
            for i in present
        }
        with renamed(representations="history"):
            result = pairwise({layer: array}, "cca", against=indicators, models=epochs)
        frames.append(result.to_frame())
        for i in set(range(len(classes))) - set(present):
            frames.append(pd.DataFrame({"model_a": epochs, "layer_a": layer, "layer_b": classes[i], "value": np.nan}))
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.rename(columns={"model_a": "epoch", "layer_a": "layer", "layer_b": "class"})
    return rows[["epoch", "layer", "class", "value"]]


def chance_correlation(features: int, samples: int) -> float:
    """Return the root mean square of R for an independent indicator: min(1, sqrt(features / (samples - 1))).

    Args:
        features: number of features of the layer, from 0.
        samples: number of samples, 2 or more.

    Raises:
        InputError: an argument is not an integer in its range.

    Example:
        >>> from symjax.dynamics import chance_correlation
        >>> chance_correlation(features=25, samples=101)
        0.5
    """
    features, samples = integer("features", features), integer("samples", samples, 2)
    return float(np.sqrt(min(1.0, features / (samples - 1))))


def _check_layers(name: str, layers: Mapping, ranks: Sequence[int]) -> dict:
    """Return layers as arrays; raise an InputError unless each has one of these ranks."""
    if not isinstance(layers, Mapping) or not layers:
        raise InputError(f"{name}: got {type(layers).__name__}, expected a mapping of layer names to arrays")
    arrays = {layer: checks.array(f"{name}[{layer!r}]", array) for layer, array in layers.items()}
    for layer, array in arrays.items():
        if array.ndim not in ranks:
            expected = " or ".join(map(str, ranks))
            raise InputError(f"{name}[{layer!r}]: got shape {array.shape}, expected {expected} axes")
    return arrays


def _check_epochs(epochs: Sequence, history: Mapping) -> tuple:
    """Return epochs; raise an InputError unless they are different and as many as in the history."""
    epochs, count = sequence("epochs", epochs, "numbers"), len(next(iter(history.values())))
    epochs = tuple(scalar("epochs", epoch, "numbers", lambda value: value == value) for epoch in epochs)
    if len(set(epochs)) < len(epochs) or len(epochs) != count:
        raise InputError(f"epochs: got {checks.short(epochs)}, expected {count} different numbers")
    return epochs


def epoch_above(epochs, values, level: float) -> float:
    """Return the epoch from which on `values` stay at `level` or above, by linear interpolation between epochs.

    This is the first epoch if all values are at `level` or above. It is NaN if the last value is below or a value is
    NaN.

    Args:
        epochs: (k,), ascending.
        values: (k,).
        level: a number.

    Raises:
        InputError: epochs are not finite and ascending, shapes differ, or `level` is NaN.

    Example:
        >>> from symjax.dynamics import epoch_above
        >>> epoch_above([0, 1, 2, 4], [0.0, 0.4, 0.8, 1.0], 0.9)
        3.0
    """
    epochs, values = _floats("epochs", epochs), _floats("values", values)
    if not np.isfinite(epochs).all():
        raise InputError(f"epochs: got {epochs.tolist()}, expected finite numbers")
    if epochs.ndim != 1 or epochs.shape != values.shape or not len(epochs) or not (np.diff(epochs) > 0).all():
        raise InputError(
            f"epochs: got {epochs.tolist()} for {values.size} values, expected ascending numbers, one for each value"
        )
    scalar("level", level, "a number", lambda value: not np.isnan(value))
    if np.isnan(values).any() or values[-1] < level:
        return float("nan")
    below = np.flatnonzero(values < level)
    if not len(below):
        return float(epochs[0])
    last = below[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        fraction = (level - values[last]) / (values[last + 1] - values[last])
        return float(epochs[last] + fraction * (epochs[last + 1] - epochs[last]))


def _floats(name: str, values) -> np.ndarray:
    return checks.numpy_array(name, values).astype(float)


def convergence_epoch(epochs, values, share: float = 0.9) -> float:
    """Return the epoch from which on `values` stay beyond a fraction `share` of their total change.

    It is `epoch_above` of (values - first) / (last - first) at `share`. It is the first epoch if the last value equals
    the first, and NaN if a value is NaN.

    Args:
        epochs: (k,), ascending.
        values: (k,).
        share: a number in (0, 1].

    Raises:
        InputError: as in `epoch_above`, or `share` is out of range.

    Example:
        >>> from symjax.dynamics import convergence_epoch
        >>> convergence_epoch([0, 1, 2, 4], [0.5, 0.9, 1.3, 1.5], share=0.8)
        2.0
    """
    scalar("share", share, "a number in (0, 1]", lambda value: 0 < value <= 1)
    values = _floats("values", values)
    if values.ndim != 1:
        raise InputError(f"values: got shape {list(values.shape)}, expected a number for each epoch")
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values give NaN
        change = values[-1] - values[0] if len(values) else 0.0
        progress = (values - values[0]) / change if change else np.ones_like(values)
    return epoch_above(epochs, progress, share)
