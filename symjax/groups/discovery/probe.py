"""A function as its jaxpr in float64, evaluated at random parameters and inputs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from symjax.errors import InputError
from symjax.groups.discovery.labels import Labels
from symjax.jaxprs import REMATERIALIZATIONS, closed_body, evaluate, inline

INLINED = {*REMATERIALIZATIONS, "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


class Probe:
    """A function as a flat jaxpr in float64, its labels, and evaluations at random parameters and inputs."""

    def __init__(self, fn, params, x, seed):
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(params)
        self.paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
        if len(set(self.paths)) < len(paths):  # keys that contain a slash
            self.paths = [jax.tree_util.keystr(path) for path, _ in paths]
        self.rng, self.signed = np.random.default_rng(seed), True
        self._values = [_to_float64(leaf) for _, leaf in paths]
        self.real = [is_real(leaf) for leaf in self._values]
        if not any(self.real):
            raise InputError("params: got no floating-point array, expected at least one")
        finite = [leaf for leaf in self._values if is_real(leaf) and leaf.size and np.isfinite(leaf).all()]
        self._scale = np.median([deviation for deviation in map(np.std, finite) if deviation] or [1.0])
        data, structure = jax.tree.flatten(x)

        def flat(*leaves):
            outputs = fn(self.treedef.unflatten(leaves[: len(paths)]), structure.unflatten(leaves[len(paths) :]))
            return [out for out in jax.tree.leaves(outputs) if is_real(out)]

        try:
            self._data = [_to_float64(leaf) for leaf in data]
            traced = jax.make_jaxpr(flat)(*self._values, *self._data)
        except Exception as error:  # user code can raise anything
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise InputError(
                f"fn, x: got a function that cannot be traced for these inputs ({reason}), expected one in JAX"
            ) from error
        closed = inline(traced, _in_float64)
        if not any(v.aval.size for v in closed.jaxpr.outvars):
            raise InputError("fn: got no floating-point output for these inputs, expected at least one number")
        self.closed, num_params = closed, len(paths)
        batch = Labels(closed, num_params)
        classes = {c for array in batch.batch for c in np.unique(batch.classes[array]).tolist()}
        batched = frozenset(
            (leaf, d)
            for leaf, v in enumerate(closed.jaxpr.invars[:num_params])
            for d in range(v.aval.ndim)
            if any(classes.intersection(row.tolist()) for _, row in batch.rows(v, d))
        )
        self.labels = Labels(closed, num_params, batched) if batched else batch
        self.points = {}  # dict from name to the first variable of this name
        for equation in closed.jaxpr.eqns:
            if equation.primitive.name == "name" and is_real(equation.outvars[0].aval):
                self.points.setdefault(equation.params["name"], equation.outvars[0])
        self.shapes = dict(zip(self.paths, map(jnp.shape, self._values), strict=True))
        first_use = {id(v): i for i, equation in reversed([*enumerate(closed.jaxpr.eqns)]) for v in equation.invars}
        self.order = [first_use.get(id(v)) for v in closed.jaxpr.invars[:num_params]]
        jaxpr = closed.jaxpr.replace(
            outvars=[*closed.jaxpr.outvars, *self.points.values()],
            debug_info=closed.jaxpr.debug_info.with_unknown_names(),
        )
        extended, self._outputs = ClosedJaxpr(jaxpr, closed.consts), len(closed.jaxpr.outvars)

        def forward(params, data):
            return jax.core.eval_jaxpr(extended.jaxpr, extended.consts, *params, *data)

        def gradient(real_params, params, data, cotangents):
            leaves = iter(real_params)
            params = [next(leaves) if real else leaf for real, leaf in zip(self.real, params, strict=True)]
            outputs = evaluate(closed, [*params, *data], _differentiable)
            return sum(jnp.vdot(a, b) for a, b in zip(outputs, cotangents, strict=True))

        self._forward, self._gradient = jax.jit(forward), jax.jit(jax.grad(gradient))

    def draw(self) -> tuple[list, list]:
        """Return random parameters and inputs at the scale of the given ones."""
        data = [leaf + self._noise(leaf) if is_real(leaf) else leaf for leaf in self._data]
        return [self._parameter(leaf) if is_real(leaf) else leaf for leaf in self._values], data

    def _noise(self, leaf):
        return self.rng.normal(size=leaf.shape) * ((leaf.size and float(np.std(leaf))) or 1.0)

    def _parameter(self, leaf):
        """Return a random parameter; vectors without negative entries, such as variances, keep their signs.

        So do arrays of more dimensions while `signed` is false.
        """
        if not leaf.any():  # at the scale of the others: large biases would hide the effect of small kernels
            return leaf + 0.3 * self._scale * self.rng.normal(size=leaf.shape)
        if leaf.min() < 0:
            return leaf + 0.3 * self._noise(leaf)
        leaf = leaf + 0.3 * np.abs(self.rng.normal(size=leaf.shape))
        return leaf * self.rng.choice([-1, 1], leaf.shape) if self.signed and leaf.ndim > 1 else leaf

    def values(self, params, data) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Return the function's outputs, and its named values."""
        values = [np.asarray(value) for value in self._forward(params, data)]
        return values[: self._outputs], dict(zip(self.points, values[self._outputs :], strict=True))

    def products(self) -> list[np.ndarray | None]:
        """Return random parameters times the gradient of a random sum of the outputs, for each leaf."""
        params, data = self.draw()
        cotangents = [self.rng.normal(size=v.aval.shape) for v in self.closed.jaxpr.outvars]
        real_params = [leaf for leaf, real in zip(params, self.real, strict=True) if real]
        gradients = iter(self._gradient(real_params, params, data, cotangents))
        return [
            leaf * np.asarray(next(gradients)) if real else None for leaf, real in zip(params, self.real, strict=True)
        ]


def is_real(value) -> bool:
    return jnp.issubdtype(getattr(value, "dtype", None) or jnp.result_type(value), jnp.floating)


def _to_float64(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return np.asarray(leaf, np.float64) if is_real(leaf) else leaf


def _in_float64(equation, values):
    """Evaluate one equation in float64; omit conversions to narrower floats."""
    name, params = equation.primitive.name, dict(equation.params)
    if name in INLINED:
        return evaluate(closed_body(equation), values, _in_float64)
    if name == "reduce_precision":
        return values
    if name == "convert_element_type" and jnp.issubdtype(params["new_dtype"], jnp.floating):
        return [jnp.asarray(values[0], np.float64)]
    if not any(is_real(value) for value in values):
        return None
    if any("jaxpr" in key or key == "branches" for key in params):  # loops and branches keep their dtypes
        dtypes = [atom.aval.dtype for atom in equation.invars]
        if dtypes == [jnp.result_type(value) for value in values]:
            return None
        values = list(map(jnp.asarray, values, dtypes))
    else:
        values = [jnp.asarray(value, np.float64) if is_real(value) else value for value in values]
        if jnp.issubdtype(params.get("preferred_element_type") or np.int32, jnp.floating):
            params["preferred_element_type"] = np.dtype(np.float64)
    results = equation.primitive.bind(*values, **params)
    return results if equation.primitive.multiple_results else [results]


def _differentiable(equation, values):
    """Evaluate maxima as entries at an index.

    JAX's gradient compares entries with the maximum, which the compiler may round differently.
    """
    name = equation.primitive.name
    if name not in ("reduce_max", "reduce_min") or not is_real(values[0]):
        return None
    axes = equation.params["axes"]
    x = jnp.moveaxis(values[0], axes, range(-len(axes), 0))
    x = x.reshape(*x.shape[: x.ndim - len(axes)], -1)
    index = (jnp.argmax if name == "reduce_max" else jnp.argmin)(jax.lax.stop_gradient(x), -1, keepdims=True)
    return [jnp.take_along_axis(x, index, -1)[..., 0]]
