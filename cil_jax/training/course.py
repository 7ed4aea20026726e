"""The course of a run: its tasks, the plan of each, and how many epochs and updates they take."""

import dataclasses

from cil_jax.data.scenario import Scenario, Task
from cil_jax.learner import Learner
from cil_jax.methods.plan import Plan, Train
from cil_jax.schedules import Schedule
from cil_jax.settings.config import Config
from cil_jax.training.build import schedule_of
from cil_jax.training.engine import Engine


@dataclasses.dataclass(frozen=True)
class Course:
    """What a run does, known before it begins.

    Attributes:
      config: the settings.
      scenario: the tasks.
      engine: has the method and the batch size.
    """

    config: Config
    scenario: Scenario
    engine: Engine

    def task(self, index: int) -> Task:
        """Returns the training images of a task; all images so far if the method keeps all data."""
        if self.engine.method.keeps_all_data:
            return self.scenario.up_to(index)
        return self.scenario.task(index)

    def plan(self, task: int) -> Plan:
        """Returns the steps of a task."""
        return self.engine.method.plan(is_first=task == 0)

    def schedule(self, task: int, training: Train) -> Schedule:
        """Returns the schedule of a training of a task."""
        return training.schedule or schedule_of(self.config, task)

    def n_updates(self, task: int) -> int:
        """Returns the number of updates of a task; an estimate until its images are known."""
        memory_size = self.engine.method.memory_size or 0
        first = 0 if self.engine.method.keeps_all_data else task
        n_images = sum(self.scenario.n_images(t) for t in range(first, task + 1))
        n_images += memory_size if task else 0
        return self.n_epochs(task) * self.engine.n_steps(n_images)

    def n_epochs(self, task: int) -> int:
        """Returns the number of epochs of all trainings of a task."""
        return self.epochs_before(task, len(self.plan(task)))

    def epochs_before(self, task: int, at: int) -> int:
        """Returns the number of epochs of the trainings before a place in the plan of a task."""
        trainings = [step for step in self.plan(task)[:at] if isinstance(step, Train)]
        return sum(self.schedule(task, training).epochs for training in trainings)

    def epochs_done(self, learner: Learner) -> int:
        """Returns the number of epochs of the current task that are done, over all trainings."""
        task, at = int(learner.task), int(learner.place)
        is_training = isinstance(self.plan(task)[at], Train)
        return self.epochs_before(task, at) + (int(learner.epoch) if is_training else 0)
