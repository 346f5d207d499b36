"""Names of values in a model's code."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from symjax.checks import is_concrete, short
from symjax.errors import InputError


@dataclass(frozen=True)
class StitchPoint:
    """A named value of a model.

    Attributes:
      name: the name by which methods and commands identify the point.
      shape: the shape of the features of one example, channels last.
      starred: whether other values cross a split there besides the features, as inside a residual block.

    Example:
      >>> from symjax.network import StitchPoint
      >>> StitchPoint("relu1", shape=(32, 32, 64)).channels
      64
    """

    name: str
    shape: tuple[int, ...]
    starred: bool = False

    @property
    def channels(self) -> int:
        """The size of the last axis, on which a stitch acts."""
        return self.shape[-1]


def stitch_point(x: jax.Array, name: str) -> jax.Array:
    """Return `x`, named as a stitch point: a value of a model at which symjax can stitch, compare and align.

    It calls `jax.ad_checkpoint.checkpoint_name`, which adds an identity with this name to the model's jaxpr.

    Args:
        x: floating-point features (examples, ..., channels); in a function of one example (..., channels).
        name: a name that no other value of the model has.

    Returns:
        `x` itself.

    Raises:
        InputError: `name` is not a non-empty string, or `x` is not a floating-point array of two dimensions or more;
            in a traced function, such as one under `jax.vmap` over examples, of one or more.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from symjax.network.naming import stitch_point
        >>> def model(weights, x):
        ...     hidden = stitch_point(jax.nn.relu(x @ weights["first"]), "relu1")
        ...     return hidden @ weights["second"]
        >>> weights = {"first": jnp.eye(3), "second": jnp.ones((3, 2))}
        >>> model(weights, jnp.array([[1.0, -1.0, 2.0]]))
        Array([[3., 3.]], dtype=float32)
    """
    if not isinstance(name, str) or not name.strip() or "," in name:
        raise InputError(f"name: got {short(name)}, expected a string without commas")
    dtype, shape = getattr(x, "dtype", None), getattr(x, "shape", ())
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or len(shape) < 1 + is_concrete(x):
        given = short(x) if dtype is None else f"{dtype}{list(shape)}"
        raise InputError(f"x: got {given} at stitch point {name!r}, expected floating-point (examples, ..., channels)")
    return checkpoint_name(x, name)


SUBMODULE = "submodule "  # a prefix that separates names of submodule outputs from names in the model's code
