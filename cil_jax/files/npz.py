"""Reads arrays from npz files that may be damaged or hostile.

The header of an array is checked before memory is allocated for it, and no pickle is loaded.
"""

import contextlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from cil_jax.errors import UserError
from cil_jax.files.reading import check_regular, damaged, one_line


class NotNpz(UserError):
    """A file is not an npz file, or only a part of one."""


class UnreadableArray(Exception):
    """An array can't be read. The message continues a sentence that starts with its name."""


class HoldsObjects(UnreadableArray):
    """An array holds Python objects. Loading them could run code."""


@contextlib.contextmanager
def opened(file: str | os.PathLike) -> Iterator[NpzFile]:
    """A context that opens an npz file and turns off numpy's warnings about unusual headers.

    Raises:
      NotNpz: if the file is not an npz file or is incomplete.
      UserError: if it is not a regular file.
      OSError: if it can't be opened.
      Exception: other types too, since a damaged archive fails in many ways.
    """
    check_regular(Path(file))
    with Path(file).open("rb") as content, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # numpy takes a file that starts in another way for an npy file or a pickle.
        if content.read(2) != b"PK" or not zipfile.is_zipfile(content):
            raise NotNpz(f"{file} is not an npz file, or is incomplete: write it with numpy.savez")
        content.seek(0)
        with np.load(content, allow_pickle=False) as stored:
            yield stored


def read_array(stored: NpzFile, key: str, largest: int | None = None) -> np.ndarray:
    """Reads one array of an opened npz file.

    Args:
      stored: the file, from `opened`.
      key: the name of the array.
      largest: the maximum size of a compressed array in bytes; None for no maximum.

    Raises:
      HoldsObjects: if it is an array of Python objects.
      UnreadableArray: if it is missing, damaged or too large.
    """
    try:
        return stored[_checked_member(stored, key, largest)]
    except UnreadableArray:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise UnreadableArray(f"can't be read: {one_line(error)}") from error


def _checked_member(stored: NpzFile, key: str, largest: int | None) -> str:
    """Checks the header of an array and returns the name of its file in the archive."""
    archive = stored.zip
    assert archive is not None and archive.fp is not None  # they are None in a closed file
    names = archive.namelist()
    member = next((name for name in (f"{key}.npy", key) if name in names), None)
    if member is None:
        raise UnreadableArray("is missing")
    info = archive.getinfo(member)
    is_compressed = info.compress_type != zipfile.ZIP_STORED
    limit = largest if is_compressed else os.fstat(archive.fp.fileno()).st_size
    if limit is not None and info.file_size > limit:
        raise UnreadableArray(f"is too large: {info.file_size:,} bytes")
    with archive.open(member) as content:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = read_header[npy.read_magic(content)](content)
        size = content.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise HoldsObjects("holds Python objects")
    # If the header asks for less than there is, numpy does not compare the checksum.
    if size != info.file_size:
        raise UnreadableArray("has another size than its header says")
    return member


def read_arrays(file: Path, names: Sequence[str], largest: int = 0) -> list[np.ndarray]:
    """Reads arrays of an npz file that this package wrote.

    Args:
      file: a regular file.
      names: the names of the arrays.
      largest: the maximum size of a compressed array in bytes. With 0, only arrays that are not
        compressed can be read.

    Raises:
      UserError: if the file or an array can't be read; names both.
    """
    arrays = []
    try:
        with opened(file) as stored:
            for name in names:
                arrays.append(read_array(stored, name, largest))
    except UnreadableArray as error:
        raise damaged(file, f"{names[len(arrays)]} {error}") from error
    except NotNpz as error:
        raise damaged(file, "it is not an npz file, or is incomplete") from error
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise damaged(file, getattr(error, "strerror", None) or error) from error
    return arrays
