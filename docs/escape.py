"""Docstrings as Markdown: `<h_i, x_j>` is a product and no tag."""

import re

import griffe

CODE = re.compile(r"(`[^`]*`|^\s*(?:>>>|\.\.\.) .*$)", re.MULTILINE)


class Escape(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs):
        if obj.docstring:
            pieces = CODE.split(obj.docstring.value)
            pieces[::2] = [piece.replace("<", "&lt;") for piece in pieces[::2]]
            obj.docstring.value = "".join(pieces)
