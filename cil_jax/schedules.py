"""The learning-rate schedule of a task, and the update rule."""

import dataclasses
import math

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
      shape: "steps" for these drops; "cosine" or "restarts", which ignore them: see `cosine_rate`
        and `restarting_rate`.
    """

    epochs: int
    rate: float
    drops: tuple[float, ...]
    factor: float
    weight_decay: float
    shape: str = "steps"

    def rate_at(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 0."""
        if self.shape == "cosine":
            return cosine_rate(epoch, self.epochs, self.rate)
        if self.shape == "restarts":
            return restarting_rate(epoch, self.rate)
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


def cosine_rate(epoch: int, n_epochs: int, rate: float, floor: float = 0.0) -> float:
    """Computes a learning rate that falls from `rate` to `floor` along half a cosine.

    Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, eq. 5, once an epoch. `floor`
    would be the rate of epoch `n_epochs`, the first one after the task.
    """
    return floor + (rate - floor) * (1.0 + math.cos(math.pi * epoch / n_epochs)) / 2.0


def restarting_rate(epoch: int, rate: float) -> float:
    """Computes a learning rate that falls along half a cosine again and again.

    The first epoch is at a tenth of the rate. From then on there are periods of 1, 2, 4, 8, ...
    epochs, and in each the rate falls from `rate` to a hundredth of it (Loshchilov and Hutter 2017,
    with the settings of GDumb). The last epoch of a period is one before a power of two.
    """
    if epoch == 0:
        return rate / 10.0
    period = 1 << (epoch.bit_length() - 1)
    return cosine_rate(epoch - period, period, rate, floor=rate / 100.0)
