"""Writes files so that a kill, a full disk or a power failure leaves each one old or complete.

A file is written under a temporary name in the same folder, flushed to the disk and renamed. Then
the folder is flushed, since it holds the new name. A writer locks its temporary file. A temporary
file that is not locked was left by a killed writer; the next writer in that folder removes it.
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
_DAY = 24 * 3600  # seconds; without locks, an unfinished file this old is taken as abandoned
# Errors of file systems that cannot flush a folder.
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def replace_text(file: Path, text: str) -> None:
    """Writes a UTF-8 text file. A reader sees either the old text or the new one.

    Args:
      file: the file; replaced if it exists.
      text: the content. Characters that UTF-8 cannot encode, such as those in the path of a file
        whose name is not UTF-8, are written as escapes like `\\udcff`.

    Raises:
      OSError: if it can't be written; the old text stays.
    """
    with replaced(file) as out:
        out.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def replaced(file: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A context that yields a binary file to write to, which replaces `file` at the end.

    If the body raises, the old file stays. A pipe, a device or /dev/stdout is written directly.

    Raises:
      OSError: if it can't be written.
    """
    if _is_stream(file):
        with open(file, "wb") as out:
            yield out
        return
    target = Path(os.path.realpath(file))  # a link stays; its target is replaced
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
    """Appends a line to a text file and flushes it to the disk.

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
    """A context that yields a temporary folder in `parent`, which is removed at the end.

    Use `move` to keep what you made in it.

    Raises:
      OSError: if the folder can't be created.
    """
    sweep(parent)
    folder, descriptor = _new_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Flushes a file or folder to the disk, then renames it within its file system.

    Raises:
      OSError: if it can't be renamed, for instance because the target is a folder with content.
    """
    if source.is_dir():
        for folder, _, names in os.walk(source):
            for name in names:
                _sync_file(Path(folder, name))
            sync_folder(Path(folder))
    else:
        _sync_file(source)
    source.rename(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Creates a folder and any missing parents, and flushes their names to the disk.

    Raises:
      OSError: if it can't be created.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Removes a file, a link (not its target) or a folder, if it exists.

    Raises:
      OSError: if it can't be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes the names of a folder's files to the disk, if the file system supports it.

    Raises:
      OSError: if the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the folder is writable but not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether this is the name of a temporary file or folder of a writer, living or killed."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Removes the temporary files of killed writers from a folder, as far as possible."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in filter(is_temporary, names):
        with contextlib.suppress(OSError):
            remove_if_left(folder / name)


def remove_if_left(path: Path) -> None:
    """Removes a temporary file or folder, unless a running process may still be writing it.

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
    """A context that turns an OSError into a UserError.

    Raises:
      UserError: if `file` can't be written, with the reason.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"can't write {file}: {error.strerror or error}") from error


def _is_stream(file: str | os.PathLike) -> bool:
    """Whether a file can't be replaced: a pipe, a device, or an open file of this process."""
    is_special = os.path.exists(file) and not os.path.isfile(file)
    return is_special or os.path.abspath(file).startswith(("/dev/std", "/dev/fd/", "/proc/"))


def _new_file(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        path = _new_name(folder)
        out = path.open("xb")  # permissions follow the umask
        if _lock(out.fileno()) is not False and path.exists():
            return path, out
        out.close()  # another process removed it before it was locked


def _new_folder(parent: Path) -> tuple[Path, int]:
    while True:
        path = _new_name(parent)
        path.mkdir()
        with contextlib.suppress(FileNotFoundError):  # removed before it was locked
            descriptor = os.open(path, os.O_RDONLY)
            if _lock(descriptor) is not False and path.exists():
                return path, descriptor
            os.close(descriptor)


def _new_name(folder: Path) -> Path:
    return folder / f".cil_jax-{secrets.token_hex(8)}.tmp"


def _lock(descriptor: int) -> bool | None:
    """Locks a file until it is closed.

    Returns:
      True if it is locked now, False if another process holds the lock, None if the file system has
      no locks.
    """
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
