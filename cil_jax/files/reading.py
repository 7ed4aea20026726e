"""Reads files that a person, another version of this package or an attacker may have written.

The size of a file is limited, and its content is checked against the type that the caller expects.
If it does not fit, a UserError names the file and the field in one line.
"""

import copy
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from cil_jax.errors import UserError

LARGEST_JSON = 2**28  # bytes; about three times the results of 1000 tasks
LARGEST_YAML = 2**20  # bytes; all settings together need a few thousand
DEEPEST_YAML = 16  # levels of nesting
MOST_KEYS = 200  # of a dict that is searched for the key with the wrong value
LONGEST_MESSAGE = 300  # characters of an error message from a library

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C library is ten times as fast


def read_bytes(file: Path, limit: int) -> bytes:
    """Returns the content of a file.

    Args:
      file: a regular file; pipes and devices are not opened.
      limit: the maximum size in bytes.

    Raises:
      UserError: if it can't be read, is not a regular file, or is larger than the limit.
    """
    try:
        check_regular(file)
        with file.open("rb") as content:
            data = content.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{file}: can't be read: {reason}") from error
    if len(data) > limit:
        raise UserError(f"{file}: can't be read: it has more than {limit:,} bytes")
    return data


def check_regular(file: Path) -> None:
    """Refuses a pipe, a device or a folder, without opening it.

    Raises:
      UserError: if it is not a regular file.
      OSError: if the system does not tell, such as for a file that does not exist.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise UserError(f"{file}: can't be read: it is not a regular file")


def read_text(file: Path, limit: int) -> str:
    """Returns the content of a UTF-8 text file.

    Raises:
      UserError: as `read_bytes`, or if it is not UTF-8.
    """
    try:
        return read_bytes(file, limit).decode()
    except UnicodeDecodeError as error:
        raise damaged(file, f"it is not UTF-8 text: see byte {error.start}") from error


def read_json(file: Path, expected: Any, limit: int = LARGEST_JSON) -> Any:
    """Returns the value in a JSON file, checked against a type; see `converted`.

    Raises:
      UserError: if the file can't be read or the value is not of that type.
    """
    return from_json(read_text(file, limit), expected, file)


def from_json(text: str | bytes, expected: Any, file: Path | str) -> Any:
    """Parses JSON and checks the value against a type; see `converted`.

    Args:
      text: JSON; NaN and Infinity are accepted as numbers.
      expected: the type, such as a TypedDict.
      file: the file that the text is from, for error messages.

    Raises:
      UserError: if the text is not JSON or the value is not of that type.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(file, error) from error
    return converted(value, expected, file)


def converted(value: Any, expected: Any, file: Path | str) -> Any:
    """Checks a value of plain dicts, lists, numbers and strings against a type, field by field.

    Args:
      value: the value, such as json.loads returns it.
      expected: the type, such as a TypedDict.
      file: the file that the value is from, for error messages.

    Returns:
      The value as that type. Keys that a TypedDict does not have are dropped, since a newer version
      may have written them.

    Raises:
      UserError: if a field is missing or wrong; names the field.
    """
    try:
        return msgspec.convert(value, expected)
    except (msgspec.ValidationError, RecursionError) as error:
        problem, _, path = one_line(error).partition(" - at `")
        field = _field(path, value, expected)
        raise damaged(file, f"{field}: {problem}" if field else problem) from error


def _field(path: str, value: Any, expected: Any) -> str:
    """The place of an error, such as 'classifiers.nme.forgetting', from msgspec's description.

    msgspec names the fields of a TypedDict, but writes [...] for a key of a plain dict. To find
    such a key, the value is checked with each key of the dict alone.
    """
    keys: list[Any] = []
    for name, number, is_any in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])", path):
        if not is_any:
            keys.append(int(number) if number else name)
            continue
        place = value
        for key in keys:
            place = place[key]
        wrong = (key for key in place if _is_wrong(_with_only(value, keys, key), expected))
        if len(place) > MOST_KEYS or (first_wrong := next(wrong, None)) is None:
            break
        keys.append(first_wrong)
    shown = [f"[{key}]" if isinstance(key, int) else f".{printable(str(key))}" for key in keys]
    return "".join(shown).removeprefix(".")


def _with_only(value: Any, keys: list[Any], last: Any) -> Any:
    """A copy of the value in which the dict that `keys` lead to has only the entry `last`."""
    if not keys:
        return {last: value[last]}
    copied = copy.copy(value)
    copied[keys[0]] = _with_only(value[keys[0]], keys[1:], last)
    return copied


def _is_wrong(value: Any, expected: Any) -> bool:
    try:
        msgspec.convert(value, expected)
    except (msgspec.ValidationError, RecursionError):
        return True
    return False


def damaged(file: Path | str, problem: object) -> UserError:
    """The error to raise if the content of a file is wrong.

    Args:
      file: the file.
      problem: a text or an exception that says what is wrong.
    """
    return UserError(f"{file} is damaged: {one_line(problem)}")


def one_line(message: object) -> str:
    """A text or the message of an error on one line, cut to LONGEST_MESSAGE characters.

    For an error without a message it is the name of its type.
    """
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


class _Mappings(SafeLoader):  # pyright: ignore[reportGeneralTypeIssues]: one of two classes
    """Loads YAML, and refuses a mapping that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
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
    """Returns the mapping in a YAML file of settings.

    Anchors, aliases and tags are refused. Settings do not need them, and a few lines of aliases can
    expand to gigabytes.

    Raises:
      UserError: if the file can't be read, is not YAML or does not hold a mapping; names the line.
    """
    text = read_bytes(file, LARGEST_YAML)
    try:
        _check_events(text)
        values = yaml.load(text, _Mappings)
    except yaml.MarkedYAMLError as error:
        # If something is missing at the end, the C library reports the line after the last one.
        last = text.rstrip().count(b"\n")
        mark = error.problem_mark
        where = f"line {min(mark.line, last) + 1}: " if mark else ""
        raise UserError(f"{file}: not valid YAML: {where}{one_line(error.problem)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not a text file") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        # A value that looks like a date or a number and is not one.
        raise UserError(f"{file}: not valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds no settings; write one per line, such as epochs: 10")
    return values


def _check_events(text: bytes) -> None:
    """Refuses YAML features that settings don't need, before any value is built."""
    depth = 0
    for event in yaml.parse(text, SafeLoader):
        problem = ""
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases (& and *) are not allowed: write the value"
        elif getattr(event, "tag", None):
            problem = "tags (!) are not allowed: write the value without one"
        elif depth > DEEPEST_YAML:
            problem = f"more than {DEEPEST_YAML} levels of nesting"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def printable(text: str) -> str:
    """A text from a file for use in a message: unprintable characters are escaped."""
    shown = re.sub(r"[^ -~\w]", lambda match: ascii(match[0])[1:-1], text)
    return one_line(shown.encode("utf-8", "backslashreplace").decode())


def is_regular(file: str | os.PathLike) -> bool:
    """Whether a path is a file or a link to one, and not a pipe, a device or a folder."""
    try:
        return stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):
        return False
