"""The page of published faults: examples give the numbers that it quotes, and it is what the script prints."""

import re
from pathlib import Path

import numpy as np
import pytest

from docs import published_faults
from docs.published_faults import FAULTS, run, title

pytestmark = pytest.mark.usefixtures("quick_compilation")

PAGE = (Path(published_faults.__file__).parent / "published-faults.md").read_text(encoding="utf-8")
NUMBER = r"nan|-?\d\.\d{3}"


def quoted(fault):
    """What the table of the page says, by the definition and as published."""
    row = re.search(rf"^\| {re.escape(title(fault))} \| ({NUMBER}) \| ({NUMBER}) \|$", PAGE, re.MULTILINE)
    return [float(number) for number in row.groups()]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_example_gives_what_the_page_says(fault):
    np.testing.assert_allclose(run(fault), quoted(fault), atol=1e-3)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_shows(fault):
    defined, published = quoted(fault)
    assert not abs(defined - published) < 0.03  # NaN does too


def test_page_is_what_the_script_prints(monkeypatch, capsys):
    monkeypatch.setattr(published_faults, "run", quoted)
    published_faults.main()
    assert capsys.readouterr().out == PAGE
