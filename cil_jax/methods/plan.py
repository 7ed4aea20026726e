"""The steps that a task consists of: Train, Fold, Keep and Do.

A plan is a tuple of steps, in the order in which they are taken. A run can be resumed within each
of them. The functions in a step are pure and are compiled; give methods of the method itself rather
than lambdas, since a step whose functions are equal to those of another shares its program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from cil_jax.learner import Learner
from cil_jax.memory import Pool
from cil_jax.schedules import Schedule
from cil_jax.typing import Array, Key, Params

# Marks rows of the pool, bool [R]; the key is the same throughout the task, so a random choice is
# the same in each step.
Rows: TypeAlias = Callable[[Learner, Pool, Key], Array]


@dataclasses.dataclass(frozen=True)
class Train:
    """Trains on the pool with a new optimizer state.

    Attributes:
      name: of this training, in progress and in metrics.jsonl.
      loss: like `Method.loss`, which is the default.
      parts: the names of the parts of that loss (default: `Method.parts`).
      rows: the rows of the pool to train on (default: all images).
      beside: number of exemplars that are drawn at random, with repetition, beside the images of
        each batch; they follow these in the batch. The memory must not be empty.
      trainable: like `Method.trainable`, which is the default.
      augmented: whether the images are augmented.
      schedule: epochs, learning rates and weight decay (default: those of the settings).
    """

    name: str = "main"
    loss: Callable[..., Any] | None = None
    parts: tuple[str, ...] | None = None
    rows: Rows | None = None
    beside: int = 0
    trainable: Callable[[Learner], Params | None] | None = None
    augmented: bool = True
    # Not compared, since it does not enter the program.
    schedule: Schedule | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class Fold:
    """Passes once over images, in evaluation mode and without augmentation.

    Attributes:
      zero: learner -> the sums before the first image, a tree of arrays.
      add: (learner, sums, batch) -> the sums with a further batch. A row of the batch with the
        label -1 holds no image and must not count.
      done: (learner, sums, key) -> the learner. The key is the same throughout the task.
      source: "new" for the new images, "memory" for the exemplars, or "pool" for both.
      rows: those of them to pass over (default: all images).
      batch_size: images per batch.
    """

    zero: Callable[[Learner], Any]
    add: Callable[..., Any]
    done: Callable[[Learner, Any, Key], Learner]
    source: str = "new"
    rows: Rows | None = None
    batch_size: int = 500

    def __post_init__(self) -> None:
        if self.source not in ("new", "memory", "pool"):
            raise ValueError(f"source is {self.source!r}; it must be new, memory or pool")


@dataclasses.dataclass(frozen=True)
class Do:
    """Changes the learner at once, from its arrays alone.

    Attributes:
      change: (learner, key) -> the learner. The key is the same throughout the task.
    """

    change: Callable[[Learner, Key], Learner]


@dataclasses.dataclass(frozen=True)
class Keep:
    """Selects the exemplars, by `Method.policy`. It can only be the last step of a plan."""


Step: TypeAlias = Train | Fold | Do | Keep
Plan: TypeAlias = tuple[Step, ...]


def problem_of(plan: Plan) -> str:
    """Says what is wrong with a plan; "" if nothing is."""
    names = [step.name for step in plan if isinstance(step, Train)]
    if len(set(names)) < len(names):
        return f"two trainings have one name: {', '.join(names)}"
    if any(isinstance(step, Keep) for step in plan[:-1]):
        return "exemplars are kept before the last step"
    return ""
