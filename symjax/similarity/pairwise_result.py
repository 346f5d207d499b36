"""What `pairwise` returns: values with their labels."""

from dataclasses import dataclass, field

import numpy as np

from symjax.checks import can_be_key, short
from symjax.errors import InputError
from symjax.spelling import one_line


@dataclass(frozen=True)
class Pairwise:
    """A measure between every layer of every model of side a and every layer of every model of side b.

    values: (layers a, models a, layers b, models b): `values[k, i, l, j]` is the measure of layer k of model i (its
        first argument) and layer l of model j. NaN where it was not computed, and where it is not defined.
    computed: of the same shape, which were computed: what tells both kinds of NaN apart.
    one_set: whether side b is side a, so that models of one label are one model.
    """

    measure: str
    values: np.ndarray = field(repr=False)
    computed: np.ndarray = field(repr=False)
    layers_a: tuple
    models_a: tuple
    layers_b: tuple
    models_b: tuple
    one_set: bool = False

    __repr__ = one_line

    def select(self, *, layer_a=None, model_a=None, layer_b=None, model_b=None):
        """`values` at the labels given; their axes are left out, the others stay in order.

        Raises:
            InputError: a label that is not there.
        """
        given = (("layer_a", layer_a), ("model_a", model_a), ("layer_b", layer_b), ("model_b", model_b))
        index = tuple(
            slice(None) if label is None else position(name, label, labels)
            for (name, label), labels in zip(given, self._labels(), strict=True)
        )
        return self.values[index]

    def to_frame(self):
        """One row for each computed value: model_a, layer_a, model_b, layer_b, measure, value, same_model.

        same_model is true where a model is compared with itself: of means over pairs of models take these rows out.
        """
        import pandas as pd  # not above: `import symjax` goes without it

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
    """Where `label` is among `labels`, or an `InputError` about the argument `name`."""
    if not can_be_key(label) or label not in labels:
        shown = ", ".join(map(repr, labels[:20])) + (", ..." if len(labels) > 20 else "")
        raise InputError(f"{name}: {short(label)} is not known; there are {shown}")
    return labels.index(label)
