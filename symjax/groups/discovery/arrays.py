"""Arrays of labels, and how operations that move, join or split dimensions change them.

See `symjax.groups.discovery.labels`, and the example of attention there. A variable has a list of arrays, one for each
dimension; None for dimensions of size 1.
"""

from collections import defaultdict

import numpy as np


class LabelArrays:
    """Make labels, and record how they are related.

    Attributes:
      count: the number of labels.
    """

    def __init__(self):
        self.count = 0
        self._ties, self._frozen, self._excluded, self._merged = [], [], [], []

    def fresh(self, shape, d, depends=()):
        """Return new labels for dimension d, others for each index along the dimensions `depends`."""
        if shape[d] == 1:
            return None
        sizes = [size if i == d or i in depends else 1 for i, size in enumerate(shape)]
        start, self.count = self.count, self.count + int(np.prod(sizes))
        return np.arange(start, self.count).reshape(sizes)

    def fresh_all(self, v):
        return [self.fresh(v.aval.shape, d) for d in range(len(getattr(v.aval, "shape", ())))]

    def freeze(self, arrays):
        self._frozen += [array for array in arrays if array is not None]
        return arrays

    def tie(self, a, b):
        self._ties.append(np.stack([np.ravel(side) for side in np.broadcast_arrays(a, b)]))

    def einsum(self, operands, out):
        """Return the labels of an einsum of operands (arrays, names of dimensions), with dimensions `out`."""
        names = list(dict.fromkeys([*out, *(name for _, labels in operands for name in labels)]))
        result = {}
        lifted = defaultdict(list)
        for arrays, labels in operands:
            order = sorted(range(len(labels)), key=lambda i, labels=labels: names.index(labels[i]))
            for array, label in zip(arrays, labels, strict=True):
                if array is not None:
                    missing = [i for i, name in enumerate(names) if name not in labels]
                    lifted[label].append(np.expand_dims(array.transpose(order), missing))
        for label, arrays in lifted.items():
            least = min(arrays, key=lambda array: array.size)
            for array in arrays:
                if array is not least:
                    self.tie(array, least)
            if label in out:
                result[label] = self.squeezed(least, [i for i, name in enumerate(names) if name not in out])
        return [result.get(name) for name in out]

    def squeezed(self, array, dims, keep=False):
        """Return labels that do not depend on the dimensions `dims`, by tying those of all indices along them."""
        for i in dims:
            if array.shape[i] > 1:
                first = np.take(array, [0], i)
                self.tie(array, first)
                array = first
        return array if keep else array.squeeze(tuple(dims)) if array.ndim else array

    def _filled(self, arrays, shape):
        """Return the arrays with new labels for dimensions that have none."""
        return [self.fresh(shape, d) if array is None else array for d, array in enumerate(arrays)]

    def _take(self, arrays, indices):
        """Return the labels at the positions `indices` {dimension: array}, new ones at -1."""
        for axis, index in indices.items():
            new = (index < 0).any()
            for d, array in enumerate(arrays):
                if array is None or (d != axis and array.shape[axis] == 1):
                    if d == axis and len(index) > 1:  # a dimension of size 1 that grew
                        shape = [1] * len(arrays)
                        shape[axis] = len(index)
                        arrays = [*arrays[:d], self.fresh(shape, axis), *arrays[d + 1 :]]
                    continue
                if d != axis and new:
                    array = self.squeezed(array, [axis], keep=True)
                else:
                    array = np.take(array, np.maximum(index, 0), axis)
                    if new:
                        shape = [len(index) if i == axis else 1 for i in range(len(arrays))]
                        array = np.where((index < 0).reshape(shape), self.fresh(shape, axis), array)
                    if d == axis and len(index) == 1:
                        array = None
                arrays = [*arrays[:d], array, *arrays[d + 1 :]]
        return arrays

    def _concatenate(self, operands, shapes, axis):
        rank, result = len(shapes[0]), []
        for d in range(rank):
            arrays = [
                ids[d] if ids[d] is not None else self.fresh([*shape[:d], 2, *shape[d + 1 :]], d)[_first(rank, d)]
                for ids, shape in zip(operands, shapes, strict=True)
                if ids[d] is not None or d == axis
            ]
            if not arrays:
                result.append(None)
            elif d == axis:
                common = np.broadcast_shapes(*(np.take(array, [0], axis).shape for array in arrays))
                wide = [
                    np.broadcast_to(a, [a.shape[i] if i == axis else n for i, n in enumerate(common)]) for a in arrays
                ]
                result.append(np.concatenate(wide, axis))
            else:
                arrays = [self.squeezed(array, [axis], keep=True) for array in arrays]
                for array in arrays[1:]:
                    self.tie(array, arrays[0])
                result.append(min(arrays, key=lambda array: array.size))
        return result

    def _where_whole(self, operands, out):
        """Return the labels of `out`: tie dimensions that it holds whole, and freeze the others.

        Operands are (arrays, shape, dimension in `out` or None for each dimension).
        """
        result = self.fresh_all(out)
        for arrays, shape, dims in operands:
            partial = [d for d, to in enumerate(dims) if to is None or shape[d] != out.aval.shape[to]]
            self.freeze([arrays[d] for d in partial])
            self.freeze([result[dims[d]] for d in partial if dims[d] is not None])
            for d, to in enumerate(dims):
                if d not in partial and arrays[d] is not None:
                    self.tie(self.squeezed(arrays[d], [i for i in range(len(dims)) if i != d]), result[to].ravel())
        return result

    def _reshape(self, arrays, before, after):
        """Return the labels after a reshape; record parts and wholes where dimensions are split or merged.

        (5, 6) to (5, 2, 3) has the segments ([0], [0]) and ([1], [1, 2]). In the second, the six labels of the operand
        are those of the last dimension, one row for each head, and the heads are new labels, their parents. In the
        reverse reshape, the labels of the last dimension are those of the merged one if each head has its own;
        otherwise the merged dimension has new labels, which are excluded from the spaces.
        """
        segments = _segments(before, after)
        result = [None] * len(after)

        def moved(array, whole=None):
            """Return an array in the new dimensions; it depends on all dimensions of a segment or on none."""
            sizes, full = [], list(array.shape)
            for taken, made in segments:
                depends = taken == whole or any(array.shape[i] > 1 for i in taken)
                for i in taken:
                    full[i] = before[i] if depends else 1
                sizes += [after[j] if depends else 1 for j in made]
            return np.broadcast_to(array, full).reshape(sizes)

        for taken, made in segments:
            wide, new = [i for i in taken if before[i] > 1], [j for j in made if after[j] > 1]
            if len(wide) == len(new) == 1:
                result[new[0]] = moved(arrays[wide[0]])
            elif len(wide) == 1:
                children = result[new[-1]] = moved(arrays[wide[0]])
                key = tuple(after[j] for j in new)
                for slot, j in enumerate(new[:-1]):
                    result[j] = self.fresh(after, j, new[:slot])
                    self._merge(children, result[j], key, slot)
            elif len(new) == 1:
                last, key = arrays[wide[-1]], tuple(before[i] for i in wide)
                own = all(last.shape[i] > 1 for i in wide)
                children = result[new[0]] = moved(last) if own else self.fresh(after, new[0])
                if not own:
                    self._excluded.append(children)
                for slot, i in enumerate(wide[:-1] if own else wide):
                    self._merge(children, moved(arrays[i], taken), key, slot)
            else:
                self.freeze([arrays[i] for i in wide])
                for j in new:
                    result[j] = self.fresh(after, j)
                self.freeze([result[j] for j in new])
        return result

    def _merge(self, children, parents, key, slot):
        """Record the parents of children; those of one child by the same factors of a reshape are tied later."""
        children, parents = (np.ravel(side) for side in np.broadcast_arrays(children, parents))
        self._merged.append((hash((key, slot)), children, parents))


def _first(rank, d):
    return tuple(slice(0, 1) if i == d else slice(None) for i in range(rank))


def _segments(before, after):
    """Return the shortest runs of dimensions (of the operand, of the result) with equal numbers of elements."""
    segments, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        taken, made, a, b = [], [], 1, 1
        while True:
            if (a <= b and i < len(before)) or j == len(after):
                taken.append(i)
                a, i = a * before[i], i + 1
            else:
                made.append(j)
                b, j = b * after[j], j + 1
            if a == b and ((taken and made) or a == 1):
                break
        segments.append((taken, made))
    return segments
