"""An epoch in training: where it stands, and what is reported of it."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from cil_jax.methods.plan import Train
from cil_jax.training.callbacks import Position


@dataclasses.dataclass
class Epoch:
    """An epoch in training.

    Attributes:
      task, number: the task and the epoch of this training, from 0.
      number_in_task: the epoch, counted over all trainings of the task.
      training: which training of the task's plan it belongs to.
      kind: the number of its programs, see `Engine.kind`.
      n_steps: number of updates of the epoch.
      batch_size: number of images of an update.
      rate: learning rate, per update.
      weight_decay: L2 weight-decay coefficient.
      step: number of updates done.
      totals: the sums over these updates, see `Engine.train`.
      seconds: time of these updates, including that of reading their images.
    """

    task: int
    number: int
    number_in_task: int
    training: Train
    kind: int
    n_steps: int
    batch_size: int
    rate: float
    weight_decay: float
    step: int = 0
    totals: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def so_far(self) -> dict[str, Any]:
        """Returns the entry `epoch_so_far` of a checkpoint within the epoch."""
        return {"sums": self.totals, "seconds": self.seconds}

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the means of some sums over the updates done."""
        return {name: self.totals[name] / self.step for name in names}

    def problem(self) -> str | None:
        """Returns what is wrong if the loss is not finite, with the first step at which it is."""
        if math.isfinite(self.totals["loss"]):
            return None
        return (
            f"the loss is no longer finite in task {self.task + 1}, epoch {self.number + 1}, step "
            f"{int(self.totals['steps']) + 1}, at learning rate {self.rate:g} and a largest "
            f"gradient of {self.totals['largest_gradient']:g}"
        )

    def position(self, parts: Iterable[str]) -> Position:
        """Returns the position in the epoch, with the means of the loss and of its parts."""
        return Position(
            task=self.task,
            epoch=self.number_in_task,
            step=self.step,
            n_steps=self.n_steps,
            loss=self.totals["loss"] / self.step,
            images_per_second=self.step * self.batch_size / self.seconds,
            rate=self.rate,
            parts=self.means(parts),
            training=self.training.name,
        )

    def line(self, parts: Sequence[str], test_accuracy: float, test_loss: float) -> dict[str, Any]:
        """Returns the line of metrics.jsonl at the end of the epoch.

        Args:
          parts: the names of the parts of the loss.
          test_accuracy, test_loss: on the test images of the task.
        """
        means = self.means((*parts, "loss", "n_new", "n_new_right"))
        return {
            "kind": "epoch",
            "task": self.task,
            "epoch": self.number_in_task,
            "rate": self.rate,
            "train_loss": means["loss"],
            "train_accuracy": means["n_new_right"] / max(means["n_new"], 1e-9),
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "parts": {name: means[name] for name in parts},
            "images_per_second": round(self.n_steps * self.batch_size / self.seconds, 1),
            **({} if self.training.name == "main" else {"training": self.training.name}),
        }
