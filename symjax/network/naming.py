"""Names of values inside a model."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from symjax.errors import InputError


def stitch_point(x: jax.Array, name: str) -> jax.Array:
    """Name a value of a model, so that the model can be split there.

    It is `jax.ad_checkpoint.checkpoint_name`, the identity, with a check of its arguments. Use the result in place of
    the value: what follows must depend on it.

    Args:
      x: features (examples, ..., channels), of a floating type.
      name: unique in the model.

    Raises:
      InputError: no text, or another kind of value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from symjax import stitch_point
      >>> stitch_point(jax.nn.relu(jnp.array([[-1.0, 2.0]])), "relu1").tolist()
      [[0.0, 2.0]]
    """
    if not isinstance(name, str) or not name.strip() or "," in name:
        raise InputError(f"name: got {name!r}, expected a text without commas")
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    if len(shape) < 2 or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"x: {name!r} names an array of {dtype}{list(shape)}, expected features (examples, ..., channels)"
        )
    return checkpoint_name(x, name)
