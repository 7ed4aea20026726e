"""The learning-rate schedule of a task, and the update rule."""

import dataclasses

import jax
import optax

from cil_jax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as PyTorch defines it.

    Attributes:
      momentum: fraction of the previous update that is kept, 0..1.
      decay: the weights that weight decay applies to. "kernels": all except biases and
        normalisation parameters; "all": every parameter, PyTorch's default.
    """

    momentum: float = 0.9
    decay: str = "kernels"

    def direction(self, weight_decay: float | Array = 0.0) -> optax.GradientTransformation:
        """Returns the update rule without the learning rate.

        Multiply its updates by minus the learning rate before you apply them.

        Args:
          weight_decay: L2 weight-decay coefficient; may be traced.
        """
        mask = _kernels if self.decay == "kernels" else None
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=mask),
            optax.trace(decay=self.momentum),
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a task is trained, and with which learning rate and weight decay.

    Attributes:
      epochs: number of passes over the pool.
      rate: learning rate of the first epoch, per update.
      drops: fractions of the epochs after which the learning rate drops.
      factor: divisor of the learning rate at each drop.
      weight_decay: L2 weight-decay coefficient.
    """

    epochs: int
    rate: float
    drops: tuple[float, ...]
    factor: float
    weight_decay: float

    def rate_at(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 0."""
        return step_rate(epoch, self.epochs, self.rate, self.drops, self.factor)


def _kernels(params: Params) -> Params:
    """Returns a tree of the same structure that is True for kernels and False otherwise."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def step_rate(
    epoch: int, n_epochs: int, rate: float, drops: tuple[float, ...], factor: float
) -> float:
    """Computes a learning rate that drops in steps.

    Args:
      epoch: the epoch within the task, from 0.
      n_epochs: number of epochs of the task.
      rate: learning rate of the first epoch, per update.
      drops: fractions of the task's epochs after which the rate drops: with 70 epochs, (0.7, 0.9)
        means epochs 49 and 63. The rate never drops before the first epoch is over.
      factor: divisor of the rate at each drop.
    """
    n_drops = sum(epoch >= max(1, round(drop * n_epochs)) for drop in drops)
    return rate / factor**n_drops
