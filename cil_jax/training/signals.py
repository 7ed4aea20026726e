"""Signals that ask a command to stop: SIGINT, SIGTERM and SIGHUP.

Ctrl-C sends the first, clusters the second, a terminal that is closed the third. While a run goes
they are noted, so that it can save and end by itself; a second one ends the process at once. At all
other times SIGTERM and SIGHUP raise an exception, as SIGINT does in Python anyway.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
STOPPING = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)))
SHOW_CURSOR = b"\x1b[?25h"  # which a progress bar hides


class Stopped(KeyboardInterrupt):
    """What was asked to stop has done so.

    Attributes:
      number: the signal's.
    """

    def __init__(self, number: int, message: str = "stopped"):
        super().__init__(message)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell expects of a process that a signal ended: such as 143 for SIGTERM."""
    return 128 + getattr(stop, "number", signal.SIGINT)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise Stopped."""

    def stop(number, _):
        raise Stopped(number)

    with _handled({number: stop for number in STOPPING if number != signal.SIGINT}):
        yield


@contextlib.contextmanager
def noted(first_line: str) -> Iterator[Callable[[], int]]:
    """A context in which the first signal is noted, and a second one ends the process at once.

    A thread hears them, for Python's own handlers wait until a program is compiled.

    Args:
      first_line: what is said at the first one.

    Yields:
      What tells the signal's number, or 0 as long as there was none. None is ever noted outside
      the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    asked = []
    hears, told = socket.socketpair()
    told.setblocking(False)

    def listen():
        while heard := hears.recv(1):
            if heard[0] not in STOPPING:
                continue
            if not asked:
                asked.append(heard[0])
                say(f"\n{first_line}\n".encode())
            # A terminal that is closed may send it twice, and systemd sends it after SIGTERM.
            elif heard[0] != HANGUP:
                say(SHOW_CURSOR if os.isatty(2) else b"")
                os._exit(128 + heard[0])

    def say(text):
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(2, text)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        with _handled(dict.fromkeys(STOPPING, lambda *_: None)):
            yield lambda: asked[0] if asked else 0
    finally:
        signal.set_wakeup_fd(before)
        told.close()
        listener.join()
        hears.close()


@contextlib.contextmanager
def _handled(handlers: dict[int, Callable]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What whoever started the process had it ignore, as nohup and a shell's & do, stays ignored.
    heard = {n: h for n, h in handlers.items() if signal.getsignal(n) is not signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was no handler of Python's
