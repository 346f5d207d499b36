"""Time the Euclidean projection onto the Birkhoff polytope in symjax, jaxopt and SciPy, in one process.

    python -m benchmarks.birkhoff [--sizes 16 64 256 512] [--noises 0.01 1 10] [--repeats 9]

Times are medians without compilation; minima are printed too, because the machine may be shared. Errors are the largest
absolute errors of entries, against a float64 solution. "warm" starts from the duals of an input that differs by one
percent. Dykstra's algorithm stops after 5,000 iterations and is then reported as not converged.
"""

import argparse
import os
import platform
import time
import warnings
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy.optimize import minimize

from symjax.birkhoff import projection_birkhoff

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jaxopt warns that it is no longer maintained
        import jaxopt
        from jaxopt.projection import projection_birkhoff as jaxopt_projection
except (ImportError, AttributeError):  # not installed, or incompatible with this version of JAX
    jaxopt = None

newton = jax.jit(lambda matrix: projection_birkhoff(matrix, full_output=True))
warm = jax.jit(lambda matrix, init: projection_birkhoff(matrix, init=init, full_output=True))
dykstra = jax.jit(lambda matrix: projection_birkhoff(matrix, method="dykstra", max_iters=5_000, full_output=True))


def scipy_projection(matrix):
    a = np.asarray(matrix, np.float64)
    n = len(a)

    def dual(z):
        x = np.maximum(a - z[:n, None] - z[None, n:], 0)
        return 0.5 * (x**2).sum() + z.sum(), 1 - np.concatenate([x.sum(1), x.sum(0)])

    start = np.concatenate([a.mean(1) - 1 / n, a.mean(0) - a.mean()])
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-9}
    z = minimize(dual, start, jac=True, method="L-BFGS-B", options=options).x
    return np.maximum(a - z[:n, None] - z[None, n:], 0)


def reference(matrix):
    with jax.enable_x64(True):
        projected, info = projection_birkhoff(np.asarray(matrix, np.float64), tol=1e-12, full_output=True)
        assert info.converged
        return np.asarray(projected)


def problem(n, noise, seed=0):
    """Return a doubly stochastic matrix with noise, and the same matrix with a perturbation of one percent."""
    rng = np.random.default_rng(seed)
    mixture = sum(np.eye(n)[rng.permutation(n)] for _ in range(8)) / 8
    matrix = mixture + noise * rng.normal(size=(n, n))
    perturbed = matrix + 0.01 * matrix.std() * rng.normal(size=(n, n))
    return jnp.asarray(matrix, jnp.float32), jnp.asarray(perturbed, jnp.float32)


def measure(functions, repeats):
    """Return times of each function in seconds, run alternately to share disturbances; three runs if over a second."""
    times = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for turn in range(repeats):
        for name, function in functions.items():
            if turn >= 3 and min(times[name]) > 1:
                continue
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return times


def compare(n, noise, repeats):
    matrix, perturbed = problem(n, noise)
    exact, exact_perturbed = reference(matrix), reference(perturbed)
    duals = newton(matrix)[1].duals
    functions = {
        "symjax newton": lambda: newton(matrix),
        "symjax newton, warm": lambda: warm(perturbed, duals),
        "symjax dykstra": lambda: dykstra(matrix),
        "scipy L-BFGS, float64": lambda: scipy_projection(matrix),
    }
    if jaxopt is not None:
        compiled = jax.jit(jaxopt_projection)
        functions["jaxopt"] = lambda: compiled(matrix)
    times = measure(functions, repeats)
    for name, function in functions.items():
        projected, info = result if isinstance(result := function(), tuple) else (result, None)
        error = np.abs(np.asarray(projected) - (exact_perturbed if "warm" in name else exact)).max()
        ratio = f"{np.median(times['jaxopt']) / np.median(times[name]):.1f}" if jaxopt is not None else "-"
        iterations = "-" if info is None else f"{int(info.iterations)}{'' if info.converged else ' (not converged)'}"
        median, least = 1e3 * np.median(times[name]), 1e3 * min(times[name])
        print(
            f"{n:4} {noise:6} {name:22} {median:10.2f} {least:10.2f} {ratio:>10} {error:10.1e}  {iterations}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=(16, 64, 256, 512))
    parser.add_argument("--noises", type=float, nargs="+", default=(0.01, 1.0, 10.0))
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()

    versions = [f"Python {platform.python_version()}", f"JAX {jax.__version__}", f"SciPy {scipy.__version__}"]
    versions.append("jaxopt not installed, so no ratios" if jaxopt is None else f"jaxopt {version('jaxopt')}")
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {jax.default_backend()}")
    print(", ".join(versions))
    columns = ("median ms", "least ms", "vs jaxopt", "max error")
    print(f"{'n':>4} {'noise':>6} {'solver':22} {' '.join(f'{c:>10}' for c in columns)}  iterations")
    for n in arguments.sizes:
        for noise in arguments.noises:
            compare(n, noise, arguments.repeats)


if __name__ == "__main__":
    main()
