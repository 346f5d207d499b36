"""Random rotations and their powers: paths from the basis of a layer to a rotated basis."""

import jax
import numpy as np

from symjax.checks import integer, numpy_array, random_key, require_finite
from symjax.errors import InputError
from symjax.groups import GROUPS

TOLERANCE = 1e-4  # of orthogonality, for matrices in float32


def special_orthogonal(key: jax.Array, size: int) -> np.ndarray:
    """Return a rotation Q (size, size) of determinant 1 from the Haar measure on SO(size), float64.

    Args:
      key: a JAX random key.
      size: 1 or more.

    Raises:
      InputError: `key` is not a JAX random key, or `size` is out of range.

    Example:
      >>> import jax, numpy as np
      >>> from symjax.dissection import special_orthogonal
      >>> q = special_orthogonal(jax.random.key(0), 3)
      >>> round(float(np.linalg.det(q)), 12)
      1.0
    """
    key, size = random_key("key", key), integer("size", size, 1, 2**15)
    with jax.enable_x64(True):
        matrix = np.array(GROUPS["orthogonal"].sample(key, size))
    matrix[:, 0] *= np.sign(np.linalg.slogdet(matrix)[0])
    return matrix


def rotation_powers(rotation, exponents) -> np.ndarray:
    """Return the powers Q^a of a rotation: the path from I at a = 0 to Q at a = 1 with constant speed.

    Q = Z diag(R(t_1), R(t_2), ..., 1) Z^T is the real Schur form with R(t) = [[cos t, -sin t], [sin t, cos t]] and
    angles t = atan2(sin t, cos t) in [-pi, pi]. Q^a = Z diag(R(a t_1), R(a t_2), ..., 1) Z^T, so Q^a Q^b = Q^(a + b).
    The number of eigenvalues -1 is even; pairs of them are planes with the angle pi.

    Args:
      rotation: Q (d, d), orthogonal with determinant 1.
      exponents: (k,) real numbers.

    Returns:
      (k, d, d) float64, orthogonal; for the exponent 0 exactly the identity.

    Raises:
      InputError: Q is not square, finite and orthogonal, or has determinant -1, so that it has no real powers; an
        exponent is not finite.

    Reference: Godfrey et al. 2022 (arXiv 2205.14258), section 6; the published code loses the signs of the angles.

    Example:
      >>> import numpy as np
      >>> from symjax.dissection import rotation_powers
      >>> quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
      >>> rotation_powers(quarter, [0, 1, 2]).round(12).astype(int).tolist()
      [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]]]
    """
    q = numpy_array("rotation", rotation).astype(np.float64)
    exponents = numpy_array("exponents", exponents).astype(np.float64)
    require_finite("rotation", q)
    require_finite("exponents", exponents)
    if exponents.ndim != 1:
        raise InputError(f"exponents: got shape {exponents.shape}, expected (k,)")
    if q.ndim != 2 or q.shape[0] != q.shape[1] or not q.size:
        raise InputError(f"rotation: got shape {q.shape}, expected (d, d)")
    if (error := np.abs(q.T @ q - np.eye(len(q))).max()) > TOLERANCE:
        raise InputError(f"rotation: got a matrix with |Q^T Q - I| up to {error:.1e}, expected an orthogonal matrix")
    if np.linalg.slogdet(q)[0] < 0:
        raise InputError("rotation: got determinant -1, expected 1; a reflection has no real powers")
    first, second, angles = _planes(q)
    scaled = np.multiply.outer(exponents, angles)
    # I + Z (R - I) Z^T, which is exactly I if the angles are 0.
    cos, sin = np.cos(scaled)[:, None] - 1, np.sin(scaled)[:, None]
    return np.eye(len(q)) + (first * cos + second * sin) @ first.T + (second * cos - first * sin) @ second.T


def _planes(q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return orthonormal vectors u, v (d, planes) and angles such that Q u = cos u + sin v, Q v = cos v - sin u."""
    from scipy import linalg  # imported here for a fast --help

    form, basis = linalg.schur(q, output="real")
    starts, single, i = [], [], 0
    while i < len(q):
        if i + 1 < len(q) and form[i + 1, i]:
            starts.append(i)
            i += 2
        else:
            single.append(i)
            i += 1
    half_turns = [i for i in single if form[i, i] < 0]
    first = [*starts, *half_turns[::2]]
    second = [*(i + 1 for i in starts), *half_turns[1::2]]
    cos = form[starts, starts]
    angles = [*np.arctan2(form[np.array(starts, int) + 1, starts], cos), *np.full(len(half_turns) // 2, np.pi)]
    return basis[:, first], basis[:, second], np.array(angles)
