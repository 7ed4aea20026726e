"""What the files of a run hold: one type for each file, checked where the file is read.

A class here says which fields a file has, of what type and within which bounds; a function
`problem_of_...` says what must hold between them. Accuracies are fractions 0..1. Fields that older
versions did not write are NotRequired.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

MOST_CLASSES = 100_000
MOST_TASKS = 10_000
LONGEST_NAME = 10_000  # letters

Count = Annotated[int, Meta(ge=0, le=2**53)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Difference = Annotated[float, Meta(ge=-1, le=1)]  # of two fractions
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Text = Annotated[str, Meta(max_length=LONGEST_NAME)]
Confusion = Annotated[list[list[Count]], Meta(min_length=1, max_length=MOST_CLASSES)]
TaskSizes = Annotated[
    list[Annotated[int, Meta(ge=1, le=MOST_CLASSES)]], Meta(min_length=1, max_length=MOST_TASKS)
]
ClassNames = Annotated[list[Text], Meta(min_length=1, max_length=MOST_CLASSES)]
Side = Annotated[int, Meta(ge=1, le=2**16)]  # pixels
ImageShape = Annotated[list[Side], Meta(min_length=3, max_length=3)]  # height, width, channels
Plain = bool | int | float | str | None

# The settings in config.yaml, under their flags' names, and the `versions` they were made with.
Settings = dict[str, Plain | list[Plain] | dict[str, Plain]]


class Seeds(TypedDict):
    """The seeds of a run: of its class order, its initial weights and its data."""

    order: Seed
    init: Seed
    data: Seed


class AugmentationFacts(TypedDict):
    """How training images were varied; see `cil_jax.data.augment.Augmentation`."""

    pad: Annotated[int, Meta(ge=0, le=2**16)]
    mirror: bool
    padding: Literal["mean", "black"]
    brightness: Annotated[float, Meta(ge=0, le=1e6)]


class ClassifierSummary(TypedDict):
    """What one classifier of a run came to; see `cil_jax.metrics.summarize`.

    Lists have an entry for each task learned, matrices a row. None stands for what needs a second
    task, or more than five classes.
    """

    accuracy_matrix: list[list[Fraction]]
    seen_accuracy: Annotated[list[Fraction], Meta(min_length=1)]
    old_accuracy: list[Fraction | None]
    new_accuracy: list[Fraction]
    average_incremental_accuracy: Fraction
    average_incremental_accuracy_without_first: Fraction | None
    last_accuracy: Fraction
    forgetting: Difference | None
    backward_transfer: Difference | None
    task_aware_matrix: list[list[Fraction]]
    task_aware_accuracy: list[Fraction]
    top5_accuracy: list[Fraction | None]


class Results(TypedDict):
    """results.json: how a run went, and all that is needed to say whose numbers they are.

    Attributes:
      method, preset, changed: the recipe, and the settings in which the run departs from it.
      dataset, data_sha256, order, class_order, class_names, image_shape: what it learned.
      augmentation: how training images were varied.
      backbone, parameters: the network, and its number of weights.
      epochs, task_sizes: of each task.
      exemplars, keeps_all_data: what it may keep of old tasks.
      seeds: its seeds.
      classifiers, headline, uses_all_data: what each classifier came to, which of them is the
        method's own, and which use data that no learner may keep.
      memory_bytes, memory: bytes of the exemplars, and of each part of the learner.
      seconds: of each kind of work.
      machine: what it ran on.
    """

    method: Text
    preset: Text
    changed: NotRequired[dict[str, Plain | list[Plain]]]
    dataset: Text
    data_sha256: NotRequired[Text]
    order: Text
    backbone: Text
    epochs: Annotated[list[Count], Meta(min_length=1)]
    exemplars: Count
    keeps_all_data: bool
    class_order: NotRequired[list[Count]]
    class_names: NotRequired[ClassNames]
    image_shape: NotRequired[ImageShape]
    augmentation: NotRequired[AugmentationFacts]
    task_sizes: TaskSizes
    seeds: Seeds
    classifiers: Annotated[dict[str, ClassifierSummary], Meta(min_length=1, max_length=100)]
    headline: Text
    uses_all_data: list[Text]
    memory_bytes: NotRequired[Count]
    memory: NotRequired[Annotated[dict[str, Count | None], Meta(max_length=100)]]
    parameters: Count
    seconds: Annotated[dict[str, Seconds], Meta(max_length=100)]
    machine: NotRequired[Annotated[dict[str, Plain], Meta(max_length=100)]]


class Spread(TypedDict):
    """A number over several runs; mean and std are None where it, or a second run, is missing."""

    mean: Difference | None
    std: Difference | None
    values: list[Difference | None]


class CurveSpread(TypedDict):
    """A number after each task over several runs; all three are lists over tasks."""

    mean: list[Fraction | None]
    std: list[Fraction | None]
    values: list[list[Fraction | None]]


class SecondsSpread(TypedDict):
    """Seconds over several runs."""

    mean: Seconds | None
    std: Seconds | None
    values: list[Seconds | None]


class GroupClassifier(TypedDict):
    """What one classifier came to over several runs; see `ClassifierSummary`."""

    average_incremental_accuracy: Spread
    average_incremental_accuracy_without_first: Spread
    last_accuracy: Spread
    forgetting: Spread
    backward_transfer: Spread
    seen_accuracy: CurveSpread
    old_accuracy: CurveSpread
    new_accuracy: CurveSpread
    task_aware_accuracy: CurveSpread
    top5_accuracy: CurveSpread


class GroupSummary(TypedDict):
    """summary.json: runs that differ only in their seeds; see `cil_jax.storage.replicates`.

    What is not explained here is as in `Results`.

    Attributes:
      orders: the class orders.
      over: what the means are taken over.
      n: how many of these there are.
      members: the seeds of each run.
    """

    method: Text
    preset: Text
    changed: NotRequired[dict[str, Plain | list[Plain]]]
    dataset: Text
    backbone: Text
    epochs: Annotated[list[Count], Meta(min_length=1)]
    exemplars: Count
    keeps_all_data: bool
    task_sizes: TaskSizes
    headline: Text
    uses_all_data: list[Text]
    parameters: Count
    orders: Annotated[list[Text], Meta(min_length=1)]
    over: Literal["seeds", "orders"]
    n: Annotated[int, Meta(ge=1, le=2**31)]
    members: Annotated[list[Seeds], Meta(min_length=1)]
    classifiers: Annotated[dict[str, GroupClassifier], Meta(min_length=1, max_length=100)]
    seconds: SecondsSpread


class EpochLine(TypedDict):
    """A line of metrics.jsonl after an epoch: losses, learning rate, and speed."""

    kind: Literal["epoch"]
    task: Count
    epoch: Count
    rate: Number
    train_loss: float
    train_accuracy: Number
    test_loss: float
    test_accuracy: Fraction
    parts: NotRequired[dict[str, float]]
    images_per_second: NotRequired[Number]


class EvaluationLine(TypedDict):
    """A line of metrics.jsonl after a task: each classifier on the classes seen.

    Attributes:
      task: which task was learned, from 0.
      n_seen: classes seen.
      task_accuracy, seen_accuracy, task_aware, top5: see `cil_jax.metrics.scores`.
      confusion: images of each true class (rows) that were taken for each class (columns).
    """

    kind: Literal["evaluation"]
    task: Count
    n_seen: Count
    task_accuracy: NotRequired[dict[str, list[Fraction]]]
    seen_accuracy: NotRequired[dict[str, Fraction]]
    task_aware: NotRequired[dict[str, list[Fraction]]]
    top5: NotRequired[dict[str, Fraction | None]]
    confusion: NotRequired[dict[str, Confusion]]


LINES: dict[Any, Any] = {"epoch": EpochLine, "evaluation": EvaluationLine}  # by their `kind`


class Scores(TypedDict):
    """What one classifier's answers came to after a task; see `cil_jax.metrics.scores`."""

    task_accuracy: list[Fraction]
    seen_accuracy: Fraction
    task_aware: list[Fraction]
    top5: Fraction | None


class ConfusionCells(TypedDict):
    """The cells above 0 of each classifier's confusion matrix: rows, columns and counts."""

    n_seen: Count
    cells: dict[str, Annotated[list[list[Count]], Meta(min_length=3, max_length=3)]]


class History(TypedDict):
    """What a run has measured so far; the confusions are those of the last evaluation."""

    data_sha256: Text
    scores: dict[str, Annotated[list[Scores], Meta(max_length=MOST_TASKS)]]
    seconds: dict[str, Seconds]
    peak_bytes: Count | None
    confusion: NotRequired[ConfusionCells | None]


class EpochSoFar(TypedDict):
    """The sums and seconds of an epoch that is not done."""

    sums: dict[str, float]
    seconds: Seconds


class RunRecord(TypedDict, total=False):
    """What a run knows beside its learner; a learner that was saved alone has nothing of it."""

    history: History
    epoch_so_far: EpochSoFar | None
    n_lines: Count


class CheckpointAbout(TypedDict):
    """about.json of a checkpoint: its format, the type and shape of each array, and the record."""

    format: int
    schema: dict[str, str]
    record: RunRecord


class LearnerAbout(TypedDict):
    """learner.json: what `cil_jax.load` must know of a learner that was saved alone."""

    settings: Settings
    class_names: ClassNames
    image_shape: ImageShape
    room: Annotated[int, Meta(ge=1, le=2 * MOST_CLASSES)]
    versions: NotRequired[dict[str, str]]


def problem_of_results(results: Results) -> str:
    """Which field does not fit the others; '' if all do."""
    sizes, names = results["task_sizes"], results.get("class_names")
    if problem := _problem_of_classifiers(results):
        return problem
    if len(results["epochs"]) != len(sizes):
        return f"epochs: {len(results['epochs'])} of them, for {len(sizes)} tasks"
    if names is not None and len(names) != sum(sizes):
        return f"class_names: {len(names)} of them, where tasks have {sum(sizes)} classes"
    n_tasks = len(results["classifiers"][results["headline"]]["seen_accuracy"])
    for name, found in results["classifiers"].items():
        for key in ("old", "new", "task_aware", "top5"):
            if len(found[f"{key}_accuracy"]) != n_tasks:
                return f"classifiers.{name}.{key}_accuracy: it has not one entry for each task"
        for key in ("accuracy_matrix", "task_aware_matrix"):
            if [len(row) for row in found[key]] != list(range(1, n_tasks + 1)):
                return f"classifiers.{name}.{key}: row t must have t entries, for {n_tasks} tasks"
    return ""


def problem_of_summary(summary: GroupSummary) -> str:
    """Which field does not fit the others; '' if all do."""
    if problem := _problem_of_classifiers(summary):
        return problem
    for name, found in summary["classifiers"].items():
        averages = found["average_incremental_accuracy"], found["last_accuracy"]
        if any(number["mean"] is None for number in averages):
            return f"classifiers.{name}: it has no average or last accuracy"
        seen = found["seen_accuracy"]
        needed = seen["mean"] + (seen["std"] if summary["n"] > 1 else [])
        if None in needed:
            return f"classifiers.{name}.seen_accuracy: a number is missing"
        for key in ("seen", "old", "new", "task_aware", "top5"):
            curve = found[f"{key}_accuracy"]
            if {len(curve["mean"]), len(curve["std"])} != {len(seen["mean"])}:
                return f"classifiers.{name}.{key}_accuracy: it has not one entry for each task"
    return ""


def _problem_of_classifiers(found: Mapping[str, Any]) -> str:
    """What results and summaries have in common."""
    sizes, classifiers = found["task_sizes"], found["classifiers"]
    if sum(sizes) > MOST_CLASSES:
        return f"task_sizes: {sum(sizes):,} classes in all, more than {MOST_CLASSES:,}"
    if found["headline"] not in classifiers:
        return f"headline: {found['headline']!r} is none of the classifiers"
    curves = [one["seen_accuracy"] for one in classifiers.values()]
    lengths = {len(c["mean"] if isinstance(c, dict) else c) for c in curves}
    if len(lengths) > 1 or not 1 <= max(lengths) <= len(sizes):
        return f"classifiers: seen_accuracy must have an entry for each of up to {len(sizes)} tasks"
    return ""


def problem_of_evaluation(line: EvaluationLine, n_classes: int, classifiers: Sequence[str]) -> str:
    """Why a line can't be what was measured on so many classes by these; '' if it can."""
    if line["n_seen"] != n_classes:
        return f"n_seen: {line['n_seen']}, where {n_classes} classes were seen"
    for name in classifiers:
        counts = line.get("confusion", {}).get(name, [])
        if len(counts) != n_classes or {len(row) for row in counts} != {n_classes}:
            return f"confusion: it must have {n_classes} x {n_classes} counts for {name}"
    return ""


def problem_of_record(
    record: RunRecord, classifiers: Sequence[str], n_tasks: int, sums: Sequence[str]
) -> str:
    """Why a run can't continue from a record; '' if it can.

    Args:
      record: of a checkpoint.
      classifiers: that the run has.
      n_tasks: tasks that the checkpoint's learner has learned.
      sums: names of what the epoch that the learner is in has summed; none between epochs.
    """
    if missing := sorted(RunRecord.__annotations__.keys() - record.keys()):
        return f"record: {', '.join(missing)} missing"
    scores = record["history"]["scores"]
    if scores.keys() != set(classifiers):
        return "record.history.scores: they are of other classifiers than the run's"
    for name, of_tasks in scores.items():
        rows = [len(one[key]) for one in of_tasks for key in ("task_accuracy", "task_aware")]
        wanted = [t for t in range(1, n_tasks + 1) for _ in range(2)]
        if rows != wanted:
            return f"record.history.scores.{name}: not what {n_tasks} tasks give"
    so_far = record["epoch_so_far"]
    if sums and (so_far is None or so_far["sums"].keys() != set(sums)):
        return "record.epoch_so_far: it does not hold the sums of the epoch"
    return ""
