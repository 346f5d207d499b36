"""Networks over their training: what becomes of each layer, and when (Raghu et al. 2017; Morcos et al. 2018)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from symjax import checks
from symjax.birkhoff.checks import scalar
from symjax.checks import integer, one_of, sequence
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
    """Up to `count` epochs from 0 to `epochs`, every one where they are few, else closer at the beginning."""
    epochs, count = integer("epochs", epochs), integer("count", count, 2)
    if epochs < count:
        return tuple(range(epochs + 1))
    spread = np.rint(np.geomspace(1, epochs, count - 1)).astype(int)
    return tuple(sorted({0, *map(int, spread)}))


def similarity_to_end(
    history: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray], measure: str, epochs: Sequence[int], **options
) -> pd.DataFrame:
    """The similarity of each layer at moments of a training with each layer at its end.

    What a measure makes of one representation alone is made once for each (`symjax.similarity.pairwise`). Of a measure
    that is not symmetric, x is the layer at the moment and y the one at the end.

    Args:
        history: from names of layers to representations (moments, n, d) or (moments, n, h, w, c).
        end: the same layers at the end of the training, (n, d) or (n, h, w, c), of the same examples.
        measure: a name in `MEASURES`.
        epochs: of the moments.
        options: of the measure's function.

    Returns:
        Rows of epoch, layer, end_layer, value. Equal layers alone where the measure takes pixels for samples and the
        layers' maps differ in size.

    Raises:
        InputError: as `pairwise`.
    """
    history, end = _layers("history", history, (3, 5)), _layers("end", end, (2, 4))
    epochs = _moments(epochs, history)
    one_of("measure", measure, MEASURES)
    shapes = {np.shape(array)[2:-1] for array in history.values()}
    pooled = options.get("maps", "pixels") != "pixels"
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
    """CCA of each layer with the indicator of each class, at moments of a training (after Raghu et al. 2017).

    CCA with one variable, 1 for examples of the class and 0 for others, is the multiple correlation

        R = max over directions w of corr(X w, indicator),   R^2 the share of the indicator's variance that X explains,

    in [0, 1], invariant to invertible linear maps of X. For labels without a relation to X, n examples and d features
    the mean of R^2 is d / (n - 1) (`chance_correlation`): layers of different width are compared beside that.

    Args:
        history: from names of layers to representations (moments, n, d), or maps (moments, n, h, w, c) whose pixels are
            then samples that share their image's class.
        labels: (n,) integers, positions in `classes`.
        classes: their names.
        epochs: of the moments.

    Returns:
        Rows of epoch, layer, class, value. NaN for a class that has no examples, or all.

    Raises:
        InputError: as `pairwise`; labels that are not as many as examples or not among the classes.
    """
    history = _layers("history", history, (3, 5))
    epochs, classes = _moments(epochs, history), sequence("classes", classes, "names")
    labels = checks.numpy_array("labels", labels)
    if not classes or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
        raise InputError(f"classes: got {checks.short(classes)}, must be one or more different names")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels: got {labels.dtype}, must be integers")
    count = {np.shape(array)[1] for array in history.values()}
    if labels.ndim != 1 or count != {len(labels)}:
        raise InputError(f"labels: got shape {list(labels.shape)}, must be one for each of {sorted(count)} examples")
    if len(labels) and not (0 <= labels.min() and labels.max() < len(classes)):
        raise InputError(f"labels: got {labels.min()} to {labels.max()}, must be from 0 to {len(classes) - 1}")
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
    """The root mean square of R for an indicator without a relation to the features: sqrt(d / (n - 1)), at most 1."""
    features, samples = integer("features", features), integer("samples", samples, 2)
    return float(np.sqrt(min(1.0, features / (samples - 1))))


def _layers(name: str, layers: Mapping, ranks: Sequence[int]) -> dict:
    """Layers whose arrays have one of these ranks."""
    if not isinstance(layers, Mapping) or not layers:
        raise InputError(f"{name}: got {type(layers).__name__}, must map names of layers to arrays")
    found = {layer: checks.array(f"{name}[{layer!r}]", array) for layer, array in layers.items()}
    for layer, array in found.items():
        if array.ndim not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise InputError(f"{name}[{layer!r}]: got shape {array.shape}, must be numbers along {wanted} axes")
    return found


def _moments(epochs: Sequence, history: Mapping) -> tuple:
    """Different epochs, one for each moment of a history."""
    epochs, count = sequence("epochs", epochs, "numbers"), len(next(iter(history.values())))
    epochs = tuple(scalar("epochs", epoch, "numbers", lambda value: value == value) for epoch in epochs)
    if len(set(epochs)) < len(epochs) or len(epochs) != count:
        raise InputError(f"epochs: got {checks.short(epochs)}, must be {count} different ones")
    return epochs


def epoch_above(epochs, values, level: float) -> float:
    """The epoch from which on `values` are at `level` or above, the way between two epochs taken for straight.

    The first epoch where they are so from the beginning; NaN where they are not in the end, or a value is NaN.

    Args:
        epochs: (k,), ascending.
        values: (k,), as many.
        level: a number.
    """
    epochs, values = _floats("epochs", epochs), _floats("values", values)
    if not np.isfinite(epochs).all():
        raise InputError(f"epochs: got {epochs.tolist()}, wanted finite ones")
    if epochs.ndim != 1 or epochs.shape != values.shape or not len(epochs) or not (np.diff(epochs) > 0).all():
        raise InputError(f"epochs: got {epochs.tolist()} for {values.size} values, wanted as many, ascending")
    scalar("level", level, "a number", lambda value: not np.isnan(value))
    if np.isnan(values).any() or values[-1] < level:
        return float("nan")
    below = np.flatnonzero(values < level)
    if not len(below):
        return float(epochs[0])
    last = below[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        part = (level - values[last]) / (values[last + 1] - values[last])
        return float(epochs[last] + part * (epochs[last + 1] - epochs[last]))


def _floats(name: str, values) -> np.ndarray:
    return checks.numpy_array(name, values).astype(float)


def convergence_epoch(epochs, values, share: float = 0.9) -> float:
    """The epoch from which on `values` have gone `share` of the way from the first value to the last, and stay there.

    `epoch_above` of (values - first) / (last - first). The first epoch where the last value is the first; NaN where a
    value is NaN.

    Args:
        epochs: (k,), ascending.
        values: (k,), as many.
        share: in (0, 1].
    """
    scalar("share", share, "a number in (0, 1]", lambda value: 0 < value <= 1)
    values = _floats("values", values)
    if values.ndim != 1:
        raise InputError(f"values: got shape {list(values.shape)}, wanted a number for each epoch")
    with np.errstate(over="ignore", invalid="ignore"):  # of infinities: NaN
        way = values[-1] - values[0] if len(values) else 0.0
        gone = (values - values[0]) / way if way else np.ones_like(values)
    return epoch_above(epochs, gone, share)
