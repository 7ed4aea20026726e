"""Arrays from npz files that may be damaged: a header cannot ask for more than the file holds."""

import contextlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from cil_jax.errors import UserError


class UnreadableArray(Exception):
    """An array can't be read; the message continues a sentence that begins with its name."""


class HoldsObjects(UnreadableArray):
    """An array holds Python objects, which could run code when they are read."""


@contextlib.contextmanager
def opened(file: str | os.PathLike) -> Iterator[NpzFile]:
    """A context with the opened npz file, in which numpy does not warn about odd headers.

    Raises:
      UserError: if it is no npz file.
      OSError: if it can't be opened.
      Exception: of damage there are many kinds.
    """
    with Path(file).open("rb") as content, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # numpy would take other beginnings for a pickle.
        if content.read(2) != b"PK" or not zipfile.is_zipfile(content):
            raise UserError(f"{file} is no npz file, or not all of one: numpy.savez writes them")
        content.seek(0)
        with np.load(content, allow_pickle=False) as stored:
            yield stored


def read_array(stored: NpzFile, key: str) -> np.ndarray:
    """An array of an opened npz file.

    Raises:
      UnreadableArray: if it is damaged or missing; `HoldsObjects` if it is no plain array.
    """
    try:
        member = next(m for m in (f"{key}.npy", key) if m in stored.zip.namelist())
        with stored.zip.open(member) as content:
            version = npy.read_magic(content)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, _, dtype = read_header[version](content)
            size = content.tell() + math.prod(shape) * dtype.itemsize
        # Without this check, less is read of an array whose header names a smaller size, and no
        # checksum tells.
        is_whole = size == stored.zip.getinfo(member).file_size
        if is_whole and not dtype.hasobject:
            return stored[key]
    except Exception as error:
        raise UnreadableArray(f"can't be read: {error or type(error).__name__}") from error
    if dtype.hasobject:
        raise HoldsObjects("holds Python objects")
    raise UnreadableArray("is damaged: its size is not what its header says")
