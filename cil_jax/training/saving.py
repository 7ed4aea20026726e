"""When a run saves, and what it says of its last save."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cil_jax.errors import UserError
from cil_jax.learner import Learner
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import RunRecord

# A kill loses about so many seconds of work. To save a ResNet-32 and 2000 exemplars takes half a
# second on two busy cores, where an epoch takes a minute; on an accelerator an epoch may take no
# longer than saving. So saving is scheduled by time, not by epochs, and limited to a twentieth of
# the time.
SECONDS_UNSAVED = 30.0
SAVING_SHARE = 1 / 20


class Saver:
    """Saves a run in checkpoints, and restores it.

    Attributes:
      last: where the run can go on from, for messages.
    """

    def __init__(self, checkpoints: Checkpoints, folder: RunFolder):
        """Starts the clock: the first save is due after `SECONDS_UNSAVED`."""
        self._checkpoints, self._folder = checkpoints, folder
        self._saved_at = time.perf_counter()
        self._seconds = 0.0  # that the last save took
        self.last = "there is no checkpoint yet"

    def is_due(self) -> bool:
        """Returns whether it is time to save."""
        interval = max(SECONDS_UNSAVED, self._seconds / SAVING_SHARE)
        return time.perf_counter() - self._saved_at >= interval

    def save(self, learner: Learner, record: Mapping[str, Any]) -> None:
        """Saves a checkpoint; see `Checkpoints.save`.

        Raises:
          UserError: if it can't be written, or the network is not finite.
        """
        start = time.perf_counter()
        weights = jax.tree.leaves(jax.device_get(learner.weights))
        if not all(np.isfinite(leaf).all() for leaf in weights):
            raise self.diverged(f"the network is no longer finite {place(learner)}")
        with self._folder.writing():
            self._checkpoints.save(learner, record)
        self._saved_at = time.perf_counter()
        self._seconds = self._saved_at - start
        self._note(learner)

    def restore(
        self, template: Learner, warn: Callable[[str], None]
    ) -> tuple[Learner, RunRecord] | None:
        """Reads the newest checkpoint that is not damaged; see `Checkpoints.restore`."""
        restored = self._checkpoints.restore(template, warn)
        if restored:
            self._note(restored[0])
        return restored

    def diverged(self, problem: str) -> UserError:
        """Returns the error for a loss or a network that is no longer finite."""
        return UserError(
            f"{problem}; {self.last}: start again with a lower --rate, in another --out"
        )

    def _note(self, learner: Learner) -> None:
        self.last = f"the checkpoint {place(learner)} is kept"


def place(learner: Learner) -> str:
    """Returns a learner's position, such as 'after task 2' or 'in task 3, after epoch 4'."""
    task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
    if epoch == step == 0:
        return f"after task {task}"
    return f"in task {task + 1}, after epoch {epoch}" + (f" and step {step}" if step else "")
