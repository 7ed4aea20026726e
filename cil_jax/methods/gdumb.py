"""GDumb (Prabhu et al. 2020, ECCV): a greedy sampler and a dumb learner.

The memory keeps as many images of each class as of any other. At the end of each task, a new
network is trained on the memory alone, and nothing else is learned from the stream. The authors'
code is https://github.com/drimpossible/GDumb.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner, Purpose
from cil_jax.memory import Pool, Slots
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.exemplars import AT_RANDOM, ExemplarMethod, selection_setting
from cil_jax.methods.plan import Do, Keep, Plan, Train
from cil_jax.settings.declaring import PROBABILITY, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class GDumb(ExemplarMethod):
    """Cross-entropy of a new network in each task, on the images that the memory keeps.

    Images are mixed by CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899) in some batches:

        L = s * CE(z, y) + (1 - s) * CE(z, y')

    where s is the share of an image that is its own, with the label y, and y' is that of the rest.

    Attributes:
      selection: as the images are selected before the training, none that needs their features.
      cutmix: probability with which the images of a batch are mixed.
    """

    selection: str = selection_setting("balanced-reservoir", AT_RANDOM)
    cutmix: float = setting(
        0.5,
        "probability with which a batch is mixed by CutMix: a rectangle of each image is replaced "
        "by that of another image, and both labels count by their areas",
        bound=PROBABILITY,
    )

    parts: ClassVar[tuple[str, ...]] = ("classification",)

    def plan(self, is_first: bool) -> Plan:
        train = Train(rows=self.is_kept)
        return (train, Keep()) if is_first else (Do(self.begun_anew), train, Keep())

    def policy(
        self, learner: Learner, pool: Pool, features: Array | None = None, key: Key | None = None
    ) -> Slots:
        """Keeps equally many images of each class, chosen at random, unless `selection` differs.

        It takes a key of its own, which is the same throughout the task, as the images are needed
        before they are kept.
        """
        del features, key
        return super().policy(learner, pool, None, learner.task_key(Purpose.SELECT))

    def is_kept(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks the rows of the pool that the memory will have at the end of the task."""
        del key
        slots, n_rows = self.policy(learner, pool), pool.labels.shape[0]
        rows = jnp.where(slots.labels >= 0, slots.source, n_rows)
        return jnp.zeros(n_rows, bool).at[rows].set(True, mode="drop")

    def begun_anew(self, learner: Learner, key: Key) -> Learner:
        return learner.replace(weights=self.new_weights(learner, key))

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        share, others = jnp.ones(()), batch.labels
        if train and self.cutmix:
            images, share, partner = cutmix(key, batch.images, self.cutmix)
            batch, others = batch.replace(images=images), batch.labels[partner]
        output = self.student(params, learner, batch, train)
        loss = share * losses.cross_entropy(output.logits, batch.labels)
        loss += (1 - share) * losses.cross_entropy(output.logits, others)
        return loss, ({"classification": loss}, output)


def cutmix(key: Key, images: Array, probability: float) -> tuple[Array, Array, Array]:
    """Replaces a rectangle of each image by the same rectangle of another one.

    Yun et al. 2019, section 3.1, with a share that is uniform before the rectangle is cut off at
    the border. All images of the batch have the same rectangle.

    Args:
      key: a random key.
      images: float [B, H, W, C].
      probability: that anything is replaced.

    Returns:
      The images; the share of pixels that are still their own, a scalar; and the rows of the images
      that the others are from, int [B].
    """
    mixed_key, partner_key, share_key, row_key, column_key = jax.random.split(key, 5)
    n, height, width, _ = images.shape
    partner = jax.random.permutation(partner_key, n)
    side = jnp.sqrt(1.0 - jax.random.uniform(share_key))  # of the rectangle, as a share

    def is_inside(key: Key, length: int) -> Array:
        half = (side * length).astype(jnp.int32) // 2
        center, place = jax.random.randint(key, (), 0, length), jnp.arange(length)
        return (place >= center - half) & (place < center + half)

    rectangle = is_inside(row_key, height)[:, None] & is_inside(column_key, width)
    rectangle &= jax.random.uniform(mixed_key) < probability
    mixed = jnp.where(rectangle[:, :, None], images[partner], images)
    return mixed, 1.0 - rectangle.mean(), partner
