"""Docstrings as Markdown: `<h_i, x_j>` is a product and no tag; fields of a tuple are listed with their comments."""

import re

import griffe

CODE = re.compile(r"(`[^`]*`|^[ ]*>>> .*(?:\n[ ]*\S.*)*)", re.MULTILINE)  # examples with what they print
HEADING = re.compile(r"^(Example|Class attributes\b[^:\n]*):$", re.MULTILINE)


def comment_of(field: griffe.Attribute, lines: list[str]) -> str:
    """Return the comment behind a field, with the lines of comment that follow it."""
    words = re.findall(r"#\s+(.*)", lines[field.lineno - 1])
    for line in lines[field.endlineno :] if words else ():
        if not line.lstrip().startswith("#"):
            break
        words.append(line.lstrip("# "))
    return " ".join(words)


def known_heading(match: re.Match) -> str:
    """Return a heading of a section as griffe knows it."""
    return "Examples:" if match[1] == "Example" else f"Attributes: {match[1].replace('`', '')}"


class Docstrings(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **kwargs):
        """List the fields of a named tuple whose docstring does not."""
        if not cls.docstring or "Attributes:" in cls.docstring.value or "NamedTuple" not in map(str, cls.bases):
            return
        lines = cls.lines_collection[cls.filepath]
        fields = [a for a in cls.members.values() if a.is_attribute and a.annotation and "property" not in a.labels]
        listed = [f"    {field.name}: {comment_of(field, lines) or field.annotation}" for field in fields]
        cls.docstring.value += "\n\nAttributes:\n" + "\n".join(listed)

    def on_object(self, *, obj: griffe.Object, **kwargs):
        if obj.docstring:
            pieces = CODE.split(HEADING.sub(known_heading, obj.docstring.value))
            pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
            obj.docstring.value = "".join(pieces)
