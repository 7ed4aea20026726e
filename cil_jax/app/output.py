"""The output of a command, and how the command survives if the output can't be written.

If a pipe is closed (`... | head -3`), a terminal is closed or a disk is full, the command continues
silently, so that a run is trained and saved to its end.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Stream:
    """Replaces sys.stdout or sys.stderr: writing to it never raises an OSError.

    After the first failure, all output is dropped. A character that the encoding lacks is written
    as an escape, such as \\u2603.

    Attributes:
      failure: the first error of the underlying stream, or None.
      matters: whether the command fails if this stream fails.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None
        self.matters = True
        if isinstance(stream, io.TextIOWrapper):  # streams of pytest may be of another type
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[..., Any], *arguments: Any) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self.failure = self.failure or error
            # Python flushes its buffer at exit, which must not fail.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def kept_going() -> Iterator[Stream]:
    """A context in which sys.stdout and sys.stderr are each a `Stream`; yields that of stdout."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # for a stream that was closed at the start
        streams = [Stream(stream or nowhere) for stream in before]
        sys.stdout, sys.stderr = streams
        try:
            yield streams[0]
        finally:
            for stream in streams:
                stream.flush()
            sys.stdout, sys.stderr = before


def need_not_be_shown() -> None:
    """Declares that the command, as it writes files, succeeds even if its output can't be shown."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.matters = False


def is_lost() -> bool:
    """Returns whether the standard output has failed, so that nobody sees what is printed."""
    return isinstance(sys.stdout, Stream) and sys.stdout.failure is not None
