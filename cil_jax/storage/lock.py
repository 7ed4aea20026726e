"""The lock of a run folder, which only one process can hold at a time."""

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

from cil_jax.errors import UserError
from cil_jax.files import writing

LOCK = ".lock"  # only filelock writes to it
HOLDER = ".holder"  # names the process that holds the lock


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context that holds the lock of a folder.

    The system releases the lock when the process ends, in whatever way it ends.

    Raises:
      UserError: if another process, or another context in this one, holds the lock; names it.
      OSError: if the lock can't be written.
    """
    lock, holder_file = filelock.FileLock(folder / LOCK), folder / HOLDER
    try:
        with warnings.catch_warnings():  # filelock warns if the file system has no flock
            warnings.simplefilter("ignore")
            lock.acquire(timeout=0)
    except filelock.Timeout:
        raise _in_use(folder) from None
    try:
        writing.replace_text(holder_file, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_file.unlink(missing_ok=True)
        lock.release()


def _in_use(folder: Path) -> UserError:
    try:
        holder = (folder / HOLDER).read_text(errors="replace")
    except OSError:  # the other process has the lock and has not written this file yet
        holder = "which has just started"
    return UserError(
        f"{folder} is in use by another process ({holder}): wait until it ends, or stop it; "
        f"if it ended on another machine, remove {folder / LOCK}"
    )
