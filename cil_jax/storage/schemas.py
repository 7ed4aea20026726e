"""The schemas of the files of a run.

A class lists the fields of a file with their types and bounds, which are checked when the file is
read. A function `problem_of_...` checks that the fields fit each other. Accuracies are fractions in
0..1. Fields that older versions did not write are NotRequired.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

MOST_CLASSES = 100_000
MOST_TASKS = 10_000
LONGEST_NAME = 10_000  # characters

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

# The content of config.yaml: settings under the names of their flags, versions and the like;
# `code` has an entry for each class from outside the package.
Settings = dict[str, Plain | list[Plain] | dict[str, Plain | dict[str, Plain]]]


class Seeds(TypedDict):
    """The seeds of the class order, of the initial weights and of the data of a run."""

    order: Seed
    init: Seed
    data: Seed


class AugmentationFacts(TypedDict):
    """The augmentation of training images; see `cil_jax.data.augment.Augmentation`."""

    pad: Annotated[int, Meta(ge=0, le=2**16)]
    mirror: bool
    padding: Literal["mean", "black"]
    brightness: Annotated[float, Meta(ge=0, le=1e6)]
    policy: NotRequired[Text]


class ClassifierSummary(TypedDict):
    """The results of one classifier of a run; see `cil_jax.metrics.summarize`.

    Lists have one entry per task learned, and matrices one row. A value is None if it needs a
    second task or, for top-5 accuracy, more than five classes.
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
    """results.json: the results of a run, and the facts needed to interpret them.

    Attributes:
      method, preset, changed: the method, the preset, and the settings that differ from it.
      dataset, data_sha256, order, class_order, class_names, image_shape: the data and the order of
        its classes.
      validation: the fraction of the training images that the run was tested on in place of the
        test images.
      scenario: how their images arrive; missing if each class comes once, with all its images.
      augmentation: the augmentation of training images.
      backbone, parameters: the network and its number of weights.
      epochs, task_sizes: epochs and classes of each task; 0 epochs if a task has no training.
      exemplars, keeps_all_data: the size of the exemplar memory, and whether the method trains on
        all data of earlier tasks.
      seeds: the seeds.
      classifiers: the results of each classifier.
      headline: the classifier that belongs to the method.
      uses_all_data: the classifiers that use data which an incremental learner does not keep.
      memory_bytes, memory: bytes of the exemplars, and of each part of the learner.
      seconds: the time spent on each kind of work.
      machine: the hardware.
    """

    method: Text
    preset: Text
    changed: NotRequired[dict[str, Plain | list[Plain]]]
    dataset: Text
    data_sha256: NotRequired[Text]
    validation: NotRequired[Fraction]
    order: Text
    scenario: NotRequired[Text]
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
    """A number over several runs.

    `mean` and `std` are None if a value is None; `std` also if there is only one value.
    """

    mean: Difference | None
    std: Difference | None
    values: list[Difference | None]


class CurveSpread(TypedDict):
    """A number after each task, over several runs. All three fields are lists over tasks."""

    mean: list[Fraction | None]
    std: list[Fraction | None]
    values: list[list[Fraction | None]]


class SecondsSpread(TypedDict):
    """Seconds over several runs."""

    mean: Seconds | None
    std: Seconds | None
    values: list[Seconds | None]


class GroupClassifier(TypedDict):
    """The results of one classifier over several runs; see `ClassifierSummary`."""

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
    """summary.json: the summary of runs that differ only in their seeds.

    See `cil_jax.storage.replicates`. Fields that are not listed here are those of `Results`.

    Attributes:
      orders: the class orders.
      over: whether means are taken over seeds or over class orders.
      n: the number of values in each mean.
      members: the seeds of each run.
    """

    method: Text
    preset: Text
    changed: NotRequired[dict[str, Plain | list[Plain]]]
    dataset: Text
    validation: NotRequired[Fraction]
    scenario: NotRequired[Text]
    backbone: Text
    epochs: Annotated[list[Count], Meta(min_length=1)]
    exemplars: Count
    keeps_all_data: bool
    augmentation: NotRequired[AugmentationFacts]
    task_sizes: TaskSizes
    headline: Text
    uses_all_data: list[Text]
    parameters: Count
    memory_bytes: NotRequired[Count]
    orders: Annotated[list[Text], Meta(min_length=1)]
    over: Literal["seeds", "orders"]
    n: Annotated[int, Meta(ge=1, le=2**31)]
    members: Annotated[list[Seeds], Meta(min_length=1)]
    classifiers: Annotated[dict[str, GroupClassifier], Meta(min_length=1, max_length=100)]
    seconds: SecondsSpread


class EpochLine(TypedDict):
    """A line of metrics.jsonl after an epoch: losses, accuracies, learning rate and speed.

    `training` is the name of the training, for any but the main one of a task.
    """

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
    training: NotRequired[Text]


class EvaluationLine(TypedDict):
    """A line of metrics.jsonl after a task: each classifier evaluated on the classes seen.

    Attributes:
      task: the task just learned, from 0.
      n_seen: the number of classes seen.
      loss: the method's loss on the test images of all classes seen.
      task_accuracy, seen_accuracy, task_aware, top5: by classifier; see `cil_jax.metrics.scores`.
      confusion: the confusion matrix of each classifier; rows are true classes.
    """

    kind: Literal["evaluation"]
    task: Count
    n_seen: Count
    loss: NotRequired[Number]
    task_accuracy: NotRequired[dict[str, list[Fraction]]]
    seen_accuracy: NotRequired[dict[str, Fraction]]
    task_aware: NotRequired[dict[str, list[Fraction]]]
    top5: NotRequired[dict[str, Fraction | None]]
    confusion: NotRequired[dict[str, Confusion]]


LINES: dict[Any, Any] = {"epoch": EpochLine, "evaluation": EvaluationLine}  # by their `kind`


class Scores(TypedDict):
    """The accuracies of one classifier after a task; see `cil_jax.metrics.scores`."""

    task_accuracy: list[Fraction]
    seen_accuracy: Fraction
    task_aware: list[Fraction]
    top5: Fraction | None


class ConfusionCells(TypedDict):
    """The nonzero cells of each classifier's confusion matrix: rows, columns and counts."""

    n_seen: Count
    cells: dict[str, Annotated[list[list[Count]], Meta(min_length=3, max_length=3)]]


class History(TypedDict):
    """The measurements of a run so far; `confusion` is that of the last evaluation."""

    data_sha256: Text
    scores: dict[str, Annotated[list[Scores], Meta(max_length=MOST_TASKS)]]
    seconds: dict[str, Seconds]
    peak_bytes: Count | None
    confusion: NotRequired[ConfusionCells | None]


class EpochSoFar(TypedDict):
    """The sums and the training time of an unfinished epoch."""

    sums: dict[str, float]
    seconds: Seconds


class RunRecord(TypedDict, total=False):
    """The state of a run besides its learner; empty for a learner that was saved on its own."""

    history: History
    epoch_so_far: EpochSoFar | None
    n_lines: Count


class CheckpointAbout(TypedDict):
    """about.json of a checkpoint: its format, the type and shape of each array, and the record."""

    format: int
    schema: dict[str, str]
    record: RunRecord


class TaskCauses(TypedDict):
    """Why a task was forgotten; see `Causes`.

    Attributes:
      right, wrong_within_task, wrong_in_other_task: shares of its test images that are classified
        correctly, as another class of the task, and as a class of another task; they add up to 1.
      accuracy_when_learned: accuracy among all classes seen, just after the task.
      task_aware_when_learned, task_aware: accuracy among the classes of the task, then and now.
      weight_norm: mean length of the weight vectors of its classes; None without a linear
        classifier.
      mean_drift: the angle in degrees between the mean features of a class just after the task and
        now, averaged over its classes; None if features were not saved.
      similarity: linear CKA between the features of the images seen, then and now; None if features
        were not saved.
    """

    right: Fraction
    wrong_within_task: Fraction
    wrong_in_other_task: Fraction
    accuracy_when_learned: Fraction
    task_aware_when_learned: Fraction
    task_aware: Fraction
    weight_norm: Annotated[float, Meta(ge=0, le=1e30)] | None
    mean_drift: Annotated[float, Meta(ge=0, le=180)] | None
    similarity: Annotated[float, Meta(ge=0, le=1.001)] | None


class Causes(TypedDict):
    """why.json: why a run forgot, after its last whole task; see `cil_jax.trained.why`.

    Attributes:
      classifier: the classifier whose errors are counted: the headline.
      task_confusion: [T, T], the share of the images of each task (row) that are taken for a class
        of each task (column).
      tasks: one entry for each task.
      linear_accuracy, confidence, calibration_error: of the network's outputs on all classes seen:
        accuracy, mean probability of the prediction, and expected calibration error; None if the
        method has no such outputs.
    """

    classifier: Text
    task_confusion: Annotated[list[list[Fraction]], Meta(min_length=1, max_length=MOST_TASKS)]
    tasks: Annotated[list[TaskCauses], Meta(min_length=1, max_length=MOST_TASKS)]
    linear_accuracy: Fraction | None
    confidence: Fraction | None
    calibration_error: Fraction | None


class LearnerAbout(TypedDict):
    """learner.json: the facts that `cil_jax.load` needs about a learner saved on its own."""

    settings: Settings
    class_names: ClassNames
    image_shape: ImageShape
    room: Annotated[int, Meta(ge=1, le=2 * MOST_CLASSES)]
    n_tasks: NotRequired[Annotated[int, Meta(ge=1, le=2 * MOST_CLASSES)]]
    task_room: NotRequired[Annotated[int, Meta(ge=1, le=2 * MOST_CLASSES)]]
    versions: NotRequired[dict[str, str]]


def n_learned(results: Mapping[str, Any]) -> int:
    """The number of tasks learned, from the content of results.json or summary.json."""
    seen = results["classifiers"][results["headline"]]["seen_accuracy"]
    return len(seen["mean"] if isinstance(seen, dict) else seen)


def problem_of_results(results: Results) -> str:
    """The first field that does not fit the others, and why; "" if all fit."""
    sizes, names = results["task_sizes"], results.get("class_names")
    if problem := _problem_of_classifiers(results):
        return problem
    if len(results["epochs"]) != len(sizes):
        return f"epochs: {len(results['epochs'])} entries, but there are {len(sizes)} tasks"
    if names is not None and len(names) != sum(sizes):
        return f"class_names: {len(names)} names, but the tasks have {sum(sizes)} classes"
    n_tasks = n_learned(results)
    for name, summary in results["classifiers"].items():
        for key in ("old_accuracy", "new_accuracy", "task_aware_accuracy", "top5_accuracy"):
            if len(summary[key]) != n_tasks:
                return f"classifiers.{name}.{key}: it must have one entry per task, {n_tasks}"
        for key in ("accuracy_matrix", "task_aware_matrix"):
            if [len(row) for row in summary[key]] != list(range(1, n_tasks + 1)):
                return f"classifiers.{name}.{key}: row t must have t entries, for {n_tasks} tasks"
    return ""


def problem_of_summary(summary: GroupSummary) -> str:
    """The first field that does not fit the others, and why; "" if all fit."""
    if problem := _problem_of_classifiers(summary):
        return problem
    for name, classifier in summary["classifiers"].items():
        averages = classifier["average_incremental_accuracy"], classifier["last_accuracy"]
        if any(number["mean"] is None for number in averages):
            return f"classifiers.{name}: it has no average or last accuracy"
        seen = classifier["seen_accuracy"]
        needed = seen["mean"] + (seen["std"] if summary["n"] > 1 else [])
        if None in needed:
            return f"classifiers.{name}.seen_accuracy: a number is missing"
        for key in (
            *("seen_accuracy", "old_accuracy", "new_accuracy"),
            *("task_aware_accuracy", "top5_accuracy"),
        ):
            curve = classifier[key]
            if {len(curve["mean"]), len(curve["std"])} != {len(seen["mean"])}:
                return f"classifiers.{name}.{key}: it must have one entry per task"
    return ""


def _problem_of_classifiers(results: Mapping[str, Any]) -> str:
    """The checks that results.json and summary.json share."""
    sizes, classifiers = results["task_sizes"], results["classifiers"]
    if sum(sizes) > MOST_CLASSES:
        return f"task_sizes: {sum(sizes):,} classes in total, more than {MOST_CLASSES:,}"
    if results["headline"] not in classifiers:
        return f"headline: {results['headline']!r} is not one of the classifiers"
    curves = [classifier["seen_accuracy"] for classifier in classifiers.values()]
    lengths = {len(curve["mean"] if isinstance(curve, dict) else curve) for curve in curves}
    if len(lengths) > 1 or not 1 <= max(lengths) <= len(sizes):
        return f"classifiers: seen_accuracy must have 1 to {len(sizes)} entries, the same for all"
    return ""


def problem_of_evaluation(line: EvaluationLine, n_classes: int, classifiers: Sequence[str]) -> str:
    """Why an evaluation line does not fit the number of classes or the classifiers; "" if it fits.

    Args:
      line: the line.
      n_classes: the number of classes seen.
      classifiers: the classifiers whose confusion matrices the line must have.
    """
    if line["n_seen"] != n_classes:
        return f"n_seen: {line['n_seen']}, but {n_classes} classes were seen"
    for name in classifiers:
        matrix = line.get("confusion", {}).get(name, [])
        if len(matrix) != n_classes or {len(row) for row in matrix} != {n_classes}:
            return f"confusion: it must have {n_classes} x {n_classes} counts for {name}"
    return ""


def problem_of_record(
    record: RunRecord, classifiers: Sequence[str], n_tasks: int, sums: Sequence[str]
) -> str:
    """Why a run can't continue from the record of a checkpoint; "" if it can.

    Args:
      record: the record.
      classifiers: the classifiers of the run.
      n_tasks: the number of tasks that the checkpoint's learner has learned.
      sums: the names of the sums of an unfinished epoch; empty between epochs.
    """
    history = record.get("history")
    missing = sorted(RunRecord.__annotations__.keys() - record.keys())
    if missing or history is None:
        return f"record: {', '.join(missing)} missing"
    scores = history["scores"]
    if scores.keys() != set(classifiers):
        return "record.history.scores: the classifiers are not those of the run"
    for name, scores_of_tasks in scores.items():
        lengths = [(len(s["task_accuracy"]), len(s["task_aware"])) for s in scores_of_tasks]
        if lengths != [(t, t) for t in range(1, n_tasks + 1)]:
            return f"record.history.scores.{name}: they do not fit {n_tasks} tasks"
    so_far = record.get("epoch_so_far")
    if sums and (so_far is None or so_far["sums"].keys() != set(sums)):
        return "record.epoch_so_far: it does not have the sums of the epoch"
    return ""
