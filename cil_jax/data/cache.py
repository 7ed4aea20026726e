"""A cache of decoded arrays in the user's cache folder, so that images are decoded only once."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from cil_jax.files import writing
from cil_jax.files.npz import opened, read_array
from cil_jax.settings.config import cache_dir

Arrays = dict[str, np.ndarray]

# The name of a temporary file that older versions left behind if they were killed.
_OLD_TEMPORARY_FILE = re.compile(r"tmp[a-z0-9_]{8}\.tmp")


def cached(
    name: str, source: Path, state: object, make: Callable[[], Arrays], variant: str = ""
) -> Arrays:
    """Returns the arrays that `make` computes, from the cache if they are stored there.

    A stored file is used if it is undamaged and `state` is the same as when it was written.

    Args:
      name: the first part of the file's name.
      source: the folder with the images. The cache holds one file per source and variant, with the
        arrays of the last state.
      state: everything else that the arrays depend on, such as the sizes and dates of the image
        files. States are compared by their `repr`.
      make: decodes the images. Its exceptions are passed on, and nothing is stored then.
      variant: how the images are decoded, such as their size.
    """
    folder = cache_dir()
    if folder is None:
        return make()
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()
    source_hash = hashlib.sha256(os.fsencode(source.resolve()) + variant.encode()).hexdigest()[:12]
    file = folder / f"{name}-{source_hash}.npz"
    _remove_temporary_files(folder)
    # Reading a damaged file can raise any exception. The file is then written again.
    with contextlib.suppress(Exception), opened(file) as stored:
        if str(read_array(stored, "fingerprint")) == fingerprint:
            names = [name for name in stored.files if name != "fingerprint"]
            return {name: read_array(stored, name) for name in names}
    arrays = make()
    _write(file, {**arrays, "fingerprint": np.array(fingerprint)})
    return arrays


def state_of(files: Iterable[Path], source: Path) -> list[tuple[str, int, int, int]]:
    """Returns the path within the source, the size and the dates (in ns) of each file.

    A file can be replaced by another one of the same size and modification date. The change date
    reveals that, because programs cannot set it. A file that was only copied or renamed is decoded
    again.
    """
    statuses = [(os.path.relpath(file, source), file.stat()) for file in files]
    return [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in statuses]


def _remove_temporary_files(folder: Path) -> None:
    """Removes what killed processes left behind, also those of older versions of this package."""
    writing.sweep(folder)
    with contextlib.suppress(OSError):
        for name in filter(_OLD_TEMPORARY_FILE.fullmatch, os.listdir(folder)):
            with (folder / name).open("rb") as content:
                is_ours = b".npy" in content.read(100)  # other programs may use the folder too
            if is_ours:
                writing.remove_if_left(folder / name)


def _write(file: Path, arrays: Arrays) -> None:
    # Without a cache a run takes longer, but its results are the same.
    with contextlib.suppress(OSError):
        writing.make_folder(file.parent)
        with writing.replaced(file) as out:
            # The type checker takes an array for `allow_pickle`, another parameter of savez.
            np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]
