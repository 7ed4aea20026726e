"""Makes a learner forget a class exactly: what is left is as if it had never learned it."""

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.learner import SPARE, Learner
from cil_jax.training.engine import Engine
from cil_jax.typing import Array


def forgotten(
    engine: Engine, learner: Learner, label: int, images: np.ndarray | None = None
) -> Learner:
    """Returns a learner without a class; later classes move one place down.

    Args:
      engine: the compiled programs.
      learner: between two tasks.
      label: the class.
      images: uint8 [N, H, W, C], all images that the class was learned from; only methods that sum
        over the images of all classes need them.

    Raises:
      UserError: if the method can't forget this class, or needs its images.
    """
    features = None if images is None else engine.embed(learner, images, mirrored=False)
    learner = engine.method.forgotten(learner, label, features)

    def drop(array: Array, axis: int, last: int = 0) -> Array:
        moved = jnp.delete(array, label, axis)
        widths = [(0, int(i == axis % array.ndim)) for i in range(array.ndim)]
        return jnp.pad(moved, widths, constant_values=last)

    params = dict(learner.weights.params)
    params["head"] = jax.tree.map(lambda x: drop(x, -1) if x.ndim else x, params["head"])
    weights = learner.weights.replace(params=params)
    return learner.replace(
        weights=weights,
        # What they were before the newest task would still tell of the class.
        teacher=weights,
        teacher_own=learner.own,
        momentum=engine.optimizer.direction().init(params),
        means=drop(learner.means, 0),
        task_of=drop(learner.task_of, 0, SPARE),
        n_old=learner.n_old - (label < learner.n_old),
        n_seen=learner.n_seen - 1,
    )
