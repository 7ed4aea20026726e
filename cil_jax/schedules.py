"""How weights move: the learning rate of an epoch, and the update rule."""

import dataclasses

import jax
import optax

from cil_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, in the form of PyTorch's.

    Attributes:
      momentum: the fraction of the past update direction that is kept, 0..1.
      weight_decay: times the weight is added to its gradient. Kernels decay; biases and
        normalisation parameters do not.
    """

    momentum: float = 0.9
    weight_decay: float = 0.0

    def direction(self) -> optax.GradientTransformation:
        """The update before it is multiplied by minus the learning rate."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, mask=_kernels),
            optax.trace(decay=self.momentum),
        )


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
        are epochs 49 and 63.
      factor: what the rate is divided by at each step.
    """
    falls = sum(epoch >= round(step * epochs) for step in steps)
    return rate / factor**falls
