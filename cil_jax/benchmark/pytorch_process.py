"""PyTorch in a process of its own, which does work on request while our process waits.

Each side then has the threads and the memory allocator that it has when it is run alone: with both
libraries in one process, our update takes a fifth longer.
"""

import atexit
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any


class Failed(Exception):
    """An error in the process of PyTorch, with its type and message."""


class Process:
    """A process that imports PyTorch and answers one request at a time. Ends with this process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon, which must not start the processes of a DataLoader.
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()
        atexit.register(self.close)  # before multiprocessing waits for its processes

    def do(self, request: str, *arguments: Any) -> Any:
        """Sends a request, waits until it is done, and returns its result.

        Args:
          request: the name of a method of `cil_jax.benchmark.pytorch_work.Work`.
          *arguments: its arguments: plain values and NumPy arrays.

        Raises:
          Failed: if it fails, or the process has ended.
        """
        try:
            self._connection.send((request, arguments))
            result, error = self._connection.recv()
        except (EOFError, OSError) as ended:
            raise Failed("the process of PyTorch has ended") from ended
        if error:
            raise Failed(error)
        return result

    def close(self) -> None:
        """Ends the process; does nothing if it has ended."""
        atexit.unregister(self.close)
        self._connection.close()
        self._process.join(timeout=10)
        self._process.terminate()


def _serve(connection: Connection) -> None:
    """Answers requests until the other side closes the connection."""
    work: Any = None
    while True:
        try:
            request, arguments = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if work is None:
                from cil_jax.benchmark.pytorch_work import Work  # imports PyTorch

                work = Work()
            answer = getattr(work, request)(*arguments), ""
        except Exception as error:  # PyTorch's compilers may raise anything
            answer = None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        connection.send(answer)
