"""What a command prints, and what happens where that cannot be shown.

A pipe is closed (`... | head -3`), a terminal goes away, a disk is full: the command goes on
without a word, so that a run is trained and saved to its end.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class Stream:
    """Stands in for sys.stdout or sys.stderr: writing to it never raises an OSError.

    From the first failure on, everything is dropped. A character that the encoding lacks is written
    as an escape, such as \\u2603.

    Attributes:
      failure: the first error of the stream behind it, or None.
      matters: whether the command fails if this stream does.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None
        self.matters = True
        if hasattr(stream, "reconfigure"):  # pytest's streams may be without
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
            # Python writes what is still buffered when it exits, and must not fail then.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def kept_going() -> Iterator[Stream]:
    """A context in which sys.stdout and sys.stderr are such streams; the former is given."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # for a stream that was closed from the start
        streams = [Stream(stream or nowhere) for stream in before]
        sys.stdout, sys.stderr = streams
        try:
            yield streams[0]
        finally:
            for stream in streams:
                stream.flush()
            sys.stdout, sys.stderr = before


def need_not_be_shown() -> None:
    """Says that this command does not fail if its output does: what it makes are files."""
    if isinstance(sys.stdout, Stream):
        sys.stdout.matters = False


def is_lost() -> bool:
    """Whether nobody sees what is printed any more."""
    return isinstance(sys.stdout, Stream) and sys.stdout.failure is not None
