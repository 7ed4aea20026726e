"""How weights move: the learning rate of an epoch, and the update rule."""

import dataclasses

import jax
import optax

from cil_jax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, in the form of PyTorch's.

    Attributes:
      momentum: the fraction of the past update direction that is kept, 0..1.
      decay: which weights decay. "kernels": biases and normalisation parameters do not; "all": they
        do, as where PyTorch's optimizer is given all parameters.
    """

    momentum: float = 0.9
    decay: str = "kernels"

    def direction(self, weight_decay: float | Array = 0.0) -> optax.GradientTransformation:
        """The update before it is multiplied by minus the learning rate.

        Args:
          weight_decay: times a weight is added to its gradient; may be traced.
        """
        mask = _kernels if self.decay == "kernels" else None
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=mask),
            optax.trace(decay=self.momentum),
        )


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How long a task is trained, and how fast.

    Attributes:
      epochs: passes over the pool.
      rate: learning rate of the first epoch.
      steps: fractions of the epochs after which the rate falls.
      factor: what it is divided by at each fall.
      weight_decay: times a weight is added to its gradient.
    """

    epochs: int
    rate: float
    steps: tuple[float, ...]
    factor: float
    weight_decay: float

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, from 0."""
        return step_rate(epoch, self.epochs, self.rate, self.steps, self.factor)


def _kernels(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def step_rate(
    epoch: int, epochs: int, rate: float, steps: tuple[float, ...], factor: float
) -> float:
    """A learning rate that falls in steps.

    Args:
      epoch: from 0, within the task.
      epochs: of the task.
      rate: of the first epoch, per update.
      steps: fractions of the task's epochs after which the rate falls: (0.7, 0.9) of 70 epochs
        are epochs 49 and 63. It never falls before the first epoch is over.
      factor: what the rate is divided by at each step.
    """
    falls = sum(epoch >= max(1, round(step * epochs)) for step in steps)
    return rate / factor**falls
