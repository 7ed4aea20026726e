"""Signals that ask a command to stop: SIGINT, SIGTERM and SIGHUP.

Ctrl-C sends SIGINT, cluster schedulers send SIGTERM, and a terminal that is closed sends SIGHUP.
While a run trains, the first signal is only noted, so that the run can save and end in order; a
second one ends the process at once. At all other times SIGTERM and SIGHUP raise an exception, as
SIGINT always does in Python.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows
STOPPING = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number is not None)
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


class Stopped(KeyboardInterrupt):
    """Raised when a command has stopped because of a signal.

    Attributes:
      number: the number of the signal.
    """

    def __init__(self, number: int, message: str = "stopped"):
        super().__init__(message)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Returns the exit code of a process that a signal ended, such as 143 for SIGTERM."""
    return 128 + getattr(stop, "number", signal.SIGINT)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise Stopped."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(number)

    with _handled({number: stop for number in STOPPING if number != signal.SIGINT}):
        yield


@contextlib.contextmanager
def noted(message: str) -> Iterator[Callable[[], int]]:
    """A context in which the first signal is noted and a second one ends the process at once.

    Signals are received by a thread, as Python's own handlers do not run during a compilation.

    Args:
      message: is written to the standard error when the first signal arrives.

    Yields:
      A function that returns the number of the noted signal, or 0 if none has arrived. Outside the
      main thread, where Python allows no signal handlers, it always returns 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while data := reader.recv(1):
            number = data[0]
            if number not in STOPPING:
                continue
            if not received:
                received.append(number)
                write(f"\n{message}\n".encode())
            # A closed terminal may send SIGHUP twice, and systemd sends it after SIGTERM.
            elif number != HANGUP:
                write(SHOW_CURSOR if os.isatty(2) else b"")
                os._exit(128 + number)

    def write(text: bytes) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, text)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        with _handled(dict.fromkeys(STOPPING, lambda *_: None)):
            yield lambda: received[0] if received else 0
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        listener.join()
        reader.close()


@contextlib.contextmanager
def _handled(handlers: dict[int, Callable[[int, FrameType | None], Any]]) -> Iterator[None]:
    """A context with these signal handlers, by signal number; does nothing outside the main thread.

    A signal that the process was started to ignore, as by nohup or a shell's &, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {n: h for n, h in handlers.items() if signal.getsignal(n) is not signal.SIG_IGN}
    previous = {number: signal.signal(number, handler) for number, handler in kept.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, handler or signal.SIG_DFL)
