"""Whatever flags a command is given: one line on stderr that names the flag and exit code 2, or it goes ahead.

Commands and flags are found by introspection; a new one is thrown at without a line here. Nothing trains: `zoo.train`
and `zoo.train_together` are replaced by what says that a command came so far.
"""

import importlib
import pkgutil
import re
import types
import typing
from functools import lru_cache
from pathlib import Path

import pytest

import experiments
import experiments.settings
from experiments.settings import ZooSettings, run_command
from symjax import zoo

pytestmark = pytest.mark.usefixtures("quick_compilation")


class WentAhead(Exception):
    """The command found nothing wrong with its flags."""


def commands():
    """By name, the modules under experiments/ that are commands."""
    found = {}
    for info in pkgutil.iter_modules(experiments.__path__):
        module = importlib.import_module(f"experiments.{info.name}")
        if hasattr(module, "main") and hasattr(module, "Settings"):
            found[info.name] = module
    return found


COMMANDS = commands()
TRAINING = [name for name, module in COMMANDS.items() if issubclass(module.Settings, ZooSettings)]


def kind_of(command, field):
    """(int, float, str, bool, Path or "choice", whether it may be None) of a field."""
    hint = typing.get_type_hints(COMMANDS[command].Settings)[field.name]
    options = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    first = next(option for option in options if option is not type(None))
    return "choice" if typing.get_origin(first) is typing.Literal else first


def flag(name):
    return f"--{name.replace('_', '-')}"


# Values of which none is taken by any flag of the kind, but for those that `TAKEN` lists.
WRONG = {
    int: ["-1", "-1000000000000", "1.5", "x", "nan", "", "1e3", "٣٫٥"],
    float: ["nan", "inf", "-inf", "-1", "1e999", "x", "", "0x10"],
    str: ["", ",", " , ,", "no such name", "../up", "a/b\\c", "naïve-✓", "-", "nan", "inf", "-1", "1;2", "\n"],
    "choice": ["", "no such choice", "None ", "ADAM"],
    bool: ["maybe", "", "2"],
    Path: ["", "file", "file/below", "\0"],
}
# Values that some flags take and others do not: the command says so, or goes ahead.
DOUBTFUL = {
    int: ["0", "1", "2", "3", "100", "1000000", str(2**31), str(2**32), str(2**63), str(10**30)],
    float: ["0", "1e-45", "1e-30", "1e30", "0.999999", "1", "2"],
    str: [
        "1",
        "2",
        "1,",
        "1,1",
        "0",
        "99999",
        "1e-3,1e-3",
        "all",
        "all,all",
        "none",
        "relu1",
        "relu1,relu1",
        "9" * 30,
        "x" * 300,
    ],
    "choice": ["None"],
    bool: ["True", "False"],
    Path: ["new", "new/below", "with space", "naïve-✓"],
}


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch, tmp_path):
    def went_ahead(*args, **options):
        raise WentAhead

    for name in ("train", "train_together"):
        monkeypatch.setattr(zoo, name, went_ahead)
    monkeypatch.setattr("symjax.data.load", lru_cache(maxsize=None)(__import__("symjax.data").data.load))
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("hello")


def left_behind():
    return sorted(str(path) for path in Path().rglob("*") if path.name != "file" and path.suffix not in (".npz",))


def thrown(command, words, capsys):
    """(exit code, stderr); code 0 where the command went ahead."""
    module = COMMANDS[command]
    try:
        run_command(module.main, module.Settings, [str(word) for word in words])
        code = 0
    except WentAhead:
        code = 0
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def check(command, words, named, capsys, *, refused):
    """What must hold; returns whether it was refused."""
    code, error = thrown(command, words, capsys)
    if code == 0 and not refused:
        return False
    assert code == 2, f"{command} {words} went ahead"
    assert "Traceback" not in error
    if error.startswith("error: "):
        first = error.splitlines()[0]
        assert any(re.search(rf"\b{re.escape(name)}\b", first) for name in named), f"{words}: {error}"
    else:  # tyro's own box
        assert named[0].replace("_", "-") in error or "argument" in error.lower(), error
    assert not left_behind(), left_behind()
    return True
