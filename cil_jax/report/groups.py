"""Runs in comparable groups: which belong together, and which published results match them."""

import dataclasses
import functools
import glob
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.errors import UserError
from cil_jax.report import published_results, reference
from cil_jax.report.tables import protocol, published_value, run_name, setting, sizes_in_words
from cil_jax.settings.loading import decisive_of
from cil_jax.storage import replicates
from cil_jax.storage.replicates import ONLY_REPORTED, SEEDS
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import Results

LeftOut = list[tuple[Path, str]]  # folders that are not compared, each with the reason


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seeds.

    Attributes:
      name: method, preset and changed settings; if other groups have the same, also the settings
        in which they differ.
      summary: the result of `cil_jax.storage.replicates.summarize`.
      settings: the settings that affect the result, except seeds; empty if they are unknown.
      data: the SHA-256 of the data set; None if it is unknown.
      folders: the folders of the runs.
    """

    name: str
    summary: Mapping[str, Any]
    settings: dict[str, Any]
    data: str | None
    folders: tuple[Path, ...]

    @property
    def protocol(self) -> dict[str, Any]:
        """What compared groups must share, under the names that error messages use."""
        sizes = self.summary["task_sizes"]
        return {
            "data set": self.summary["dataset"],
            "data (SHA-256)": self.data and self.data[:12],
            "tasks": f"{len(sizes)} of {sizes_in_words(sizes)} classes",
            "scenario": self.summary.get("scenario") or "each class once",
            "tasks learned": replicates.n_learned(self.summary),
            "class orders": self.summary["orders"],
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of one protocol.

    Attributes:
      groups: in the order in which their runs were given.
      left_out: folders that are not in any group, each with the reason.
    """

    groups: tuple[Group, ...]
    left_out: tuple[tuple[Path, str], ...]

    @property
    def protocol(self) -> str:
        """A description of the protocol that all groups share."""
        return protocol(self.groups[0].summary)

    @property
    def seen(self) -> list[int]:
        """The number of classes seen after each task learned."""
        first = self.groups[0].summary
        return np.cumsum(first["task_sizes"])[: replicates.n_learned(first)].tolist()


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run that has results, with the parsed contents of its files."""

    folder: RunFolder
    results: Results

    @property
    def is_complete(self) -> bool:
        return replicates.n_learned(self.results) == len(self.results["task_sizes"])

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that affect the result, except seeds; empty without a config.yaml."""
        if not self.folder.holds_a_run:
            return {}
        settings = decisive_of(self.folder.settings())
        return {name: value for name, value in settings.items() if name not in SEEDS}

    @property
    def group_key(self) -> str:
        """The same for runs that differ only in their seeds."""
        results = self.results
        names = ("method", "preset", "dataset", "backbone", "epochs", "exemplars", "task_sizes")
        recorded = {name: results[name] for name in names}
        settings = self.settings or {**recorded, "changed": results.get("changed", {})}
        return json.dumps([settings, results.get("data_sha256")], sort_keys=True)

    def repeats(self, other: "_Run") -> bool:
        """Whether a run of the same group has the same class order and seeds."""
        return replicates.is_same_member(self.results, other.results)


def compare(paths: Sequence[str | os.PathLike[str]], common_orders: bool = False) -> Comparison:
    """Groups runs that differ only in their seeds, and checks that all follow one protocol.

    Args:
      paths: run folders, folders of groups, patterns such as 'runs/*', or names of recorded results
        such as 'reference:full/icarl-paper'; see `cil_jax.report.reference`.
      common_orders: whether to leave out runs whose class order does not occur in every group.

    Raises:
      UserError: if a path does not exist, nothing is left to compare, or the protocols differ.
    """
    runs, summaries, left_out = _read(paths)
    members = _grouped(_without_incomplete(runs, left_out), left_out)
    if common_orders and members:
        members = _with_common_orders(members, left_out)
    if not members and not summaries:
        reasons = [f"{path} {reason}" for path, reason in left_out]
        raise UserError("nothing to compare:", reasons or ["no run was given"])
    groups = [_group(runs_of_group) for runs_of_group in members]
    groups += [Group("", summary, {}, None, (folder,)) for folder, summary in summaries]
    groups = _named(groups)
    _check_protocols(groups)
    return Comparison(tuple(groups), tuple(left_out))


def results_of(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Results]]:
    """The folders that have results, with these; for the paths see `compare`.

    Raises:
      UserError: if a path does not exist.
    """
    return [(run.folder.path, run.results) for run in _read(paths)[0]]


def published(group: Group) -> list[published_results.Row]:
    """The published results that a group reproduces.

    These have the method, preset and settings of the group, under the full protocol.
    """
    summary = group.summary
    if not group.settings or replicates.n_learned(summary) < len(summary["task_sizes"]):
        return []
    matching = []
    for row in published_results.rows():
        if (row.method, row.preset) == (summary["method"], summary["preset"]):
            expected = published_results.config(row, "full", "").decisive()
            compared = expected.keys() - {*SEEDS, *ONLY_REPORTED}
            if all(expected[name] == group.settings[name] for name in compared):
                matching.append(row)
    return matching


def published_lines(group: Group, seen: Sequence[int]) -> list[tuple[str, list[int], list[float]]]:
    """The published results for the group's own classifier, as lines over the classes seen.

    Args:
      group: the group.
      seen: the number of classes seen after each task.

    Returns:
      The label, x, and y in percent of each line. This is the published curve if there is one;
      otherwise the average over all of x, and the last accuracy over the last step.
    """
    lines, seen = [], list(seen)
    for row in published(group):
        if row.classifier != group.summary["headline"]:
            continue
        if row.curve:
            label = f"{group.name}: published ({source_of(row)})"
            lines.append((label, seen, list(row.curve)))
            continue
        for which, value, x in (("average", row.average, seen), ("last", row.last, seen[-2:])):
            if value is not None:
                text = f"published {which} {published_value(row, which)} ({source_of(row)})"
                lines.append((f"{group.name}: {text}", x, [value] * len(x)))
    return lines


def source_of(row: published_results.Row) -> str:
    """Where a result was published, with the row's remark."""
    return "; ".join(filter(None, (row.source, row.note)))


def _read(
    paths: Sequence[str | os.PathLike[str]],
) -> tuple[list[_Run], list[tuple[Path, Mapping[str, Any]]], LeftOut]:
    """Reads what the paths hold.

    Returns:
      Runs with results; summaries of groups whose run folders are missing; folders with neither.
    """
    runs: list[_Run] = []
    summaries: list[tuple[Path, Mapping[str, Any]]] = []
    left_out: LeftOut = []
    for path in _expanded(paths):
        folder = RunFolder(path)
        if not folder.holds_a_run and not path.exists():
            raise UserError(f"{path} does not exist")
        members = folder.members()
        if folder.holds_a_run or folder.results_file.exists():
            run_folders = [folder]
        elif members:
            run_folders = members
        elif (path / replicates.SUMMARY).exists():
            summaries.append((path, replicates.read_summary(path)))
            continue
        else:
            left_out.append((path, "holds no run"))
            continue
        for run_folder in run_folders:
            if not run_folder.results_file.exists():
                left_out.append((run_folder.path, "has no results yet"))
                continue
            try:
                runs.append(_Run(run_folder, run_folder.results()))
            except UserError as error:
                reason = str(error).removeprefix(f"{run_folder.path}/")
                left_out.append((run_folder.path, reason))
    return runs, summaries, left_out


def _expanded(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Expands patterns that the shell did not expand, and drops duplicates."""
    expanded: list[Path] = []
    for path in paths:
        if str(path).startswith(reference.PREFIX):
            expanded.append(reference.named(str(path)))
            continue
        matches = [] if os.path.exists(path) else sorted(glob.glob(os.fspath(path)))
        expanded += map(Path, matches or [path])
    return list({path.resolve(): path for path in expanded}.values())


def _without_incomplete(runs: Sequence[_Run], left_out: LeftOut) -> list[_Run]:
    """Leaves out runs that have not learned all tasks, unless no run has."""
    if not any(run.is_complete for run in runs):
        return list(runs)
    for run in runs:
        if not run.is_complete:
            n_learned, n_tasks = replicates.n_learned(run.results), len(run.results["task_sizes"])
            left_out.append((run.folder.path, f"has learned {n_learned} of {n_tasks} tasks"))
    return [run for run in runs if run.is_complete]


def _grouped(runs: Sequence[_Run], left_out: LeftOut) -> list[list[_Run]]:
    """Runs that differ only in their seeds; leaves out a run that repeats another."""
    by_key: dict[str, list[_Run]] = {}
    for run in runs:
        group = by_key.setdefault(run.group_key, [])
        twin = next((other for other in group if run.repeats(other)), None)
        if twin is None:
            group.append(run)
        else:
            reason = f"has the same settings, class order and seeds as {twin.folder.path}"
            left_out.append((run.folder.path, reason))
    return list(by_key.values())


def _with_common_orders(groups: Sequence[list[_Run]], left_out: LeftOut) -> list[list[_Run]]:
    """Leaves out runs whose class order does not occur in every group.

    Raises:
      UserError: if no class order occurs in every group.
    """
    common = set.intersection(*({run.results["order"] for run in group} for group in groups))
    if not common:
        raise UserError("--common-orders: no class order occurs in every group")
    for group in groups:
        for run in group:
            if (order := run.results["order"]) not in common:
                reason = f"has class order {order}, which is not in every group"
                left_out.append((run.folder.path, reason))
    return [[run for run in group if run.results["order"] in common] for group in groups]


def _group(runs: Sequence[_Run]) -> Group:
    """The group of runs that differ only in their seeds; it has no name yet."""
    return Group(
        name="",
        summary=replicates.summarize([run.results for run in runs]),
        settings=runs[0].settings,
        data=runs[0].results.get("data_sha256"),
        folders=tuple(run.folder.path for run in runs),
    )


def _named(groups: Sequence[Group]) -> list[Group]:
    """The groups with distinct names."""
    names = [run_name(group.summary) for group in groups]
    named = []
    for group, name in zip(groups, names, strict=True):
        namesakes = [
            other
            for other, other_name in zip(groups, names, strict=True)
            if other_name == name and other is not group
        ]
        differences = [
            setting(key, value)
            for key, value in group.settings.items()
            if any(other.settings.get(key) != value for other in namesakes)
        ]
        if namesakes and not differences:  # or the settings are unknown
            differences = [str(group.folders[0])]
        named.append(dataclasses.replace(group, name=", ".join([name, *differences])))
    return named


def _check_protocols(groups: Sequence[Group]) -> None:
    """Checks that all groups follow one protocol.

    Raises:
      UserError: if they do not, with a line for each group that says where it differs.
    """
    protocols = [group.protocol for group in groups]
    differing = [
        key
        for key in protocols[0]
        # An unknown value does not count as a difference.
        if len({json.dumps(p[key]) for p in protocols if p[key] is not None}) > 1
    ]
    if not differing:
        return
    lines = []
    for group, group_protocol in zip(groups, protocols, strict=True):
        values = "; ".join(f"{key} {_as_text(group_protocol[key])}" for key in differing)
        folders = ", ".join(map(str, group.folders[:3])) + (", ..." if group.folders[3:] else "")
        lines.append(f"{group.name} in {folders}: {values}")
    hint = ", or add --common-orders" if differing == ["class orders"] else ""
    raise UserError(
        "these runs follow different protocols and cannot be compared: give runs of a single "
        f"protocol{hint}",
        lines,
    )


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
