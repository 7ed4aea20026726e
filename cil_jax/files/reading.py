"""Reads files that a person, another version or an attacker may have written.

Every file is bounded before it is read, and checked against the type that its reader expects. What
does not fit is a UserError of one line, with the file and the field.
"""

import copy
import json
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.lib import format as npy

from cil_jax.errors import UserError

LARGEST_JSON = 2**28  # bytes; the results of 1000 tasks take a third of it
LARGEST_YAML = 2**20  # bytes; all settings together take a few thousand
DEEPEST_YAML = 16  # brackets within each other
MOST_KEYS = 200  # of a dict in which the wrong one is looked for
LONGEST_MESSAGE = 300  # letters of what a library says

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library is ten times as fast


def read_bytes(file: Path, limit: int) -> bytes:
    """What a file holds.

    Args:
      file: a regular file: pipes and devices are not opened.
      limit: bytes that it may have at most.

    Raises:
      UserError: if it can't be read, is no regular file, or is larger.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file}: can't be read: it is not a regular file")
        with file.open("rb") as content:
            data = content.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        said = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{file}: can't be read: {said}") from error
    if len(data) > limit:
        raise UserError(f"{file}: can't be read: it has more than {limit:,} bytes")
    return data


def read_text(file: Path, limit: int) -> str:
    """What a file of UTF-8 text holds.

    Raises:
      UserError: as `read_bytes`, or if it is no text.
    """
    try:
        return read_bytes(file, limit).decode()
    except UnicodeDecodeError as error:
        raise damaged(file, f"it is no UTF-8 text at byte {error.start}") from error


def read_json(file: Path, wanted: Any, limit: int = LARGEST_JSON) -> Any:
    """What a JSON file says, checked against a type; see `converted`.

    Raises:
      UserError: if it can't be read, or is not of that type.
    """
    return from_json(read_text(file, limit), wanted, file)


def from_json(text: str | bytes, wanted: Any, file: Path | str) -> Any:
    """What a JSON text says, checked against a type; see `converted`.

    Args:
      text: JSON; NaN and Infinity are numbers.
      wanted: the type, such as a TypedDict.
      file: where the text is from, for messages.

    Raises:
      UserError: if it is no JSON, or not of that type.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(file, error) from error
    return converted(value, wanted, file)


def converted(value: Any, wanted: Any, file: Path | str) -> Any:
    """A value of plain dicts, lists, numbers and strings as a type says, its fields checked.

    Keys that a TypedDict does not have are left out: a newer version may have written them.

    Raises:
      UserError: with the field that is missing or wrong.
    """
    try:
        return msgspec.convert(value, wanted)
    except (msgspec.ValidationError, RecursionError) as error:
        what, _, path = one_line(error).partition(" - at `")
        field = _field(path, value, wanted)
        raise damaged(file, f"{field}: {what}" if field else what) from error


def _field(path: str, value: Any, wanted: Any) -> str:
    """The place of an error, such as 'classifiers.nme.forgetting', by what msgspec says of it.

    msgspec names the fields of a TypedDict. For a key of another dict it says [...], and the key is
    found by leaving out the others.
    """
    keys: list[Any] = []
    for name, number, is_any in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])", path):
        if not is_any:
            keys.append(int(number) if number else name)
            continue
        place = value
        for key in keys:
            place = place[key]
        wrong = (k for k in place if _is_wrong(_with_only(value, keys, k), wanted))
        if len(place) > MOST_KEYS or (culprit := next(wrong, None)) is None:
            break
        keys.append(culprit)
    shown = [f"[{key}]" if isinstance(key, int) else f".{printable(str(key))}" for key in keys]
    return "".join(shown).removeprefix(".")


def _with_only(value: Any, keys: list[Any], last: Any) -> Any:
    """The value with one entry alone in the dict that is reached by keys."""
    if not keys:
        return {last: value[last]}
    copied = copy.copy(value)
    copied[keys[0]] = _with_only(value[keys[0]], keys[1:], last)
    return copied


def _is_wrong(value: Any, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted)
    except (msgspec.ValidationError, RecursionError):
        return True
    return False


def damaged(file: Path | str, what: object) -> UserError:
    """The error for a file whose content is not what it must be."""
    return UserError(f"{file} is damaged: {one_line(what)}")


def one_line(what: object) -> str:
    """What an error says, or its type where it says nothing, in one line that is not too long."""
    text = " ".join(str(what).split()) or type(what).__name__
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


class _Mappings(SafeLoader):
    """Builds YAML's values, and refuses a key that is given twice."""

    def construct_mapping(self, node, deep=False):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} is given twice, first in line {lines[key.value]}",
                    problem_mark=key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> Mapping[Any, Any]:
    """The mapping that a YAML file of settings holds.

    Settings need no anchors, aliases or tags, so that these are refused: a few lines of them stand
    for gigabytes.

    Raises:
      UserError: if it can't be read, is no YAML, or holds no mapping, with the line.
    """
    text = read_bytes(file, LARGEST_YAML)
    try:
        _check_events(text)
        values = yaml.load(text, _Mappings)
    except yaml.MarkedYAMLError as error:
        # The C library places what is missing at the end in a line of its own.
        last = text.rstrip().count(b"\n")
        mark = error.problem_mark
        where = f"line {min(mark.line, last) + 1}: " if mark else ""
        raise UserError(f"{file}: is no YAML: {where}{one_line(error.problem)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is no text") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        # A value that only looks like a date or a number.
        raise UserError(f"{file}: is no YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds no settings, one a line, such as epochs: 10")
    return values


def _check_events(text: bytes) -> None:
    """Refuses what settings don't need, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, SafeLoader):
        what = ""
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            what = "anchors and aliases (& and *) are not for settings: write the value"
        elif getattr(event, "tag", None):
            what = "tags (!) are not for settings: write the value alone"
        elif depth > DEEPEST_YAML:
            what = f"more than {DEEPEST_YAML} brackets within each other"
        if what:
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)


def read_arrays(file: Path, names: tuple[str, ...], largest: int = 0) -> list[np.ndarray]:
    """Arrays of an .npz file that numpy.savez or numpy.savez_compressed wrote.

    No pickle is read, and no memory is taken for more bytes than the file has or `largest` allows.

    Args:
      file: the file.
      names: of the arrays.
      largest: bytes that an array may have which is compressed; 0 where none may be.

    Raises:
      UserError: if the file can't be read, or an array is missing or not as its header says.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"{file}: can't be read: it is not a regular file")
        with zipfile.ZipFile(file) as archive:
            return [_array(archive, file, name, largest) for name in names]
    except UserError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise damaged(file, getattr(error, "strerror", None) or error) from error


def _array(archive: zipfile.ZipFile, file: Path, name: str, largest: int) -> np.ndarray:
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise damaged(file, f"{name}: it is missing")
    info = archive.getinfo(member)
    is_stored = info.compress_type == zipfile.ZIP_STORED
    if info.file_size > (file.stat().st_size if is_stored else largest):
        raise damaged(file, f"{name}: it has another size than the file says")
    with archive.open(info) as content:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[npy.read_magic(content)](content)
        if dtype.hasobject:
            raise damaged(file, f"{name}: it holds Python objects")
        if content.tell() + prod(shape) * dtype.itemsize != info.file_size:
            raise damaged(file, f"{name}: its size is not what its header says")
        return np.ndarray(shape, dtype, bytearray(content.read()), order="FC"[not is_fortran])


def printable(text: str) -> str:
    """A text from a file as a message can show it: what is not printable as escapes."""
    shown = re.sub(r"[^ -~\w]", lambda match: ascii(match[0])[1:-1], text)
    return one_line(shown.encode("utf-8", "backslashreplace").decode())


def is_regular(file: str | os.PathLike) -> bool:
    """Whether a path is a file, or a link to one, rather than a pipe, a device or a folder."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):
        return False
