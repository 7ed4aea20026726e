"""Checkpoints: arrays by Orbax, beside them a schema and checksums that are compared before.

checkpoints/
  7/learner/     the arrays, as Orbax writes them
  7/about.json   format, schema, and what the run knows beside
  7/SHA256SUMS   of every file, as `sha256sum --check` reads it
  unfinished/    one that is being written, or removed: nobody reads it

A checkpoint is written in full before it is renamed to its number. Arrays and JSON are all that is
ever read: no file of a checkpoint can make code run.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cil_jax.config import UserError
from cil_jax.devices import copy_to_all, is_first_process, max_over_processes
from cil_jax.learner import Learner
from cil_jax.record import replace_text

FORMAT = 3  # 3: checksums, and states within an epoch
KEPT = 2  # checkpoints: the newest, and one before it
UNFINISHED = "unfinished"
SUMS = "SHA256SUMS"
ABOUT = "about.json"
LEARNER = "learner"
NONE = -1


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
        return self

    def __exit__(self, *_):
        self._orbax.close()

    def sweep(self) -> None:
        """Removes what a process left that was killed while it saved."""
        if is_first_process():
            shutil.rmtree(self._unfinished, ignore_errors=True)

    def save(self, learner: Learner, record: dict[str, Any]) -> None:
        """Saves the learner and, with it, what the run knows so far (JSON values).

        A checkpoint is removed only after two newer ones are whole, damaged ones not counted.

        Raises:
          OSError: if it can't be written; those that are there stay.
        """
        about = {"format": FORMAT, "schema": schema(learner), "record": record}
        try:
            if is_first_process():
                self._folder.mkdir(parents=True, exist_ok=True)
            with _errors_of_the_system():
                self._orbax.save(self._unfinished / LEARNER, args=ocp.args.StandardSave(learner))
            if not is_first_process():
                return
            replace_text(self._unfinished / ABOUT, json.dumps(about))
            sums = [f"{_sha256(self._unfinished / f)}  {f}\n" for f in _files(self._unfinished)]
            replace_text(self._unfinished / SUMS, "".join(sums))
            there = self._numbered()
            whole = self._folder / str(int(there[-1].name) + 1 if there else 0)
            self._unfinished.rename(whole)
        except OSError:
            self.sweep()  # which also gives room back
            raise
        self._good = [*self._good, whole][-KEPT:]
        for old in there:
            if old not in self._good:
                old.rename(self._unfinished)  # one that is half removed would seem damaged
                self.sweep()

    def restore(
        self, template: Learner, warn: Callable[[str], None]
    ) -> tuple[Learner, dict[str, Any]] | None:
        """The newest learner that is whole and its record, or None if nothing was saved.

        Args:
          template: a learner of the structure and shapes that are expected.
          warn: is told of each damaged checkpoint that was passed over.

        Raises:
          UserError: if all are damaged; or if the format or any shape or type is another than
            expected.
        """
        # The first process looks for all: another may see a folder as it was a moment ago.
        (number,) = max_over_processes(self._newest(warn) if is_first_process() else NONE)
        if number == NONE:
            return None
        folder = self._folder / str(number)
        about = json.loads((folder / ABOUT).read_text())
        self._check(about, template)
        read = ocp.args.StandardRestore(template)
        learner = self._orbax.restore(folder / LEARNER, args=read)
        self._good = [folder]
        return copy_to_all(learner), about["record"]

    def _newest(self, warn: Callable[[str], None]) -> int:
        """The number of the newest checkpoint that is whole, or NONE if there never was one."""
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
        there = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted((f for f in there if f.name.isdecimal()), key=lambda f: int(f.name))

    def _refuse_old_format(self, folder: Path) -> None:
        """Formats 1 and 2 had no checksums, and other files."""
        about = folder / "about" / "metadata"
        if about.exists() and not (folder / SUMS).exists():
            self._refuse_format(json.loads(about.read_text()).get("format"))

    def _refuse_format(self, found: Any) -> None:
        raise UserError(
            f"{self._folder} has checkpoints of format {found}, and this version of cil_jax reads "
            f"format {FORMAT}: continue with the version in config.yaml, or start anew elsewhere"
        )

    def _check(self, about: dict[str, Any], template: Learner) -> None:
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
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}".replace(" ", "")
        for path, leaf in leaves
    }


def damage_of(folder: Path) -> str:
    """What is wrong with the files of a checkpoint, each by its name; '' if nothing is."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").removesuffix("\n").split("\n")
    except OSError as error:
        return f"{SUMS}: {error.strerror}"
    wanted = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    wrong = []
    for name in sorted({*wanted, *_files(folder)} - {SUMS}):
        try:
            if name not in wanted:
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
