"""Tables and entries of the methods, made from the package: for the documentation and README.md.

  python docs/hooks.py    # updates the table in README.md

mkdocs calls `on_page_markdown` for each page.
"""

import dataclasses
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

from cil_jax.app.accelerator import start_accelerator
from cil_jax.methods.expanding import Expanding
from cil_jax.methods.fetril import FeTrIL
from cil_jax.methods.fixed import FixedRepresentation
from cil_jax.methods.frozen import Frozen
from cil_jax.methods.penalty import WeightPenalty
from cil_jax.methods.prototypes import Prototypes
from cil_jax.report import published_results
from cil_jax.report.percentages import round_percentage
from cil_jax.report.tables import markdown_table, reproduction_cells
from cil_jax.settings import loading
from cil_jax.settings.code import METHODS
from cil_jax.settings.declaring import flag, plain
from cil_jax.training.build import room_of
from cil_jax.training.inventory import Inventory, inventory

ROOT = Path(__file__).parents[1]
README, PRESETS = ROOT / "README.md", ROOT / "cil_jax/settings/presets"
BEGIN, END = "<!-- methods: made by `python docs/hooks.py` -->", "<!-- end of methods -->"
SITE = "https://cil-jax.github.io/cil_jax/api/methods/"
SOURCE = "https://github.com/cil-jax/cil_jax/blob/main/"
IMAGE_SHAPE, TASK_SIZES = (32, 32, 3), [10] * 10  # of CIFAR-100, for the bytes that are kept


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the methods into a page, where it asks for them."""
    markdown = markdown.replace("<!-- table of methods -->", table("api/methods.md"))
    markdown = markdown.replace("<!-- reference of methods -->", reference())
    if "<!-- entries of methods -->" in markdown:  # which take a while
        markdown = markdown.replace("<!-- entries of methods -->", entries())
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


def entries() -> str:
    """What is to be known of each method, under a heading with its name."""
    start_accelerator("cpu")
    return "\n\n".join(entry(name) for name in METHODS)


def entry(name: str) -> str:
    """A method: its paper, kind, file, equation, presets, settings, memory and results."""
    preset = loading.default_preset(name)
    config = loading.preset(name, preset, pad=0, mirror="no")  # augmentation is not kept
    kept = inventory(config, IMAGE_SHAPE, room_of(TASK_SIZES))
    module, file = _module(name).__name__, _module(name).__name__.replace(".", "/") + ".py"
    idea = (inspect.getdoc(_module(name)) or "").partition("\n")[2].strip()
    equation, _, _ = (inspect.getdoc(METHODS[name]) or "").partition("\n\nAttributes:")
    return "\n\n".join(
        [
            f"### {name}",
            f"**{_about(name)}.** {_linked(idea)}".strip(),
            _linked(equation),
            f"- *Kind:* {_kind(name, kept)}\n"
            f"- *File:* [`{file}`]({SOURCE}{file}), "
            f"[reference](api/methods.md#{module})\n"
            + "".join(
                f"- *Preset* `{other}`{' (default)' if other == preset else ''}: "
                f"{loading.about_preset(name, other)}\n"
                for other in loading.presets(name)
            )
            + f"- *Keeps* from one task to the next (`{preset}`), in bytes: {_bytes_kept(kept)}",
            _settings(name, preset),
            _results(name),
        ]
    )


def _kind(name: str, kept: Inventory) -> str:
    """The kinds of a method, by what it keeps and what it is built on."""
    cls = METHODS[name]
    kinds = {
        "upper bound": kept.keeps_all_data,
        "frozen features": issubclass(cls, Frozen | FixedRepresentation | FeTrIL),
        "class means in place of exemplars": issubclass(cls, Prototypes),
        "penalty on changes of weights": issubclass(cls, WeightPenalty),
        "exemplars": kept.n_exemplars > 0,
        "distillation": kept.has_teacher,
        "a backbone or a part of one added in each task": issubclass(cls, Expanding),
    }
    return ", ".join(kind for kind, holds in kinds.items() if holds) or "lower bound"


def _bytes_kept(kept: Inventory) -> str:
    """What a method keeps on CIFAR-100 in ten tasks, in bytes."""
    of_exemplars = f"{kept.n_exemplars} exemplars"
    if kept.extras:
        of_exemplars += f" with their {' and '.join(kept.extras)}"
    words = {
        "network": kept.networks.removeprefix("the ").removeprefix("a "),
        "teacher": "previous network",
        "exemplars": of_exemplars,
        "means": "class means of the exemplars",
        "own": f"own arrays ({', '.join(kept.own)})",
    }
    parts = [f"{words[part]} {n:,}" for part, n in kept.n_bytes.items() if n]
    parts += ["all training images"] if kept.keeps_all_data else []
    return f"{', '.join(parts)}; in all {sum(kept.n_bytes.values()):,}"


def _settings(name: str, preset: str) -> str:
    """The settings that a method declares: value in its default preset, in others, and help."""
    configs = {other: loading.preset(name, other) for other in loading.presets(name)}
    rows = []
    for field in dataclasses.fields(configs[preset]):
        if field.metadata["group"] != f"settings of {name}":
            continue
        values = {other: _value(getattr(config, field.name)) for other, config in configs.items()}
        default = values.pop(preset)
        others = [f"{value} ({other})" for other, value in values.items() if value != default]
        help, _, _ = field.metadata["help"].partition(" (default: ")
        rows.append([flag(field.name), ", ".join([default, *others]), help])
    return markdown_table(["setting", f"default ({preset})", "what it is"], rows)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(plain(value))


def _results(name: str) -> str:
    """The published results of a method beside the recorded ones."""
    rows = [row for row in published_results.rows() if row.method == name]
    if not rows:
        return "No published result of this method is recorded."
    lines = []
    for row, ours, in_band in published_results.outcomes(rows, "full", None):
        lines.append(reproduction_cells(row, ours, in_band)[:7])
    head = ["run", "tasks", "classifier", "published", "source", "ours", "n"]
    return markdown_table(head, lines)


def departures() -> str:
    """What each preset says of its source and its departures from it."""
    parts = []
    for method in METHODS:
        for preset in loading.presets(method):
            lines = (PRESETS / method / f"{preset}.yaml").read_text().splitlines()
            about = itertools.takewhile(lambda line: line.startswith("#"), lines)
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in about)
            text = re.sub(r"(?<=[^\n])\n- ", "\n\n- ", text, count=1)  # a list needs an empty line
            parts.append(f"### {method}/{preset}\n\n{_linked(text)}")
    return "\n\n".join(parts)


def _linked(text: str) -> str:
    """A text whose addresses are links."""
    return re.sub(r"(?<!\()https://[^\s,;)]*[^\s,;).]", r"<\g<0>>", text)


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
