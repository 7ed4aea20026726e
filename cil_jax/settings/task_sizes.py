"""The values of --tasks: the number of classes of each task, or a base task and a size."""

import re
from typing import Any

from cil_jax.errors import UserError

SIZE = 10  # default of --task-size


def normalized(text: str) -> str:
    """Returns a list of sizes as it is stored, such as "50,10,10,30".

    Raises:
      UserError: if it is no list of at least one size, each at least 1.
    """
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise UserError(
            f"--tasks is {text!r}; it must be the number of classes of each task, such as "
            "50,10,10,30, or b50-10 for 50 classes first and then tasks of 10"
        )
    return ",".join(str(int(word)) for word in words)


def sizes_of(text: str) -> tuple[int, ...]:
    """Returns the sizes in a normalized list."""
    return tuple(map(int, text.split(",")))


def settings_of(text: str) -> dict[str, Any]:
    """Returns the settings that a value of --tasks stands for.

    "b50-10", as the literature writes "B50 Inc10", is a first task of 50 classes followed by tasks
    of 10; "b0-10" is tasks of 10. Such a value is stored as --first-task and --task-size, so that
    it is the same run as with these flags.

    Args:
      text: the value.

    Returns:
      The fields `tasks`, `first_task` and `task_size` of Config. Those that have no effect have
      their defaults.

    Raises:
      UserError: see `normalized`.
    """
    base = re.fullmatch(r"b(\d+)-0*([1-9]\d*)", text.strip().lower())
    if base is None:
        return {"tasks": normalized(text), "first_task": None, "task_size": SIZE}
    first, size = map(int, base.groups())
    first_task = None if first in (0, size) else first
    return {"tasks": None, "first_task": first_task, "task_size": size}
