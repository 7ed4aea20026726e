"""Decoded arrays, kept in the user's cache so that pictures are decoded once."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.config import cache_dir
from cil_jax.data.stored import opened, read_array

Arrays = dict[str, np.ndarray]


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
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()
    place = hashlib.sha256(os.fsencode(source.resolve()) + how.encode()).hexdigest()[:12]
    file = cache_dir() / f"{name}-{place}.npz"
    # A damaged file fails in many ways; whatever they are, the file is written again.
    with contextlib.suppress(Exception), opened(file) as stored:
        if str(read_array(stored, "fingerprint")) == fingerprint:
            names = [name for name in stored.files if name != "fingerprint"]
            return {name: read_array(stored, name) for name in names}
    arrays = make()
    _write(file, {**arrays, "fingerprint": np.array(fingerprint)})
    return arrays


def state_of(files: Iterable[Path], source: Path) -> list[tuple[str, int, int, int]]:
    """Name within the source, size and dates of each file.

    A file can be replaced by another of the same size and modification date; its change date,
    which programs cannot set, then tells. A copied or renamed file is only decoded again.
    """
    found = [(os.path.relpath(file, source), file.stat()) for file in files]
    return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in found]


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
