"""The page of a run: one self-contained HTML file."""

import datetime
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
import yaml

from cil_jax.confusion import Confusion
from cil_jax.errors import UserError
from cil_jax.files import writing
from cil_jax.report.causes import COLUMNS, NOTES, cells, sentences
from cil_jax.report.percentages import in_percent, percent
from cil_jax.report.tables import (
    LAST_ROWS,
    SUMMARY_ROWS,
    caption,
    column_name,
    protocol,
    run_name,
    size_of,
)
from cil_jax.report.thinning import MOST, Groups, groups, n_tasks, spread
from cil_jax.report.thumbnails import SHOWN, Strip, strips
from cil_jax.settings import loading
from cil_jax.storage.run_folder import MetricsLine, RunFolder
from cil_jax.storage.schemas import Causes

SECTIONS = {
    "seen": "Accuracy",
    "tasks": "Forgetting",
    "matrix": "Matrix",
    "curves": "Curves",
    "confusion": "Confusion",
    "why": "Why",
    "classes": "Classes",
    "repeat": "Command",
    "times": "Times",
    "settings": "Settings",
}
EPOCH_PERCENT = ("train_accuracy", "test_accuracy")
EPOCH_NUMBERS = ("task", "epoch", "rate", "train_loss", "test_loss")
CONFUSED_WITH = 2  # other classes named beside a class, at most
PAIRS = 12  # pairs of confused classes, at most
DIGITS = 6  # significant digits of losses and rates in the page


def write_page(folder: RunFolder, lines: Sequence[MetricsLine] | None = None) -> Path:
    """Writes report.html of a run that has results; the run may still be going.

    Args:
      folder: the folder of the run.
      lines: the lines of metrics.jsonl, if they have been read already.

    Returns:
      The file.
    """
    results, settings = folder.results(), folder.settings()
    lines = folder.measurements() if lines is None else lines
    values = _values(
        results,
        settings,
        epochs=folder.epochs(results, lines),
        losses=_seen_losses(lines),
        confusions=folder.confusions(results),
        exemplars=folder.exemplars(),
        command=_command(settings, folder.config_file),
        causes=folder.causes(),
    )
    writing.replace_text(folder.report_file, render("page.html", **values))
    return folder.report_file


def _values(
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    losses: Mapping[int, float],
    confusions: Mapping[str, Confusion],
    exemplars: tuple[np.ndarray, np.ndarray],
    command: str | None,
    causes: Causes | None,
) -> dict[str, Any]:
    """The values that page.html shows.

    Args:
      results: the contents of results.json.
      settings: the contents of config.yaml.
      epochs: the lines of metrics.jsonl about epochs.
      losses: the loss on all classes seen after each task, by task.
      confusions: the confusion matrix of each classifier. It may include one more task than the
        results, since it is written before them.
      exemplars: images and labels, see `cil_jax.report.thumbnails.strips`.
      command: the command that repeats the run; None if there is none.
      causes: why the run forgot; None if nobody has asked. Left out if it is of fewer tasks.
    """
    versions = settings.get("versions", {})
    code = {"code": settings["code"]} if "code" in settings else {}
    settings = {**loading.without_others(settings), **code}
    headline = results["headline"]
    own = results["classifiers"][headline]
    n_learned = len(own["seen_accuracy"])
    seen = np.cumsum(results["task_sizes"])[:n_learned].tolist()
    images, labels = exemplars
    pictures = strips(images, labels)
    confusion = confusions[headline]
    if causes and len(causes["tasks"]) != n_learned:
        causes = None
    together = groups(results["class_names"], results["task_sizes"], confusion.n_classes)
    return {
        "results": results,
        "own": own,
        "n_learned": n_learned,
        "n_tasks": len(results["task_sizes"]),
        "n_classes": sum(results["task_sizes"]),
        "n_kept": len(labels),
        "n_pictures": len(pictures) if len(pictures) < len(np.unique(labels)) else None,
        "together": together,
        "n_tasks_shown": min(n_learned, MOST),
        "n_measured": n_tasks(results["task_sizes"], confusion.n_classes),
        "seen": seen,
        "name": run_name(results),
        "caption": caption(results),
        "protocol": protocol(results),
        "column_name": column_name,
        "summary_rows": SUMMARY_ROWS,
        "last_rows": LAST_ROWS,
        "sections": [(key, name) for key, name in SECTIONS.items() if key != "why" or causes],
        "causes": causes and _causes(causes),
        "has_losses": bool(losses),
        "parts": any(line.get("parts") for line in epochs),
        "classes": _classes(results, confusion, pictures),
        "shown_of": _exemplars_shown(pictures),
        "to_come": results["class_names"][seen[-1] :],
        "command": command,
        "needs_data": results["dataset"].partition(":")[0] in ("cifar100", "tfds"),
        "facts": _facts(results, versions),
        "settings": yaml.safe_dump(settings, sort_keys=False),
        "data": _data(results, epochs, losses, confusions, together, seen),
    }


def render(template: str, **values: Any) -> str:
    """Renders a template of this folder, with the style and charts that all pages share."""

    def text(name: str) -> str:
        return (resources.files("cil_jax.report") / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(
        style=markupsafe.Markup(text("style.css")),
        charts=markupsafe.Markup(text("charts.js")),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        **values,
    )


def _seen_losses(lines: Sequence[MetricsLine]) -> dict[int, float]:
    """The loss on all classes seen after each task; older versions did not record it."""
    return {
        line["task"]: line["loss"]
        for line in lines
        if line["kind"] == "evaluation" and "loss" in line
    }


def _classes(
    results: Mapping[str, Any], confusion: Confusion, pictures: Mapping[int, Strip]
) -> list[dict[str, Any]]:
    """Name, task, accuracy, most frequent wrong predictions and exemplars of each class seen."""
    names, classes = results["class_names"], []
    tasks = np.repeat(np.arange(len(results["task_sizes"])), results["task_sizes"])
    for label in range(confusion.n_classes):
        answers, n_images = confusion.answers(label)
        share = n_images / max(n_images.sum(), 1)
        order = np.argsort(-n_images, kind="stable")
        wrong = [(names[answers[j]], float(share[j])) for j in order if answers[j] != label]
        classes.append(
            {
                "name": names[label],
                "task": int(tasks[label]) + 1,
                "right": float(share[answers == label].sum()),
                "taken": wrong[:CONFUSED_WITH],
                "picture": pictures.get(label),
            }
        )
    return classes


def _causes(causes: Causes) -> dict[str, Any]:
    """The table, notes and sentences about the causes; columns without a value are left out."""
    rows = cells(causes)
    shown = [j for j in range(len(COLUMNS)) if any(row[j] != "-" for row in rows)]
    return {
        "classifier": causes["classifier"],
        "columns": [COLUMNS[j] for j in shown],
        "rows": [[rows[task][j] for j in shown] for task in spread(len(rows), MOST)],
        "notes": NOTES,
        "sentences": sentences(causes),
    }


def _exemplars_shown(pictures: Mapping[int, Strip]) -> str:
    """Says how many exemplars of each class the page shows; '' if it shows all."""
    if all(strip.shown == strip.kept for strip in pictures.values()):
        return ""
    n_shown = max((strip.shown for strip in pictures.values()), default=SHOWN)
    return f": the first {n_shown} of each class"


def _command(settings: Mapping[str, Any], file: Path) -> str | None:
    """The command that repeats the run; None if there is none, or something is unknown."""
    if settings.get("code"):  # code that need not be known here
        return loading.command_with_file(settings, file)
    try:
        values = loading.recorded(settings, "config.yaml")
        return loading.command(loading.config_of({"run": values}))
    except UserError:
        return None


def _facts(results: Mapping[str, Any], versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Times, sizes, machine and versions, as labels and values."""
    kinds_of_work = {"train": "training", "end_task": "ends of tasks", "evaluate": "evaluation"}
    seconds = results["seconds"]
    times = {"total time": sum(seconds.values()), **seconds}
    facts: list[tuple[str, str]] = [
        (kinds_of_work.get(key) or key, _duration(value)) for key, value in times.items()
    ]
    facts.append(("parameters", f"{results['parameters']:,}"))
    sizes = {
        "peak": "peak memory",
        "exemplars": "size of the exemplars",
        "parameters": "size of the parameters",
        "teacher": "size of the teacher",
    }
    for key, n_bytes in results["memory"].items():
        facts.append((sizes.get(key) or key, size_of(n_bytes)))
    facts += [(key, str(value)) for key, value in results.get("machine", {}).items()]
    return facts + list(versions.items())


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))


def _data(
    results: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
    losses: Mapping[int, float],
    confusions: Mapping[str, Confusion],
    together: Groups,
    seen: list[int],
) -> dict[str, Any]:
    """The data of the page's figures; accuracies in percent."""

    def short(value: float | None) -> float | None:
        return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")

    # A task may have several trainings, whose losses have other parts.
    parts = list(dict.fromkeys(name for line in epochs for name in line.get("parts", {})))
    tasks = spread(len(seen), MOST)
    return {
        "own": results["headline"],
        "names": results["class_names"],
        "groups": {"bounds": together.bounds, "names": together.names, "tasks": together.tasks},
        "seen": seen,
        "losses": [short(losses.get(task)) for task in range(len(seen))],
        "tasks": [t + 1 for t in tasks],
        "classifiers": {
            name: {
                "label": column_name(results, name),
                "seen": [in_percent(accuracy) for accuracy in summary["seen_accuracy"]],
                "matrix": [
                    [in_percent(summary["accuracy_matrix"][t][j]) for j in tasks if j <= t]
                    for t in tasks
                ],
                "confusion": confusions[name].grouped(together.bounds).tolist(),
                "pairs": confusions[name].pairs(PAIRS),
            }
            for name, summary in results["classifiers"].items()
        },
        "epochs": {
            **{key: [in_percent(line[key]) for line in epochs] for key in EPOCH_PERCENT},
            **{key: [short(line[key]) for line in epochs] for key in EPOCH_NUMBERS},
            "parts": {
                name: [short(line.get("parts", {}).get(name)) for line in epochs] for name in parts
            },
        },
    }
