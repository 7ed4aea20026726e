"""Runs in comparable groups: which belong together, and which published results match them."""

import dataclasses
import functools
import glob
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cil_jax.errors import UserError
from cil_jax.report import published_results, reference
from cil_jax.report.tables import protocol, published_value, run_name, setting, sizes_in_words
from cil_jax.settings.loading import decisive_of
from cil_jax.storage import replicates
from cil_jax.storage.replicates import ONLY_REPORTED, SEEDS
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import Results

Item = TypeVar("Item")
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
        """What compared groups must share; a value is None if it is unknown."""
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
      left_out: folders that are in no group of any protocol, each with the reason.
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


def compare(
    paths: Sequence[str | os.PathLike[str]], common_orders: bool = False
) -> list[Comparison]:
    """Groups runs that differ only in their seeds, and groups that follow one protocol.

    Args:
      paths: run folders, folders of groups, patterns such as 'runs/*', or names of recorded results
        such as 'reference:full/icarl-paper'; see `cil_jax.report.reference`.
      common_orders: whether to leave out runs whose class order does not occur in every group of
        their protocol.

    Returns:
      One comparison for each protocol, those of most runs first.

    Raises:
      UserError: if a path does not exist, or nothing is left to compare.
    """
    runs, summaries, left_out = _read(paths)
    members = _grouped(_without_incomplete(runs, left_out), left_out)
    if common_orders:
        members = _with_common_orders(members, left_out)
    groups = [_group(runs_of_group) for runs_of_group in members]
    groups += [Group("", summary, {}, None, (folder,)) for folder, summary in summaries]
    if not groups:
        reasons = [f"{path} {reason}" for path, reason in left_out]
        raise UserError("nothing to compare:", reasons or ["no run was given"])
    of_protocols = _divided(groups, lambda group: group.protocol)
    of_protocols.sort(key=lambda found: -sum(group.summary["n"] for group in found))
    return [Comparison(tuple(_named(found)), tuple(left_out)) for found in of_protocols]


def differ_in_orders(comparisons: Sequence[Comparison]) -> bool:
    """Whether the protocols of two comparisons differ in their class orders only."""
    protocols = [
        {**comparison.groups[0].protocol, "class orders": None} for comparison in comparisons
    ]
    return any(_agree(one, other) for one, other in itertools.combinations(protocols, 2))


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


def _with_common_orders(members: Sequence[list[_Run]], left_out: LeftOut) -> list[list[_Run]]:
    """Leaves out runs whose class order does not occur in every group of their protocol.

    Raises:
      UserError: if no class order occurs in every group of a protocol.
    """

    def but_for_orders(runs: Sequence[_Run]) -> dict[str, Any]:
        return {**_group(runs).protocol, "class orders": None}

    kept = []
    for groups in _divided(members, but_for_orders):
        common = set.intersection(*({run.results["order"] for run in group} for group in groups))
        if not common:
            raise UserError("--common-orders: no class order occurs in every group")
        for run in itertools.chain(*groups):
            if (order := run.results["order"]) not in common:
                reason = f"has class order {order}, which is not in every group"
                left_out.append((run.folder.path, reason))
        kept += [[run for run in group if run.results["order"] in common] for group in groups]
    return kept


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


def _divided(
    items: Iterable[Item], protocol_of: Callable[[Item], Mapping[str, Any]]
) -> list[list[Item]]:
    """Divides items by their protocols, in which an unknown value (None) agrees with any."""
    divided: list[tuple[list[Mapping[str, Any]], list[Item]]] = []
    for item in items:
        wanted = protocol_of(item)
        for protocols, of_one in divided:
            if all(_agree(wanted, protocol) for protocol in protocols):
                protocols.append(wanted)
                of_one.append(item)
                break
        else:
            divided.append(([wanted], [item]))
    return [of_one for _, of_one in divided]


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(None in (one[key], other[key]) or one[key] == other[key] for key in one)
