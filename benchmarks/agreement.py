"""Compare the values of similarity measures with those of other packages, on the same arrays.

    python -m benchmarks.agreement                    # the packages that are installed
    python -m benchmarks.agreement --precision 32     # symjax in float32, the packages in float64

`benchmarks.agreement_table` is a table of measures and the functions of packages that compute the same. Packages that
are not on the package index are imported from `PYTHONPATH`: netrep, `dists` of sim_metric, `metrics` of platonic-rep,
`cca_core` of google/svcca. Those that cannot be imported are left out. The largest differences over all arrays are
printed; values of independent arrays may be near 0.
"""

import argparse
import importlib
import importlib.metadata
import warnings

import jax
import numpy as np

from benchmarks.agreement_table import COMPARISONS
from symjax.similarity import FewExamplesWarning

SHAPES = ((200, 20, 20), (200, 30, 12), (40, 60, 50))  # examples, neurons of either side
RANDOM, RELATED, RECTIFIED = "random", "related", "rectified"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", type=int, default=64, choices=(32, 64), help="of symjax, in bits")
    parser.add_argument("--packages", nargs="+", metavar="MODULE", help="of the table; all by default")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", args.precision == 64)
    warnings.simplefilter("ignore", FewExamplesWarning)
    print("| measure | package | version | arrays | relative difference | difference |\n|---|---|---|---:|---:|---:|")
    for measure, of_symjax, package, of_package, allowed in COMPARISONS:
        if args.packages and package not in args.packages:
            continue
        try:
            module = importlib.import_module(package)
        except (ImportError, OSError) as error:
            print(f"| {measure} | {package} | not imported: {error} | | | |", flush=True)
            continue
        differences = []
        for kind in (RANDOM, RELATED, RECTIFIED):
            for shape in filter(allowed, SHAPES):
                x, y = arrays(kind, *shape)
                value, expected = float(of_symjax(x, y)), float(of_package(module, x, y))
                differences.append((abs(value - expected) / max(abs(expected), 1e-15), abs(value - expected)))
        name, number = version(package)
        relative, absolute = np.max(differences, 0)
        print(f"| {measure} | {name} | {number} | {len(differences)} | {relative:.0e} | {absolute:.0e} |", flush=True)


def arrays(kind, n, p, q):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    if kind != RANDOM:
        common = rng.standard_normal((n, 5))
        x, y = (side + common @ rng.standard_normal((5, side.shape[1])) for side in (x, y))
    return tuple(np.maximum(side, 0) if kind == RECTIFIED else side for side in (x, y))


def version(package):
    """Return the name and the version of the distribution of a module, "-" if it has none."""
    root = package.split(".")[0]
    names = importlib.metadata.packages_distributions().get(root)
    return (names[0], importlib.metadata.version(names[0])) if names else (root, "-")


if __name__ == "__main__":
    main()
