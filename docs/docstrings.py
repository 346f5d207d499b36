"""Docstrings as Markdown: `<h_i, x_j>` is a product and no tag; the comment behind a field is its docstring."""

import re

import griffe

CODE = re.compile(r"(`[^`]*`|^\s*(?:>>>|\.\.\.) .*$)", re.MULTILINE)
COMMENT = re.compile(r"[^#]*?#\s+(.*)")


class Docstrings(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs):
        """Take the comment of a field of a class, with the lines of comment that follow it."""
        if attr.docstring or not attr.parent.is_class:
            return
        lines, comment = attr.parent.module.lines_collection[attr.filepath], []
        for line in lines[attr.lineno - 1 :]:
            match = COMMENT.match(line)
            if not match or (comment and not line.lstrip().startswith("#")):
                break
            comment.append(match[1])
        if comment:
            attr.docstring = griffe.Docstring(" ".join(comment), parent=attr)

    def on_object(self, *, obj: griffe.Object, **kwargs):
        if obj.docstring:
            pieces = CODE.split(obj.docstring.value)
            pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
            obj.docstring.value = "".join(pieces)
