"""Fonts for text in scripts that matplotlib's own font does not have, such as Chinese."""

import functools
from pathlib import Path

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

DEFAULT = "DejaVu Sans"  # which comes with matplotlib
NOT_FOR_TEXT = ("Last Resort", "Adobe Blank")  # families that draw every character as a frame
PREFERRED = (  # before other families that have the same characters
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Source Han Sans", "Hiragino Sans", "Yu Gothic", "PingFang SC", "Microsoft YaHei"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "IPAGothic", "Arial Unicode MS", "Unifont"),
)
UNKNOWN = "\N{WHITE SQUARE}"


def families(text: str) -> tuple[list[str], str]:
    """The font families that together draw a text, and the characters that no font here has."""
    found, unknown = _families(frozenset(text) - _characters(_default_file()))
    return [DEFAULT, *found], "".join(sorted(unknown))


def drawable(text: str) -> str:
    """A text with a square for each character that no font here has; matplotlib would warn."""
    _, unknown = families(text)
    return text.translate({ord(character): UNKNOWN for character in unknown})


@functools.lru_cache(maxsize=1000)
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
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
    """Upright families of normal weight beside the default, each with the file that is drawn."""
    entries = font_manager.fontManager.ttflist
    names = {e.name for e in entries if e.style == "normal" and e.weight in (400, "normal")}
    names = {name for name in names if not name.startswith((DEFAULT, *NOT_FOR_TEXT))}
    names = {name for name in names if not name.startswith(("STIX", "cm"))}  # for formulas
    place = {name: number for number, name in enumerate(PREFERRED)}
    ordered = sorted(names, key=lambda name: (place.get(name, len(place)), name))
    return [(name, font_manager.findfont(name)) for name in ordered]


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """The characters that a font has; none if its file can't be read."""
    if not Path(file).is_file():
        return frozenset()
    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (RuntimeError, OSError, ValueError):
        return frozenset()
