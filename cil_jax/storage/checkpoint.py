"""Checkpoints: arrays by Orbax, beside them a schema and checksums that are compared before.

checkpoints/
  7/learner/     the arrays, as Orbax writes them
  7/about.json   format, schema, and what the run knows beside
  7/SHA256SUMS   of every file, as `sha256sum --check` reads it
  unfinished/    one that is being written, or removed: nobody reads it

A checkpoint is written in full, its index is read back and all of it is flushed to the disk before
it is renamed to its number. Arrays and JSON are all that is ever read: no file of a checkpoint can
make code run. Files, links and folders that are not checkpoints are passed over and stay.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cil_jax.errors import UserError
from cil_jax.files import reading, writing
from cil_jax.learner import Learner
from cil_jax.platform.devices import copy_to_all, is_first_process, max_over_processes
from cil_jax.storage.schemas import CheckpointAbout, RunRecord

FORMAT = 3  # 3: checksums, and states within an epoch
KEPT = 2  # checkpoints: the newest, and one before it
UNFINISHED = "unfinished"
SUMS = "SHA256SUMS"
ABOUT = "about.json"
LEARNER = "learner"
LARGEST_SUMS = 2**24  # bytes
NONE = -1
_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)  # as `save` writes it: not 07, and not huge
_MISREAD = re.compile(r"[][*?\\\udc80-\udcff]")  # patterns, and bytes that are not UTF-8


class Checkpoints:
    """The checkpoints of a run. Use as a context.

    Of several processes all take part, as Orbax has it: they see one folder, each writes a share of
    the arrays, the first all else. Any number of processes can read it.
    """

    def __init__(self, folder: Path):
        """Opens a folder; nothing is made or removed yet."""
        self._folder = folder.absolute()
        self._unfinished = self._folder / UNFINISHED
        self._good: list[Path] = []  # what this process has read or written, oldest first
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def __enter__(self):
        """Opens it.

        Raises:
          UserError: if Orbax would misread the folder's path.
        """
        if _MISREAD.search(str(self._folder)):
            one_process = jax.process_count() == 1  # several must see the same path
            if not one_process or _MISREAD.search(tempfile.gettempdir()):
                raise UserError(
                    f"checkpoints can't be saved in {self._folder}: choose a folder whose path is "
                    "UTF-8 and has none of [ ] * ? \\"
                )
        return self

    def __exit__(self, *_):
        self._orbax.close()

    def sweep(self) -> None:
        """Removes what a process left that was killed while it saved."""
        if is_first_process():
            with contextlib.suppress(OSError):
                writing.remove(self._unfinished)

    def save(self, learner: Learner, record: dict[str, Any]) -> None:
        """Saves the learner and, with it, what the run knows so far (JSON values).

        A checkpoint is removed only after two newer ones are whole, damaged ones not counted.

        Raises:
          OSError: if it can't be written; those that are there stay.
          UserError: if it can't be read back; they stay as well.
        """
        about = {"format": FORMAT, "schema": schema(learner), "record": record}
        try:
            if is_first_process():
                writing.make_folder(self._folder)
            with _errors_of_the_system(), _well_read(self._unfinished) as unfinished:
                self._orbax.save(unfinished / LEARNER, args=ocp.args.StandardSave(learner))
                if not is_first_process():
                    return
                self._check_index(unfinished / LEARNER, learner)
            writing.replace_text(self._unfinished / ABOUT, json.dumps(about))
            sums = [f"{_sha256(self._unfinished / f)}  {f}\n" for f in _files(self._unfinished)]
            writing.replace_text(self._unfinished / SUMS, "".join(sums))
            there = self._numbered()
            whole = self._folder / str(self._next_number(there))
            writing.move(self._unfinished, whole)
        except (OSError, UserError):
            self.sweep()  # which also gives room back
            raise
        self._good = [*self._good, whole][-KEPT:]
        for old in there:
            if old not in self._good:
                old.rename(self._unfinished)  # one that is half removed would seem damaged
                self.sweep()

    def restore(
        self, template: Learner, warn: Callable[[str], None]
    ) -> tuple[Learner, RunRecord] | None:
        """The newest learner that is whole and its record, or None if nothing was saved.

        Args:
          template: a learner of the structure, shapes and types that are expected, or these alone.
          warn: is told of each damaged checkpoint that was passed over.

        Raises:
          UserError: if all are damaged; if the format or any shape or type is another than
            expected; or if Orbax can't read the arrays.
        """
        # The first process looks for all: another may see a folder as it was a moment ago.
        (number,) = max_over_processes(self._newest(warn) if is_first_process() else NONE)
        if number == NONE:
            return None
        folder = self._folder / str(number)
        about = reading.read_json(folder / ABOUT, CheckpointAbout)
        self._check(about, template)
        with _well_read(folder) as there:
            learner = self._read(there / LEARNER, template)
        self._good = [folder]
        return copy_to_all(learner), about["record"]

    def _read(self, folder: Path, template: Learner) -> Learner:
        """The arrays that Orbax wrote; files that are not what it expects may fail in any way."""
        try:
            with _errors_of_the_system():
                learner = self._orbax.restore(folder, args=ocp.args.StandardRestore(template))
            problem = "" if schema(learner) == schema(template) else "arrays of another form"
        except Exception as error:
            raise reading.damaged(folder, f"Orbax can't read it: {_first_line(error)}") from error
        if problem:
            raise reading.damaged(folder, problem)
        return learner

    def _newest(self, warn: Callable[[str], None]) -> int:
        """The number of the newest checkpoint that is whole, or NONE if there never was one."""
        for path in self._named():
            if not _is_checkpoint(path):
                warn(f"{path} is not a checkpoint: it is passed over")
        damaged = []
        for folder in reversed(self._numbered()):
            self._refuse_old_format(folder)
            damage = damage_of(folder)
            if not damage:
                for said in damaged:
                    warn(f"{said}: going on from {folder.name}")
                return int(folder.name)
            damaged.append(f"{folder} is damaged ({damage})")
        if damaged:
            raise UserError(f"no checkpoint can be read, nothing was changed: {'; '.join(damaged)}")
        return NONE

    def _numbered(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(filter(_is_checkpoint, self._named()), key=lambda f: int(f.name))

    def _named(self) -> list[Path]:
        """All that has a number for its name, checkpoints or not."""
        there = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(f for f in there if f.name.isdecimal())

    def _next_number(self, there: list[Path]) -> int:
        """The first number after the newest checkpoint that no other file has as its name."""
        number = int(there[-1].name) + 1 if there else 0
        while os.path.lexists(self._folder / str(number)):
            number += 1
        return number

    def _check_index(self, arrays: Path, learner: Learner) -> None:
        """Reads back which arrays Orbax has saved: it may lose them without an error.

        Raises:
          UserError: if they are not the learner's.
        """
        try:
            found = self._orbax.metadata(arrays).item_metadata
        except (OSError, ValueError):  # ValueError is TensorStore's
            found = None
        leaves = [] if found is None else jax.tree.leaves(found.tree)
        if sorted(map(_form, leaves)) != sorted(map(_stored_form, jax.tree.leaves(learner))):
            raise UserError(
                f"the checkpoint that was written to {self._folder} can't be read back and was "
                "removed, older ones stay: try another folder"
            )

    def _refuse_old_format(self, folder: Path) -> None:
        """Formats 1 and 2 had no checksums, and other files."""
        about = folder / "about" / "metadata"
        if about.exists() and not (folder / SUMS).exists():
            self._refuse_format(reading.read_json(about, dict[str, Any]).get("format"))

    def _refuse_format(self, found: Any) -> None:
        raise UserError(
            f"{self._folder} has checkpoints of format {found}, and this version of cil_jax reads "
            f"format {FORMAT}: continue with the version in config.yaml, or start anew elsewhere"
        )

    def _check(self, about: CheckpointAbout, template: Learner) -> None:
        if about["format"] != FORMAT:
            self._refuse_format(about["format"])
        wanted, stored = schema(template), about["schema"]
        for path in sorted({*wanted, *stored}):
            if wanted.get(path) != stored.get(path):
                raise UserError(
                    f"the checkpoint in {self._folder} has {stored.get(path, 'nothing')} for "
                    f"{path}, where {wanted.get(path, 'nothing')} is expected"
                )


def schema(learner: Learner) -> dict[str, str]:
    """Type and shape of every array by its path, such as 'float32[64,100]'.

    Orbax would cast another type without a word, so it is compared before anything is read.
    """
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {jax.tree_util.keystr(path): _form(leaf) for path, leaf in leaves}


def _form(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}".replace(" ", "")


def _stored_form(array: Any) -> str:
    """The form in which an array is stored: of random keys, that of their numbers."""
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return _form(jax.eval_shape(jax.random.key_data, array) if is_key else array)


def _is_checkpoint(path: Path) -> bool:
    """Whether a file has the name and the form of a checkpoint, of any format, whole or damaged."""
    return (
        _NUMBER.fullmatch(path.name) is not None
        and path.is_dir()
        and not path.is_symlink()
        and any((path / part).exists() for part in (SUMS, ABOUT, LEARNER, "about"))
    )


def damage_of(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, each by its name; '' if nothing is.

    Only files that are in the folder are opened, whatever names its checksums have.
    """
    try:
        text = reading.read_bytes(folder / SUMS, LARGEST_SUMS).decode(errors="replace")
    except UserError as error:
        return str(error).removeprefix(f"{folder}/")
    lines = text.removesuffix("\n").split("\n")
    wanted = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    there, wrong = set(_files(folder)), []
    for name in sorted({*wanted, *there} - {SUMS}):
        try:
            if name not in there:
                wrong.append(f"{reading.printable(name)}: no such file in it")
            elif name not in wanted:
                wrong.append(f"{name}: not in {SUMS}")
            elif _sha256(folder / name) != wanted[name]:
                wrong.append(f"{name}: other bytes than were written")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    more = [f"and {len(wrong) - 3} more"] if len(wrong) > 3 else []
    return ", ".join(wrong[:3] + more)


def _files(folder: Path) -> list[str]:
    """All files within a folder, by their paths in it; hidden ones are the system's."""
    files = (f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    return sorted(f.relative_to(folder).as_posix() for f in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    """What Orbax says, without the pages that may follow."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _well_read(folder: Path) -> Iterator[Path]:
    """A context with a path by which Orbax reaches a folder in it, though it misreads its own.

    TensorStore, below Orbax, takes brackets in a path for a pattern and a backslash for a slash.
    """
    if not _MISREAD.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cil_jax-") as place:
        link = Path(place, "checkpoints")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


@contextlib.contextmanager
def _errors_of_the_system() -> Iterator[None]:
    """What the system refuses Orbax comes as an OSError, and is not printed beside."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    finally:
        logger.disabled = before
