"""What all methods with exemplars share: how many images the memory keeps, and which.

The policies are named by `--selection`. Their parts are pure functions: `cil_jax.selection` orders
the images of a class by how much they are wanted, and `cil_jax.memory` divides the slots.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.errors import UserError
from cil_jax.learner import Learner
from cil_jax.memory import Pool, Slots, class_balanced, equal_shares, reservoir
from cil_jax.methods.base import Method
from cil_jax.selection import closest, herding_of_classes, highest_entropy, uniform
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key

BY_FEATURES = ("herding", "closest", "entropy")
AT_RANDOM = ("random", "balanced-reservoir", "reservoir")
_SELECTIONS = {
    "herding": "herding (their mean stays close to the mean of the class)",
    "closest": "closest (to the mean of the class)",
    "entropy": "entropy (the highest, of the outputs after training)",
    "random": "random (equally many of each class)",
    "balanced-reservoir": "balanced-reservoir (at random, with all slots filled and classes as "
    "equal as their images allow)",
    "reservoir": "reservoir (a uniform sample of all images so far, whatever their class)",
}


def memory_setting(default: int) -> Any:
    """The setting `memory`, with the default of a method."""
    return setting(default, "total number of exemplars, over all classes", bound=NOT_NEGATIVE)


def per_class_setting(default: int) -> Any:
    """The setting `per_class`, with the default of a method."""
    return setting(
        default,
        "number of exemplars of each class, which does not fall when classes arrive; 0 to divide "
        "--memory among the classes seen",
        bound=NOT_NEGATIVE,
    )


def selection_setting(default: str, choices: tuple[str, ...] = (*BY_FEATURES, *AT_RANDOM)) -> Any:
    """The setting `selection`, with the default of a method and the policies that it can follow."""
    words = ", ".join(_SELECTIONS[name] for name in choices)
    return setting(default, f"which images are kept: {words}", choices=choices)


@dataclasses.dataclass(frozen=True)
class ExemplarMethod(Method):
    """Keeps exemplars, by the policy that `selection` names.

    Attributes:
      memory: number of exemplars over all classes.
      per_class: number of exemplars of each class; 0 to divide `memory` among the classes.
      budget_mb: how much network and exemplars may take together, in units of 2^20 bytes; None to
        give numbers of exemplars. `cil_jax.training.budget` puts `memory` in its place.
      selection: the policy, one of `BY_FEATURES` or `AT_RANDOM`.
    """

    memory: int = memory_setting(2000)
    per_class: int = per_class_setting(0)
    budget_mb: float | None = setting(
        None,
        "size of network and exemplars together after the last task, in units of 2^20 bytes: keep "
        "as many exemplars as fit, for a comparison at equal memory (default: --memory or "
        "--per-class)",
        bound=POSITIVE,
    )
    selection: str = selection_setting("herding")

    def __post_init__(self) -> None:
        """Checks that the settings fit each other.

        Raises:
          UserError: if they do not.
        """
        if self.per_class and self.selection == "reservoir":
            raise UserError(
                f"--per-class {self.per_class} does not go with --selection reservoir, which draws "
                "from all classes alike: take balanced-reservoir, or give --memory"
            )

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = {"memory"} if config.per_class else set()
        unused = {"memory", "per_class"} if config.budget_mb is not None else unused
        return super().unused_settings(config) | unused

    @property
    def memory_size(self) -> int:
        return self.per_class * self.n_classes if self.per_class else self.memory

    @property
    def selects_by_features(self) -> bool:
        return self.selection in BY_FEATURES

    def policy(self, learner: Learner, pool: Pool, features: Array | None, key: Key) -> Slots:
        """Drops exemplars of old classes and selects those of new ones.

        This is iCaRL's memory management (Rebuffi et al. 2017, Algorithms 4 and 5), unless
        `selection` is one of the reservoirs.
        """
        if self.selection == "reservoir":
            return reservoir(pool, learner.memory.n_offered, key)
        picks, n_available = self.picks(learner, pool, features, key)
        n_old, n_seen = learner.n_old, learner.n_seen
        if self.selection == "balanced-reservoir" and not self.per_class:
            return class_balanced(pool, picks, n_available, n_old, n_seen)
        return equal_shares(pool, picks, n_available, n_old, n_seen, self.per_class or None)

    def picks(
        self, learner: Learner, pool: Pool, features: Array | None, key: Key
    ) -> tuple[Array, Array]:
        """Orders the images of each new class by how much they are wanted.

        Returns:
          Pool rows int [task_room, M], and how many of them are images, int [task_room].
        """
        count = min(self.memory_size, pool.class_room)
        if features is None:
            return random_picks(learner, pool, count, key)
        rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))
        if self.selection == "herding":
            picks = herding_of_classes(features[rows], count, mask)
        elif self.selection == "closest":
            picks = jax.vmap(lambda x, valid: closest(x, count, valid))(features[rows], mask)
        else:
            logits = self.linear(learner, features)
            picks = jax.vmap(lambda x, valid: highest_entropy(x, count, valid))(logits[rows], mask)
        return jnp.take_along_axis(rows, picks, axis=1), mask.sum(axis=1)


def random_picks(learner: Learner, pool: Pool, count: int, key: Key) -> tuple[Array, Array]:
    """Orders the images of each new class at random.

    Args:
      learner, pool, key: see `Method.policy`.
      count: number of images of each class, at most `pool.class_room`.

    Returns:
      Pool rows int [task_room, count], and how many of a class are images, int [task_room].
    """
    rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))

    def pick(class_key: Key, class_mask: Array) -> Array:
        return uniform(class_key, pool.class_room, count, class_mask)

    picks = jax.vmap(pick)(jax.random.split(key, pool.task_room), mask)
    return jnp.take_along_axis(rows, picks, axis=1), mask.sum(axis=1)
