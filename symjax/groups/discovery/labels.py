"""Labels of channels: which positions on which axes of a jaxpr's variables are one channel.

Every dimension of every variable has an array of labels, one for each position. An operation ties labels (the channel
that is read is the channel that was written), makes new ones, or freezes them where it treats the positions of a
dimension differently. The array for dimension d has the variable's rank: its size at d is the dimension's, elsewhere 1,
or the full size where the labels along d depend on the index along another dimension. The channels of attention heads
are such: each head has its own.

A reshape that merges dimensions, or splits one, relates labels as part and whole: a position of (head x channel) is a
channel with the head as its parent. What permutes heads also moves their channels.
"""

from collections import defaultdict

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ELEMENTWISE = set(
    "add add_any sub mul div rem max min pow exp exp2 log tanh sinh cosh tan sin cos asin acos atan atan2 asinh acosh "
    "atanh logistic erf erfc erf_inv lgamma digamma rsqrt sqrt cbrt neg abs sign floor ceil round integer_pow "
    "convert_element_type select_n stop_gradient name copy copy_p square gt lt ge le eq ne and or xor not is_finite "
    "clamp optimization_barrier log1p expm1 nextafter reduce_precision real imag conj square".split()
)
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}


class Labels:
    """Labels of all dimensions of a flat jaxpr (no calls), and what its operations say of them.

    Args:
      closed: the jaxpr; its first `leaves` inputs are parameters, the others are data, whose order is fixed.
      batched: (leaf, dimension) pairs of parameters whose other dimensions have labels for each index of their own.
    """

    def __init__(self, closed: ClosedJaxpr, leaves: int, batched: frozenset[tuple[int, int]] = frozenset()):
        self.count = 0
        self.of: dict = {}  # variable to a list of arrays, None for dimensions of size 1
        self.reads: list = []  # (leaf, labels) where a contraction with data reads channels along the leaf's axis
        self.batch: list = []  # labels of batch dimensions of contractions
        self.nested: list = []  # (children, parents), broadcast, of labels that depend on another dimension
        self._ties, self._frozen, self._dead, self._merged, self._origin = [], [], [], [], {}
        jaxpr = closed.jaxpr
        for leaf, v in enumerate(jaxpr.invars):
            self._origin[v] = leaf if leaf < leaves else None
            deep = [d for d in range(v.aval.ndim) if (leaf, d) in batched]
            ids = [
                self.fresh(v.aval.shape, d, [b for b in deep if b != d and d not in deep]) for d in range(v.aval.ndim)
            ]
            for d, array in enumerate(ids):
                self.nested += [
                    np.broadcast_arrays(array, ids[b])
                    for b in deep
                    if array is not None and ids[b] is not None and b != d and d not in deep
                ]
            self.of[v] = ids if leaf < leaves else self.freeze(ids)
        for v, value in zip(jaxpr.constvars, closed.consts, strict=True):
            self.of[v] = ids = self.fresh_all(v)
            value = np.asarray(value) if jax.numpy.issubdtype(value.dtype, np.number) else None
            for d in range(v.aval.ndim):  # a constant that varies along a dimension fixes the order of its positions
                if value is None or not (value == np.take(value, [0], d)).all():
                    self.freeze([ids[d]])
        for equation in jaxpr.eqns:
            sources = {self._origin.get(a) for a in equation.invars if not isinstance(a, Literal)}
            outs = self._operation(equation.primitive.name, equation)
            for v, ids in zip(equation.outvars, outs, strict=True):
                self.of[v] = ids
                self._origin[v] = sources.copy().pop() if len(sources) == 1 else None
        for v in jaxpr.outvars:
            if not isinstance(v, Literal):
                self.freeze(self.of[v])
        self._resolve()

    # --- making and tying ---

    def fresh(self, shape, d, depends=()):
        """New labels for dimension d, for each index along the dimensions `depends`."""
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
        """The labels of what sums products of operands [(arrays, names of dimensions)] over the names not in `out`."""
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
        """Without dependence on the dimensions `dims`."""
        for i in dims:
            if array.shape[i] > 1:
                first = np.take(array, [0], i)
                self.tie(array, first)
                array = first
        return array if keep else array.squeeze(tuple(dims)) if array.ndim else array

    # --- operations ---

    def _ids(self, atom):
        if isinstance(atom, Literal) or atom not in self.of:
            return self.fresh_all(atom)
        return self.of[atom]

    def _operation(self, name, equation):
        ins, outs, params = equation.invars, equation.outvars, equation.params
        shape, rank = outs[0].aval.shape if outs else (), len(getattr(outs[0].aval, "shape", ())) if outs else 0
        if any(0 in getattr(v.aval, "shape", ()) for v in [*ins, *outs]):
            name = "empty"
        if name in ELEMENTWISE:
            if name == "optimization_barrier":
                return [self._ids(v) for v in ins]
            full = [(self._ids(v), range(rank)) for v in ins if v.aval.ndim == rank]
            for v in ins:
                if 0 < v.aval.ndim < rank:
                    self.freeze(self._ids(v))
            return [self._filled(self.einsum(full, range(rank)), shape)]
        if name == "dot_general":
            return [self._dot(equation)]
        if name == "conv_general_dilated":
            return [self._convolution(equation)]
        if name == "broadcast_in_dim":
            return [
                self._filled(self.einsum([(self._ids(ins[0]), params["broadcast_dimensions"])], range(rank)), shape)
            ]
        if name == "transpose":
            return [self.einsum([(self._ids(ins[0]), range(rank))], params["permutation"])]
        if name == "squeeze" or name in REDUCTIONS:
            gone = params["dimensions" if name == "squeeze" else "axes"]
            kept = [d for d in range(ins[0].aval.ndim) if d not in gone]
            return [self.einsum([(self._ids(ins[0]), range(ins[0].aval.ndim))], kept)]
        if name == "reshape" and params.get("dimensions") is None:
            return [self._reshape(self._ids(ins[0]), ins[0].aval.shape, shape)]
        if name in ("slice", "rev", "pad"):
            return [self._take(self._ids(ins[0]), _indices(name, params, ins[0].aval.shape))]
        if name == "split":
            stops = np.cumsum(params["sizes"])
            pieces = np.split(np.arange(stops[-1]), stops[:-1])
            return [self._take(self._ids(ins[0]), {params["axis"]: piece}) for piece in pieces]
        if name == "concatenate":
            return [self._concatenate([self._ids(v) for v in ins], [v.aval.shape for v in ins], params["dimension"])]
        if name.startswith(("reduce_window", "dynamic_slice", "dynamic_update_slice")):
            operands = ins[:2] if name == "dynamic_update_slice" else ins[:1]
            return [self._where_whole([(self._ids(v), v.aval.shape, range(rank)) for v in operands], outs[0])]
        if name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"):
            ids = self.einsum([(self._ids(ins[0]), range(rank))], range(rank))
            self.freeze([ids[params["axis"]]])
            return [ids]
        if name == "gather":
            return [self._gather(equation)]
        if name == "iota":
            ids = self.fresh_all(outs[0])
            self.freeze([ids[params["dimension"]]])
            return [ids]
        for v in ins:
            self.freeze(self._ids(v))
        return [self.freeze(self.fresh_all(v)) for v in outs]

    def _filled(self, arrays, shape):
        """New labels where an operation made a dimension."""
        return [self.fresh(shape, d) if array is None else array for d, array in enumerate(arrays)]

    def _note_reads(self, weights, data, arrays):
        leaf = None if isinstance(weights, Literal) else self._origin.get(weights)
        if leaf is not None and (isinstance(data, Literal) or self._origin.get(data) != leaf):
            self.reads += [(leaf, array) for array in arrays if array is not None]

    def _dot(self, equation):
        (lc, rc), (lb, rb) = equation.params["dimension_numbers"]
        left, right = equation.invars[:2]
        names = [[("l", d) for d in range(left.aval.ndim)], [("r", d) for d in range(right.aval.ndim)]]
        for i, (a, b) in enumerate([*zip(lb, rb, strict=True), *zip(lc, rc, strict=True)]):
            names[0][a] = names[1][b] = ("s", i)
        ids = self._ids(left), self._ids(right)
        self.batch += [ids[0][d] for d in lb if ids[0][d] is not None]
        self._note_reads(left, right, [ids[0][d] for d in lc])
        self._note_reads(right, left, [ids[1][d] for d in rc])
        batch = [names[0][d] for d in lb]
        free = [name for side in names for name in side if name[0] != "s"]
        return self.einsum(list(zip(ids, names, strict=True)), [*batch, *free])

    def _convolution(self, equation):
        image, kernel = equation.invars
        lhs, rhs, out = (equation.params["dimension_numbers"][i] for i in range(3))
        arrays, groups = [self._ids(image), self._ids(kernel)], equation.params["feature_group_count"]
        depthwise = groups > 1 and groups == image.aval.shape[lhs[1]] == kernel.aval.shape[rhs[0]]
        if (groups > 1 and not depthwise) or equation.params["batch_group_count"] > 1:
            for ids in arrays:
                self.freeze(ids)
            return self.freeze(self.fresh_all(equation.outvars[0]))
        for ids, dims in zip(arrays, (lhs, rhs), strict=True):
            self.freeze([ids[d] for d in dims[2:]])
        if not depthwise:
            self._note_reads(kernel, image, [arrays[1][rhs[1]]])
        names = {lhs[0]: "n", lhs[1]: "c"}, {rhs[0]: "c" if depthwise else "o", rhs[1]: "one" if depthwise else "c"}
        operands = [
            (ids, [known.get(d, (side, d)) for d in range(len(ids))])
            for side, (known, ids) in enumerate(zip(names, arrays, strict=True))
        ]
        made = {out[0]: "n", out[1]: "c" if depthwise else "o"}
        result = self.einsum(operands, [made.get(d, ("pixel", d)) for d in range(len(out))])
        result = self._filled(result, equation.outvars[0].aval.shape)
        self.freeze([result[d] for d in out[2:]])
        return result

    def _take(self, arrays, indices):
        """Positions `indices` {dimension: array}, -1 for a new one."""
        for at, index in indices.items():
            new = (index < 0).any()
            for d, array in enumerate(arrays):
                if array is None or (d != at and array.shape[at] == 1):
                    if d == at and len(index) > 1:  # a dimension of size 1 that grew
                        shape = [1] * len(arrays)
                        shape[at] = len(index)
                        arrays = [*arrays[:d], self.fresh(shape, at), *arrays[d + 1 :]]
                    continue
                if d != at and new:
                    array = self.squeezed(array, [at], keep=True)
                else:
                    array = np.take(array, np.maximum(index, 0), at)
                    if new:
                        shape = [len(index) if i == at else 1 for i in range(len(arrays))]
                        array = np.where((index < 0).reshape(shape), self.fresh(shape, at), array)
                    if d == at and len(index) == 1:
                        array = None
                arrays = [*arrays[:d], array, *arrays[d + 1 :]]
        return arrays

    def _concatenate(self, operands, shapes, at):
        rank, result = len(shapes[0]), []
        for d in range(rank):
            arrays = [
                ids[d] if ids[d] is not None else self.fresh([*shape[:d], 2, *shape[d + 1 :]], d)[_first(rank, d)]
                for ids, shape in zip(operands, shapes, strict=True)
                if ids[d] is not None or d == at
            ]
            if not arrays:
                result.append(None)
            elif d == at:
                common = np.broadcast_shapes(*(np.take(array, [0], at).shape for array in arrays))
                wide = [
                    np.broadcast_to(a, [a.shape[i] if i == at else n for i, n in enumerate(common)]) for a in arrays
                ]
                result.append(np.concatenate(wide, at))
            else:
                arrays = [self.squeezed(array, [at], keep=True) for array in arrays]
                for array in arrays[1:]:
                    self.tie(array, arrays[0])
                result.append(min(arrays, key=lambda array: array.size))
        return result

    def _where_whole(self, operands, out):
        """Ties the dimensions that pass whole, from operands (arrays, shape, their dimensions in `out`)."""
        result = self.fresh_all(out)
        for arrays, shape, dims in operands:
            partial = [d for d, to in enumerate(dims) if to is None or shape[d] != out.aval.shape[to]]
            self.freeze([arrays[d] for d in partial])
            self.freeze([result[dims[d]] for d in partial if dims[d] is not None])
            for d, to in enumerate(dims):
                if d not in partial and arrays[d] is not None:
                    self.tie(self.squeezed(arrays[d], [i for i in range(len(dims)) if i != d]), result[to].ravel())
        return result

    def _gather(self, equation):
        numbers = equation.params["dimension_numbers"]
        operand, indices = equation.invars
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        offset = iter(numbers.offset_dims)
        dims = [None if d in gone else next(offset) for d in range(operand.aval.ndim)]
        self.freeze(self._ids(indices))
        result = self._where_whole([(self._ids(operand), operand.aval.shape, dims)], equation.outvars[0])
        self.freeze([ids for d, ids in enumerate(result) if d not in numbers.offset_dims])
        return result

    def _reshape(self, arrays, before, after):
        segments = _segments(before, after)
        result = [None] * len(after)

        def moved(array, whole=None):
            """In the new dimensions, which it depends on by segments."""
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
                    self._dead.append(children)
                for slot, i in enumerate(wide[:-1] if own else wide):
                    self._merge(children, moved(arrays[i], taken), key, slot)
            else:
                self.freeze([arrays[i] for i in wide])
                for j in new:
                    result[j] = self.fresh(after, j)
                self.freeze([result[j] for j in new])
        return result

    def _merge(self, children, parents, key, slot):
        children, parents = (np.ravel(side) for side in np.broadcast_arrays(children, parents))
        self._merged.append((hash((key, slot)), children, parents))

    # --- what they come to ---

    def _resolve(self):
        """Classes of labels: `classes` (count,), `alive`, `parents` {class: classes}."""
        edges = np.concatenate([np.zeros((2, 0), int), *self._ties], axis=1)
        while True:
            ones = np.ones(edges.shape[1], bool)
            graph = coo_array((ones, (edges[0], edges[1])), shape=(self.count, self.count))
            number, self.classes = connected_components(graph, directed=False)
            first, more = {}, []
            for key, children, parents in self._merged:  # parents of one channel, of one kind, are one
                pairs = np.unique(np.stack([self.classes[children], self.classes[parents]]), axis=1)
                for child, parent in pairs.T.tolist():
                    known = first.setdefault((key, child), parent)
                    if known != parent:
                        more.append((known, parent))
            if not more:
                break
            lowest = np.zeros(number, int)
            lowest[self.classes[::-1]] = np.arange(self.count)[::-1]
            edges = np.concatenate([edges, lowest[np.array(more).T]], axis=1)
        self.parents = defaultdict(set)
        for (_, child), parent in first.items():
            self.parents[child].add(parent)
        frozen = np.zeros(number, bool)
        for array in self._frozen:
            frozen[self.classes[array.ravel()]] = True
        while True:  # an order that is fixed fixes that of its parts' wholes
            above = [p for child in np.flatnonzero(frozen) for p in self.parents.get(child, ()) if not frozen[p]]
            if not above:
                break
            frozen[above] = True
        self.alive = ~frozen
        for array in self._dead:
            self.alive[self.classes[array.ravel()]] = False

    def rows(self, v, d):
        """The classes along dimension d, for each index that they depend on: [({dimension: index}, classes)]."""
        array = self.of[v][d]
        if array is None:
            return []
        classes = np.moveaxis(self.classes[array], d, -1)
        others = [i for i in range(array.ndim) if i != d]
        return [
            ({others[i]: at for i, at in enumerate(index) if classes.shape[i] > 1}, classes[index])
            for index in np.ndindex(classes.shape[:-1])
        ]


def _first(rank, d):
    return tuple(slice(0, 1) if i == d else slice(None) for i in range(rank))


def _indices(name, params, shape):
    """For each dimension that changes, the positions of the operand that the result holds, -1 for none of them."""
    if name == "rev":
        return {d: np.arange(shape[d])[::-1] for d in params["dimensions"]}
    result = {}
    for d, size in enumerate(shape):
        if name == "slice":
            stride = params["strides"][d] if params["strides"] else 1
            index = np.arange(params["start_indices"][d], params["limit_indices"][d], stride)
        else:
            low, high, interior = params["padding_config"][d]
            index = np.full((size - 1) * (interior + 1) + 1, -1)
            index[:: interior + 1] = np.arange(size)
            index = np.pad(index, (max(low, 0), max(high, 0)), constant_values=-1)
            index = index[max(-low, 0) : len(index) - max(-high, 0)]
        if len(index) != size or (index != np.arange(size)).any():
            result[d] = index
    return result


def _segments(before, after):
    """Shortest runs of dimensions (of the operand, of the result) with equal products."""
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
