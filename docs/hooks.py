"""The table of methods, made from the package: for the documentation, and for README.md.

  python docs/hooks.py    # updates the table in README.md

mkdocs calls `on_page_markdown` for each page.
"""

import inspect
import itertools
import re
from pathlib import Path
from typing import Any

from cil_jax.report import published_results
from cil_jax.report.percentages import round_percentage
from cil_jax.settings import loading
from cil_jax.settings.code import METHODS

ROOT = Path(__file__).parents[1]
README, PRESETS = ROOT / "README.md", ROOT / "cil_jax/settings/presets"
BEGIN, END = "<!-- methods: made by `python docs/hooks.py` -->", "<!-- end of methods -->"
SITE = "https://cil-jax.github.io/cil_jax/api/methods/"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the methods into a page, where it asks for them."""
    markdown = markdown.replace("<!-- table of methods -->", table("api/methods.md"))
    markdown = markdown.replace("<!-- reference of methods -->", reference())
    return markdown.replace("<!-- departures -->", departures())


def table(reference_page: str) -> str:
    """The methods in Markdown: what each is, its presets, and published values beside ours.

    Args:
      reference_page: the page of the reference of methods, as a link.
    """
    lines = [
        "| command | method | presets | published | ours |",
        "|---|---|---|---|---|",
    ]
    for name in METHODS:
        presets = ", ".join(f"`{preset}`" for preset in loading.presets(name))
        link = f"[`cil-jax {name}`]({reference_page}#{_module(name).__name__})"
        lines.append(f"| {link} | {_about(name)} | {presets} | {' | '.join(_values(name))} |")
    return "\n".join(lines)


def reference() -> str:
    """The entries of the methods for mkdocstrings."""
    return "\n\n".join(f"::: {_module(name).__name__}" for name in METHODS)


def departures() -> str:
    """What each preset says of its source and its departures from it."""
    parts = []
    for method in METHODS:
        for preset in loading.presets(method):
            lines = (PRESETS / method / f"{preset}.yaml").read_text().splitlines()
            about = itertools.takewhile(lambda line: line.startswith("#"), lines)
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in about)
            text = re.sub(r"(?<=[^\n])\n- ", "\n\n- ", text, count=1)  # a list needs an empty line
            text = re.sub(r"(?<!\()https://[^\s,;)]*[^\s,;).]", r"<\g<0>>", text)
            parts.append(f"### {method}/{preset}\n\n{text}")
    return "\n\n".join(parts)


def updated_readme(text: str) -> str:
    """README.md with its table of methods made anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(SITE)}\n\n{END}{rest.partition(END)[2]}"


def _module(name: str) -> Any:
    return inspect.getmodule(METHODS[name])


def _about(name: str) -> str:
    """The first sentence of a method's file, with its addresses as links."""
    sentence = (inspect.getdoc(_module(name)) or "").partition("\n")[0].rstrip(".")
    return re.sub(r"(\(?)([^(]+), (https://[^\s)]+)", r"\1[\2](\3)", sentence)


def _values(name: str) -> tuple[str, str]:
    """Published and our average / last accuracy in 10 tasks of 10, of the first row of a method."""
    found = [row for row in published_results.rows() if row.method == name and not row.variant]
    row = next((row for row in found if row.can_be_run), None)
    if row is None:
        return "-", "-"
    ours = published_results.outcome(row, "full", None)
    published = " / ".join(
        ("about " if key in row.about else "") + f"{value:g}" if value is not None else "-"
        for key, value in (("average", row.average), ("last", row.last))
    )
    published += f" (`{row.preset}`)"
    if published.startswith("- / -"):
        published = "in a figure"
    if not ours.n:
        return published, "not run"
    numbers = (ours.average, ours.last)
    shown = " / ".join(str(round_percentage(x[0])) if x else "-" for x in numbers)
    return published, f"{shown} (n = {ours.n})"


if __name__ == "__main__":
    README.write_text(updated_readme(README.read_text()))
