"""Work beside a run that must neither delay nor stop it: the report, figures and logs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Background:
    """A thread that does work in the order in which it is submitted. Use as a context.

    When the context ends, it waits until all work is done. Work that fails prints one line.

    Args:
      say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def submit(self, name: str, work: Callable[[], Any]) -> None:
        """Submits work.

        Args:
          name: of the work, for the line that says that it failed.
          work: the function to call.
        """
        self._pool.submit(self._do, name, work)

    def _do(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:  # including those that would end the main thread
            message = " ".join(str(error).split())
            self._say(f"{name} failed; the run continues: {type(error).__name__}: {message}")
