"""Make a `Network` of a module of Flax, or of a function."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax

from symjax.errors import InputError
from symjax.network.adapters import FunctionAdapter, LinenAdapter, require_arrays
from symjax.network.traced import Traced, shape_of

if TYPE_CHECKING:
    from flax import nnx

PyTree = Any


class Constructors(Traced):
    """The constructors of `Network`, one for each kind of model."""

    @classmethod
    def from_nnx(
        cls,
        build: "Callable[[nnx.Rngs], nnx.Module]",
        *,
        example: PyTree,
        points: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Self:
        """Return the network of a Flax NNX module.

        Args:
          build: a function of `nnx.Rngs` that returns a module, such as `lambda rngs: CNN(rngs=rngs)`.
          example: an input or its shape (`jax.ShapeDtypeStruct`), with examples along the first axis; a tuple for a
            module with several inputs.
          points: paths of submodules, such as "conv1" or "blocks.0", whose outputs become stitch points, in addition to
            the values that the code names by `symjax.stitch_point`.
          name: the name in messages; by default that of `build`, or "model" for a lambda.

        Raises:
          InputError: `build` returns no NNX module, a path is not a submodule, or two stitch points have one name.

        Example:
          >>> import jax, numpy as np, symjax
          >>> from flax import nnx
          >>> def build(rngs):
          ...     return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 2, rngs=rngs))
          >>> net = symjax.Network.from_nnx(build, example=np.zeros((1, 3), np.float32), points=["layers.0"])
          >>> [point.name for point in net.points], net.num_parameters
          (['layers.0'], 26)
        """
        from symjax.network.nnx_adapter import NNXAdapter  # imports Flax, which takes half a second

        adapter = NNXAdapter(build, points)
        return cls(adapter, example, name or getattr(build, "__name__", "model").replace("<lambda>", "model"))

    @classmethod
    def from_linen(
        cls, module: Any, *, example: PyTree, points: Sequence[str] | None = None, name: str | None = None
    ) -> Self:
        """Return the network of a Flax Linen module.

        The mode sets the argument `train`, `training`, `is_training` or `deterministic` of the module's `__call__`.
        Random operations draw from the stream "dropout".

        Args:
          module: a `flax.linen.Module`.
          example, points, name: as in `from_nnx`; `name` is by default that of the module's class.

        Raises:
          InputError: `module` is not a Linen module, or `points` names a submodule that is not called.

        Example:
          >>> import flax.linen as nn
          >>> import numpy as np, symjax
          >>> module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
          >>> net = symjax.Network.from_linen(module, example=np.zeros((1, 3), np.float32), points=["layers_0"])
          >>> [point.name for point in net.points], net.num_parameters
          (['layers_0'], 26)
        """
        require_arrays("example", example)
        example = jax.tree.map(shape_of, example)
        return cls(LinenAdapter(module, example, points), example, name or type(module).__name__)

    @classmethod
    def from_function(
        cls,
        apply: Callable,
        variables: PyTree = None,
        *,
        example: PyTree,
        init: Callable[[jax.Array], PyTree] | None = None,
        state: PyTree = None,
        name: str | None = None,
    ) -> Self:
        """Return the network of a function `apply(variables, x)`.

        Args:
          apply: the model. If it has the parameters `train` (a bool) or `key` (a random key or None), they are passed
            by keyword. With `state` it is `apply(variables, state, x)` and returns (output, next state).
          variables: a pytree of arrays, the trained variables; not needed if `init` is given.
          example: an input or its shape (`jax.ShapeDtypeStruct`), with examples along the first axis.
          init: a function of a random key that returns new variables, or (variables, state) with `state`. A zoo can
            only be trained with it.
          state: variables that are not trained, such as batch statistics.
          name: the name in messages; by default that of the function.

        Raises:
          InputError: neither `variables` nor `init` is given, or a leaf of a pytree is not an array.

        Example:
          >>> import jax, numpy as np, symjax
          >>> def linear(params, x):
          ...     return x @ params["w"]
          >>> def init(key):
          ...     return {"w": jax.random.normal(key, (3, 2))}
          >>> net = symjax.Network.from_function(linear, example=np.zeros((1, 3), np.float32), init=init)
          >>> net.init(jax.random.key(0)).params["w"].shape
          (3, 2)
        """
        if variables is None and init is None:
            raise InputError("variables: got none, expected the variables of the model, or init=")
        adapter = FunctionAdapter(apply, variables, init, state)
        return cls(adapter, example, name or str(getattr(apply, "__name__", "model")))
