"""What `mkdocs build --strict` does beside MkDocs: pages of scripts, the reference, links that leave this folder.

The build fails where a script fails, a link is broken, or a public name has no docstring.
"""

import importlib
import os
import re
import sys
import traceback
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from docs import scripts  # noqa: E402

PAGES_OF_FILES = {"README.md": "overview.md", "benchmarks/README.md": "benchmarks.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def definition(module: str, name: str) -> str:
    """Return where a public name is defined: `symjax.similarity.cca` is a module, too."""
    value = getattr(importlib.import_module(module), name)
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else f"{module}.{name}"


def public_names() -> dict[str, list[str]]:
    """Return the names in `__all__` of each public module; symjax itself has those that no other module exports."""
    extensions = griffe.load_extensions(ROOT / "docs" / "docstrings.py")
    package = griffe.load("symjax", search_paths=[ROOT], extensions=extensions)
    modules = re.findall(r"`symjax\.([\w.]+)`", package.docstring.value)
    names = {f"symjax.{module}": list(map(str, package[module].exports)) for module in modules}
    exported = {name for of_module in names.values() for name in of_module}
    names = {"symjax": [name for name in map(str, package.exports) if name not in exported], **names}
    without = {
        f"{module}.{name}"
        for module, of_module in names.items()
        for name in of_module
        if not package.modules_collection[definition(module, name)].has_docstring
    }
    if without:
        raise PluginError(f"public names without a docstring: {sorted(without)}")
    return names


def on_config(config):
    """Add a page for each public module to the navigation."""
    sys.path.insert(0, str(ROOT))  # MkDocs has taken it away again after it loaded this file
    config.public = public_names()
    pages = [{name: f"reference/{name}.md"} for name in config.public]
    for item in config.nav:
        if "API reference" in item:
            item["API reference"] = [{"All public names": "reference/index.md"}, *pages]
    return config


def on_files(files, config):
    """Add the pages that are made: of scripts, of files outside of docs/, of the reference."""

    def add(name, content):
        files.append(File.generated(config, name, content=content))

    for path in scripts.scripts():
        try:
            page, figures = scripts.run(path, path.read_text(encoding="utf-8"))
        except Exception as error:
            raise PluginError(traceback.format_exc()) from error
        folder = path.parent.name
        add(f"{folder}/{path.stem}.md", page)
        for name, picture in figures.items():
            add(f"{folder}/{name}", picture)
    for file, page in PAGES_OF_FILES.items():
        add(page, (ROOT / file).read_text(encoding="utf-8"))
    index = ["# All public names\n\nEverything else in symjax is internal and may change."]
    for module, names in config.public.items():
        links = (f"[`{name}`][{definition(module, name)}]" for name in sorted(names))
        index.append(f"## [{module}]({module}.md)\n\n{' · '.join(links)}")
        entries = "\n\n".join(f"::: {definition(module, name)}" for name in names)
        options = "{members: false, show_root_heading: false, show_root_toc_entry: false}"
        introduction = f"::: {module}\n    options: {options}"
        add(f"reference/{module}.md", f"# {module}\n\n{introduction}\n\n{entries}\n")
    add("reference/index.md", "\n\n".join(index))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make links of the repository links of the site."""
    source = next((file for file, name in PAGES_OF_FILES.items() if name == page.file.src_uri), None)
    folder = (ROOT / (source or f"docs/{page.file.src_uri}")).parent

    def relink(match):
        picture, text, link = match.groups()
        target, hash_sign, anchor = link.partition("#")
        if "://" in link or not target:
            return match[0]
        path = Path(os.path.normpath(folder / target)).relative_to(ROOT).as_posix()
        if path.removeprefix("docs/") in {f"{s.parent.name}/{s.name}" for s in scripts.scripts()}:
            path = path.removesuffix(".py") + ".md"
        path = "docs/" + PAGES_OF_FILES[path] if path in PAGES_OF_FILES else path
        if not path.startswith("docs/"):
            return text if "`" in text else f"{text} (`{path}`)"
        here = Path("docs", page.file.src_uri).parent
        return f"{picture}[{text}]({Path(os.path.relpath(path, here)).as_posix()}{hash_sign}{anchor})"

    pieces = FENCED.split(markdown)
    pieces[::2] = [LINK.sub(relink, piece) for piece in pieces[::2]]
    return "".join(pieces)
