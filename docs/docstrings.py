"""An extension of griffe: "a, b: text" in a docstring becomes an entry for a and one for b."""

import re
from typing import Any

import griffe

SHARED = re.compile(r"^( +)(\w+(?:, \w+)+): (.+(?:\n\1 +.+)*)", re.MULTILINE)


def split(docstring: str) -> str:
    """Gives each name of an entry that several share an entry of its own."""

    def entries(match: re.Match[str]) -> str:
        indent, names, text = match.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))

    return SHARED.sub(entries, docstring)


class SharedEntries(griffe.Extension):
    """Applies `split` to each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = split(obj.docstring.value)
