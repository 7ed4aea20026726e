"""Decoded arrays, kept in the user's cache so that pictures are decoded once."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.config import cache_dir

Arrays = dict[str, np.ndarray]


def cached(
    name: str, source: Path, state: Any, make: Callable[[], Arrays], how: str = ""
) -> Arrays:
    """What `make` gives, from a file if the source is as it was when that was written.

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
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as stored:
            arrays = dict(stored)
        if str(arrays.pop("fingerprint")) == fingerprint:
            return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or damaged: made anew
    arrays = make()
    _write(file, {**arrays, "fingerprint": np.array(fingerprint)})
    return arrays


def state_of(files: Iterable[Path], source: Path) -> list[tuple[str, int, int]]:
    """Name within the source, size and date of each file."""
    found = [(os.path.relpath(file, source), file.stat()) for file in files]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]


def _write(file: Path, arrays: Arrays) -> None:
    """Writes under a temporary name and renames, so that no reader sees half a file."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as out:
            temporary = Path(out.name)
            np.savez(out, **arrays)
        temporary.replace(file)
    except OSError:
        # A cache that cannot be written costs time, not results.
        if temporary:
            temporary.unlink(missing_ok=True)
