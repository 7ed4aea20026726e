"""Runs beside each other: what belongs together, what may be compared, what is published."""

import dataclasses
import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.errors import UserError
from cil_jax.report import published_results
from cil_jax.report.tables import protocol, published_value, run_name, setting
from cil_jax.settings.config import Config
from cil_jax.settings.loading import without_others
from cil_jax.storage import replicates
from cil_jax.storage.replicates import ONLY_REPORTED, SEEDS
from cil_jax.storage.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds only.

    Attributes:
      name: method, preset and what was changed of it; where others have the same, also the
        settings that tell them apart.
      summary: what `cil_jax.storage.replicates.summarize` makes of them.
      settings: those that decide, without seeds; empty where they are not known.
      data: the SHA-256 of the data set, None where it is not known.
      folders: of its runs.
    """

    name: str
    summary: dict[str, Any]
    settings: dict[str, Any]
    data: str | None
    folders: tuple[Path, ...]

    @property
    def protocol(self) -> dict[str, Any]:
        """What must be the same of runs that are compared, under the words that say it."""
        sizes = self.summary["task_sizes"]
        return {
            "data set": self.summary["dataset"],
            "data (SHA-256)": self.data and self.data[:12],
            "tasks": f"{len(sizes)} of {' '.join(map(str, dict.fromkeys(sizes)))} classes",
            "task sizes": sizes,
            "tasks learned": replicates.n_learned(self.summary),
            "class orders": self.summary["orders"],
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of one protocol.

    Attributes:
      groups: in the order in which they were named.
      left_out: folders that are not in them, each with the reason.
    """

    groups: tuple[Group, ...]
    left_out: tuple[tuple[Path, str], ...]

    @property
    def protocol(self) -> str:
        return protocol(self.groups[0].summary)

    @property
    def seen(self) -> list[int]:
        """Classes seen after each task learned."""
        first = self.groups[0].summary
        return np.cumsum(first["task_sizes"])[: replicates.n_learned(first)].tolist()


def compare(paths: Sequence[str | os.PathLike], common_orders: bool = False) -> Comparison:
    """Runs in groups that differ in their seeds only, if all are of one protocol.

    Args:
      paths: run folders, folders of members, or patterns such as 'runs/*'.
      common_orders: whether to leave out runs of class orders that not all groups have.

    Raises:
      UserError: if a path is not there, nothing is left to compare, or protocols differ.
    """
    runs, summaries, left_out = _read(paths)
    if any(replicates.is_complete(run) for run in runs):
        for run in [run for run in runs if not replicates.is_complete(run)]:
            results = run.results()
            n, of = replicates.n_learned(results), len(results["task_sizes"])
            left_out.append((run.path, f"has learned {n} of {of} tasks"))
            runs.remove(run)
    found: dict[str, list[tuple[RunFolder, dict[str, Any]]]] = {}
    for run in runs:
        results = run.results()
        key = json.dumps([_settings(run, results), results.get("data_sha256")], sort_keys=True)
        group = found.setdefault(key, [])
        twin = next((r for r, there in group if _is_same(there, results)), None)
        if twin is None:
            group.append((run, results))
        else:
            left_out.append((run.path, f"has the class order and seeds of {twin.path}"))
    kept = list(found.values())
    if common_orders and kept:
        common = set.intersection(*({one["order"] for _, one in group} for group in kept))
        if not common:
            raise UserError("--common-orders: there is no class order that all have")
        for group in kept:
            odd = [(run.path, one["order"]) for run, one in group if one["order"] not in common]
            left_out += [(path, f"has order {order}, others have not") for path, order in odd]
            group[:] = [(run, one) for run, one in group if one["order"] in common]
    if not kept and not summaries:
        said = [f"{path} {reason}" for path, reason in left_out]
        raise UserError("there is nothing to compare:", said or ["no run was named"])
    groups = [_group(group) for group in kept]
    groups += [_bare(folder, summary) for folder, summary in summaries]
    groups = _named(groups)
    _check(groups)
    return Comparison(tuple(groups), tuple(left_out))


def published(group: Group) -> list[published_results.Row]:
    """Published rows that a group repeats: same method, preset and settings, full protocol."""
    summary = group.summary
    if not group.settings or replicates.n_learned(summary) < len(summary["task_sizes"]):
        return []
    found = []
    for row in published_results.rows():
        if (row.method, row.preset) == (summary["method"], summary["preset"]):
            theirs = published_results.config(row, "full", "").decisive()
            free = (*SEEDS, *ONLY_REPORTED)
            if all(theirs[key] == group.settings[key] for key in theirs if key not in free):
                found.append(row)
    return found


def published_lines(group: Group, seen: Sequence[int]) -> list[tuple[str, list[int], list[float]]]:
    """What is published of a group's own classifier, as lines over the classes seen.

    Returns:
      Of each its label, x and y in percent: the curve where one is published, else the average
      over all of x and the last accuracy over the last step.
    """
    lines, seen = [], list(seen)
    for row in published(group):
        if row.classifier != group.summary["headline"]:
            continue
        if row.curve:
            label = f"{group.name}: published ({source_of(row)})"
            lines.append((label, seen, list(row.curve)))
            continue
        for what, value, places in (
            ("average", row.average, seen),
            ("last", row.last, seen[-2:]),
        ):
            if value is not None:
                said = f"published {what} {published_value(row, what)} ({source_of(row)})"
                label = f"{group.name}: {said}"
                lines.append((label, places, [value] * len(places)))
    return lines


def source_of(row: published_results.Row) -> str:
    """Where a row was published, and what else should be known of it."""
    return "; ".join(filter(None, (row.source, row.note)))


def _read(paths: Sequence[str | os.PathLike]) -> tuple[list, list, list]:
    """Run folders with results, summaries of groups without their members, and what is neither."""
    runs: list[RunFolder] = []
    summaries: list[tuple[Path, dict[str, Any]]] = []
    left_out: list[tuple[Path, str]] = []
    for path in _expanded(paths):
        own = RunFolder(path)
        if not own.holds_a_run and not path.exists():
            raise UserError(f"there is no {path}")
        inside = own.members()
        if own.holds_a_run or own.results_file.exists():
            found = [own]
        elif inside:
            found = inside
        elif (path / replicates.SUMMARY).exists():
            summaries.append((path, replicates.read_summary(path)))
            continue
        else:
            left_out.append((path, "holds no run"))
            continue
        for run in found:
            if not run.results_file.exists():
                left_out.append((run.path, "has no results yet"))
                continue
            try:
                run.results()
            except UserError as error:
                left_out.append((run.path, str(error).removeprefix(f"{run.path}/")))
            else:
                runs.append(run)
    return runs, summaries, left_out


def _expanded(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Paths with patterns expanded where the shell did not, each once."""
    found = []
    for path in map(os.fspath, paths):
        there = [] if os.path.exists(path) else sorted(glob.glob(path))
        found += map(Path, there or [path])
    return list({path.resolve(): path for path in found}.values())


def _settings(run: RunFolder, results: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide, without seeds; as far as the results tell where none are there."""
    if not run.holds_a_run:
        keys = ("method", "preset", "dataset", "backbone", "epochs", "exemplars", "task_sizes")
        return {**{key: results[key] for key in keys}, "changed": results.get("changed", {})}
    settings = {**Config().decisive(), **without_others(run.settings())}
    return {k: v for k, v in settings.items() if k not in SEEDS}


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["order"] == other["order"] and one["seeds"] == other["seeds"]


def _group(runs: Sequence[tuple[RunFolder, dict[str, Any]]]) -> Group:
    (run, first), *_ = runs
    settings = _settings(run, first) if run.holds_a_run else {}
    return Group(
        "",
        replicates.summarize([results for _, results in runs]),
        settings,
        first.get("data_sha256"),
        tuple(run.path for run, _ in runs),
    )


def _bare(folder: Path, summary: dict[str, Any]) -> Group:
    return Group("", summary, {}, None, (folder,))


def _named(groups: Sequence[Group]) -> list[Group]:
    """The same with names, all different."""
    names, named = [run_name(group.summary) for group in groups], []
    for group, name in zip(groups, names, strict=True):
        others = [g for g, n in zip(groups, names, strict=True) if n == name and g is not group]
        more = [
            setting(key, value)
            for key, value in group.settings.items()
            if any(other.settings.get(key) != value for other in others)
        ]
        if others and not more:  # or it is not known in what they differ
            more = [str(group.folders[0])]
        named.append(dataclasses.replace(group, name=", ".join([name, *more])))
    return named


def _check(groups: Sequence[Group]) -> None:
    """Refuses groups of different protocols, and says of each in what it differs from others.

    Raises:
      UserError: with a line for each group.
    """
    protocols = [group.protocol for group in groups]
    differing = [
        key
        for key in protocols[0]
        # What is not known of one is not held against it.
        if len({json.dumps(p[key]) for p in protocols if p[key] is not None}) > 1
    ]
    if "tasks" in differing:
        differing.remove("task sizes")
    if not differing:
        return
    lines = []
    for group, one in zip(groups, protocols, strict=True):
        said = "; ".join(f"{key} {_said(one[key])}" for key in differing)
        where = ", ".join(map(str, group.folders[:3])) + (", ..." if group.folders[3:] else "")
        lines.append(f"{group.name} in {where}: {said}")
    hint = ", or add --common-orders" if differing == ["class orders"] else ""
    raise UserError(
        "these runs are of different protocols, and are neither averaged nor compared: name those "
        f"of one protocol only{hint}",
        lines,
    )


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
