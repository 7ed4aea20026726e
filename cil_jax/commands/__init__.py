"""The commands: `cil-jax NAME`, or `python -m cil_jax NAME`.

Each is a file with a function `main`. Every method of the package is a command too, which trains it
and needs no file.
"""

import importlib
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

import cil_jax
from cil_jax.app.command_line import guarded, leave, run_method
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings.code import METHODS

COMMANDS = {
    "prepare": "download CIFAR-100 and prepare it",
    "scenario": "preview a scenario file: the images of each class by task",
    "train": "train a method by its name, or one of your own by its file",
    "compare": "compare runs in a table, on a page and in a figure",
    "report": "redraw the figures and the report page of runs",
    "answers": "classify the test images of a run with several classifiers",
    "why": "find out why a run forgot",
    "predict": "classify image files with a run",
    "export": "export a run as one file that needs only JAX",
    "exemplars": "compare exemplars chosen by herding with random ones",
    "search": "choose a learning rate and a trade-off without the test images",
    "reproduce": "compare published results with ours, and reproduce them",
    "benchmark": "time the parts of a run on this machine",
    "accelerator": "measure what matters most on a GPU or TPU, in 15 minutes",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first argument names, and ends the process.

    Args:
      arguments: the command and its flags (default: those of the command line).
    """
    leave(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names, and returns its exit code."""
    name, *flags = arguments or ["--help"]
    if name in COMMANDS:
        return importlib.import_module(f"cil_jax.commands.{name}").main(flags)
    if name in METHODS:
        return run_method(name, flags)
    return guarded(lambda: _answer(name))


def _answer(name: str) -> None:
    """Answers --help and --version.

    Raises:
      UserError: if there is no such command.
    """
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(f"cil_jax {cil_jax.__version__}")
    else:
        raise UserError(
            f"unknown command {name!r}{nearest_name(name, [*METHODS, *COMMANDS]) or ''}; "
            "cil-jax --help lists the commands"
        )


def overview() -> str:
    """The text of `cil-jax --help`."""
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "usage: cil-jax COMMAND ...",
            "",
            "Class-incremental learning in JAX and Flax.",
            "",
            "Train a method:",
            *textwrap.wrap(" ".join(METHODS), 78, initial_indent="  ", subsequent_indent="  "),
            "",
            "Other commands:",
            *(f"  {name:{width}}{about}" for name, about in COMMANDS.items()),
            "",
            "cil-jax COMMAND --help explains a command. To try one out, in about a minute:",
            "  cil-jax icarl --dataset digits --task-size 2 --backbone resnet8 --epochs 5 \\",
            "    --batch-size 32 --memory 100",
        ]
    )
