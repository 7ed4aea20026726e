"""Work beside a run that must neither hold it up nor stop it: pages, figures, logs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Background:
    """A thread that does what it is asked for in order. Use as a context.

    What goes wrong there is said in one line, and stops nothing.

    Args:
      say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Waits until all is done."""
        self._pool.shutdown()

    def ask(self, what: str, work: Callable[[], Any]) -> None:
        """Has work done.

        Args:
          what: names it where it fails.
          work: what to call.
        """
        self._pool.submit(self._do, what, work)

    def _do(self, what: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:  # also what would end a main thread
            said = " ".join(str(error).split())
            self._say(f"{what} failed, the run goes on: {type(error).__name__}: {said}")
