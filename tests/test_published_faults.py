"""The page of published faults: examples give the numbers that it quotes, and it is what the script prints."""

import re
from pathlib import Path

import numpy as np
import pytest

from docs import published_faults
from docs.published_faults import ERRORS, FAULTS, run, run_to_error, title

PAGE = (Path(published_faults.__file__).parent / "published-faults.md").read_text(encoding="utf-8")
NUMBER = r"nan|-?\d\.\d{3}"


def quoted(fault):
    """What the table of the page says, by the definition and as published."""
    row = re.search(rf"^\| {re.escape(title(fault))} \| ({NUMBER}) \| ({NUMBER}) \|$", PAGE, re.MULTILINE)
    return [float(number) for number in row.groups()]


def quoted_error(fault):
    """The same of one that ends in an error, with the error's message."""
    name = re.escape(title(fault))
    defined, error = re.search(rf"^\| {name} \| ({NUMBER}) \| `(\w+)` \|$", PAGE, re.MULTILINE).groups()
    section = PAGE.split(f"\n## {title(fault)}\n")[1].split("\n## ")[0]
    return float(defined), error, re.search(rf"as published `{error}: (.*)`\.$", section, re.MULTILINE)[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.few(5)
def test_example_gives_what_the_page_says(fault):
    np.testing.assert_allclose(run(fault), quoted(fault), atol=1e-3)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fault_shows(fault):
    defined, published = quoted(fault)
    assert not abs(defined - published) < 0.03  # NaN does too


@pytest.mark.parametrize("fault", ERRORS, ids=lambda fault: fault.__name__)
def test_published_way_ends_in_the_error_that_the_page_says(fault):
    (defined, error, _), (quoted_number, quoted_type, message) = run_to_error(fault), quoted_error(fault)
    np.testing.assert_allclose(defined, quoted_number, atol=1e-3)
    assert error == quoted_type and message  # whose words are NumPy's and may change


def test_page_is_what_the_script_prints(monkeypatch, capsys):
    monkeypatch.setattr(published_faults, "run", quoted)
    monkeypatch.setattr(published_faults, "run_to_error", quoted_error)
    published_faults.main()
    assert capsys.readouterr().out == PAGE
