"""The page of all measures is what its script prints, and says something of each."""

from pathlib import Path

from docs import measures
from symjax.similarity import MEASURES

PAGE = Path(measures.__file__).parent / "measures.md"


def test_page_is_what_the_script_prints(capsys):
    measures.main()
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8"), "run python -m docs.measures > docs/measures.md"


def test_every_measure_has_notes():
    lacking = [
        (name, field) for name in MEASURES for field in ("cost", "bias", "use") if not measures.notes(name, field)
    ]
    assert not lacking
