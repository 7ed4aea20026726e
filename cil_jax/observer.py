"""What a run tells while it goes, to whoever listens: a terminal, a log, a test."""

import dataclasses
from typing import TYPE_CHECKING, Any

from cil_jax.learner import Learner

if TYPE_CHECKING:
    from cil_jax.protocol import Run


@dataclasses.dataclass(frozen=True)
class Position:
    """Where training stands. Tasks and epochs count from 0, steps are those done.

    Attributes:
      loss: its mean over the epoch so far.
      images_per_second: over the epoch so far, evaluation left out.
    """

    task: int
    epoch: int
    step: int
    steps: int
    loss: float
    images_per_second: float


class Observer:
    """What a run tells while it goes. This one listens in silence."""

    def started(self, run: "Run", learner: Learner) -> None:
        """Before the first update, also on resuming."""

    def warned(self, run: "Run", text: str) -> None:
        """Of something that the user should know and that does not stop the run."""

    def trained(self, run: "Run", position: Position) -> None:
        """After some updates, about every second."""

    def epoch_done(self, run: "Run", line: dict[str, Any]) -> None:
        """After an epoch, with its line of metrics.jsonl."""

    def task_done(self, run: "Run", line: dict[str, Any]) -> None:
        """After a task's evaluation, with its line of metrics.jsonl."""
