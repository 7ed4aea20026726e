"""Published results, the runs that repeat them, and how far these are from them."""

import dataclasses
import functools
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cil_jax import members
from cil_jax.config import Config, UserError, flag, nearest_name
from cil_jax.recipes import preset

FULL: dict[str, Any] = {}
REDUCED = {"backbone": "resnet8", "epochs": 10}
N_CLASSES = 100  # of CIFAR-100
PROTOCOLS = {"full": FULL, "reduced": REDUCED}
ABOUT = {
    "full": "as published: ResNet-32, 10 tasks of 10 classes where no others are named, the "
    "preset's own epochs",
    "reduced": "ResNet-8, 10 tasks of 10 classes, 10 epochs a task, rate steps scaled; "
    "not comparable with published numbers",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A published result.

    Attributes:
      method, preset: of the run that repeats it.
      classifier: whose accuracy it is.
      source: where it was published, a key of `sources()`.
      settings: of the run, beyond the preset's.
      average, last: average incremental and last accuracy in percent, None where not published.
      band: for "average" or "last", the lowest and highest value that counts as repeated.
      note: what else should be known.
      curve: accuracy on all classes seen after each task in percent, None where not published.
      about: which of "average" and "last" were read off a figure.
      variant: what the run is named for beside its preset, such as "tasks-of-2". The reduced
        protocol has no such rows.
    """

    method: str
    preset: str
    classifier: str
    source: str
    settings: dict[str, Any]
    average: float | None = None
    last: float | None = None
    band: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    note: str = ""
    curve: tuple[float, ...] | None = None
    about: tuple[str, ...] = ()
    variant: str = ""

    @property
    def run(self) -> str:
        """The name of its run; several rows may share one."""
        return "-".join(filter(None, (self.method, self.preset, self.variant)))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Our value of a row, over the members that are done; in percent.

    Attributes:
      n: over how many orders or seeds; 0 for not run.
      average, last: mean and standard deviation (None for n = 1), None where not run.
      over: "orders" or "seeds", see `cil_jax.members.summarize`.
      orders: class orders of the members.
      others: runs in the row's folder that have other settings, and do not count.
    """

    n: int
    average: tuple[float, float | None] | None = None
    last: tuple[float, float | None] | None = None
    over: str = "seeds"
    orders: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()


def rows(names: Sequence[str] = (), protocol: str = "full") -> list[Row]:
    """The published rows of a protocol, of the named runs only where any are named.

    Raises:
      UserError: if there is no run of that name.
    """
    found = _published()
    known = dict.fromkeys(row.run for row in found)
    for name in names:
        if name not in known:
            raise UserError(f"unknown row {name!r}{nearest_name(name, known)}")
    named = [row for row in found if not names or row.run in names]
    return [row for row in named if protocol == "full" or not row.variant]


def sources() -> dict[str, str]:
    """Where the rows were published, by the short names that rows give."""
    return dict(_file()["sources"])


@functools.cache
def _file() -> dict[str, Any]:
    return yaml.safe_load((resources.files("cil_jax") / "published.yaml").read_text())


@functools.cache
def _published() -> tuple[Row, ...]:
    """All rows of published.yaml."""
    found = []
    for entry in _file()["rows"]:
        (method, name), settings = entry["run"], entry.get("settings", {})
        rest = {key: entry[key] for key in entry if key not in ("run", "settings")}
        for key in {"curve", "about"} & rest.keys():
            rest[key] = tuple(rest[key])
        found.append(Row(method, name, settings=settings, **rest))
    return tuple(found)


def settings(row: Row, protocol: str) -> dict[str, Any]:
    """What is laid over the preset to repeat a row under a protocol."""
    # The nearest mean of all data takes time, and is asked of one run only.
    ncm = any(r.classifier == "ncm" and r.run == row.run for r in _published())
    return {**row.settings, **PROTOCOLS[protocol], **({} if ncm else {"ncm": False})}


def config(row: Row, protocol: str, folder: str, **more: Any) -> Config:
    """The settings of a row's run; `more` are laid over them."""
    out = str(Path(folder) / protocol / row.run)
    return preset(row.method, row.preset, **{**settings(row, protocol), "out": out, **more})


def command(row: Row, protocol: str, folder: str) -> str:
    """The command that makes a row's run, of one order and seed."""
    words = ["python", "-m", f"experiments.{row.method}", "--preset", row.preset]
    for name, value in settings(row, protocol).items():
        words += ["--no-ncm"] if name == "ncm" else [flag(name), str(value)]
    out = str(Path(folder) / protocol / row.run)
    return shlex.join([*words, "--seeds", "0", "--out", out])


def outcome(row: Row, protocol: str, folder: str) -> Outcome:
    """What is there of a row's run: all members that are done and have the row's classifier."""
    done, others = members.done(config(row, protocol, folder))
    done = [results for results in done if row.classifier in results["classifiers"]]
    if not done:
        return Outcome(0, others=tuple(others))
    summary = members.summarize(done)
    one = summary["classifiers"][row.classifier]

    def percent(key):
        std = one[key]["std"]
        return 100 * one[key]["mean"], None if std is None else 100 * std

    return Outcome(
        n=summary["n"],
        over=summary["over"],
        others=tuple(others),
        average=percent("average_incremental_accuracy") if row.average or not row.last else None,
        last=percent("last_accuracy"),
        orders=tuple(summary["orders"]),
    )


def in_band(row: Row, ours: Outcome) -> bool | None:
    """Whether every value with a band lies in it; None where there is no band or no run."""
    values = {"average": ours.average, "last": ours.last}
    checks = [
        low <= round(values[key][0], 1) <= high
        for key, (low, high) in row.band.items()
        if values[key] is not None
    ]
    return all(checks) if checks else None


def tasks(row: Row) -> str:
    """Tasks and classes a task of a row's run, such as '10 x 10'."""
    size = config(row, "full", "").task_size
    return f"{N_CLASSES // size} x {size}"


def lines(
    chosen: Sequence[Row], protocol: str, folder: str
) -> list[tuple[Row, Outcome, bool | None]]:
    """Each row with what is there of it, and whether it lies in its band.

    Bands are of the full protocol; under another, nothing lies in them or outside.
    """
    found = [(row, outcome(row, protocol, folder)) for row in chosen]
    return [(row, ours, in_band(row, ours) if protocol == "full" else None) for row, ours in found]
