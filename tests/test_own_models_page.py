"""docs/own-models.md: its blocks of Python run, in order; and those of README.md."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "own-models.md"


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch):
    pytest.importorskip("equinox")
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    scope = {"__name__": "own_models_page"}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), scope)
    assert not list(tmp_path.iterdir())
    assert scope["zoo"].seeds == (0, 1) and scope["regression_zoo"].metrics.accuracy.max() < 0


@pytest.mark.slow
def test_the_first_block_of_the_readme_runs(capsys):
    text = PAGE.parents[1].joinpath("README.md").read_text(encoding="utf-8")
    block, printed = re.search(r"^```python\n(.*?)^```.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL).groups()
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == [line.split()[0] for line in printed.splitlines()]


def test_the_block_of_the_library_in_the_readme_prints_what_its_comments_say(capsys):
    text = PAGE.parents[1].joinpath("README.md").read_text(encoding="utf-8")
    block = re.search(r"## As a library\n\n```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    comments = re.findall(r"^print.*  # (.*)$|^# (.*)$", block, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [line for pair in comments for line in pair if line]
