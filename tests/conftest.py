"""Settings of the whole suite: two CPU devices, programs that compile quickly, and a cache of compiled programs.

Compilation takes most of the suite's time. On a CPU the tests therefore use XLA's older kernels and few optimizations,
and every process, those started by tests included, reads and writes one cache of programs in the user's cache folder.
"""

import functools
import gc
import itertools
import os
import pathlib
import shutil
import zlib
from collections import defaultdict

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads cost more than small matrices; read at first import

import campaign
import jax
import pytest
from jax._src.interpreters import mlir
from matplotlib.figure import Figure

from symjax.data.cache import default_folder

CACHE = default_folder() / "test-programs"
CACHE_LIMIT = 2**30  # bytes; a larger cache is deleted when a run starts
OPTIONS = {
    "jax_disable_most_optimizations": True,
    "jax_compilation_cache_dir": str(CACHE),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_traceback_in_locations_limit": 0,  # a tenth of what lowering takes, for messages of the compiler alone
}
for name, value in OPTIONS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the processes that tests start
jax.config.update("jax_num_cpu_devices", 2)
if jax.__version_info__ < (0, 11):  # later versions do not know these options
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)  # one for all programs: a fifth of a small program


def pytest_configure(config):
    """Draw all inputs of the campaigns where the command asks for them."""
    campaign.FULL = "fuzz" in config.option.markexpr


def pytest_sessionstart(session):
    """Delete a cache that has grown too large, in the process that starts the others."""
    if not hasattr(session.config, "workerinput") and CACHE.exists():
        if sum(entry.stat().st_size for entry in os.scandir(CACHE)) > CACHE_LIMIT:
            shutil.rmtree(CACHE)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection_modifyitems(items):
    """Mark cases of tests marked `few` as slow before tests are deselected, and order tests for workers afterwards."""
    mark_all_but_few(items)
    yield
    if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))) > 1:
        items[:] = ordered_for(workers, items)


def mark_all_but_few(items):
    """Of the cases of tests marked `few`, mark all as slow but so many, evenly spread from a place that the name gives.

    So tests of every measure leave different measures out.
    """
    groups = defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("slow"):
            groups[item.nodeid.partition("[")[0]].append(item)
    for name, cases in groups.items():
        (count,) = cases[0].get_closest_marker("few").args
        start = zlib.crc32(name.encode())
        kept = {(start + i * len(cases) // count) % len(cases) for i in range(min(count, len(cases)))}
        for place in set(range(len(cases))) - kept:
            cases[place].add_marker("slow")


def ordered_for(workers, items):
    """Return tests in an order in which few fixtures of modules are set up in two workers (`--dist worksteal`).

    Each worker starts with an equal share of the list, and a worker without tests takes some from the end of another's.
    Modules with fixtures of their own therefore come first in every share.
    """
    modules = defaultdict(list)
    for item in items:
        modules[item.path].append(item)
    shares, others = [[] for _ in range(workers)], []
    for tests in modules.values():
        (min(shares, key=len) if any(map(has_module_fixture, tests)) else others).extend(tests)
    rest = iter(others)
    for share in shares:
        share.extend(itertools.islice(rest, max(0, -(-len(items) // workers) - len(share))))
    return [*itertools.chain(*shares), *rest]


def has_module_fixture(item):
    fixtures = [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
    return any(fixture.scope == "module" and fixture.argname != "forget_programs" for fixture in fixtures)


def pytest_collection_finish(session):
    """Keep what all tests share out of garbage collections, and collect less often: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Save a figure as a few bytes, except in tests marked `figures`: rendering takes half a second a file."""
    if "figures" not in request.keywords:
        monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"a figure"))


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Each compiled program holds maps of memory, of which a process may have 65,530: too few for all tests."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()
