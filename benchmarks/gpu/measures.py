"""Time similarity measures, projections onto the Birkhoff polytope and assignments; report fractions of the peak.

The peak is that of matrix products in full float32 precision, which the measures use.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.environment import torch_device
from benchmarks.gpu.report import Report
from benchmarks.gpu.timing import first_and_then, matmul_peak, torch_seconds
from symjax import nearest_permutation, projection_birkhoff
from symjax.similarity import cca_similarity, cka, pairwise, wreath_cka


def run(report: Report) -> None:
    peak = matmul_peak("float32", 128 if report.rehearse else 8192)
    for part in (kernels, cka_and_torch, canonical, all_pairs, projections, assignments):
        with report.case(part.__name__):
            part(report, peak)
        jax.clear_caches()


def kernels(report: Report, peak: float) -> None:
    """Time wreath CKA, which computes 5/8 of a symmetric kernel (in strips); these operations are counted."""
    size, channels = (4, 3) if report.rehearse else (32, 64)
    for examples in (10,) if report.rehearse else (500, 2000):
        x, y = (rectified(seed, (examples, size, size, channels)) for seed in (0, 1))
        operations = 5 / 8 * 2 * 2 * examples**2 * x[0].size
        timed(
            report, f"wreath CKA, {examples} examples of {size}x{size}x{channels}", wreath_cka, x, y, operations, peak
        )


def cka_and_torch(report: Report, peak: float) -> None:
    """Time CKA, which computes 3/4 of a symmetric kernel; these operations are counted."""
    examples, features = (12, 20) if report.rehearse else (4096, 8192)
    x, y = (rectified(seed, (examples, features)) for seed in (0, 1))
    shape = f"{examples} examples, {features} + {features} features"
    value = timed(report, f"CKA, {shape}", cka, x, y, 3 / 4 * 2 * 2 * examples**2 * features, peak)
    with report.case("pytorch-cka"):
        import torch
        from cka import cka_from_features

        tensors = [torch.from_numpy(np.array(z)).to(torch_device(torch)) for z in (x, y)]
        spent = torch_seconds(torch, lambda: cka_from_features(*tensors))
        error = abs(float(cka_from_features(*tensors).squeeze()) - value)
        report.row(f"pytorch-cka, {shape}", spent, "s", f"differs by {error:.0e}")


def canonical(report: Report, peak: float) -> None:
    samples, neurons = (40, 6) if report.rehearse else (10_000, 512)
    x, y = (rectified(seed, (samples, neurons)) for seed in (0, 1))
    gradient = jax.jit(jax.value_and_grad(cca_similarity, (0, 1)))
    for name, fn in (("CCA", cca_similarity), ("CCA with its gradient", gradient)):
        timed(report, f"{name}, {samples} samples, {neurons} + {neurons} neurons", fn, x, y)


def all_pairs(report: Report, peak: float) -> None:
    from benchmarks.pairwise import CONTESTS, representations

    models, examples, width = (2, 6, 2) if report.rehearse else (32, 200, 16)
    zoo = representations(models, examples, width)
    count = models * len(zoo) * (models * len(zoo) + 1) // 2
    for measure, options in list(CONTESTS.items())[: 1 if report.rehearse else None]:
        name = f"pairwise {measure}, {models} models x {len(zoo)} layers, {examples} examples"
        with report.case(name):
            first, spent = first_and_then(lambda m=measure, o=options: pairwise(zoo, m, **o).values, repeats=2)
            report.row(name, spent, "s", f"{count} pairs; the first time {first:.1f} s")


def projections(report: Report, peak: float) -> None:
    from benchmarks.birkhoff import jaxopt, problem, reference

    project = jax.jit(partial(projection_birkhoff, full_output=True))
    for n, batch in ((8, 2),) if report.rehearse else ((64, 64), (128, 32), (256, 16), (512, 8)):
        matrices = jnp.stack([problem(n, 1.0, seed)[0] for seed in range(batch)])
        name = f"Birkhoff projection, {batch} of n = {n}"
        with report.case(name):
            first, spent = first_and_then(partial(project, matrices), repeats=5, most=2)
            projected, info = project(matrices)
            with jax.default_device(jax.devices("cpu")[0]):
                exact = reference(np.asarray(matrices[0]))
            error = np.abs(np.asarray(projected[0]) - exact).max()
            comment = f"error {error:.0e}; {int(info.iterations.max())} iterations at most; first {first:.1f} s"
            comment += "" if info.converged.all() else "; NOT CONVERGED"
            report.row(name, 1e3 * spent, "ms", comment)
        with report.case(f"{name}, jaxopt"):
            if jaxopt is None:
                raise ModuleNotFoundError(name="jaxopt, or it is incompatible with this version of JAX")
            by_jaxopt = jax.jit(jax.vmap(jaxopt.projection.projection_birkhoff))
            first, spent = first_and_then(partial(by_jaxopt, matrices), repeats=3, most=2)
            error = np.abs(np.asarray(by_jaxopt(matrices)[0]) - exact).max()
            report.row(f"{name}, jaxopt", 1e3 * spent, "ms", f"error {error:.0e}; first {first:.1f} s")


def assignments(report: Report, peak: float) -> None:
    """Time assignments inside a program, which run on the host, one after another, on every device."""
    inside = jax.jit(nearest_permutation)
    for n in (8,) if report.rehearse else (64, 128, 256, 512):
        matrices = jax.random.normal(jax.random.key(n), (4, n, n))
        _, spent = first_and_then(partial(inside, matrices), repeats=3, most=2)
        report.row(f"linear assignment, n = {n}", 1e3 * spent / 4, "ms", "inside a program, of a batch of 4, each")


def timed(report, name, fn, x, y, operations=None, peak=None) -> float:
    """Report the time of `fn(x, y)` and return its value."""
    first, spent = first_and_then(lambda: fn(x, y), repeats=5, most=3)
    share = f"{operations / spent / peak:.0%} of the float32 peak; " if operations else ""
    report.row(name, spent, "s", f"{share}the first time {first:.1f} s")
    return float(jax.tree.leaves(fn(x, y))[0])


def rectified(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Return random rectified features: signals that are shared by all seeds, plus noise."""
    shared, own = jax.random.key(100), jax.random.key(seed)
    return jax.nn.relu(jax.random.normal(shared, shape) + jax.random.normal(own, shape))
