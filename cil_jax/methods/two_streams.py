"""What methods with two streams share: new images in batches, and exemplars drawn beside each.

A plan does so by `Train(rows=new_rows, beside=...)`. The exemplars follow the new images in the
batch.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cil_jax.learner import Learner
from cil_jax.memory import Pool
from cil_jax.methods.base import Batch, LossResult, Method
from cil_jax.methods.exemplars import ExemplarMethod, memory_setting, selection_setting
from cil_jax.methods.plan import Keep, Plan, Train
from cil_jax.network import Output
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class ReservoirReplay(ExemplarMethod):
    """Keeps a uniform sample of all images, and draws exemplars at random beside each batch.

    Attributes:
      batch_size: images per update, a common setting; a draw of exemplars is as large.
    """

    memory: int = memory_setting(500)
    selection: str = selection_setting("reservoir")
    batch_size: int = dataclasses.field(default=1, kw_only=True)

    @property
    def n_draws(self) -> int:
        """Number of draws of exemplars beside each batch."""
        return 1

    def plan(self, is_first: bool) -> Plan:
        if is_first or not self.n_draws:
            return (Train(rows=new_rows), Keep())
        beside = self.n_draws * self.batch_size
        return (Train(loss=self.loss_with_exemplars, rows=new_rows, beside=beside), Keep())

    def loss_with_exemplars(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of new images and of the exemplars that follow them in the batch.

        By default, it is `loss` of all of them. See there for the arguments.
        """
        return self.loss(params, learner, batch, key, train)

    def by_draw(
        self, params: Params, learner: Learner, batch: Batch, train: bool
    ) -> tuple[list[Batch], list[Output], Output]:
        """Applies the network to the new images and to each draw of exemplars by itself.

        So each part is normalised by its own statistics.

        Returns:
          The parts of the batch, the new images first; their outputs; and the output of all.
        """
        n_images = batch.labels.shape[0]
        n_new = n_images - self.n_draws * self.batch_size
        bounds = [0, *range(n_new, n_images + 1, self.batch_size)]
        return student_of_parts(self, params, learner, batch, bounds, train)


def new_rows(learner: Learner, pool: Pool, key: Key) -> Array:
    """Marks the new images of the pool, bool [R]."""
    del learner, key
    return jnp.arange(pool.labels.shape[0]) < pool.n_new_rows


def student_of_parts(
    method: Method,
    params: Params,
    learner: Learner,
    batch: Batch,
    bounds: Sequence[int],
    train: bool,
) -> tuple[list[Batch], list[Output], Output]:
    """Applies the network in training to consecutive parts of a batch, one after another.

    Args:
      method, params, learner, batch, train: see `Method.student`.
      bounds: part i has the images bounds[i] .. bounds[i + 1] - 1.

    Returns:
      The parts; their outputs, without batch statistics; and the output of the whole batch, with
      the batch statistics after the last part.
    """
    parts, outputs = [], []
    for start, stop in itertools.pairwise(bounds):
        part = jax.tree.map(lambda x, rows=slice(start, stop): x[rows], batch)
        output = method.student(params, learner, part, train)
        weights = learner.weights.replace(batch_stats=output.batch_stats)
        learner = learner.replace(weights=weights)
        outputs.append(output.replace(batch_stats={}))
        parts.append(part)
    whole = jax.tree.map(lambda *x: jnp.concatenate(x), *outputs)
    return parts, outputs, whole.replace(batch_stats=learner.weights.batch_stats)
