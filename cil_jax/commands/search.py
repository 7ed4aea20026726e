"""Choose a learning rate and a method's trade-off, without a look at test images or old data.

  cil-jax search lwf --rates 0.5 0.1 0.05 --start 40 --task-size 10 --epochs 30

The first two tasks are learned from most of their training images and tested on the rest.
Finetuning gives the best learning rate for the new task. With it, the method learns the same tasks,
from a high --lambda (or another setting, see --trade-off) that is halved until the accuracy on the
new task is within 20% of finetuning's. The flags that are not listed here are those of the method,
and apply to all trials. Trials are kept in --out, and what is done there is not repeated.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_jax.app import launch
from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import Parser, command_parser, guarded, layers, make_parser
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings import code, loading, task_sizes
from cil_jax.settings.config import Config
from cil_jax.settings.declaring import flag

VALIDATION = 0.1  # of the training images of each class, as in FACIL


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _search(arguments))


def _search(arguments: list[str] | None) -> None:
    parser = command_parser("search", __doc__)
    parser.add_argument("method", metavar="METHOD", help="method to search for")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.5, 0.1, 0.05, 0.01], metavar="X",
        help="learning rates to try (default: 0.5 0.1 0.05 0.01)",
    )  # fmt: skip
    parser.add_argument(
        "--trade-off", metavar="NAME",
        help="setting of the method that gives up the new task for the old ones where it is high "
        "(default: lambda, if the method has it)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=float, metavar="X",
        help="trade-off to begin with (default: 8 times that of the preset)",
    )  # fmt: skip
    parser.add_argument(
        "--drop", type=float, default=0.2, metavar="X",
        help="share of the best accuracy on the new task that the method may lose (default: 0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR", help="folder of the trials (default: runs/search-*)"
    )
    flags, others = parser.parse_known_args(arguments)
    config = _settings(flags.method, others)
    name = _trade_off(config, flags.trade_off)
    start = flags.start if flags.start or name is None else 8 * getattr(config, name)
    _check(flags, start, name)
    folder = Path(flags.out or f"runs/search-{config.label()}")
    start_accelerator(config.accelerator)

    from cil_jax.app.search import Trial, chosen, trials
    from cil_jax.report import escaping
    from cil_jax.report.trials import line, result, table

    console = escaping.console()

    def learn(method: str, rate: float, trade_off: float | None) -> Trial:
        own = {} if trade_off is None or name is None else {name: trade_off}
        words = [method, f"{rate:g}", *(f"{value:g}" for value in own.values())]
        trial = _trial_config(config, method, rate, own)
        trial = dataclasses.replace(trial, out=str(folder / "-".join(words)))
        began = time.perf_counter()
        results = _learned(trial, console.is_terminal)
        measured = results["classifiers"][results["headline"]]
        new, old = measured["new_accuracy"][-1], measured["old_accuracy"][-1]
        return Trial(method, rate, trade_off, new, old, time.perf_counter() - began)

    done = []
    for trial in trials(learn, config.method, flags.rates, start, flags.drop):
        done.append(trial)
        console.print(line(trial, name), highlight=False, markup=False)
    choice = chosen(done, flags.drop)
    console.print(table(done, name))
    for text in result(done, choice, name, flags.drop):
        console.print(text, soft_wrap=True, highlight=False, markup=False)


def _settings(method: str, others: Sequence[str]) -> Config:
    """The settings that the method's own flags result in."""
    if method not in code.METHODS:
        raise UserError(f"unknown method {method!r}{nearest_name(method, code.METHODS)}")
    default = loading.default_preset(method)
    parser: Parser = make_parser(method, default, __doc__)
    given = vars(parser.parse_args(others))
    for unwanted in ("seeds", "orders", "parallel_members", "out", "resume", "print_config"):
        if unwanted in given:
            raise UserError(f"{flag(unwanted)} is not for a search: leave it out")
    file = given.pop("config", None)
    return loading.config_of(layers(method, default, given, file))


def _trade_off(config: Config, name: str | None) -> str | None:
    """The field of the setting that is searched; None if the method has none."""
    fields = {field.name.rstrip("_"): field.name for field in dataclasses.fields(config)}
    if name is None:
        return fields.get("lambda")
    key = name.removeprefix("--").replace("-", "_")
    if key not in fields or not isinstance(getattr(config, fields[key]), int | float):
        raise UserError(f"{config.method} has no number {name!r} to search for: see --help")
    return fields[key]


def _check(flags: argparse.Namespace, start: float | None, name: str | None) -> None:
    """Checks the numbers of the search.

    Raises:
      UserError: which one is not allowed.
    """
    if not 0 < flags.drop < 1:
        raise UserError(f"--drop is {flags.drop}; it must lie between 0 and 1")
    if min(flags.rates) <= 0:
        raise UserError("--rates must be above 0")
    if name is not None and not (start and start > 0):
        raise UserError(f"the search for {flag(name)} needs a --start above 0")


def _trial_config(config: Config, method: str, rate: float, own: dict[str, float]) -> Config:
    """The settings of a trial: the first two tasks, tested on images held out for it."""
    sizes: dict[str, Any] = {"classes": (config.first_task or config.task_size) + config.task_size}
    if config.tasks is not None:
        two = task_sizes.sizes_of(config.tasks)[:2]
        sizes = {"classes": sum(two), "tasks": ",".join(map(str, two))}
    trial = {"rate": rate, "validation": config.validation or VALIDATION, "ncm": False}
    if method == config.method:
        return dataclasses.replace(config, **{**trial, **sizes, **own})
    # Finetuning takes the settings that it shares with the method.
    finetuning = loading.preset(method, loading.default_preset(method))
    names = {field.name for field in dataclasses.fields(Config)} - {"method", "preset"}
    shared = {name: getattr(config, name) for name in names}
    return dataclasses.replace(finetuning, **{**shared, **trial, **sizes})


def _learned(config: Config, progress: bool) -> Any:
    """The results of a trial, which is trained unless that has been done."""
    from cil_jax.storage.run_folder import RunFolder
    from cil_jax.storage.schemas import n_learned

    folder = RunFolder(config.folder())
    if folder.holds_a_run:
        folder.check(dataclasses.replace(config, resume=True))
        if folder.results_file.exists():
            results = folder.results()
            if n_learned(results) == 2:
                return results
        config = dataclasses.replace(config, resume=True)
    return launch.run(config, progress=progress)
