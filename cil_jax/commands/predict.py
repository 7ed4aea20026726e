"""Classify image files with the network of a run.

  cil-jax predict runs/icarl photo.jpg more/ --top 3

A folder stands for all images in it. Each image is resized to the size that the network was trained
on: its shorter side is scaled, and the central square is cropped. The data set is not needed.
"""

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_jax.app import output
from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import add_code_flags, command_parser, guarded, warn
from cil_jax.errors import UserError
from cil_jax.settings.config import ACCELERATORS, help_of

if TYPE_CHECKING:
    from cil_jax.data.user_data import Problems
    from cil_jax.trained.saved_learner import SavedLearner

BATCH = 256  # images in memory at once


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _predict(arguments))


def _predict(arguments: list[str] | None) -> None:
    parser = command_parser("predict", __doc__)
    parser.add_argument("run", metavar="RUN", help="run folder, or folder of a saved learner")
    parser.add_argument("pictures", nargs="+", metavar="IMAGE", help="image file or folder")
    parser.add_argument(
        "--top",
        type=int,
        default=3,
        metavar="N",
        help="number of best classes to print (default: 3)",
    )
    parser.add_argument(
        "--classifier", metavar="NAME", help="classifier to use (default: the method's own)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--accelerator", choices=ACCELERATORS, default="auto",
        help=f"{help_of('accelerator')} (default: auto)",
    )  # fmt: skip
    add_code_flags(parser)
    flags = parser.parse_args(arguments)
    if flags.top < 1:
        raise UserError(f"--top is {flags.top}; it must be at least 1")
    start_accelerator(flags.accelerator)

    import cil_jax
    from cil_jax import report
    from cil_jax.data.user_data import Problems
    from cil_jax.storage.run_folder import RunFolder

    learner = cil_jax.load(flags.run, warn, method=flags.method, backbone=flags.backbone)
    classifier = learner.checked_classifier(flags.classifier)
    scores = learner.engine.method.scale(classifier).meaning
    folder = RunFolder(flags.run)  # the folder of a saved learner has no results
    about = report.caption(folder.results()) if folder.results_file.exists() else None
    head = {"run": flags.run, "about": about, "classifier": classifier, "scores": scores}
    problems = Problems("pictures")
    answers = _answers(learner, classifier, flags.pictures, flags.top, problems)
    if flags.json:
        pictures = [{"file": file, "answers": _plain(best)} for file, best in answers]
        print(json.dumps({**head, "pictures": pictures, "unread": problems.found}, indent=1))
    else:
        n_classes = len(learner.class_names)
        print(f"{flags.run}: {n_classes} classes, classified by {classifier} ({scores})")
        if about:
            print(about)
        for file, best in answers:
            if output.is_lost():
                return
            print("  ".join([file, *(f"{name} {score:.3f}" for name, score in best)]))
    if problems:
        raise UserError(f"could not read {len(problems.found)} of the images:", problems.found)


def _answers(
    learner: "SavedLearner", classifier: str, paths: list[str], top: int, problems: "Problems"
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """The best classes of each image that can be read. Adds the other images to `problems`."""
    from cil_jax.data import image_files
    from cil_jax.data.folder import files_in

    files = []
    for path in paths:
        files += map(str, files_in(path, problems)) if os.path.isdir(path) else [path]
    if not files:
        raise UserError(f"no files found in {', '.join(paths)}")
    shape = learner.image_shape
    decoded = image_files.read_each(((f, f) for f in files), shape[:2], shape[2])
    while batch := list(islice(decoded, BATCH)):
        read = [(name, image) for name, image in batch if not isinstance(image, Exception)]
        for name, image in batch:
            if isinstance(image, Exception):
                problems.add(f"{name}: {image}")
        if read:
            answers = learner.predict(np.stack([image for _, image in read]), classifier).top(top)
            yield from zip([name for name, _ in read], answers, strict=True)


def _plain(best: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "score": score} for name, score in best]
