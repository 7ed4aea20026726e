"""The page of a run: one file that holds all it shows, to be opened from disk."""

import datetime
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
from cil_jax.report.tables import (
    LAST_ROWS,
    SUMMARY_ROWS,
    caption,
    column_name,
    percent,
    protocol,
    run_name,
    size_of,
)
from cil_jax.report.thinning import MOST, Groups, groups, n_tasks, spread
from cil_jax.report.thumbnails import SHOWN, strips
from cil_jax.settings.config import Config
from cil_jax.settings.loading import command, from_plain, without_others
from cil_jax.storage.run_folder import RunFolder

SECTIONS = {
    "seen": "Seen",
    "tasks": "Forgetting",
    "matrix": "Matrix",
    "curves": "Curves",
    "confusion": "Confusion",
    "classes": "Classes",
    "repeat": "Repeat",
    "times": "Times",
    "settings": "Settings",
}
EPOCH_PERCENT = ("train_accuracy", "test_accuracy")
EPOCH_NUMBERS = ("task", "epoch", "rate", "train_loss", "test_loss")
TAKEN_FOR = 2  # other classes that a class' line names, at most
PAIRS = 12  # of classes confused, at most
DIGITS = 6  # of losses and rates in the page


def write_page(folder: RunFolder) -> Path:
    """Writes report.html of a run that has results, also while it goes.

    Returns:
      The file.
    """
    results, settings = folder.results(), folder.settings()
    epochs = folder.epochs(results)
    versions, settings = settings.get("versions", {}), without_others(settings)
    own = results["classifiers"][results["headline"]]
    n_learned = len(own["seen_accuracy"])
    seen = np.cumsum(results["task_sizes"])[:n_learned].tolist()
    confusions = folder.confusions(results)  # maybe of a task more: they are written first
    images, labels = folder.exemplars()
    pictures = strips(images, labels)
    confusion = confusions[results["headline"]]
    classes = _classes(results, confusion, pictures)
    together = groups(results["class_names"], results["task_sizes"], confusion.n_classes)
    cut = any(one["picture"] and one["picture"].shown < one["picture"].kept for one in classes)
    n = max((one["picture"].shown for one in classes if one["picture"]), default=SHOWN)
    page = render(
        "page.html",
        results=results,
        own=own,
        n_learned=n_learned,
        n_tasks=len(results["task_sizes"]),
        n_classes=sum(results["task_sizes"]),
        n_kept=len(labels),
        n_pictures=len(pictures) if len(pictures) < len(np.unique(labels)) else None,
        together=together,
        n_tasks_shown=min(n_learned, MOST),
        n_measured=n_tasks(results["task_sizes"], confusion.n_classes),
        seen=seen,
        name=run_name(results),
        caption=caption(results),
        protocol=protocol(results),
        column_name=column_name,
        summary_rows=SUMMARY_ROWS,
        last_rows=LAST_ROWS,
        sections=list(SECTIONS.items()),
        parts=bool(epochs and epochs[0].get("parts")),
        classes=classes,
        shown_of=f": the first {n} of each class" if cut else "",
        to_come=results["class_names"][seen[-1] :],
        command=_command(settings),
        needs_data=results["dataset"].partition(":")[0] in ("cifar100", "tfds"),
        facts=_facts(results, versions),
        settings=yaml.safe_dump(settings, sort_keys=False),
        data=_data(results, epochs, confusions, together, seen),
    )
    writing.replace_text(folder.report_file, page)
    return folder.report_file


def render(template: str, **values: Any) -> str:
    """A page of this folder, with the style and the charts that all have in common."""

    def text(name):
        return (resources.files("cil_jax.report") / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    shared = {name: markupsafe.Markup(text(name)) for name in ("style.css", "charts.js")}
    return environment.get_template(template).render(
        style=shared["style.css"],
        charts=shared["charts.js"],
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        **values,
    )


def _classes(
    results: dict[str, Any], confusion: Confusion, pictures: dict[int, Any]
) -> list[dict[str, Any]]:
    """Of each class seen: name, task, what it is taken for by the own classifier, exemplars."""
    names, found = results["class_names"], []
    tasks = np.repeat(np.arange(len(results["task_sizes"])), results["task_sizes"])
    for label in range(confusion.n_classes):
        answers, n_images = confusion.answers(label)
        share = n_images / max(n_images.sum(), 1)
        order = np.argsort(-n_images, kind="stable")
        taken = [(names[answers[j]], float(share[j])) for j in order if answers[j] != label]
        found.append(
            {
                "name": names[label],
                "task": int(tasks[label]) + 1,
                "right": float(share[answers == label].sum()),
                "taken": taken[:TAKEN_FOR],
                "picture": pictures.get(label),
            }
        )
    return found


def _command(settings: dict[str, Any]) -> str | None:
    """The command that repeats the run, None where there is none or the settings are not ours."""
    try:
        return command(Config(**from_plain(settings, "config.yaml")))
    except UserError:
        return None


def _facts(results: dict[str, Any], versions: dict[str, str]) -> list[tuple[str, str]]:
    """What else is worth knowing: times, memory, machine and versions."""
    named = {"train": "training", "end_task": "ends of tasks", "evaluate": "evaluation"}
    seconds = results["seconds"]
    times = {"all together": sum(seconds.values()), **seconds}
    facts = [(named.get(key, key), _duration(value)) for key, value in times.items()]
    facts.append(("parameters", f"{results['parameters']:,}"))
    for key, n in results["memory"].items():
        label = {"peak": "memory at most in use", "exemplars": "exemplars kept"}.get(key, key)
        facts.append((f"{label}, size" if key in ("parameters", "teacher") else label, size_of(n)))
    for key, value in results.get("machine", {}).items():
        facts.append((key, str(value)))
    return facts + list(versions.items())


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))


def _data(
    results: dict[str, Any],
    epochs: list[dict[str, Any]],
    confusions: dict[str, Confusion],
    together: Groups,
    seen: list[int],
) -> dict[str, Any]:
    """What the figures are drawn from; accuracies in percent."""

    def in_percent(value):
        return None if value is None else round(100 * value, 2)

    def short(value):
        return value if value is None or isinstance(value, int) else float(f"{value:.{DIGITS}g}")

    parts = epochs[0].get("parts", {}) if epochs else {}
    tasks = spread(len(seen), MOST)
    return {
        "own": results["headline"],
        "names": results["class_names"],
        "groups": {"bounds": together.bounds, "names": together.names, "tasks": together.tasks},
        "seen": seen,
        "tasks": [t + 1 for t in tasks],
        "classifiers": {
            name: {
                "label": column_name(results, name),
                "seen": [in_percent(x) for x in one["seen_accuracy"]],
                "matrix": [
                    [in_percent(one["accuracy_matrix"][t][j]) for j in tasks if j <= t]
                    for t in tasks
                ],
                "confusion": confusions[name].grouped(together.bounds).tolist(),
                "pairs": confusions[name].pairs(PAIRS),
            }
            for name, one in results["classifiers"].items()
        },
        "epochs": {
            **{key: [in_percent(x[key]) for x in epochs] for key in EPOCH_PERCENT},
            **{key: [short(x[key]) for x in epochs] for key in EPOCH_NUMBERS},
            "parts": {name: [short(x["parts"][name]) for x in epochs] for name in parts},
        },
    }
