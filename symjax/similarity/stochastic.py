"""Shape distance of stochastic representations: repeated responses as Gaussian distributions (Duong et al. 2023)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from symjax.birkhoff.dual import matmul
from symjax.checks import is_concrete, real, require_finite, sequence, static_scalar
from symjax.errors import InputError
from symjax.similarity.channels import magnitude, pad_channels, safe_sqrt, subtract_mean, zero_if_equal
from symjax.similarity.inputs import paired_representations
from symjax.similarity.linalg import hold_constant, triangular_factor
from symjax.similarity.measure import ORTHOGONAL, Measure
from symjax.similarity.polar import polar

MAX_ITERATIONS = 200


def stochastic_shape_distance(x, y, *, covariances=None, alpha=1.0, layout=None):
    """Compute the 2-Wasserstein distance of Gaussian responses to each example, after the best rotation.

    The distance is the root of the minimum over orthogonal Q of

        (1 / n) sum_i |Q' m_i - k_i|^2 + tr(C_i) + tr(D_i) - 2 tr((D_i^1/2 Q' C_i Q D_i^1/2)^1/2),

    with means m_i and covariances C_i of the responses of x to example i, and k_i and D_i those of y. The narrower side
    is padded with zero channels. Q and rotations of the responses are optimized alternately, starting with the best Q
    for the means. The result is a local minimum (with `alpha` 2 the global one).

    Args:
        x, y: maps (n, h, w, c), whose pixels are repeated responses to an example; repeated responses (n, r, c) are
            x[:, :, None]. Numbers of responses may differ. Or (n, c) without repetition, whose covariances are 0.
            Floating (integers become the default float, half precisions float32).
        alpha: number in [0, 2]; squared distances of means have weight alpha, and those of covariances 2 - alpha.
        covariances: None, or C (n, p, p) and D (n, q, q), where x (n, p) and y (n, q) are means.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.

    Returns:
        0-d array, nonnegative, in the units of x and y; 0 for equal arrays. Covariances are unbiased (divided by r -
        1). Of matrices it is the root mean square distance after the best rotation. Symmetric. Invariant to orthogonal
        maps, and to the order of the responses. Derivatives hold the rotations fixed, which is exact for the first;
        those for covariances need distinct eigenvalues.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; covariances that are not symmetric or not positive
            semidefinite; concrete NaN or infinite entries.

    Reference: Duong et al. 2023.

    Example:
        >>> import numpy as np
        >>> from symjax import stochastic_shape_distance
        >>> rng = np.random.default_rng(0)
        >>> means = rng.normal(size=(16, 1, 1, 4))
        >>> x, y, z = (means + s * rng.normal(size=(16, 50, 1, 4)) for s in (0.1, 0.1, 1))
        >>> print(f"{stochastic_shape_distance(x, y):.2f} {stochastic_shape_distance(x, z):.2f}")
        0.06 1.84
    """
    x, y = paired_representations(x, y, layout=layout)
    alpha = static_scalar("alpha", alpha, "a number in [0, 2]", lambda value: 0 <= value <= 2)
    if covariances is None:
        return _distance(x, y, alpha)
    pair = sequence("covariances", covariances, "two arrays")
    if len(pair) != 2:
        raise InputError(f"covariances: got {len(pair)} arrays, expected two")
    return _distance(
        x, y, alpha, *(_checked_covariance(name, z, c) for name, z, c in zip("xy", (x, y), pair, strict=True))
    )


def _checked_covariance(name, means, covariance):
    covariance = real("covariances", covariance).astype(means.dtype)
    if means.ndim != 2 or covariance.shape != (*means.shape, means.shape[1]):
        raise InputError(
            f"covariances: got {covariance.shape} for {name} of shape {means.shape}, expected (n, p, p) for (n, p)"
        )
    require_finite("covariances", covariance)
    if is_concrete(covariance):
        checked = np.asarray(covariance, np.float64)
        slack = 64 * float(jnp.finfo(means.dtype).eps) * np.abs(checked).max()
        if np.abs(checked - checked.mT).max() > slack or np.linalg.eigvalsh(checked).min() < -slack:
            raise InputError(f"covariances: got those of {name}, expected symmetric positive semidefinite matrices")
    return covariance


@jax.jit
def _distance(x, y, alpha, *covariances):
    size = jnp.maximum(magnitude(x), magnitude(y))  # its square may be out of range
    width = max(x.shape[-1], y.shape[-1])
    if covariances:
        size = jnp.maximum(size, jnp.sqrt(jnp.maximum(*(magnitude(c) for c in covariances))))
        sides = (_with_covariance(z / size, c / size / size) for z, c in zip((x, y), covariances, strict=True))
    else:
        sides = (_moments(z / size) for z in (x, y))
    x_moments, y_moments = (pad_channels(side, width) for side in sides)
    rows = max(x_moments.shape[1], y_moments.shape[1])
    a, b = (jnp.pad(z, ((0, 0), (0, rows - z.shape[1]), (0, 0))) for z in (x_moments, y_moments))
    weights = jnp.full((1, rows, 1), 2 - alpha, x.dtype).at[:, 0].set(alpha)
    start = _start(*(lax.stop_gradient(z[:, 0]) for z in (a, b)))
    a, b = jnp.sqrt(weights) * a, jnp.sqrt(weights) * b
    inner, rotation = hold_constant(_rotations(lax.stop_gradient(a), lax.stop_gradient(b), start), (a, b))
    turned, aligned = matmul(a, rotation), matmul(inner, b)
    # `rotation` is 0 on directions without effect, which are orthogonal to those of `aligned`.
    rest = a - matmul(turned, rotation.T)
    distance = size * safe_sqrt(((turned - aligned) ** 2).sum((1, 2)).mean() + (rest**2).sum((1, 2)).mean())
    return zero_if_equal(distance, a, b)


def _moments(x):
    """Return F (n, 1 + r, c) of x (n, c) or (n, h, w, c): the means, then rows with F_i' F_i = covariance."""
    x = x.reshape(len(x), -1, x.shape[-1])
    responses = x.shape[1]
    deviations, means = subtract_mean(x, (1,))
    deviations = deviations / max(responses - 1, 1) ** 0.5
    if responses > x.shape[-1]:
        deviations = jax.vmap(triangular_factor)(deviations)
    return jnp.concatenate([means[:, None], deviations], 1)


def _with_covariance(means, covariance):
    """Return F as `_moments` does, of means (n, c) and covariances (n, c, c)."""
    values, vectors = jnp.linalg.eigh(covariance)
    return jnp.concatenate([means[:, None], safe_sqrt(values)[:, :, None] * vectors.mT], 1)


def _start(x, y):
    """Return the best rotation of means x to y (n, c), completed on directions outside of their span."""
    u, _, vt = jnp.linalg.svd(matmul(x.T, y))
    return matmul(u, vt)


def _rotations(a, b, rotation):
    """Return R (n, m, m) and Q that minimize sum_i |a_i Q - R_i b_i|^2, orthogonal, R_i being 1 for the first rows."""

    def inner_of(rotation):
        turns, _ = jax.vmap(polar)(matmul(matmul(a[:, 1:], rotation), b[:, 1:].mT))
        return jnp.zeros((*a.shape[:2], a.shape[1]), a.dtype).at[:, 0, 0].set(1).at[:, 1:, 1:].set(turns)

    def products(inner):
        return jnp.einsum("nmi,nmj->ij", a, matmul(inner, b), precision="highest")

    def step(state):
        _, rotation, value, iteration = state
        inner = inner_of(rotation)
        cross = products(inner)
        rotation, _ = polar(cross)
        return inner, rotation, jnp.stack([(rotation * cross).sum(), value[0]]), iteration + 1

    def improves(state):
        value, iteration = state[2:]
        rounding = 2 * float(jnp.finfo(a.dtype).eps) * jnp.abs(value[0])
        return (iteration < MAX_ITERATIONS) & ~(value[0] - value[1] <= rounding)

    start = inner_of(rotation), rotation, jnp.stack([-jnp.ones((), a.dtype), -2 * jnp.ones((), a.dtype)]), 0
    inner, rotation, *_ = lax.while_loop(improves, step, start)
    return inner, rotation


MEASURES = (
    Measure(
        name="stochastic_shape_distance",
        fn=stochastic_shape_distance,
        reference="Duong et al. 2023",
        range=(0.0, float("inf")),
        kind="distance",
        symmetric=True,
        invariances=ORTHOGONAL | {"cyclic_shift"},  # the order of responses does not matter
        zero_channels=True,
        title="stochastic shape distance",
        cost="n decompositions (min(r, c), min(r, c)) of r responses, each iteration, a pair",
        bias="grows with the spread of responses, and decreases with c / n",
        use="noisy responses whose covariances count as well as their means",
    ),
)
