"""Several runs of one method that differ in their seeds only, and what they come to together.

runs/NAME/
  order1993-seed0/   a run folder for each member
  summary.json       mean, standard deviation and values of every number, over all that are done
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax import files, parsing, schemas
from cil_jax.config import Config, UserError
from cil_jax.record import RunFolder

SUMMARY = "summary.json"
NUMBERS = (
    "average_incremental_accuracy",
    "average_incremental_accuracy_without_first",
    "last_accuracy",
    "forgetting",
    "backward_transfer",
)
SEEDS = ("seed", "data_seed", "order_seed")  # in which the members of a group differ
ONLY_REPORTED = ("ncm", "fast")  # settings that leave the method as it is
CURVES = ("seen_accuracy", "old_accuracy", "new_accuracy", "task_aware_accuracy", "top5_accuracy")


def group_folder(config: Config) -> Path:
    """Where a group of members goes."""
    return Path(config.out or f"runs/{config.label()}")


def members(config: Config, seeds: Sequence[int] | None, n_orders: int | None) -> list[Config]:
    """The settings of each member: every class order with every seed.

    Args:
      config: what they have in common.
      seeds: of initial weights and data (default: the config's own).
      n_orders: so many class orders, from seed `order_seed` on (default: one).

    Raises:
      UserError: if there are orders to vary and the order is not seeded, or the group's folder
        holds a run itself.
    """
    if (n_orders or 1) > 1 and config.order != "seeded":
        raise UserError(f"--orders {n_orders} needs --order seeded")
    if n_orders is not None and n_orders < 1:
        raise UserError(f"--orders is {n_orders}; it must be at least 1")
    folder = group_folder(config)
    if RunFolder(folder).holds_a_run:
        raise UserError(f"{folder} holds a single run: choose another --out for several")
    found = []
    for order_seed in range(config.order_seed, config.order_seed + (n_orders or 1)):
        for seed in seeds or [config.seed]:
            order = f"order{order_seed}" if config.order == "seeded" else config.order
            out = folder / f"{order}-seed{seed}"
            # What was begun is continued, what is done is read.
            begun = RunFolder(out).holds_a_run
            own = {"order_seed": order_seed, "seed": seed, "out": str(out), "resume": begun}
            found.append(dataclasses.replace(config, **own))
    return found


def is_complete(folder: RunFolder) -> bool:
    """Whether a run has learned all its tasks."""
    if not folder.results_file.exists():
        return False
    results = folder.results()
    return n_learned(results) == len(results["task_sizes"])


def is_done(config: Config) -> bool:
    """Whether a member need not be run: its folder holds a whole run with all that is asked for.

    That may have been made with or without `fast`, and may report a classifier more.
    """
    folder = RunFolder(config.folder())
    if not (folder.holds_a_run and is_complete(folder)):
        return False
    differences = folder.differences(config)
    lacks_ncm = differences.get("ncm") == (False, True)
    return differences.keys() <= set(ONLY_REPORTED) and not lacks_ncm


def done(config: Config) -> tuple[list[dict[str, Any]], list[Path]]:
    """What there is of a group, whichever call made it.

    Args:
      config: of any member; a member of the group differs from it in its seeds only, and in
        settings that leave the method as it is: so members may have other classifiers.

    Returns:
      What results.json holds of each member that is done; and the folders of runs of other
      settings, which do not count.
    """
    results, others = [], []
    for folder in map(RunFolder, sorted(group_folder(config).glob("*/"))):
        if not folder.holds_a_run or not is_complete(folder):
            continue
        if folder.differences(config).keys() <= {*SEEDS, *ONLY_REPORTED}:
            results.append(folder.results())
        else:
            others.append(folder.path)
    return results, others


def n_learned(results: dict[str, Any]) -> int:
    """How many tasks a run has learned, by what results.json or summary.json holds."""
    seen = results["classifiers"][results["headline"]]["seen_accuracy"]
    return len(seen["mean"] if isinstance(seen, dict) else seen)


def summarize(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over class orders or, where there is only one, over seeds.

    An order that was run with several seeds counts once, with their mean: else the deviation
    would be that of neither.

    Args:
      results: what results.json holds, of each member.

    Returns:
      What the first member's results say of method and protocol; `over`, "orders" or "seeds", and
      `n`, how many of these; each of the `members`' seeds; and for each classifier that all
      have and each number its "mean", "std" (with n - 1; None for n = 1) and the n "values". Of a
      curve, such as seen_accuracy, all three are lists over tasks.
    """
    first = results[0]
    by_order: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        by_order.setdefault(one["order"], []).append(one)
    units = [[one] for one in results] if len(by_order) == 1 else list(by_order.values())
    shared = (
        *("method", "preset", "dataset", "backbone", "epochs", "exemplars", "keeps_all_data"),
        *("task_sizes", "headline", "uses_all_data", "parameters"),
    )
    return {
        **{key: first[key] for key in shared},
        "changed": first.get("changed", {}),  # results of older versions lack it
        "orders": sorted(by_order),
        "over": "seeds" if len(by_order) == 1 else "orders",
        "n": len(units),
        "members": [r["seeds"] for r in results],
        "classifiers": {
            name: {
                key: spread([_mean([r["classifiers"][name][key] for r in unit]) for unit in units])
                for key in (*NUMBERS, *CURVES)
            }
            for name in first["classifiers"]
            if all(name in r["classifiers"] for r in results)
        },
        "seconds": spread([sum(r["seconds"].values()) for r in results]),
    }


def _mean(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else spread(values)["mean"]


def spread(values: Sequence[Any]) -> dict[str, Any]:
    """Mean, standard deviation and the values of a number or a list of them; None stays None."""
    if isinstance(values[0], list):
        each = [spread(column) for column in zip(*values, strict=True)]
        return {key: [one[key] for one in each] for key in ("mean", "std", "values")}
    if any(value is None for value in values):
        return {"mean": None, "std": None, "values": list(values)}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "values": list(values)}


def read_summary(folder: Path) -> schemas.GroupSummary:
    """What summary.json holds.

    Raises:
      UserError: if it can't be read, or a field is missing or wrong.
    """
    file = folder / SUMMARY
    summary = parsing.read_json(file, schemas.GroupSummary)
    if problem := schemas.problem_of_summary(summary):
        raise parsing.damaged(file, problem)
    return summary


def write_summary(folder: Path, summary: dict[str, Any]) -> Path:
    """Writes summary.json, whole or not at all.

    Raises:
      UserError: if it can't be written.
    """
    file = folder / SUMMARY
    with files.writing(file):
        files.replace_text(file, json.dumps(summary, indent=1) + "\n")
    return file
