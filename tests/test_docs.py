"""README.md and docs/*.md: commands parse, flags, tests and links exist."""

import argparse
import importlib.util
import itertools
import re
import shlex
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import tyro

from symjax import models
from symjax.imports import is_import_name

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r'python -m ((?:experiments|benchmarks)\.\w+)((?:"[^"\n]*"|[^"|;&<>()#\n])*)')
PYTEST = re.compile(r"python -m pytest ([^`\n]+)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
OF_OTHERS = {"--xla", "--array", "--dist", "--help", "--nodes", "--signal", "--time"}  # SLURM, pytest, parsers and XLA


class Parsed(Exception):
    """The command line was accepted."""


@lru_cache
def code(page):
    """Lines of shell blocks, without line breaks behind a backslash, and pieces of code within the text."""
    text = PAGES[page].read_text(encoding="utf-8")
    blocks = [body.replace("\\\n", " ") for language, body in FENCED.findall(text) if language != "python"]
    pieces = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    return [line for block in blocks for line in block.splitlines()] + [" ".join(piece.split()) for piece in pieces]


def commands():
    """(module, flags), each once."""
    lines = itertools.chain(*map(code, PAGES))
    named = {(module, " ".join(flags.split())) for line in lines for module, flags in COMMAND.findall(line)}
    return sorted((module, flags) for module, flags in named if flags != "--help")


def parse(module, words, monkeypatch):
    """What the command makes of its flags; a wrong one ends in SystemExit. Nothing runs."""
    if hasattr(module, "Settings"):
        return tyro.cli(module.Settings, args=words)
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize(("name", "flags"), commands(), ids=lambda text: text)
def test_command_parses(name, flags, monkeypatch):
    assert importlib.util.find_spec(name)
    # Some benchmarks compare with packages that need not be there.
    main = f"{name}.__main__" if importlib.util.find_spec(name).submodule_search_locations else name
    module = pytest.importorskip(main, exc_type=ModuleNotFoundError)
    parsed = parse(module, shlex.split(flags), monkeypatch)
    names = getattr(parsed, "model", "mcnn").split(",")
    assert {name for name in names if not is_import_name(name)} <= set(models.MODELS)


@pytest.mark.parametrize("page", PAGES)
def test_flags_exist(page):
    folders = ("experiments", "benchmarks")
    settings = "\n".join(path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py"))
    for flag in {flag for piece in code(page) for flag in FLAG.findall(piece)} - OF_OTHERS:
        field = flag.removeprefix("--").replace("-", "_")
        assert re.search(rf"^    {field}: |\"{flag}\"", settings, re.MULTILINE), flag


def test_selections_of_tests_exist():
    for line in itertools.chain(*map(code, PAGES)):
        for words in map(shlex.split, PYTEST.findall(line)):
            text = "".join((ROOT / word).read_text(encoding="utf-8") for word in words if word.endswith(".py"))
            names = " ".join(re.findall(r"def (test_\w+)", text))
            chosen = words[words.index("-k") + 1].split() if "-k" in words and text else []
            assert all(word in names for word in chosen if word not in ("and", "or", "not")), line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", PAGES[page].read_text(encoding="utf-8"))):
        if not link.startswith("https://"):
            file, _, anchor = link.partition("#")
            target = PAGES[page].parent / file if file else PAGES[page]
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    for path in {path for piece in code(page) for path in re.findall(r"(?<![\w/])(?:tests|docs)/[\w/-]+\.\w+", piece)}:
        assert (ROOT / path).exists(), path


def anchors(page):
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
