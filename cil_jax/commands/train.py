"""Train any method: one of the package by its name, or one of your own by its file and class.

  cil-jax train --list                              # the methods, presets and what each keeps
  cil-jax train --method icarl --preset paper       # the same as cil-jax icarl --preset paper
  cil-jax train --method my_method.py:Mine --dataset digits --task-size 2

A class of your own is a subclass of cil_jax.methods.Method; --backbone takes one of your own, too.
"""

import sys
from collections.abc import Sequence

from cil_jax.app.command_line import run_any_method


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return run_any_method(__doc__, sys.argv[1:] if arguments is None else arguments)
