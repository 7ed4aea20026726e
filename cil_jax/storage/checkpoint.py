"""Checkpoints: arrays written by Orbax, with a schema and checksums that are checked first.

checkpoints/
  7/learner/     the arrays, in the format of Orbax
  7/about.json   the format version, the schema of the arrays, and the record of the run
  7/SHA256SUMS   the checksum of each file, in the format of `sha256sum --check`
  unfinished/    a checkpoint that is being written or removed; it is never read

A checkpoint is renamed to its number after it is written, its index has been read back, and all of
it is flushed to the disk. Only arrays and JSON are read, so no file of a checkpoint can run code.
Files, links and folders that are not checkpoints are ignored and stay.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cil_jax.errors import UserError
from cil_jax.files import reading, writing
from cil_jax.learner import Learner, form_of, schema
from cil_jax.platform.devices import copy_to_all, is_first_process, max_over_processes
from cil_jax.storage.schemas import CheckpointAbout, RunRecord

FORMAT = 4  # since 4: the place in a plan, a method's own arrays, and labels of exemplars
KEPT = 2  # checkpoints: the newest and the one before it
UNFINISHED = "unfinished"
SUMS = "SHA256SUMS"
ABOUT = "about.json"
LEARNER = "learner"
LARGEST_SUMS = 2**24  # bytes
NONE = -1  # instead of the number of a checkpoint
_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)  # without leading zeros, and not huge
_MISREAD = re.compile(r"[][*?\\\udc80-\udcff]")  # patterns, and bytes that are not UTF-8


class Checkpoints:
    """The checkpoints of a run. Use it as a context.

    If a run has several processes, all of them must call `save` and `restore`, as Orbax requires,
    with one shared folder. Each process writes a share of the arrays, and the first one writes the
    other files. A checkpoint can be restored with another number of processes.
    """

    def __init__(self, folder: Path) -> None:
        """Does not create or remove anything yet."""
        self._folder = folder.absolute()
        self._unfinished = self._folder / UNFINISHED
        self._good: list[Path] = []  # checkpoints that this process read or wrote, oldest first
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def __enter__(self) -> Self:
        """Checks the path of the folder.

        Raises:
          UserError: if Orbax would misread it.
        """
        # A link in a temporary folder gives Orbax a path that it can read; several processes have
        # no temporary folder in common.
        has_link = jax.process_count() == 1 and not _MISREAD.search(tempfile.gettempdir())
        if _MISREAD.search(str(self._folder)) and not has_link:
            raise UserError(
                f"checkpoints can't be saved in {self._folder}: choose a folder whose path is "
                "UTF-8 and has none of the characters [ ] * ? \\"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._orbax.close()

    def sweep(self) -> None:
        """Removes the unfinished checkpoint of a killed process."""
        if is_first_process():
            with contextlib.suppress(OSError):
                writing.remove(self._unfinished)

    def save(self, learner: Learner, record: Mapping[str, Any]) -> None:
        """Saves a checkpoint.

        Older checkpoints are removed once there are `KEPT` newer ones that are not damaged.

        Args:
          learner: the learner.
          record: the state of the run besides the learner, in JSON values; a `RunRecord`.

        Raises:
          OSError: if it can't be written; older checkpoints stay.
          UserError: if it can't be read back; older checkpoints stay.
        """
        about = {"format": FORMAT, "schema": schema(learner), "record": record}
        try:
            if is_first_process():
                writing.make_folder(self._folder)
            with _os_errors(), _path_for_orbax(self._unfinished) as unfinished:
                self._orbax.save(unfinished / LEARNER, args=ocp.args.StandardSave(learner))
                if not is_first_process():
                    return
                self._check_index(unfinished / LEARNER, learner)
            writing.replace_text(self._unfinished / ABOUT, json.dumps(about))
            sums = [f"{_sha256(self._unfinished / f)}  {f}\n" for f in _files(self._unfinished)]
            writing.replace_text(self._unfinished / SUMS, "".join(sums))
            older = self._checkpoints()
            newest = self._folder / str(self._next_number(older))
            writing.move(self._unfinished, newest)
        except (OSError, UserError):
            self.sweep()  # also frees disk space
            raise
        self._good = [*self._good, newest][-KEPT:]
        for checkpoint in older:
            if checkpoint not in self._good:
                # Renamed first: if its removal is interrupted, it must not count as damaged.
                checkpoint.rename(self._unfinished)
                self.sweep()

    def restore(
        self, template: Learner, warn: Callable[[str], None]
    ) -> tuple[Learner, RunRecord] | None:
        """Reads the newest checkpoint that is not damaged.

        Args:
          template: a learner with the expected structure, shapes and types; its leaves may be
            `jax.ShapeDtypeStruct`.
          warn: called with a message about each damaged checkpoint that is skipped.

        Returns:
          The learner and the record, or None if there is no checkpoint.

        Raises:
          UserError: if all checkpoints are damaged, if the format, a shape or a type is not the
            expected one, or if Orbax can't read the arrays.
        """
        # The first process decides for all, since on a shared disk others may see an older state.
        (number,) = max_over_processes(self._newest(warn) if is_first_process() else NONE)
        if number == NONE:
            return None
        folder = self._folder / str(number)
        about = reading.read_json(folder / ABOUT, CheckpointAbout)
        self._check(about, template)
        with _path_for_orbax(folder) as path:
            learner = self._read(path / LEARNER, template)
        self._good = [folder]
        return copy_to_all(learner), about["record"]

    def _read(self, folder: Path, template: Learner) -> Learner:
        """Reads the arrays; on hostile files, Orbax may raise any exception."""
        try:
            with _os_errors():
                learner = self._orbax.restore(folder, args=ocp.args.StandardRestore(template))
            problem = "" if schema(learner) == schema(template) else "wrong shapes or types"
        except Exception as error:
            raise reading.damaged(folder, f"Orbax can't read it: {_first_line(error)}") from error
        if problem:
            raise reading.damaged(folder, problem)
        return learner

    def _newest(self, warn: Callable[[str], None]) -> int:
        """The number of the newest checkpoint that is not damaged, or NONE if there is none."""
        for path in self._numbered_paths():
            if not _is_checkpoint(path):
                warn(f"{path} is not a checkpoint; it is ignored")
        messages = []
        for folder in reversed(self._checkpoints()):
            self._refuse_old_format(folder)
            damage = damage_of(folder)
            if not damage:
                for message in messages:
                    warn(f"{message}: continuing from {folder.name}")
                return int(folder.name)
            messages.append(f"{folder} is damaged ({damage})")
        if messages:
            raise UserError(
                f"no checkpoint can be read; nothing was changed: {'; '.join(messages)}"
            )
        return NONE

    def _checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(filter(_is_checkpoint, self._numbered_paths()), key=lambda f: int(f.name))

    def _numbered_paths(self) -> list[Path]:
        """All files and folders whose name is a number, checkpoints or not."""
        paths = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(path for path in paths if path.name.isdecimal())

    def _next_number(self, checkpoints: list[Path]) -> int:
        """The first number after the newest checkpoint that is not the name of another file."""
        number = int(checkpoints[-1].name) + 1 if checkpoints else 0
        while os.path.lexists(self._folder / str(number)):
            number += 1
        return number

    def _check_index(self, arrays: Path, learner: Learner) -> None:
        """Checks that Orbax has saved all arrays, since it may lose some without an error.

        Raises:
          UserError: if the saved arrays are not those of the learner.
        """
        try:
            metadata = self._orbax.metadata(arrays).item_metadata
        except (OSError, ValueError):  # TensorStore raises ValueError
            metadata = None
        leaves = [] if metadata is None else jax.tree.leaves(metadata.tree)
        if sorted(map(form_of, leaves)) != sorted(map(_stored_form, jax.tree.leaves(learner))):
            raise UserError(
                f"the checkpoint that was written to {self._folder} can't be read back and was "
                "removed; older ones stay: try another folder"
            )

    def _refuse_old_format(self, folder: Path) -> None:
        """Refuses a checkpoint of format 1 or 2; they had other files and no checksums."""
        about = folder / "about" / "metadata"
        if about.exists() and not (folder / SUMS).exists():
            self._refuse_format(reading.read_json(about, dict[str, Any]).get("format"))

    def _refuse_format(self, version: object) -> None:
        raise UserError(
            f"{self._folder} has checkpoints of format {version}, and this version of cil_jax "
            f"reads format {FORMAT}: continue with the version of cil_jax in config.yaml, or start "
            "a new run in another folder"
        )

    def _check(self, about: CheckpointAbout, template: Learner) -> None:
        """Refuses a checkpoint of another format, or with other shapes or types of arrays."""
        if about["format"] != FORMAT:
            self._refuse_format(about["format"])
        expected, stored = schema(template), about["schema"]
        for path in sorted({*expected, *stored}):
            if expected.get(path) != stored.get(path):
                raise UserError(
                    f"the checkpoint in {self._folder} has {stored.get(path, 'nothing')} for "
                    f"{path}, where {expected.get(path, 'nothing')} is expected"
                )


def _stored_form(array: Any) -> str:
    """Type and shape of an array as stored; random keys are stored as arrays of integers."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return form_of(jax.eval_shape(jax.random.key_data, array) if is_key else array)


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is that of a checkpoint, of any format version, damaged or not."""
    return (
        _NUMBER.fullmatch(path.name) is not None
        and path.is_dir()
        and not path.is_symlink()
        and any((path / part).exists() for part in (SUMS, ABOUT, LEARNER, "about"))
    )


def damage_of(folder: Path) -> str:
    """Compares the files of a checkpoint with its checksums.

    Only files inside the folder are opened, even if SHA256SUMS lists others.

    Returns:
      What is wrong with which files; "" if nothing is.
    """
    try:
        text = reading.read_bytes(folder / SUMS, LARGEST_SUMS).decode(errors="replace")
    except UserError as error:
        return str(error).removeprefix(f"{folder}/")
    lines = text.removesuffix("\n").split("\n")
    listed = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    present, problems = set(_files(folder)), []
    for name in sorted({*listed, *present} - {SUMS}):
        try:
            if name not in present:
                problems.append(f"{reading.printable(name)}: no such file")
            elif name not in listed:
                problems.append(f"{name}: not listed in {SUMS}")
            elif _sha256(folder / name) != listed[name]:
                problems.append(f"{name}: wrong checksum")
        except OSError as error:
            problems.append(f"{name}: {error.strerror}")
    rest = [f"and {len(problems) - 3} more"] if len(problems) > 3 else []
    return ", ".join(problems[:3] + rest)


def _files(folder: Path) -> list[str]:
    """The paths of all files within a folder; hidden files are left out, the system makes them."""
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    return sorted(f.relative_to(folder).as_posix() for f in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    """The first line of an error message; Orbax may write pages."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _path_for_orbax(folder: Path) -> Iterator[Path]:
    """A context that yields a path to a folder that Orbax can read, by a link if necessary.

    TensorStore, which Orbax uses, takes brackets in a path as a pattern and a backslash as a slash.
    """
    if not _MISREAD.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cil_jax-") as temporary:
        link = Path(temporary, "checkpoints")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """A context in which Orbax raises OSError for errors of the system, and does not log them."""
    logger = logging.getLogger("absl")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    finally:
        logger.disabled = was_disabled
