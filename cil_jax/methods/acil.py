"""ACIL, analytic class-incremental learning (Zhuang et al. 2022).

https://arxiv.org/abs/2205.14922. The outputs have a closed form that is the same however the
images are divided into tasks, over the features of a network that is frozen after the first task.
"""

import dataclasses

import jax

from cil_jax.learner import Learner
from cil_jax.methods.random_features import RandomFeatures
from cil_jax.regression import ridge_regression
from cil_jax.settings.declaring import POSITIVE, setting
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class ACIL(RandomFeatures):
    """W = Y^T H (H^T H + ridge I)^-1 over the images of all tasks so far.

    The paper updates the inverse recursively. Here H^T H and Y^T H are summed and the
    system is solved after each task, which gives the same W. It agrees with a float64 solution to
    about 1e-6 of the largest weight, see `cil_jax.regression`.

    Attributes:
      ridge: weight of the squared weights.
    """

    ridge: float = setting(0.1, "ridge: weight of the squared weights", bound=POSITIVE)

    def draw(self, key: Key, shape: tuple[int, int]) -> Array:
        """Draws weights uniformly in +-1/sqrt(D), PyTorch's default for a linear layer."""
        bound = shape[0] ** -0.5
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    def solved(self, learner: Learner) -> Learner:
        own = learner.own
        gram, product = own["total"]["gram"], own["classes"]["product"]
        return learner.replace(own={**own, "weights": ridge_regression(gram, product, self.ridge)})
