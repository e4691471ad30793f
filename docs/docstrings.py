"""Reads the project's docstrings for the site: `name : what it is`, with types from signatures.

numpydoc has the type after the colon; here the signature has it. This extension of griffe moves the
text below the name, where numpydoc has descriptions, and leaves everything else as it is.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_BARE = re.compile(r"^[*\w]+(, [*\w]+)*$")
_ENTRY = re.compile(r"^([*\w][\w, *]*?) ?: (.*)$")


def rewritten(text: str) -> str:
    """A docstring with descriptions where numpydoc has them, and its last words before sections."""
    head, *sections = re.split(r"(?m)^(?=\w[\w ]*\n-{3,}$)", text)
    parts = []
    for section in sections:
        title, _, *body = section.split("\n")
        if title in ("Parameters", "Attributes"):
            body, rest = _entries(body)
            head += rest
            parts.append("\n".join([title, "-" * len(title), *body, ""]))
        elif title == "Returns":  # the type is in the signature
            head = f"{head.rstrip()}\n\n**Returns** " + " ".join("\n".join(body).split()) + "\n\n"
        else:
            parts.append(section)
    return head.rstrip() + "\n\n" + "\n".join(parts)


def _entries(lines: list[str]) -> tuple[list[str], str]:
    """The entries of a section in numpydoc's form, and the paragraphs that follow them."""
    entries: list[str] = []
    for i, line in enumerate(lines):
        entry = _ENTRY.match(line)
        if entry:
            entries += [entry[1], f"    {entry[2]}"]
        elif line and not line.startswith(" ") and not _BARE.match(line):
            return entries, "\n\n" + "\n".join(lines[i:])
        else:
            entries.append(line)
    return entries, ""


class Docstrings(griffe.Extension):
    """What mkdocstrings loads, from mkdocs.yml."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)
