"""Keep compiled programs between runs in the cache folder of the user."""

import contextlib
import hashlib
import os
import platform
import shutil

import jax

from symjax.data.cache import default_folder
from symjax.errors import InputError

LIMIT = 2**30  # bytes; a larger folder is deleted when a command starts


def keep_programs() -> None:
    """Let JAX save compiled programs in `programs` of the cache folder, unless SYMJAX_PROGRAMS=0.

    If the user has set a folder for JAX, it is used instead. Programs are not saved if the folder cannot be written.
    """
    if os.environ.get("SYMJAX_PROGRAMS") == "0" or jax.config.jax_compilation_cache_dir:
        return
    with contextlib.suppress(OSError, InputError):  # there may be no home folder
        folder = default_folder() / "programs" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        if sum(entry.stat().st_size for entry in os.scandir(folder)) > LIMIT:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(exist_ok=True)
        if os.access(folder, os.W_OK):
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _processor() -> str:
    """Return a name of the kind of processor: compiled programs may not run on another processor with this folder."""
    description = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        description += sorted({line for line in file if line.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("".join(description).encode()).hexdigest()[:10]
