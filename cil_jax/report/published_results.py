"""Published results, the runs that reproduce them, and how close these come."""

import dataclasses
import functools
import os
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cil_jax.errors import UserError, nearest_name
from cil_jax.report import reference
from cil_jax.report.percentages import round_percentage
from cil_jax.settings import code, loading
from cil_jax.settings.config import Config
from cil_jax.settings.loading import preset, protocol_values
from cil_jax.storage import replicates, schemas

N_CLASSES = 100  # of CIFAR-100
TASK_SIZE = 10  # unless a row says otherwise
PROTOCOLS: dict[str, dict[str, Any]] = {"full": {}, "reduced": protocol_values("reduced")}
# Recipes that several methods share, each with the run whose settings stand for it.
FAMILIES = {"paper": "icarl-paper", "pycil": "icarl-pycil"}
# Presets that agree in these are of one family; epochs and milestones often differ within one.
_OF_RECIPE = (
    *("order", "normalization", "padding", "brightness", "last_relu", "batch_size"),
    *("rate", "rate_factor", "rate_shape", "momentum", "decay"),
)
ABOUT = {
    "full": "as published: ResNet-32, the epochs and the class order of the preset, and 10 tasks "
    "of 10 classes unless the row names others",
    "reduced": "ResNet-8, order seeded 1993, 10 epochs per task with the learning rate divided "
    "after 6 and 8, the same recipe in the first task, and no colour jitter; every method, in 10 "
    "tasks of 10 classes and in 50 classes followed by 5 tasks of 10; not comparable with the "
    "published numbers",
}
# The tasks of the reduced protocol: the variant of its rows, and the settings of these.
REDUCED: dict[str, dict[str, Any]] = {
    "": {},
    "b50-tasks-of-10": {"first_task": 50, "task_size": 10},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A published result.

    Attributes:
      method, preset: the method and preset of the run that reproduces it.
      classifier: the classifier with these accuracies: "linear", "nme" or "ncm".
      source: where it was published, a key of `sources()`; "-" if it was not.
      settings: fields of Config in which the run differs from the preset.
      average, last: average incremental accuracy and last accuracy in percent; None if not
        published.
      band: the lowest and highest "average" or "last" that counts as reproduced, in percent.
      note: a remark to show with the row.
      curve: accuracy on all classes seen after each task, in percent; None if not published.
      about: which of "average" and "last" were read off a figure.
      variant: the last part of the run's name if its tasks have another size, such as
        "tasks-of-2". The reduced protocol has those in `REDUCED` only.
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
        """The name of the run. Several rows may share a run."""
        return "-".join(filter(None, (self.method, self.preset, self.variant)))

    @property
    def can_be_run(self) -> bool:
        """Whether this library has the method and the preset."""
        return self.preset in loading.known_presets(self.method)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Our values for a row, over the finished members, in percent.

    Attributes:
      n: the number of class orders or seeds; 0 if not run.
      average, last: mean and standard deviation (None for n = 1); None if not run.
      over: "orders" or "seeds", see `cil_jax.storage.replicates.summarize`.
      orders: the class orders of the members.
      seeds: the seeds of the initial weights of the members.
      others: folders of runs with other settings, which are not members.
      curve: mean accuracy on all classes seen after each task; if n is 0, that of the first run
        under way.
      learned: the number of tasks that each run under way has learned, by its class order and seed.
    """

    n: int
    average: tuple[float, float | None] | None = None
    last: tuple[float, float | None] | None = None
    over: str = "seeds"
    orders: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    others: tuple[Path, ...] = ()
    curve: tuple[float, ...] = ()
    learned: tuple[tuple[str, int], ...] = ()


def rows(names: Sequence[str] = (), protocol: str = "full") -> list[Row]:
    """The rows of a protocol.

    The reduced protocol has those of its tasks that can be run, and one for every other method, so
    that all can be compared.

    Args:
      names: the names of their runs (default: all).
      protocol: "full" or "reduced".

    Raises:
      UserError: if there is no run of that name.
    """
    of_protocol = _published() if protocol == "full" else _reduced()
    if not names:
        return list(of_protocol)
    known = dict.fromkeys(row.run for row in (*_published(), *_reduced()))
    for name in names:
        if name not in known:
            raise UserError(f"unknown row {name!r}{nearest_name(name, known)}")
    return [row for row in of_protocol if row.run in names]


@functools.cache
def _reduced() -> tuple[Row, ...]:
    """The rows of the reduced protocol."""
    found: list[Row] = []
    for variant, tasks_of_variant in REDUCED.items():
        published = [row for row in _published() if row.variant == variant]
        ours = [row for row in published if row.can_be_run]
        at_once = {row.method for row in found if task_sizes(row) == [N_CLASSES]}  # bounds for both
        for method in code.METHODS:
            if method not in at_once | {row.method for row in ours}:
                ours.append(_row_of(method, variant, tasks_of_variant, published))
        found += ours
    return tuple(found)


def _row_of(
    method: str, variant: str, tasks_of_variant: dict[str, Any], published: Sequence[Row]
) -> Row:
    """A row for a method's default preset, which was not published with these tasks.

    It shows what was published for another preset of the method, if there is that.
    """
    from cil_jax.training.build import engine_of, room_of  # which import JAX

    name = loading.default_preset(method)
    # Without a data set, pad and mirror must be given; they do not change the answer.
    settings_of_method = preset(method, name, pad=0, mirror="no", backbone="resnet8")
    engine = engine_of(settings_of_method, None, room_of([TASK_SIZE] * (N_CLASSES // TASK_SIZE)))
    row = Row(method, name, engine.method.headline, "-", tasks_of_variant, variant=variant)
    for other in published:
        if other.method == method:
            note = f"published for {other.preset}"
            return dataclasses.replace(
                row, source=other.source, average=other.average, last=other.last, note=note
            )
    return row


def one_per_run(rows: Sequence[Row]) -> list[Row]:
    """The rows without those that share their run with another."""
    return list({row.run: row for row in rows}.values())


def sources() -> dict[str, str]:
    """The publications, by the short names in `Row.source`."""
    return dict(_file()["sources"])


@functools.cache
def _file() -> dict[str, Any]:
    return yaml.safe_load((resources.files("cil_jax.report") / "published.yaml").read_text())


@functools.cache
def _published() -> tuple[Row, ...]:
    """All rows of published.yaml."""
    published = []
    for entry in _file()["rows"]:
        (method, name), settings = entry["run"], entry.get("settings", {})
        rest = {key: entry[key] for key in entry if key not in ("run", "settings")}
        for key in {"curve", "about"} & rest.keys():
            rest[key] = tuple(rest[key])
        published.append(Row(method, name, settings=settings, **rest))
    return tuple(published)


def settings(row: Row, protocol: str) -> dict[str, Any]:
    """The fields of Config in which a row's run differs from its preset, under a protocol."""
    # The nearest class mean of all data takes time: only runs with a published value compute it.
    ncm = any(other.classifier == "ncm" and other.run == row.run for other in _published())
    return {**PROTOCOLS[protocol], **row.settings, **({} if ncm else {"ncm": False})}


def config(row: Row, protocol: str, folder: str | os.PathLike[str], **overrides: Any) -> Config:
    """The settings of a row's run.

    Args:
      row: the row.
      protocol: "full" or "reduced".
      folder: the folder of all runs.
      **overrides: fields of Config that take precedence.
    """
    out = str(Path(folder) / protocol / row.run)
    return preset(row.method, row.preset, **{**settings(row, protocol), "out": out, **overrides})


def family_configs(
    family: str, names: Sequence[str], folder: str | os.PathLike[str], **overrides: Any
) -> list[Config]:
    """The settings of runs of the full protocol that differ in their method alone.

    These are the rows whose presets share the recipe of the family's own run; the settings that all
    methods have are those of this run, epochs and milestones included.

    Args:
      family: a key of `FAMILIES`.
      names: the names of the runs (default: all of the family).
      folder: the folder of all runs.
      **overrides: fields of Config that take precedence.

    Raises:
      UserError: if there is no run of that name, or it is not of the family.
    """
    all_rows = [row for row in one_per_run(rows(names)) if row.can_be_run and not row.variant]
    (own,) = one_per_run(rows([FAMILIES[family]]))
    model = config(own, "full", folder)
    shared = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(Config)
        if field.metadata.get("decides", True) and field.name not in ("method", "preset", "ncm")
    }
    configs = []
    for row in all_rows:
        of_row = config(row, "full", folder)
        if all(getattr(of_row, name) == getattr(model, name) for name in _OF_RECIPE):
            out = str(Path(folder) / f"full-{family}" / row.run)
            configs.append(config(row, "full", folder, **{**shared, "out": out, **overrides}))
    if others := {*names} - {Path(made.folder()).name for made in configs}:
        raise UserError(f"{min(others)} is not of the preset family {family}")
    return configs


def command(row: Row, protocol: str, folder: str | os.PathLike[str]) -> str:
    """The command for a row's run, with one class order and seed 0."""
    made = config(row, protocol, folder)
    return f"{loading.command(made)} --seeds 0 --out {shlex.quote(made.folder())}"


def outcome(row: Row, protocol: str, folder: str | os.PathLike[str] | None) -> Outcome:
    """Our values for a row, over all finished members that report the row's classifier.

    Args:
      row: the row.
      protocol: "full" or "reduced".
      folder: the folder of all runs, which count as well as the recorded results (default: the
        recorded results alone).
    """
    if not row.can_be_run:
        return Outcome(0)
    recorded = reference.group(protocol, row.run)
    settings_of_row = config(row, protocol, reference.FOLDER if folder is None else folder)
    finished, others = replicates.finished_results(settings_of_row, recorded)
    under_way = replicates.unfinished_results(settings_of_row, recorded)
    under_way = [
        results
        for results in under_way
        if row.classifier in results["classifiers"]
        and not any(replicates.is_same_member(results, other) for other in finished)
    ]
    about = {
        "others": tuple(others),
        "learned": tuple(
            (f"{results['order']}, seed {results['seeds']['init']}", schemas.n_learned(results))
            for results in under_way
        ),
    }
    finished = [results for results in finished if row.classifier in results["classifiers"]]
    if not finished:
        curves = [results["classifiers"][row.classifier]["seen_accuracy"] for results in under_way]
        return Outcome(0, curve=tuple(100 * x for x in curves[0]) if curves else (), **about)
    summary = replicates.summarize(finished)
    numbers = summary["classifiers"][row.classifier]

    def percent(key: str) -> tuple[float, float | None]:
        std = numbers[key]["std"]
        return 100 * numbers[key]["mean"], None if std is None else 100 * std

    return Outcome(
        n=summary["n"],
        over=summary["over"],
        average=percent("average_incremental_accuracy") if row.average or not row.last else None,
        last=percent("last_accuracy"),
        orders=tuple(summary["orders"]),
        seeds=tuple(sorted({member["init"] for member in summary["members"]})),
        curve=tuple(100 * x for x in numbers["seen_accuracy"]["mean"] if x is not None),
        **about,
    )


def in_band(row: Row, ours: Outcome) -> bool | None:
    """Whether all our values lie in the row's bands; None if it has no band or was not run."""
    values = {"average": ours.average, "last": ours.last}
    checks = [
        low <= float(round_percentage(value[0])) <= high
        for key, (low, high) in row.band.items()
        if (value := values[key]) is not None
    ]
    return all(checks) if checks else None


def task_sizes(row: Row) -> list[int]:
    """The number of classes of each task of a row's run."""
    size = row.settings.get("task_size", TASK_SIZE)
    first = row.settings.get("first_task", size)
    return [first, *[size] * ((N_CLASSES - first) // size)]


def tasks(row: Row) -> str:
    """The tasks of a row's run, such as '10 x 10' or '50 + 5 x 10'."""
    first, *later = task_sizes(row)
    if not later or later[0] == first:
        return f"{1 + len(later)} x {first}"
    return f"{first} + {len(later)} x {later[0]}"


def outcomes(
    chosen: Sequence[Row], protocol: str, folder: str | os.PathLike[str] | None
) -> list[tuple[Row, Outcome, bool | None]]:
    """Each row with our values, and whether they lie in its bands.

    The bands are for the full protocol: under another one, the last item is None. For the arguments
    see `outcome`.
    """
    pairs = [(row, outcome(row, protocol, folder)) for row in chosen]
    return [(row, ours, in_band(row, ours) if protocol == "full" else None) for row, ours in pairs]
