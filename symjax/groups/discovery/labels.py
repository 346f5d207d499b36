"""Labels of channels: which positions on which axes of a jaxpr's variables are one channel.

Every dimension of every variable has an array of labels, one for each position. An operation ties labels (the channel
that is read is the channel that was written), makes new ones, or freezes them if it treats the positions of a dimension
differently. The array for dimension d has the variable's rank. Its size is that of the variable at d and 1 elsewhere,
except along dimensions on whose index the labels depend: each attention head, for example, has its own channels.

A reshape that merges dimensions, or splits one, relates labels as part and whole: a position of (head x channel) is a
channel with the head as its parent. A permutation of heads also moves their channels.

Example: attention with 2 heads of 3 channels, tokens x (5, 4), and parameters q, k, v (4, 6) and o (6, 4). Write q0 to
q5 for the labels of dimension 1 of q, in the same way for k and v, and o0 to o5 for those of dimension 0 of o.

    operation                    result     labels
    x @ q                        (5, 6)     dimension 1: [q0 ... q5], of shape (1, 6)
    reshape                      (5, 2, 3)  dimension 1: new labels [h0 h1], (1, 2, 1); dimension 2: [[q0 q1 q2] [q3 q4
                                            q5]], (1, 2, 3), which depend on the head. h0 is the parent of q0, q1, q2.
    the same for k and v                    h0' and h1' for k, h0" and h1" for v
    scores, softmax              (2, 5, 5)  the contraction ties q0 to k0, ..., q5 to k5; heads are a batch dimension,
                                            which ties h0 to h0' and h1 to h1'. Dimensions 1 and 2 are tokens.
    weights times values         (5, 2, 3)  ties h0 to h0" and h1 to h1"; dimension 2: [[v0 v1 v2] [v3 v4 v5]]
    reshape                      (5, 6)     dimension 1: [v0 ... v5], with the parents h0" and h1" again
    @ o                          (5, 4)     ties v0 to o0, ..., v5 to o5. The output and the data x are frozen, hence
                                            dimension 0 of q, k, v and dimension 1 of o.

The classes of tied labels (`Labels.classes`) that are not frozen are {qi, ki} and {vi, oi} for each i, and {h0, h0',
h0"} and {h1, h1', h1"}, the parents of the former. `candidates` makes spaces of them.
"""

from collections import defaultdict

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from symjax.groups.discovery.arrays import LabelArrays
from symjax.jaxprs import ELEMENTWISE

REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}


class Labels(LabelArrays):
    """Labels of all dimensions of a flat jaxpr (no calls), as its operations relate them.

    Args:
      closed: the jaxpr; its first `leaves` inputs are parameters, the others are data, whose order is fixed.
      batched: (leaf, dimension) pairs of parameters; labels along other dimensions differ for each index along these.
    """

    def __init__(self, closed: ClosedJaxpr, leaves: int, batched: frozenset[tuple[int, int]] = frozenset()):
        super().__init__()
        self.of: dict = {}  # variable to a list of arrays, None for dimensions of size 1
        self.reads: list = []  # (leaf, labels) where a contraction with data reads channels along the leaf's axis
        self.batch: list = []  # labels of batch dimensions of contractions
        self.nested: list = []  # (children, parents), broadcast, of labels that depend on another dimension
        self._origin: dict = {}
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
            for d in range(v.aval.ndim):  # a constant that varies along a dimension fixes the order there
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
            removed = params["dimensions" if name == "squeeze" else "axes"]
            kept = [d for d in range(ins[0].aval.ndim) if d not in removed]
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

    def _note_reads(self, weights, data, arrays):
        leaf = None if isinstance(weights, Literal) else self._origin.get(weights)
        if leaf is not None and (isinstance(data, Literal) or self._origin.get(data) != leaf):
            self.reads += [(leaf, array) for array in arrays if array is not None]

    def _dot(self, equation):
        """Tie the contracted and the batch dimensions of both sides, such as channels and heads of q and k."""
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

    def _gather(self, equation):
        numbers = equation.params["dimension_numbers"]
        operand, indices = equation.invars
        removed = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        offset = iter(numbers.offset_dims)
        dims = [None if d in removed else next(offset) for d in range(operand.aval.ndim)]
        self.freeze(self._ids(indices))
        result = self._where_whole([(self._ids(operand), operand.aval.shape, dims)], equation.outvars[0])
        self.freeze([ids for d, ids in enumerate(result) if d not in numbers.offset_dims])
        return result

    # --- classes of tied labels ---

    def _resolve(self):
        """Set `classes` (count,), the class of each label; `usable`, of each class; and `parents` {class: classes}.

        Where one class of children has parents by several reshapes, as q0 = k0 has h0 and h0', these are tied as well.
        """
        from scipy.sparse import coo_array  # imported here for a fast --help
        from scipy.sparse.csgraph import connected_components

        edges = np.concatenate([np.zeros((2, 0), int), *self._ties], axis=1)
        while True:
            ones = np.ones(edges.shape[1], bool)
            graph = coo_array((ones, (edges[0], edges[1])), shape=(self.count, self.count))
            number, self.classes = connected_components(graph, directed=False)
            first, more = {}, []
            for key, children, parents in self._merged:  # parents of one kind of a channel are tied
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
        while True:  # a frozen part freezes the wholes that it belongs to
            above = [p for child in np.flatnonzero(frozen) for p in self.parents.get(child, ()) if not frozen[p]]
            if not above:
                break
            frozen[above] = True
        self.usable = ~frozen
        for array in self._excluded:
            self.usable[self.classes[array.ravel()]] = False

    def rows(self, v, d):
        """Return the classes along dimension d for each index on which they depend: [({dimension: index}, classes)].

        For dimension 2 of (5, 2, 3) in the example: [({1: 0}, classes of q0 q1 q2), ({1: 1}, classes of q3 q4 q5)].
        """
        array = self.of[v][d]
        if array is None:
            return []
        classes = np.moveaxis(self.classes[array], d, -1)
        others = [i for i in range(array.ndim) if i != d]
        return [
            ({others[i]: position for i, position in enumerate(index) if classes.shape[i] > 1}, classes[index])
            for index in np.ndindex(classes.shape[:-1])
        ]


def _indices(name, params, shape):
    """Return {dimension that changes: the operand's positions in the result, -1 for new positions}."""
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
