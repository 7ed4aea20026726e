"""Decoded arrays, kept in the user's cache so that pictures are decoded once."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.files import writing
from cil_jax.files.npz import opened, read_array
from cil_jax.settings.config import cache_dir

Arrays = dict[str, np.ndarray]
_LEFT = re.compile(r"tmp[a-z0-9_]{8}\.tmp")  # by a killed writer of an older version


def cached(
    name: str, source: Path, state: Any, make: Callable[[], Arrays], how: str = ""
) -> Arrays:
    """What `make` gives, from a file if that is whole and the source is as it was when written.

    Args:
      name: the first part of the file's name.
      source: where the pictures are.
      state: what `make`'s answer depends on, such as the sizes and dates of files; its `repr`
        counts. A source has one file, with the answer for its last state.
      make: decodes them. What it raises is passed on, and nothing is kept.
      how: they are decoded; each way has a file of its own.
    """
    folder = cache_dir()
    if folder is None:
        return make()
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()
    place = hashlib.sha256(os.fsencode(source.resolve()) + how.encode()).hexdigest()[:12]
    file = folder / f"{name}-{place}.npz"
    _sweep(folder)
    # A damaged file fails in many ways; whatever they are, the file is written again.
    with contextlib.suppress(Exception), opened(file) as stored:
        if str(read_array(stored, "fingerprint")) == fingerprint:
            names = [name for name in stored.files if name != "fingerprint"]
            return {name: read_array(stored, name) for name in names}
    arrays = make()
    _write(file, {**arrays, "fingerprint": np.array(fingerprint)})
    return arrays


def state_of(pictures: Iterable[Path], source: Path) -> list[tuple[str, int, int, int]]:
    """Name within the source, size and dates of each file.

    A file can be replaced by another of the same size and modification date; its change date,
    which programs cannot set, then tells. A copied or renamed file is only decoded again.
    """
    found = [(os.path.relpath(file, source), file.stat()) for file in pictures]
    return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found]


def _sweep(folder: Path) -> None:
    """Removes what killed writers left, older versions of this package included."""
    writing.sweep(folder)
    with contextlib.suppress(OSError):
        for name in filter(_LEFT.fullmatch, os.listdir(folder)):
            with (folder / name).open("rb") as content:
                is_ours = b".npy" in content.read(100)  # the folder may not be ours alone
            if is_ours:
                writing.remove_if_left(folder / name)


def _write(file: Path, arrays: Arrays) -> None:
    with contextlib.suppress(OSError):  # a cache that can't be written costs time, not results
        writing.make_folder(file.parent)
        with writing.replaced(file) as out:
            np.savez(out, **arrays)
