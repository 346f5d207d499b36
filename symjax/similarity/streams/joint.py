"""States of `pairwise_batches`: one for all pairs of layers, or one for each pair."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from symjax.errors import InputError
from symjax.similarity.hsic import min_examples_of
from symjax.similarity.inputs import enlarge, matrix_of
from symjax.similarity.pairwise import pairwise
from symjax.similarity.streams.exact_cka import MAX_FEATURES, add_sums, no_sums, values_of
from symjax.similarity.streams.moments import add_batch, centered, centered_neurons, zero_moments
from symjax.similarity.streams.stream import require_samples


class JointState:
    """The state of layers with as many samples, and its values for the pairs of these layers.

    Args:
        keys: (model, layer) of each side.
        samples: how tokens and maps become matrices; see `as_matrix`.
        size: the size to which maps are enlarged; () for none.
    """

    def __init__(self, keys, samples, size):
        self.keys, self._samples, self._size, self._state = keys, samples, size, None

    def update(self, arrays):
        """Add a batch {key: representation}."""
        sides = _matrices([arrays[key] for key in self.keys], self._samples, self._size)
        if self._state is None:
            widths = [side.shape[1] for side in sides]
            if sum(widths) > MAX_FEATURES:
                raise InputError(
                    f"batches: got {sum(widths)} features in {len(widths)} layers, expected at most {MAX_FEATURES} in "
                    "all, since the state holds their products; use samples='pool', or fewer layers at a time"
                )
            self._state = self._zero(tuple(widths), sides[0].dtype)
        self._state = self._add(self._state, sides)

    def _zero(self, widths, dtype):
        raise NotImplementedError

    def _add(self, state, sides):
        raise NotImplementedError

    def _count(self, least):
        try:
            return require_samples(self._state.count, least, "examples")
        except InputError as error:
            raise InputError(str(error).replace("state:", "batches:")) from None


class JointMoments(JointState):
    """Means and second moments, for measures that depend on nothing else."""

    def _zero(self, widths, dtype):
        self._widths = widths
        return zero_moments(sum(widths), 0, dtype)

    def _add(self, state, sides):
        return _add_joint(state, sides)

    def values(self, measure, options):
        """Return the values of a `Measure` for all pairs, (keys, keys)."""
        count = self._count(max(2, measure.min_examples))
        of_models = {}
        deviations = "translation" in measure.with_properties_of(options).invariances
        for (model, layer), side in zip(self.keys, self._data(deviations, count), strict=True):
            of_models.setdefault(model, {})[layer] = side
        result = pairwise(of_models, measure, **options)
        index = np.array([(result.layers_a.index(layer), result.models_a.index(model)) for model, layer in self.keys])
        return result.values[index[:, None, 0], index[:, None, 1], index[None, :, 0], index[None, :, 1]]

    def _data(self, deviations, count):
        """Return a matrix for each key: few samples with the sums of products of all, and proportional means, or 0.

        With R'R the sum of products of deviations, and H a reflection that maps the first unit vector to 1 / sqrt(n),
        the rows of H (0, R) have mean 0 and the same sum. There are fewer samples than `count`, but so many that no
        measure finds them too few, unless `count` is too small itself.
        """
        (factor, mean), _, _ = centered_neurons(self._state) if deviations else centered(self._state)
        dtype, factor, mean = np.dtype(factor.dtype), np.asarray(factor, np.float64), np.asarray(mean, np.float64)
        rows = min(count, max(len(factor) + 1, 2 * max(self._widths) + 2))
        if rows <= len(factor):  # its rank is lower
            _, values, vectors = np.linalg.svd(factor)
            factor = values[: rows - 1, None] * vectors[: rows - 1]
        data = np.zeros((rows, factor.shape[1]))
        data[1 : len(factor) + 1] = factor
        normal = np.full(rows, -1 / np.sqrt(rows))
        normal[0] += 1
        data -= np.outer(2 * normal / (normal @ normal), normal @ data)
        data += 0 if deviations else mean * np.sqrt(count / rows)
        return np.split(data.astype(dtype), np.cumsum(self._widths[:-1]), axis=1)


class JointSums(JointState):
    """Sums over pairs of examples, for CKA with the linear kernel."""

    def _zero(self, widths, dtype):
        return no_sums(widths, dtype)

    def _add(self, state, sides):
        return _add_sums(state, sides)

    def values(self, estimator):
        """Return CKA for all pairs, (keys, keys)."""
        self._count(min_examples_of(estimator))
        values = np.asarray(values_of(self._state, estimator))
        return np.where(np.tri(len(values), k=-1, dtype=bool), values.T, values)  # exactly symmetric


class PairStates:
    """A state of a `Stream` for each pair of layers."""

    def __init__(self, arrays, stream, symmetric):
        self.keys, self._stream, self._symmetric = list(arrays), stream, symmetric
        self._update = jax.jit(stream.update, donate_argnums=0)
        indices = range(len(self.keys))
        pairs = [(i, j) for i in indices for j in indices if i <= j or not symmetric]
        self._states = {pair: stream.init(*(arrays[self.keys[i]] for i in pair)) for pair in pairs}

    def update(self, arrays):
        """Add a batch {key: representation}."""
        for (i, j), state in self._states.items():
            self._states[i, j] = self._update(state, arrays[self.keys[i]], arrays[self.keys[j]])

    def values(self):
        """Return the values for all pairs, (keys, keys)."""
        values = {pair: np.asarray(self._stream.finalize(state)) for pair, state in self._states.items()}
        result = np.empty((len(self.keys),) * 2, next(iter(values.values())).dtype)
        for (i, j), value in values.items():
            result[i, j] = value
            if self._symmetric:
                result[j, i] = value
        return result


@partial(jax.jit, static_argnums=(1, 2))
def _matrices(arrays, samples, size):
    """Return representations as matrices of one dtype."""
    dtype = jnp.result_type(*arrays)
    return [matrix_of(enlarge(x, size) if size else x, samples).astype(dtype) for x in arrays]


@partial(jax.jit, donate_argnums=0)
def _add_joint(state, sides):
    joint = jnp.concatenate(sides, 1)
    return add_batch(state, joint, joint[:, :0], None)


_add_sums = jax.jit(add_sums, donate_argnums=0)
