"""Fonts for scripts that matplotlib's default font lacks, such as Chinese."""

import functools
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

DEFAULT = "DejaVu Sans"  # comes with matplotlib
NOT_FOR_TEXT = ("Last Resort", "Adobe Blank")  # they draw every character as a frame
PREFERRED = (  # over other families with the same characters
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Source Han Sans", "Hiragino Sans", "Yu Gothic", "PingFang SC", "Microsoft YaHei"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "IPAGothic", "Arial Unicode MS", "Unifont"),
)
UNKNOWN = "\N{WHITE SQUARE}"


def families(text: str) -> tuple[list[str], str]:
    """Finds the font families to draw a text with.

    Returns:
      The families in the order in which to try them, and the characters that no installed font has.
    """
    others, unknown = _families(frozenset(text) - _characters(_default_file()))
    return [DEFAULT, *others], "".join(sorted(unknown))


def drawable(text: str) -> str:
    """Replaces each character that no installed font has by a square.

    Matplotlib would print a warning for it.
    """
    _, unknown = families(text)
    return text.translate({ord(character): UNKNOWN for character in unknown})


@functools.lru_cache(maxsize=1000)
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families other than the default that have the characters, and those that none has."""
    characters = frozenset(c for c in characters if not c.isspace())
    found: list[str] = []
    for family, file in _others() if characters else ():
        if characters & _characters(file):
            characters -= _characters(file)
            found.append(family)
        if not characters:
            break
    return tuple(found), characters


def _default_file() -> str:
    return font_manager.findfont(DEFAULT)


@functools.cache
def _others() -> list[tuple[str, str]]:
    """Upright families of normal weight except the default, each with its font file."""
    entries = font_manager.fontManager.ttflist
    names = {e.name for e in entries if e.style == "normal" and e.weight in (400, "normal")}
    names = {name for name in names if not name.startswith((DEFAULT, *NOT_FOR_TEXT))}
    names = {name for name in names if not name.startswith(("STIX", "cm"))}  # for formulas
    rank = {name: number for number, name in enumerate(PREFERRED)}
    ordered = sorted(names, key=lambda name: (rank.get(name, len(rank)), name))
    return [(name, font_manager.findfont(name)) for name in ordered]


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """The characters of a font; none if its file can't be read."""
    if not Path(file).is_file():
        return frozenset()
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (RuntimeError, OSError, ValueError):
        return frozenset()
