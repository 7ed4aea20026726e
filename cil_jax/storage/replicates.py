"""Groups of runs that differ only in their seeds, and the summary of their results.

runs/NAME/
  order1993-seed0/   the run folder of a member of the group; one per member
  summary.json       mean, standard deviation and values of each number over the finished members
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.errors import UserError
from cil_jax.files import reading, writing
from cil_jax.settings import orders
from cil_jax.settings.config import Config
from cil_jax.storage import schemas
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import n_learned

SUMMARY = "summary.json"
NUMBERS = (
    "average_incremental_accuracy",
    "average_incremental_accuracy_without_first",
    "last_accuracy",
    "forgetting",
    "backward_transfer",
)
# Settings in which the members of a group differ.
SEEDS = ("seed", "data_seed", "order", "order_seed")
ONLY_REPORTED = ("ncm", "fast")  # settings that do not change the method
CURVES = ("seen_accuracy", "old_accuracy", "new_accuracy", "task_aware_accuracy", "top5_accuracy")


def group_folder(config: Config) -> Path:
    """The folder that holds the run folders of a group."""
    return Path(config.out or f"runs/{config.label()}")


def member_configs(
    config: Config, seeds: Sequence[int] | None, n_orders: int | None
) -> list[Config]:
    """The settings of each member: every combination of a class order and a seed.

    Args:
      config: the settings that all members share.
      seeds: seeds of the initial weights and the data (default: that of the config).
      n_orders: the number of class orders; their seeds are `order_seed`, `order_seed` + 1 and so
        on (default: 1).

    Raises:
      UserError: if there are several orders and the config's order is not seeded, or if the folder
        of the group is that of a single run.
    """
    if (n_orders or 1) > 1 and config.order != "seeded":
        raise UserError(f"--orders {n_orders} needs --order seeded")
    if n_orders is not None and n_orders < 1:
        raise UserError(f"--orders is {n_orders}; it must be at least 1")
    folder = group_folder(config)
    if RunFolder(folder).holds_a_run:
        raise UserError(
            f"{folder} holds a single run: choose another --out for --seeds or --orders"
        )
    configs = []
    for order_seed in range(config.order_seed, config.order_seed + (n_orders or 1)):
        for seed in seeds or [config.seed]:
            out = folder / f"{orders.slug(config.order, order_seed)}-seed{seed}"
            configs.append(
                dataclasses.replace(
                    config,
                    order_seed=order_seed,
                    seed=seed,
                    out=str(out),
                    resume=RunFolder(out).holds_a_run,  # continue a member that was interrupted
                )
            )
    return configs


def is_complete(folder: RunFolder) -> bool:
    """Whether a run has learned all its tasks."""
    if not folder.results_file.exists():
        return False
    results = folder.results()
    return n_learned(results) == len(results["task_sizes"])


def is_done(config: Config) -> bool:
    """Whether a member is finished: its folder holds a complete run with these settings.

    That run may have another value of `fast`, and may report `ncm` even if the config does not.
    """
    folder = RunFolder(config.folder())
    if not (folder.holds_a_run and is_complete(folder)):
        return False
    differences = folder.differences(config)
    lacks_ncm = differences.get("ncm") == (False, True)
    return differences.keys() <= set(ONLY_REPORTED) and not lacks_ncm


def differences(folder: RunFolder, config: Config) -> dict[str, tuple[Any, Any]]:
    """The settings, those of the run and those of the config, in which a run is not a member.

    Members differ only in their seeds and class orders, and in settings that do not change the
    method, so some may report a classifier that others do not.
    """
    ignored = {*SEEDS, *ONLY_REPORTED}
    return {k: v for k, v in folder.differences(config).items() if k not in ignored}


def finished_results(
    config: Config, recorded: Path | None = None
) -> tuple[list[schemas.Results], list[Path]]:
    """The results of all finished members of a group, also those that other commands ran.

    Args:
      config: the settings of any member.
      recorded: another folder of members, each of which counts unless the group has a finished
        member with its class order and seeds.

    Returns:
      The results of each finished member, and the folders of finished runs with other settings,
      which are not members.
    """
    finished, others = [], []
    for folder in _runs_in(group_folder(config), recorded):
        if not is_complete(folder):
            continue
        if differences(folder, config):
            others.append(folder.path)
        else:
            finished.append(folder.results())
    return _without_repetitions(finished), others


def unfinished_results(config: Config, recorded: Path | None = None) -> list[schemas.Results]:
    """The results so far of the members of a group that have learned some of their tasks.

    For the arguments see `finished_results`.
    """
    found = [
        folder.results()
        for folder in _runs_in(group_folder(config), recorded)
        if folder.results_file.exists()
        and not is_complete(folder)
        and not differences(folder, config)
    ]
    return _without_repetitions(found)


def _runs_in(*groups: Path | None) -> list[RunFolder]:
    """The folders in these folders that hold a run."""
    paths = [path for group in groups if group for path in sorted(group.glob("*/"))]
    return [folder for folder in map(RunFolder, paths) if folder.holds_a_run]


def _without_repetitions(results: Sequence[schemas.Results]) -> list[schemas.Results]:
    """The results without those that have the class order and seeds of an earlier one."""
    kept: list[schemas.Results] = []
    for member in results:
        if not any(is_same_member(member, other) for other in kept):
            kept.append(member)
    return kept


def is_same_member(one: schemas.Results, other: schemas.Results) -> bool:
    """Whether two runs of a group have the same class order and seeds."""
    return (one["order"], one["seeds"]) == (other["order"], other["seeds"])


def summarize(results: Sequence[schemas.Results]) -> schemas.GroupSummary:
    """Computes mean and standard deviation over class orders or, if there is only one, over seeds.

    With several orders, the seeds of each order are averaged first and each order counts once.
    Otherwise the standard deviation would mix that over orders with that over seeds.

    Args:
      results: the results of each member; at least one.

    Returns:
      The content of summary.json. Its classifiers are those that all members have.
    """
    first = results[0]
    by_order: dict[str, list[schemas.Results]] = {}
    for member in results:
        by_order.setdefault(member["order"], []).append(member)
    samples = list(by_order.values()) if len(by_order) > 1 else [[member] for member in results]

    def over_samples(classifier: str, key: str) -> Any:
        """The Spread of a number, or the CurveSpread of a curve."""
        return mean_and_std([_mean(_values(sample, classifier, key)) for sample in samples])

    summary: schemas.GroupSummary = {
        "method": first["method"],
        "preset": first["preset"],
        "dataset": first["dataset"],
        "backbone": first["backbone"],
        "epochs": first["epochs"],
        "exemplars": first["exemplars"],
        "keeps_all_data": first["keeps_all_data"],
        "task_sizes": first["task_sizes"],
        "headline": first["headline"],
        "uses_all_data": first["uses_all_data"],
        "parameters": first["parameters"],
        "changed": first.get("changed", {}),  # missing in results of older versions
        "orders": sorted(by_order),
        "over": "seeds" if len(by_order) == 1 else "orders",
        "n": len(samples),
        "members": [member["seeds"] for member in results],
        "classifiers": {
            name: schemas.GroupClassifier(
                **{key: over_samples(name, key) for key in (*NUMBERS, *CURVES)}
            )
            for name in first["classifiers"]
            if all(name in member["classifiers"] for member in results)
        },
        "seconds": schemas.SecondsSpread(
            **mean_and_std([sum(member["seconds"].values()) for member in results])
        ),
    }
    if "augmentation" in first:  # missing in results of older versions
        summary["augmentation"] = first["augmentation"]
    if "scenario" in first:
        summary["scenario"] = first["scenario"]
    if "validation" in first:
        summary["validation"] = first["validation"]
    if "memory_bytes" in first:
        summary["memory_bytes"] = first["memory_bytes"]
    return summary


def _values(members: Sequence[Mapping[str, Any]], classifier: str, key: str) -> list[Any]:
    return [member["classifiers"][classifier][key] for member in members]


def _mean(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else mean_and_std(values)["mean"]


def mean_and_std(values: Sequence[Any]) -> dict[str, Any]:
    """Computes the mean and the sample standard deviation (with n - 1) of a number.

    Args:
      values: a float or None per sample; or a list of them per sample, all of one length, which are
        treated element by element.

    Returns:
      A dict of "mean", "std" and "values", with lists if the values are lists. "std" is None for a
      single value; both are None if a value is None.
    """
    if isinstance(values[0], list):
        columns = [mean_and_std(column) for column in zip(*values, strict=True)]
        return {key: [column[key] for column in columns] for key in ("mean", "std", "values")}
    if any(value is None for value in values):
        return {"mean": None, "std": None, "values": list(values)}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "values": list(values)}


def read_summary(folder: Path) -> schemas.GroupSummary:
    """Reads summary.json.

    Raises:
      UserError: if it can't be read, or a field is missing or wrong.
    """
    file = folder / SUMMARY
    summary = reading.read_json(file, schemas.GroupSummary)
    if problem := schemas.problem_of_summary(summary):
        raise reading.damaged(file, problem)
    return summary


def write_summary(folder: Path, summary: schemas.GroupSummary) -> Path:
    """Writes summary.json, and returns its path.

    Raises:
      UserError: if it can't be written.
    """
    file = folder / SUMMARY
    with writing.writing(file):
        writing.replace_text(file, json.dumps(summary, indent=1) + "\n")
    return file
