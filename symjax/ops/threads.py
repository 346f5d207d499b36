"""Run tasks concurrently in threads."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

import jax

from symjax.ops.interruption import Interrupted

# A new thread has JAX's global settings and not those of the contexts around its creation.
_CONTEXTS = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_debug_nans": jax.debug_nans,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
}


class Stopped(Exception):
    """Raised by `check_stop` in a task of `run_concurrently` that must end."""


def run_concurrently(tasks: Sequence[Callable]) -> list:
    """Run each task in a separate thread and return the results in order.

    Use it for independent programs on different devices. Threads have the settings of JAX of the calling thread, such
    as `jax.enable_x64`. A single task runs in the calling thread.

    Args:
      tasks: functions of `check_stop`, a function without arguments that a task calls regularly. It raises `Stopped`
        when another task has failed or the user has interrupted the process.

    Raises:
      Exception: the error of the first task that failed, after all tasks have ended.
      interruption.Interrupted: immediately.
    """
    if len(tasks) == 1:
        return [tasks[0](lambda: None)]
    stop, settings = threading.Event(), {name: getattr(jax.config, name) for name in _CONTEXTS}

    def check_stop():
        if stop.is_set():
            raise Stopped

    def run(task):
        with contextlib.ExitStack() as contexts:
            for name, value in settings.items():
                contexts.enter_context(_CONTEXTS[name](value))
            return task(check_stop)

    pool, wait_for_tasks = ThreadPoolExecutor(len(tasks)), True
    try:
        futures = [pool.submit(run, task) for task in tasks]
        done, running = set[Future](), set(futures)
        while running and not any(future.exception() for future in done):
            # The timeout lets this thread handle a signal that another thread has received.
            done, running = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
    except Interrupted:
        wait_for_tasks = False
        raise
    finally:
        stop.set()
        pool.shutdown(wait=wait_for_tasks)
    errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, Stopped)):
        raise error
    return [future.result() for future in futures]
