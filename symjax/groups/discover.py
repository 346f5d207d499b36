"""Discover the symmetries of the parameters of any JAX function.

Three steps. Labels of channels in the jaxpr propose spaces of channels that can be permuted (`symjax.groups.labels`).
Gradients at random parameters and inputs propose by which powers of a channel's factor its parameters can be scaled: a
null space. Then the function is evaluated with parameters that a random element acted on, in float64: what changes it
is rejected.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from scipy.optimize import linprog

from symjax.errors import InputError
from symjax.groups.discovered import Axis, Discovered, Space
from symjax.groups.labels import Labels
from symjax.groups.matrix_groups import GROUPS
from symjax.jaxprs import REMATERIALIZATIONS, closed_body, evaluate, inline

TOLERANCE = 1e-9
"""The largest relative change of the function, in float64, that an element of a symmetry may cause."""

BLUR = 1e-4
"""Errors of exponents from a null space; those that are proposed are integer, and verified."""

CHECKS = 4
"""Random parameters, inputs and elements that verify a candidate."""

INLINED = {*REMATERIALIZATIONS, "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


def discover(fn: Callable, params: Any, x: Any, *, seed: int = 0) -> Discovered:
    """Return the symmetries of the parameters of `fn(params, x)`, each one verified in float64.

    Args:
      fn: any function in JAX that is pure, of parameters and inputs to a pytree of arrays.
      params: a pytree; its floating-point leaves are acted on. Of their values only the signs and scales matter: the
        symmetry is that of generic parameters, drawn around these.
      x: a pytree; a few examples suffice. Its floating-point leaves are drawn anew, all others stay as they are.
      seed: of what is drawn.

    Raises:
      InputError: `params` has no floating-point leaf, or the function no floating-point output or one that is NaN or
        infinite.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax.groups import discover
      >>> params = {"w": jnp.ones((4, 8)), "b": jnp.zeros(8), "v": jnp.ones((8, 3))}
      >>> symmetry = discover(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"], params, jnp.ones((5, 4)))
      >>> space = symmetry.spaces["w"]
      >>> space.size, space.group, {axis.path: axis.exponent for axis in space.axes}
      (8, 'positive_monomial', {'w': 1, 'b': 1, 'v': -1})
      >>> g = symmetry.sample(jax.random.key(0))
      >>> moved = symmetry.act(params, g)
    """
    with jax.enable_x64(True):
        return _discover(Probe(fn, params, x, seed))


class Probe:
    """A function as a flat jaxpr in float64, its labels, and evaluations at random parameters and inputs."""

    def __init__(self, fn, params, x, seed):
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(params)
        self.paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        self.rng, self.signed = np.random.default_rng(seed), True
        self._values = [_wide(leaf) for _, leaf in paths]
        self.real = [_is_real(leaf) for leaf in self._values]
        if not any(self.real):
            raise InputError("params: has no floating-point array, wanted one to act on")
        data, structure = jax.tree.flatten(x)
        self._data = [_wide(leaf) for leaf in data]

        def flat(*leaves):
            outputs = fn(self.treedef.unflatten(leaves[: len(paths)]), structure.unflatten(leaves[len(paths) :]))
            return [out for out in jax.tree.leaves(outputs) if _is_real(out)]

        closed = inline(jax.make_jaxpr(flat)(*self._values, *self._data), _in_float64)
        if not closed.jaxpr.outvars:
            raise InputError("fn: gives no floating-point array")
        self.closed, number = closed, len(paths)
        batch = Labels(closed, number)
        classes = {c for array in batch.batch for c in np.unique(batch.classes[array]).tolist()}
        batched = frozenset(
            (leaf, d)
            for leaf, v in enumerate(closed.jaxpr.invars[:number])
            for d in range(v.aval.ndim)
            if any(classes.intersection(row.tolist()) for _, row in batch.rows(v, d))
        )
        self.labels = Labels(closed, number, batched) if batched else batch
        self.points: dict = {}  # name to variable, the first of each name
        for equation in closed.jaxpr.eqns:
            if equation.primitive.name == "name":
                self.points.setdefault(equation.params["name"], equation.outvars[0])
        self.shapes = dict(zip(self.paths, map(jnp.shape, self._values), strict=True))
        used = {id(v): i for i, equation in reversed([*enumerate(closed.jaxpr.eqns)]) for v in equation.invars}
        self.order = [used.get(id(v), len(closed.jaxpr.eqns)) for v in closed.jaxpr.invars[:number]]
        jaxpr = closed.jaxpr.replace(
            outvars=[*closed.jaxpr.outvars, *self.points.values()],
            debug_info=closed.jaxpr.debug_info.with_unknown_names(),
        )
        extended, self._outputs = ClosedJaxpr(jaxpr, closed.consts), len(closed.jaxpr.outvars)

        def forward(params, data):
            return jax.core.eval_jaxpr(extended.jaxpr, extended.consts, *params, *data)

        def gradient(moving, params, data, cotangents):
            leaves = iter(moving)
            params = [next(leaves) if real else leaf for real, leaf in zip(self.real, params, strict=True)]
            outputs = evaluate(closed, [*params, *data], _differentiable)
            return sum(jnp.vdot(a, b) for a, b in zip(outputs, cotangents, strict=True))

        self._forward, self._gradient = jax.jit(forward), jax.jit(jax.grad(gradient))

    def draw(self) -> tuple[list, list]:
        """Random parameters and inputs at the scale of those given."""
        data = [leaf + self._noise(leaf) if _is_real(leaf) else leaf for leaf in self._data]
        return [self._parameter(leaf) if _is_real(leaf) else leaf for leaf in self._values], data

    def _noise(self, leaf):
        return self.rng.normal(size=leaf.shape) * (float(np.std(leaf)) or 1.0)

    def _parameter(self, leaf):
        """Vectors without a negative entry, such as variances, stay so; arrays of more dimensions where they must."""
        if not leaf.size or leaf.min() < 0 or not leaf.max():
            return leaf + 0.3 * self._noise(leaf)
        leaf = leaf + 0.3 * np.abs(self.rng.normal(size=leaf.shape))
        return leaf * self.rng.choice([-1, 1], leaf.shape) if self.signed and leaf.ndim > 1 else leaf

    def values(self, params, data) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """The function's outputs, and the values that it names."""
        values = [np.asarray(value) for value in self._forward(params, data)]
        return values[: self._outputs], dict(zip(self.points, values[self._outputs :], strict=True))

    def products(self) -> list[np.ndarray | None]:
        """Elementwise products of random parameters and the gradient of a random sum of the outputs, for each leaf."""
        params, data = self.draw()
        cotangents = [self.rng.normal(size=v.aval.shape) for v in self.closed.jaxpr.outvars]
        moving = [leaf for leaf, real in zip(params, self.real, strict=True) if real]
        gradients = iter(self._gradient(moving, params, data, cotangents))
        return [
            leaf * np.asarray(next(gradients)) if real else None for leaf, real in zip(params, self.real, strict=True)
        ]


def _discover(probe: Probe) -> Discovered:
    cells = _cells(probe)
    for probe.signed in (True, False):
        checks = [(*draw, *probe.values(*draw)) for draw in (probe.draw() for _ in range(CHECKS))]
        if all(np.isfinite(out).all() for check in checks for out in check[2]):
            break
    else:
        raise InputError("fn: gives NaN or infinite values in float64 near these parameters and inputs")
    products = [probe.products() for _ in range(_draws(cells))]
    if not all(np.isfinite(leaf).all() for product in products for leaf in product if leaf is not None):
        raise InputError("fn: its gradient has NaN or infinite values near these parameters and inputs")
    spaces, at = {}, defaultdict(dict)
    for cell in cells:
        space = None
        for group, exponents in _candidates(cell, products):
            axes = tuple(axis._replace(exponent=e) for axis, e in zip(cell.axes, exponents, strict=True))
            space = Space(cell.name, cell.size, group, axes, cell.consistent, cell.families)
            images = _images(probe, space, checks) if cell.consistent else None
            if images is not None:
                break
        if space is not None:
            spaces[cell.name] = space if images is not None else space._replace(verified=False)
            for point, where in cell.points.items() if images is not None else ():
                power = _power_at(point, space, where, images)
                if where is not None or power is None:
                    at[point][cell.name] = (where, power)
    points = {name: v.aval.shape[-1] for name, v in probe.points.items() if v.aval.ndim}
    return Discovered(spaces, probe.treedef, probe.shapes, points, dict(at))


def _images(probe, space, checks) -> list | None:
    """(matrix, named values before, after) for random elements of a space; None where one changes the function."""
    alone = Discovered({space.name: space._replace(families=())}, probe.treedef, probe.shapes, {}, {})
    images = []
    for params, data, outputs, named in checks:
        matrix = _element(probe.rng, space.group, space.size)
        moved = jax.tree.leaves(alone.act(probe.treedef.unflatten(params), {space.name: matrix}))
        after, images_of_named = probe.values(moved, data)
        if not _equal(outputs, after):
            return None
        images.append((matrix, named, images_of_named))
    return images


def _equal(before, after):
    pairs = zip(before, after, strict=True)
    return all(np.abs(a - b).max(initial=0) <= TOLERANCE * np.abs(a).max(initial=0) for a, b in pairs)


def _power_at(name, space, where, images):
    """The power of an element that acts on a named value; None where none does."""
    powers = (1, -1, 0, 2, -2, 3, -3, 4, -4) if where is not None else (0,)
    for power in powers:
        for matrix, before, after in images:
            expected = before[name]
            if where is not None:
                expected = space.along(expected, -1, where, matrix, power)
            if not _equal([after[name]], [expected]):
                break
        else:
            return power
    return None


def _element(rng, group, size) -> np.ndarray:
    """A random element of a group, and neither the identity nor without a sign."""
    if not GROUPS[group].monomial:
        first, second = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
        return first * (rng.uniform(0.5, 2, size) if group == "general_linear" else 1) @ second
    order = rng.permutation(size)
    order = np.roll(order, 1) if (order == np.arange(size)).all() else order
    entries = np.exp(rng.normal(size=size) - 0.5) if "monomial" in group else np.ones(size)
    if group in ("signed_permutation", "monomial"):
        entries *= np.where(rng.permutation(size) == 0, -1, rng.choice([-1, 1], size))
    return np.eye(size)[order] * entries[:, None]


# --- spaces from labels ---


class Cell:
    """Channels that labels allow to permute, before anything is verified."""

    def __init__(self, size, axes, reads, points):
        self.size, self.axes, self.reads, self.points = size, axes, reads, points
        self.name, self.families, self.consistent = "", (), True


def _cells(probe: Probe) -> list[Cell]:
    """Sets of channels that occur on the same axes of all variables, children before their parents."""
    labels = probe.labels
    rng, signature, rows = np.random.default_rng(0), np.zeros(labels.alive.shape, np.uint64), set()
    parents = defaultdict(set, {child: set(above) for child, above in labels.parents.items()})
    for children, above in labels.nested:
        for child, parent in zip(labels.classes[children].ravel(), labels.classes[above].ravel(), strict=True):
            parents[int(child)].add(int(parent))
    for v in labels.of:
        for d in range(len(labels.of[v])):
            for index, row in labels.rows(v, d):
                if labels.alive[row].any() or any(child in parents for child in row.tolist()):
                    above = {p for child in row.tolist() for p in labels.parents.get(child, ())} if not index else ()
                    for classes in (np.unique(row), np.array(sorted(above), int)):
                        if len(classes) and classes.tobytes() not in rows:
                            rows.add(classes.tobytes())
                            signature[classes] += rng.integers(2**64, dtype=np.uint64)
    first = np.full(labels.alive.shape, labels.count)
    np.minimum.at(first, labels.classes, np.arange(labels.count))
    places: dict = defaultdict(lambda: defaultdict(list))  # class to {axis of a parameter: positions}
    reads = defaultdict(set)  # leaf to labels; what is read is known by its own labels, not by those that tie to them
    for leaf, array in labels.reads:
        reads[leaf].update(array.ravel().tolist())
    reading = set()
    for leaf, v in enumerate(probe.closed.jaxpr.invars[: len(probe.paths)]):
        for d in range(v.aval.ndim) if probe.real[leaf] else ():
            if labels.of[v][d] is not None and reads[leaf].intersection(labels.of[v][d].ravel().tolist()):
                reading.add((leaf, d))
            for index, row in labels.rows(v, d):
                fixed = {c for b, i in index.items() for _, other in labels.rows(v, b)[:1] for c in [int(other[i])]}
                _place(labels, places, row, fixed, (leaf, d, tuple(index.items())))
    located = {}
    for name, v in probe.points.items():
        rows_at = labels.rows(v, v.aval.ndim - 1) if v.aval.ndim else []
        located[name] = defaultdict(lambda: defaultdict(list))
        if len(rows_at) == 1:
            _place(labels, located[name], rows_at[0][1], set(), ())
    groups = defaultdict(list)
    for c in sorted(places, key=lambda c: first[c]):
        if labels.alive[c]:
            groups[signature[c]].append(c)
    cells, whose = [], {}
    for classes in groups.values():
        keys = sorted(places[classes[0]], key=lambda key: (probe.order[key[0]], key))
        wheres = [_where([places[c].get(key, []) for c in classes]) for key in keys]
        if any(where is None for where in wheres) or any(places[c].keys() != set(keys) for c in classes):
            continue
        axes = [
            Axis(probe.paths[leaf], d, index, where, 0) for (leaf, d, index, _), where in zip(keys, wheres, strict=True)
        ]
        points = {
            name: _where([[p for key in sorted(found[c]) for p in found[c][key]] for c in classes])
            if any(c in found for c in classes)
            else None
            for name, found in located.items()
        }
        cell = Cell(len(classes), axes, [key[:2] in reading for key in keys], points)
        cell.leaves = [key[0] for key in keys]
        cell.start = (probe.order[keys[0][0]], first[classes[0]])
        whose.update({c: (cell, i) for i, c in enumerate(classes)})
        cells.append(cell)
    cells.sort(key=lambda cell: cell.start)
    _families(cells, whose, parents)
    _name(cells, {name: v for name, v in probe.points.items()})
    return [*(cell for cell in cells if not cell.families), *(cell for cell in cells if cell.families)]


def _place(labels, places, row, fixed, key):
    """Notes where each channel stands on an axis, by itself and as a part of others."""
    times = Counter()
    for position, c in enumerate(row.tolist()):
        known, new = set(), {c}
        while new:
            known |= new
            new = {p for child in new for p in labels.parents.get(child, ())} - known
        for whole in known - fixed - {c}:
            places[whole][*key, 0].append(position)
        places[c][*key, times[c]].append(position)  # each time with an exponent of its own
        times[c] += 1


def _where(positions: list[list[int]]) -> np.ndarray | None:
    """(channels, positions of each), None where channels have different numbers of positions."""
    sizes = {len(p) for p in positions}
    return np.array(positions) if len(sizes) == 1 and sizes != {0} else None


def _families(cells, whose, parents):
    """Notes which cells are moved by permuting their parents: heads move their channels."""
    children = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        above = [{p for p in parents.get(c, ()) if p in whose} for c in whose if whose[c][0] is cell]
        common = set.intersection(*above) if above else set()
        for p in common:
            parent, i = whose[p]
            children[id(parent)][i].append(cell)
    for cell in cells:
        if kids := children.get(id(cell)):
            counts = {tuple(kid.size for kid in kids.get(i, ())) for i in range(cell.size)}
            cell.consistent = len(counts) == 1
            cell.families = tuple(zip(*(kids[i] for i in range(cell.size)), strict=True)) if cell.consistent else ((),)


def _name(cells, points):
    used = set()
    for cell in cells:
        point = next((name for name in points if name not in used and cell.points[name] is not None), None)
        path = cell.axes[0].path
        base = point or (path.rpartition("/")[0] or path) + ("/heads" if cell.families else "")
        cell.name, number = base, 1
        while cell.name in used:
            number += 1
            cell.name = f"{base}/{number}"
        used.add(cell.name)
    for cell in cells:
        cell.families = tuple(tuple(kid.name for kid in family) for family in cell.families)
        cell.consistent &= all(cell.families)


# --- groups from gradients ---


def _draws(cells) -> int:
    """How many gradients give each space more equations than exponents."""
    return max((-(-(len(cell.axes) + 4) // cell.size) + 3 for cell in cells if not cell.families), default=0)


def _candidates(cell: Cell, products) -> Iterator[tuple[str, list]]:
    """Groups with exponents for the axes, the largest group first; the first that keeps the function is the one."""
    count = len(cell.axes)
    scaling = None if cell.families else _exponents(cell, products)
    if scaling is not None:
        if cell.size > 1 and all(e in (-1, 0, 1) for e in scaling):
            yield "general_linear", scaling
        if all(isinstance(e, int) for e in scaling):
            yield "monomial", scaling
        yield "positive_monomial", scaling
    if cell.size == 1 and scaling is None:
        return
    if not cell.families:
        if cell.size > 1:
            yield "orthogonal", [1] * count
        signs = [[1] * count, [int(not read) for read in cell.reads]]
        writes = [i for i, read in enumerate(cell.reads) if not read]
        for bits in range(2 ** len(writes)) if len(writes) <= 6 else ():  # of all patterns that flip what is read
            signs.append([1 - (i in writes and bits >> writes.index(i) & 1) for i in range(count)])
        for pattern in {tuple(s): s for s in signs}.values():
            yield "signed_permutation", pattern
    yield "permutation", [0] * count


def _exponents(cell: Cell, products) -> list | None:
    """The exponents e of a scaling of channels: Σ e_axis <gradient, parameters at the channel on that axis> = 0.

    Where there are several, those with -1 on all axes that read the channels and the least sum of |e|: through a batch
    norm the affine parameters are scaled, and neither kernel nor statistics.
    """
    pairs = list(zip(cell.axes, cell.leaves, strict=True))
    rows = np.concatenate([np.stack([_at_channels(axis, p[leaf]) for axis, leaf in pairs], 1) for p in products])
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(rows, axis=0)
    live = norms > 1e-11 * norms.max(initial=0)
    if live.sum() < 2:
        return None
    rows, norms = rows[:, live], norms[live]
    _, values, vectors = np.linalg.svd(rows / norms)
    basis = (vectors[(values > 1e-9 * values[0]).sum() :] / norms).T  # (axes, dimensions)
    if not basis.shape[1]:
        return None
    basis = np.linalg.qr(basis)[0]
    reads = np.array(cell.reads)[live]
    for pinned in [basis[reads]] if reads.any() else [-basis[[i]] for i in range(len(basis))]:
        vector = _sparsest(basis, pinned)
        if vector is not None:
            full = np.zeros(len(live))
            full[live] = vector
            return _integers(full)
    return None


def _at_channels(axis: Axis, product) -> np.ndarray:
    """Sums of a leaf's entries at each channel."""
    product = np.moveaxis(product, axis.axis, -1)
    index = [slice(None)] * product.ndim
    for d, i in axis.index:
        index[d - (d > axis.axis)] = i
    return product[tuple(index)].reshape(-1, product.shape[-1]).sum(0)[axis.where].sum(1)


def _sparsest(basis, pinned):
    """The combination of columns with `pinned @ z = -1` and the least sum of absolute values; None without any."""
    left, values, right = np.linalg.svd(pinned)
    rank = int((values > BLUR * max(values[0], BLUR)).sum())
    start = -(right[:rank].T / values[:rank]) @ left[:, :rank].T @ np.ones(len(pinned))
    if not rank or np.abs(pinned @ start + 1).max() > BLUR:
        return None
    start, free = basis @ start, basis @ right[rank:].T
    axes, k = free.shape
    if not k:
        return start
    one = np.eye(axes)
    result = linprog(
        np.r_[np.zeros(k), np.ones(axes)],
        A_ub=np.block([[free, -one], [-free, -one]]),
        b_ub=np.r_[-start, start],
        bounds=[(None, None)] * k + [(0, None)] * axes,
    )
    return start + free @ result.x[:k] if result.status == 0 else None


def _integers(vector) -> list:
    """The smallest multiple that is integer, where there is one of small numbers; else the numbers as they are."""
    unit = np.abs(vector[np.abs(vector) > BLUR]).min(initial=np.inf)
    vector = vector / unit
    for multiple in range(1, 7):
        scaled = vector * multiple
        if np.abs(scaled - np.round(scaled)).max() < BLUR:
            return [int(e) for e in np.round(scaled)]
    return [float(Fraction(float(e)).limit_denominator(10**6)) for e in vector]


# --- float64 ---


def _is_real(value) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _wide(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf, np.float64) if _is_real(leaf) else leaf


def _in_float64(equation, values):
    """Evaluates one equation in float64 throughout: conversions to narrower floats are left out."""
    name, params = equation.primitive.name, dict(equation.params)
    if name in INLINED:
        return evaluate(closed_body(equation), values, _in_float64)
    if name == "reduce_precision":
        return values
    if name == "convert_element_type" and jnp.issubdtype(params["new_dtype"], jnp.floating):
        return [jnp.asarray(values[0], np.float64)]
    if not any(_is_real(value) for value in values):
        return None
    if any("jaxpr" in key or key == "branches" for key in params):  # loops and branches keep the types they have
        dtypes = [atom.aval.dtype for atom in equation.invars]
        if dtypes == [jnp.result_type(value) for value in values]:
            return None
        values = list(map(jnp.asarray, values, dtypes))
    else:
        values = [jnp.asarray(value, np.float64) if _is_real(value) else value for value in values]
        if jnp.issubdtype(params.get("preferred_element_type") or np.int32, jnp.floating):
            params["preferred_element_type"] = np.dtype(np.float64)
    results = equation.primitive.bind(*values, **params)
    return results if equation.primitive.multiple_results else [results]


def _differentiable(equation, values):
    """Maxima as entries at an index: JAX's gradient compares operand and result, which the compiler may round apart."""
    name = equation.primitive.name
    if name not in ("reduce_max", "reduce_min") or not _is_real(values[0]):
        return None
    axes = equation.params["axes"]
    x = jnp.moveaxis(values[0], axes, range(-len(axes), 0))
    x = x.reshape(*x.shape[: x.ndim - len(axes)], -1)
    index = (jnp.argmax if name == "reduce_max" else jnp.argmin)(jax.lax.stop_gradient(x), -1, keepdims=True)
    return [jnp.take_along_axis(x, index, -1)[..., 0]]
