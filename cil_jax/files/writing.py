"""All writing of files: after a kill, a full disk or a power failure each is whole, or as it was.

A file is written under a temporary name beside its place, flushed to the disk and renamed; then its
folder is flushed, because a new name is kept there. The writer locks what it writes. What a killed
writer left is known by its name and is not locked: the next writer in that folder removes it.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cil_jax.errors import UserError

_TEMPORARY = re.compile(r"\.cil_jax-[0-9a-f]{16}\.tmp")
_DAY = 24 * 3600  # seconds after which an unfinished file has no writer, where locks do not tell
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # from file systems that flush no folder


def replace_text(file: Path, text: str) -> None:
    """Writes a text file as UTF-8. Readers see the old text or the new one.

    Args:
      file: is replaced if it exists.
      text: letters that UTF-8 lacks, as in the path of a file whose name is not UTF-8, are written
        as `\\udcff`.

    Raises:
      OSError: if it can't be written; the old text stays.
    """
    with replaced(file) as out:
        out.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def replaced(file: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A context that gives a binary file to write to, which replaces `file` at the end.

    If the body fails, the old file stays. A pipe, a device or /dev/stdout is written to directly.

    Raises:
      OSError: if it can't be written.
    """
    if _is_stream(file):
        with open(file, "wb") as out:
            yield out
        return
    target = Path(os.path.realpath(file))  # a link stays, and what it points to is replaced
    sweep(target.parent)
    temporary, out = _new_file(target.parent)
    with out:
        try:
            yield out
            out.flush()
            os.fsync(out.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)


def append_line(file: Path, line: str) -> None:
    """Adds a line to a text file, and flushes it to the disk.

    Raises:
      OSError: if it can't be written.
    """
    is_new = not file.exists()
    with file.open("ab") as out:
        out.write(f"{line}\n".encode())
        out.flush()
        os.fsync(out.fileno())
    if is_new:
        sync_folder(file.parent)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A context that gives a temporary folder in `parent`, which is removed at the end.

    What is made in it gets its place by `move`.

    Raises:
      OSError: if it can't be made.
    """
    sweep(parent)
    folder, descriptor = _new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def move(made: Path, target: Path) -> None:
    """Renames a file or folder within a file system, once all that is in it is on the disk.

    Raises:
      OSError: if it can't be renamed, such as onto a folder that is not empty.
    """
    if made.is_dir():
        for folder, _, names in os.walk(made):
            for name in names:
                _sync_file(Path(folder, name))
            sync_folder(Path(folder))
    else:
        _sync_file(made)
    made.rename(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, as far as they are missing, and flushes their names.

    Raises:
      OSError: if it can't be made.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Removes a file, a link (never what it points to) or a folder, if it is there.

    Raises:
      OSError: if it can't be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes the names of a folder's files to the disk, where the system can.

    Raises:
      OSError: if the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is unfinished, or was left by a killed writer."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Removes what killed writers left in a folder. What can't be removed stays."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in filter(is_temporary, names):
        with contextlib.suppress(OSError):
            remove_if_left(folder / name)


def remove_if_left(path: Path) -> None:
    """Removes an unfinished file or folder, unless a living process may be writing it.

    Raises:
      OSError: if it can't be removed.
    """
    status = path.lstat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        is_free = _lock(descriptor)
        if is_free is None:  # the file system has no locks
            is_free = time.time() - status.st_mtime > _DAY
        if is_free:
            remove(path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(file: str | os.PathLike) -> Iterator[None]:
    """A context in which an error of the system is one for the user.

    Raises:
      UserError: that `file` can't be written, and why.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"can't write {file}: {error.strerror or error}") from error


def _is_stream(file: str | os.PathLike) -> bool:
    """Whether a file can't be replaced: a pipe, a device, or what the process has open."""
    is_special = os.path.exists(file) and not os.path.isfile(file)
    return is_special or os.path.abspath(file).startswith(("/dev/std", "/dev/fd/", "/proc/"))


def _new_file(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        path = _new_name(folder)
        out = path.open("xb")  # its permissions follow the umask
        if _lock(out.fileno()) is not False and path.exists():
            return path, out
        out.close()  # somebody swept it before it was locked


def _new_folder(parent: Path) -> tuple[Path, int]:
    while True:
        path = _new_name(parent)
        path.mkdir()
        with contextlib.suppress(FileNotFoundError):  # as above
            descriptor = os.open(path, os.O_RDONLY)
            if _lock(descriptor) is not False and path.exists():
                return path, descriptor
            os.close(descriptor)


def _new_name(folder: Path) -> Path:
    return folder / f".cil_jax-{secrets.token_hex(8)}.tmp"


def _lock(descriptor: int) -> bool | None:
    """Locks a file until it is closed. False if another has locked it, None where none can."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync_file(file: Path) -> None:
    with file.open("rb") as content:
        os.fsync(content.fileno())
