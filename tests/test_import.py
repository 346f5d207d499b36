"""What `import symjax` and the `--help` of a command import."""

import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# A fifth of a second or more each.
HEAVY = "flax matplotlib orbax scipy sklearn tensorflow_datasets".split()
COMMANDS = [path.stem for path in (ROOT / "experiments").glob("*.py") if "\n    run_command(" in path.read_text()]
HELP = """
import contextlib, runpy, sys
for command in {commands}:
    sys.argv = [command, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module("experiments." + command, run_name="__main__", alter_sys=True)
    print(*(command + " imports " + name for name in {heavy} if name in sys.modules), sep="\\n", file=sys.stderr)
"""


def run(script: str) -> subprocess.CompletedProcess:
    """Run a script in a fresh process, from the root of the repository."""
    arguments = [sys.executable, "-c", script]
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300, cwd=ROOT)


def test_import_leaves_heavy_libraries_to_those_who_need_them():
    heavy = [*HEAVY, "pandas", "seaborn"]
    assert run(f"import sys, symjax; print(*(name for name in {heavy} if name in sys.modules))").stdout.split() == []


def test_help_imports_no_heavy_library():
    completed = run(HELP.format(commands=COMMANDS, heavy=HEAVY))
    assert completed.stdout.count("show this help message") == len(COMMANDS) > 10
    assert completed.stderr.split("\n") == [""] * (len(COMMANDS) + 1)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_list_of_commands_imports_none(arguments):
    script = f"import runpy, sys; sys.argv[1:] = {arguments}; runpy.run_module('experiments', run_name='__main__')"
    _, _, *lines, has_jax = run(f"{script}; print('jax' in sys.modules)").stdout.splitlines()
    assert has_jax == "False"
    assert [line.split()[0] for line in lines] == sorted(COMMANDS) and all(len(line.split()) > 3 for line in lines)


@pytest.mark.slow
def test_packages_are_imported_when_they_are_first_used():
    script = "import sys; from symjax import plots; print('matplotlib' in sys.modules); plots.penalties; import symjax"
    printed = run(f"{script}; print('matplotlib' in sys.modules, symjax.plots.penalties is plots.penalties)").stdout
    assert printed.split() == ["False", "True", "True"]


@pytest.mark.slow
def test_a_package_is_imported_once():
    script = """
        from symjax import models
        from symjax.models.registry import MODELS
        from symjax.models.myrtle import Myrtle
        import symjax
        assert models.MODELS is MODELS is symjax.models.MODELS and MODELS["mcnn"].build is Myrtle
        assert vars(models) is vars(symjax.models)
        models.MODELS = {}
        assert symjax.models.MODELS == {} and dir(models) == dir(symjax.models)
    """
    run(textwrap.dedent(script))


@pytest.mark.slow
def test_threads_can_use_a_package_first_at_the_same_time():
    script = """
        from concurrent.futures import ThreadPoolExecutor
        from symjax import plots, zoo
        with ThreadPoolExecutor(6) as pool:
            names = list(pool.map(lambda i: (plots.penalties, zoo.train)[i % 2].__name__, range(12)))
        assert names == ["penalties", "train"] * 6
    """
    run(textwrap.dedent(script))


def test_commands_use_one_thread_of_openblas():
    script = "import os; os.environ.pop('OPENBLAS_NUM_THREADS', 0); import experiments, numpy, threadpoolctl; "
    assert run(script + "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info()})").stdout == "{1}\n"


def test_commands_collect_garbage_after_their_imports(tmp_path):
    own = """
        import dataclasses, gc, sys
        sys.argv[0] = sys.argv[1]  # "-m", as `python -m` has it while it imports the package of a command
        import experiments.command
        print(gc.isenabled())
        Settings = dataclasses.make_dataclass("Settings", [])
        def main(settings):
            print(gc.isenabled())
        experiments.command.run_command(main, Settings, [])
    """
    (tmp_path / "own.py").write_text(textwrap.dedent(own))
    for program, during_imports in (("-m", "False"), ("script.py", "True")):
        script = f"import sys; sys.argv = ['', {program!r}]; sys.path.insert(0, {str(tmp_path)!r}); import own"
        assert run(script).stdout.split() == [during_imports, "True"]


def test_the_list_of_commands_takes_no_arguments():
    completed = subprocess.run(
        [sys.executable, "-m", "experiments", "stitch"], capture_output=True, text=True, cwd=ROOT
    )
    assert completed.returncode == 1 and "python -m experiments.NAME" in completed.stderr and not completed.stdout
