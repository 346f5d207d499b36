"""Pages from scripts: cells of Markdown and of Python, what these print, and their figures.

`# %% [markdown]` begins a cell of text, whose lines are comments; `# %%` one of code. Cells run in order, with the same
variables. An exception ends the build.
"""

import contextlib
import io
import platform
import re
import time
from functools import lru_cache
from pathlib import Path

import experiments  # noqa: F401  (settings of threads, before NumPy is imported)

ROOT = Path(__file__).parents[1]
FOLDERS = ("tutorials", "how-to")
CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def scripts():
    return sorted(path for folder in FOLDERS for path in (ROOT / "docs" / folder).glob("*.py"))


def cells(source: str):
    """Yield (is_text, body, first line) for each cell."""
    marks = [*CELL.finditer(source)]
    ends = [mark.start() for mark in marks[1:]] + [len(source)]
    for mark, end in zip(marks, ends, strict=True):
        body, line = source[mark.end() : end], source[: mark.end()].count("\n")
        is_text = "[markdown]" in mark[1]
        yield is_text, re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else body, line


@lru_cache
def run(path: Path, source: str):
    """Return the page as Markdown, and its figures as {file name: PNG}."""
    import jax
    import matplotlib

    from experiments.programs import keep_programs

    keep_programs()
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    began, page, figures, shown, variables = time.process_time(), [], {}, [], {"__name__": path.stem}
    for is_text, body, line in cells(source):
        if is_text:
            page.append(body)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + body, path, "exec"), variables)
        page.append(f"```python\n{body.strip()}\n```")
        if printed.getvalue():
            page.append(f"```{{ .text .output .no-copy }}\n{printed.getvalue().rstrip()}\n```")
        drawn = [plt.figure(number) for number in plt.get_fignums()]
        drawn += [v for v in variables.values() if isinstance(v, matplotlib.figure.Figure) and v not in shown + drawn]
        for figure in drawn:
            name, picture = f"{path.stem}-{len(figures) + 1}.png", io.BytesIO()
            figure.savefig(picture, dpi=150, bbox_inches="tight")
            figures[name] = picture.getvalue()
            page.append(f"![Figure {len(figures)} of this page]({name})")
        shown += drawn
        plt.close("all")
    file, took = path.relative_to(ROOT), time.process_time() - began
    page.append(
        f"---\n\nThe build (`mkdocs build --strict`) ran `{file}` and inserted what it printed and "
        f"drew: {took:.0f} seconds of processor time, JAX {jax.__version__}, {processor()}."
    )
    return "\n\n".join(page), figures


def processor() -> str:
    """The name of this machine's processor."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found[1]
    return platform.processor() or platform.machine()
