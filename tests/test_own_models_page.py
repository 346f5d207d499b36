"""docs/own-models.md: its blocks of Python run, in order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "own-models.md"


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
