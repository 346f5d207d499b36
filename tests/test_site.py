"""mkdocs.yml and docs/: every page is in the navigation, every internal link resolves. Needs no MkDocs."""

import re
from pathlib import Path

import pytest
import yaml

from docs import scripts

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {"overview.md", "benchmarks.md", "reference/index.md"}  # by docs/hooks.py
LINK = re.compile(r"\]\(([^)\s]+)\)")
SCRIPTS = {f"{path.parent.name}/{path.stem}.md" for path in scripts.scripts()}


class Loader(yaml.SafeLoader):
    """Reads tags of MkDocs, such as !ENV, as None."""


Loader.add_multi_constructor("", lambda loader, suffix, node: None)


def pages(entry):
    """Yield all pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from pages(part)


def text(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        source = "\n".join(body for is_text, body, _ in scripts.cells(source) if is_text)
    return re.sub(r"^```.*?^```", "", source, flags=re.MULTILINE | re.DOTALL)


def test_navigation_has_every_page():
    navigation = [*pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])]
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(navigation) == len(set(navigation))
    assert set(navigation) == written | SCRIPTS | MADE


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.rglob("*.md")), *scripts.scripts()], ids=lambda path: path.relative_to(DOCS).as_posix()
)
def test_links_resolve(page):
    for link in LINK.findall(text(page)):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        made = file.relative_to(DOCS).as_posix() if file.is_relative_to(DOCS) else ""
        if made.startswith("reference/symjax"):
            continue
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text(file), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


@pytest.mark.parametrize("script", scripts.scripts(), ids=lambda path: path.stem)
def test_script_has_a_title_and_valid_code(script):
    first, *_ = cells = [*scripts.cells(script.read_text(encoding="utf-8"))]
    assert first[0] and first[1].startswith("# ")
    for is_text, body, line in cells:
        if not is_text:
            compile("\n" * line + body, script, "exec")


def test_cells_keep_line_numbers():
    source = "# %% [markdown]\n# # Title\n# text\n\n# %%\nx = 1\n"
    assert [*scripts.cells(source)] == [(True, "# Title\ntext\n\n", 1), (False, "x = 1\n", 5)]
