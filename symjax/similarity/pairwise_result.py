"""The result of `pairwise`: values with their labels."""

from dataclasses import dataclass, field

import numpy as np

from symjax.checks import can_be_key, short
from symjax.errors import InputError
from symjax.spelling import one_line


@dataclass(frozen=True)
class Pairwise:
    """A measure between every layer of every model of side a and every layer of every model of side b.

    Attributes:
        measure: name of the measure.
        values: (layers a, models a, layers b, models b). `values[k, i, l, j]` is the measure of layer k of model i
            (first argument) and layer l of model j. NaN where it was not computed and where it is not defined.
        computed: booleans of the same shape, true where the value was computed.
        layers_a, models_a, layers_b, models_b: labels of the axes.
        one_set: whether side b is side a, so that equal labels mean the same model.
    """

    measure: str
    values: np.ndarray = field(repr=False)
    computed: np.ndarray = field(repr=False)
    layers_a: tuple
    models_a: tuple
    layers_b: tuple
    models_b: tuple
    one_set: bool = False

    def __repr__(self):
        return one_line(self)

    def select(self, *, layer_a=None, model_a=None, layer_b=None, model_b=None):
        """Return `values` at the given labels; axes with a label are removed, the others keep their order.

        Raises:
            InputError: unknown label.
        """
        requested = (("layer_a", layer_a), ("model_a", model_a), ("layer_b", layer_b), ("model_b", model_b))
        index = tuple(
            slice(None) if label is None else position(name, label, labels)
            for (name, label), labels in zip(requested, self._labels(), strict=True)
        )
        return self.values[index]

    def between_models(self):
        """Return a data frame (models a, models b): means over the layers of equal names that both models have.

        The columns are named after the measure. NaN for models without such a layer, and where one of the values is
        NaN.
        """
        import pandas as pd  # imported here: `import symjax` does not need it

        shared = [layer for layer in self.layers_a if layer in self.layers_b]
        rows, columns = ([labels.index(layer) for layer in shared] for labels in (self.layers_a, self.layers_b))
        computed = self.computed[rows, :, columns]
        sums = np.where(computed, self.values[rows, :, columns], 0).sum(0)
        counts = computed.sum(0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        index, columns = (pd.Index(models, tupleize_cols=False) for models in (self.models_a, self.models_b))
        return pd.DataFrame(means, index, columns.rename(self.measure))

    def to_frame(self):
        """Return a data frame with one row for each computed value.

        Its columns are model_a, layer_a, model_b, layer_b, measure, value and same_model. same_model is true where a
        model is compared with itself; exclude these rows from means over pairs of models.
        """
        import pandas as pd  # imported here: `import symjax` does not need it

        where = np.nonzero(self.computed)
        layer_a, model_a, layer_b, model_b = (
            [labels[i] for i in indices] for labels, indices in zip(self._labels(), where, strict=True)
        )
        columns = {"model_a": model_a, "layer_a": layer_a, "model_b": model_b, "layer_b": layer_b}
        values = {"measure": self.measure, "value": self.values[where]}
        return pd.DataFrame({**columns, **values, "same_model": self.one_set & (where[1] == where[3])})

    def _labels(self):
        return self.layers_a, self.models_a, self.layers_b, self.models_b


def position(name, label, labels):
    """Return the index of `label` in `labels`, or raise an `InputError` about the argument `name`."""
    if not can_be_key(label) or label not in labels:
        shown = ", ".join(map(repr, labels[:20])) + (", ..." if len(labels) > 20 else "")
        raise InputError(f"{name}: got {short(label)}, expected one of {shown}")
    return labels.index(label)
