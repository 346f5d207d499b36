"""Options of the compiler for programs on a CPU."""

from functools import lru_cache
from typing import Any

import jax

from symjax.checks import integer


def compiler_options(effort: int = 2) -> dict | None:
    """Return options of the compiler for programs on this backend; None if it is not a CPU.

    On a CPU they keep `optimization_barrier`s. By default the compiler drops these before fusion, and every fusion that
    reads a pooling gradient or the tiles of a convolution computes them again. Options that the installed compiler does
    not have are omitted.

    Args:
      effort: 2 for fast code: LLVM's level 1, whose code is as fast as that of higher levels here and compiles in 3/4
        of the time. 1 for networks and programs of many small operations: also without XLA's fusion emitters, which
        halves the time of compilation; networks train as fast, similarity measures are slower. 0 for programs that run
        once: also LLVM's level 0.

    Raises:
      InputError: another effort.
    """
    if jax.default_backend() != "cpu":
        return None
    level = min(integer("effort", effort, 0, 2), 1)
    options = {"xla_backend_optimization_level": level, "xla_disable_hlo_passes": "cse_barrier_expander"}
    options |= {} if effort == 2 else {"xla_cpu_use_fusion_emitters": False}
    return {name: value for name, value in options.items() if _has_option(name, value)}


@lru_cache
def _has_option(name: str, value: Any) -> bool:
    """Return whether the compiler has this option, by compiling a trivial program."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True
