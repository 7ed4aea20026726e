"""Swap the classifier of a trained network: several of them side by side, without training.

  cil-jax answers runs/icarl

The classifiers of the run come first. Weight aligning (WA) scales the newest weights of the head,
and bias correction (BiC) fits two numbers to the exemplars. Ridge regression, the nearest class
mean (ncm) and FeCAM's Mahalanobis distance are made from features. The table says which of them use
the training data of all classes, which an incremental learner does not keep.
"""

import dataclasses
import json

from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import (
    add_code_flags,
    command_parser,
    guarded,
    saved_settings,
)
from cil_jax.settings import code
from cil_jax.settings.config import ACCELERATORS, help_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _answers(arguments))


def _answers(arguments: list[str] | None) -> None:
    parser = command_parser("answers", __doc__)
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--data-dir", metavar="DIR", help=help_of("data_dir"))
    parser.add_argument(
        "--no-all-data",
        action="store_true",
        help="leave out the classifiers that use all training data, which take longer",
    )
    parser.add_argument(
        "--ridge", type=float, default=1.0, metavar="X",
        help="weight of the penalty of ridge regression, on unit-length features (default: 1)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, with accuracies in 0..1")
    parser.add_argument(
        "--accelerator", choices=ACCELERATORS, default="auto",
        help=f"{help_of('accelerator')} (default: auto)",
    )  # fmt: skip
    add_code_flags(parser)
    flags = parser.parse_args(arguments)
    code.name(flags.method, flags.backbone)
    config = saved_settings(flags.run, data_dir=flags.data_dir)
    start_accelerator(flags.accelerator)

    from cil_jax import report
    from cil_jax.report import escaping
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.trained.answers import answers
    from cil_jax.training.callbacks import Callback
    from cil_jax.training.loop import Run

    run = Run(config, RunFolder(flags.run), Callback())
    found = answers(run, all_data=not flags.no_all_data, strength=flags.ridge)
    results = run.folder.results()
    if flags.json:
        rows = [dataclasses.asdict(answer) for answer in found]
        print(json.dumps({"about": report.caption(results), "classifiers": rows}, indent=1))
        return
    console = escaping.console()
    console.width = max(console.width, 130)  # wrap rows rather than cut cells
    console.print(report.answers(found, results))
