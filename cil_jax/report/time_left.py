"""An estimate of how long a run will still take, from the time it has taken so far."""

import itertools
import time
from collections.abc import Callable, Sequence

RECENT = 30.0  # seconds of training that the speed is averaged over, approximately


class TimeLeft:
    """Measures the time of an update, of an epoch's evaluation and of a task's end, to extrapolate.

    The updates of the first call in a process are not measured, as they take longer than later
    ones. The end of a task is taken to be proportional to the number of classes seen.

    Args:
      n_updates: number of updates of each task.
      n_epochs: number of epochs of each task.
      n_seen: number of classes seen after each task.
      clock: returns seconds. It should not count the time of compilation, which occurs only once.
    """

    def __init__(
        self,
        n_updates: Sequence[int],
        n_epochs: Sequence[int],
        n_seen: Sequence[int],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._n_updates, self._n_epochs, self._n_seen = n_updates, n_epochs, n_seen
        self._clock = clock
        self._updates_before = list(itertools.accumulate(n_updates, initial=0))  # before each task
        self._task = self._epochs_done = self._step = 0
        self._updates_done = 0  # in this task
        self._last_time = clock()
        self._update_seconds: float | None = None
        self._epoch_seconds = 0.0  # evaluation and saving after an epoch
        self._end_seconds_per_class: float | None = None
        self._n_calls = 0

    @property
    def total(self) -> int:
        """Number of updates of the whole run."""
        return self._updates_before[-1]

    @property
    def done(self) -> int:
        """Number of updates done; for each task at most the number expected."""
        if self._task >= len(self._n_updates):
            return self.total
        done = min(self._updates_done, self._n_updates[self._task])
        return self._updates_before[self._task] + done

    def begin(self, task: int, epoch: int, step: int = 0) -> None:
        """Sets the position at which the run starts or resumes."""
        self._task, self._epochs_done, self._last_time = task, epoch, self._clock()
        self._step = step
        done_before = self._n_updates[task] * epoch // max(self._n_epochs[task], 1)
        self._updates_done = done_before + step

    def trained(self, step: int) -> None:
        """Records some updates, up to a step of the current epoch."""
        seconds, n_new = self._lap(), step - self._step
        self._step, self._updates_done = step, self._updates_done + n_new
        self._n_calls += 1
        if self._n_calls == 1 or n_new <= 0:
            return
        if self._update_seconds is None:
            self._update_seconds = seconds / n_new
        else:
            weight = min(1.0, seconds / RECENT)
            self._update_seconds += weight * (seconds / n_new - self._update_seconds)

    def epoch_done(self, task: int, epoch: int) -> None:
        """Records the evaluation after an epoch."""
        self._task, self._epochs_done, self._step = task, epoch + 1, 0
        self._epoch_seconds = self._lap()

    def task_done(self, task: int) -> None:
        """Records the evaluation after a task."""
        self._end_seconds_per_class = self._lap() / self._n_seen[task]
        self._task, self._epochs_done, self._updates_done = task + 1, 0, 0

    def estimate(self) -> tuple[float | None, float | None]:
        """Returns the seconds until the task and the run end; None until updates are measured."""
        if self._update_seconds is None or self._task >= len(self._n_updates):
            return None, None
        tasks = range(self._task, len(self._n_updates))
        seconds = [self._estimate_task(task, self._update_seconds) for task in tasks]
        return seconds[0], sum(seconds)

    def _estimate_task(self, task: int, update_seconds: float) -> float:
        """Returns the seconds that a task will still take."""
        n_epochs, n_updates = self._n_epochs[task], self._n_updates[task]
        if task == self._task:
            n_epochs -= self._epochs_done
            # The pool may be smaller than expected: after the last epoch no update is left.
            n_updates = max(0, n_updates - self._updates_done) if n_epochs else 0
        end_seconds = self._end_seconds_per_class
        if end_seconds is None:
            # Until the first task ends, assume the seconds per class of an epoch's evaluation.
            n_new = self._n_seen[task] - (self._n_seen[task - 1] if task else 0)
            end_seconds = self._epoch_seconds / n_new
        training = n_updates * update_seconds + n_epochs * self._epoch_seconds
        return training + end_seconds * self._n_seen[task]

    def _lap(self) -> float:
        """Returns the seconds since the previous call, or since `begin`."""
        previous, self._last_time = self._last_time, self._clock()
        return self._last_time - previous
