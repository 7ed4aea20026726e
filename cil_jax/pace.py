"""How long a run will still take, by what it took so far."""

import itertools
import time
from collections.abc import Callable, Sequence

RECENT = 30.0  # seconds of training that the pace is taken from, about


class Pace:
    """Learns from what happens how long an update, an evaluation and a task's end take.

    The first call of a process is left out, for it takes longer than others; and the end of a task
    takes longer the more classes are seen.

    Args:
      updates: of each task.
      epochs: of each task.
      seen: classes seen after each task.
      clock: seconds; best without those in which programs are compiled, which comes but once.
    """

    def __init__(
        self,
        updates: Sequence[int],
        epochs: Sequence[int],
        seen: Sequence[int],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._updates, self._epochs, self._seen, self._clock = updates, epochs, seen, clock
        self._before = list(itertools.accumulate(updates, initial=0))
        self._task = self._epochs_done = 0
        self._done = 0  # updates of this task
        self._last = clock()
        self._an_update: float | None = None
        self._an_epoch = 0.0  # its evaluation and saving
        self._an_end: float | None = None  # of a task, for each class seen
        self._calls = 0

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self._before[-1]

    @property
    def done(self) -> int:
        """Updates done, as many of them as were to be expected."""
        if self._task >= len(self._updates):
            return self.total
        return self._before[self._task] + min(self._done, self._updates[self._task])

    def begin(self, task: int, epoch: int, step: int = 0) -> None:
        """Where the run stands when it begins or goes on."""
        self._task, self._epochs_done, self._last = task, epoch, self._clock()
        self._done = self._updates[task] * epoch // self._epochs[task] + step

    def trained(self, task: int, epoch: int, step: int, steps: int) -> None:
        """After some updates; see `cil_jax.observer.Position`."""
        took, done = self._lap(), epoch * steps + step
        new, self._task, self._done = done - self._done, task, done
        self._calls += 1
        if self._calls == 1 or new <= 0:
            return
        if self._an_update is None:
            self._an_update = took / new
        else:
            share = min(1.0, took / RECENT)
            self._an_update += share * (took / new - self._an_update)

    def epoch_done(self, task: int, epoch: int) -> None:
        """After the evaluation of an epoch."""
        self._task, self._epochs_done, self._an_epoch = task, epoch + 1, self._lap()

    def task_done(self, task: int) -> None:
        """After the evaluation of a task."""
        self._an_end = self._lap() / self._seen[task]
        self._task, self._epochs_done, self._done = task + 1, 0, 0

    def left(self) -> tuple[float | None, float | None]:
        """Seconds until the task and the run end; None while nothing is known of an update."""
        if self._an_update is None or self._task >= len(self._updates):
            return None, None
        of_tasks = [self._of(task) for task in range(self._task, len(self._updates))]
        return of_tasks[0], sum(of_tasks)

    def _of(self, task: int) -> float:
        """Seconds that a task will still take."""
        epochs, updates = self._epochs[task], self._updates[task]
        if task == self._task:
            epochs -= self._epochs_done
            # How many there are was estimated: the pool may have been smaller.
            updates = max(0, updates - self._done) if epochs else 0
        # Until a task has ended, as long as an epoch's evaluation with so many more classes.
        new = self._seen[task] - (self._seen[task - 1] if task else 0)
        an_end = self._an_epoch / new if self._an_end is None else self._an_end
        return updates * self._an_update + epochs * self._an_epoch + an_end * self._seen[task]

    def _lap(self) -> float:
        before, self._last = self._last, self._clock()
        return self._last - before
