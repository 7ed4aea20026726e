"""Work beside a run that must neither hold it up nor stop it: pages, figures, logs."""

import threading
from collections.abc import Callable
from typing import Any


class Background:
    """A thread that does what it is asked for in order. Use as a context.

    What goes wrong there is said in one line, and stops nothing.

    Args:
      say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say, self._is_closed = say, False
        self._wanted: list[tuple[str, Callable[[], Any]]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        """Waits until all is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def ask(self, what: str, work: Callable[[], Any], only_last: bool = False) -> None:
        """Has work done.

        Args:
          what: names it where it fails.
          work: what to call.
          only_last: whether it takes the place of what was asked for under the same name before
            and is not begun.
        """
        with self._changed:
            if only_last:
                self._wanted = [one for one in self._wanted if one[0] != what]
            self._wanted.append((what, work))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._is_closed)
                if not self._wanted:
                    return
                what, work = self._wanted.pop(0)
            try:
                work()
            except BaseException as error:  # also what would end a main thread
                said = " ".join(str(error).split())
                self._say(f"{what} failed, the run goes on: {type(error).__name__}: {said}")
