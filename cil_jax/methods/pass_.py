"""PASS, prototype augmentation and self-supervision (Zhu et al., CVPR 2021).

An old class is remembered by the mean of its features. Points around it, drawn at random, stand for
the images of the class; the features are kept near the old ones, and trained to tell apart images
turned by 0, 90, 180 and 270 degrees, which makes them of use to later classes.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.errors import UserError
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.plan import Do, Plan, Train
from cil_jax.methods.prototypes import Prototypes
from cil_jax.network import Weights
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, ImageShape, Key, Params

TURNED = heads.Linear()  # the outputs for images that are turned


@dataclasses.dataclass(frozen=True)
class PASS(Prototypes):
    """Classifies images in four rotations, distils features, and classifies drawn prototypes.

        L = CE(z / t, y) + feature_weight * |F - old F| + prototype_weight * CE(z~ / t, y~)

    y is one of 4 C labels: the class and the rotation of an image. |F - old F| is the norm of the
    differences of the whole batch. z~ are the outputs for m_o + r e, where o is an old class drawn
    at random, m_o its mean and e normal noise; y~ is o without a rotation. r^2 is the mean variance
    of a feature within a class of the first task.

    The outputs of turned images are parameters of their own, "turned": heads for 90, 180 and 270
    degrees. Answers are given by the outputs of the class without a rotation.

    Attributes:
      feature_weight, prototype_weight: weights of the second and the third term.
      temperature: t, of the softmaxes in training.
      batch_size: number of prototypes drawn for each batch, a common setting.
    """

    feature_weight: float = setting(
        10.0, "weight of the distance to the old features", bound=NOT_NEGATIVE
    )
    prototype_weight: float = setting(
        10.0, "weight of the cross-entropy of drawn prototypes", bound=NOT_NEGATIVE
    )
    temperature: float = setting(0.1, "divisor of the logits in training", bound=POSITIVE)
    batch_size: int = dataclasses.field(default=1, kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("classification", "features", "prototypes")

    def initial_weights(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        if image_shape[0] != image_shape[1]:
            raise UserError("PASS turns images by 90 degrees: it needs square ones")
        weights = super().initial_weights(image_shape, n_classes, key)
        head = TURNED.create(weights.params["head"]["kernel"].shape[0], n_classes)
        turned = jax.tree.map(lambda x: jnp.stack([x] * 3), head)
        return weights.replace(params={**weights.params, "turned": turned})

    def own(self, learner: Learner) -> Params:
        return {**super().own(learner), "radius": jnp.zeros(())}

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Opens the outputs of the new classes, for images as they are and for turned ones."""
        keys = jax.random.split(key, 4)
        after = super().begin_task(learner, n_new, keys[0])
        n_open = self.n_open(learner)
        n_added = self.n_open(after) - n_open
        params = after.weights.params
        turned = jax.vmap(TURNED.grow, in_axes=(0, None, None, 0))(
            params["turned"], n_open, n_added, keys[1:]
        )
        weights = after.weights.replace(params={**params, "turned": turned})
        return after.replace(weights=weights)

    def plan(self, is_first: bool) -> Plan:
        steps = (Train(), self.describe)
        return (*steps, Do(self.with_radius)) if is_first else steps

    def with_radius(self, learner: Learner, key: Key) -> Learner:
        """Takes the mean variance of a feature within the classes of the first task."""
        del key
        is_seen = jnp.arange(len(learner.means)) < learner.n_seen
        radius = jnp.sqrt(learner.own["variances"].mean(where=is_seen))
        return learner.replace(own={**learner.own, "radius": radius})

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        images = jnp.concatenate([jnp.rot90(batch.images, k, axes=(1, 2)) for k in range(4)])
        four = batch.replace(images=images)
        output, old = self.student(params, learner, four, train), self.teacher(learner, four)
        room, n = len(learner.means), len(batch.labels)
        labels = jnp.concatenate([batch.labels + k * room for k in range(4)])
        classification = self.scaled(params, learner, output.features, labels)

        squares = ((output.features - old.features) ** 2).sum()
        distance = jnp.sqrt(squares + 1e-12)  # the root has no gradient at zero
        prototypes, classes = around(
            learner.own["means"], learner.own["radius"], learner.n_old, self.batch_size, key
        )
        of_prototypes = self.scaled(params, learner, prototypes, classes)
        parts = {
            "classification": classification,
            "features": zero_in_first_task(learner, distance),
            "prototypes": zero_in_first_task(learner, of_prototypes),
        }
        loss = classification + self.feature_weight * parts["features"]
        loss += self.prototype_weight * parts["prototypes"]
        return loss, (parts, output.replace(logits=output.logits[:n]))

    def linear(self, learner: Learner, features: Array) -> Array:
        logits = super().linear(learner, features) / self.temperature
        return heads.restrict(logits, 0, learner.n_seen)

    def scaled(self, params: Params, learner: Learner, features: Array, labels: Array) -> Array:
        """Computes the cross-entropy of features [B, D] over classes and rotations.

        Args:
          params, learner: as in `loss`.
          features: of images, or drawn.
          labels: int [B], the class plus the room for classes times the rotation, 0 to 3.
        """
        n_open = self.n_open(learner)
        upright = self.network.head.logits(params["head"], features, n_open)
        turned = jax.vmap(TURNED.logits, in_axes=(0, None, None))(
            params["turned"], features, n_open
        )
        logits = jnp.concatenate([upright, *turned], axis=1)
        return losses.cross_entropy(logits / self.temperature, labels)


def around(means: Array, radius: Array, n_old: Array, n: int, key: Key) -> tuple[Array, Array]:
    """Draws points around the means of old classes.

    Args:
      means: float [room, D], of the classes.
      radius: standard deviation of each feature.
      n_old: number of old classes; if there is none, the points are of class 0.
      n: number of points.
      key: a random key.

    Returns:
      The points, float [n, D]; and the class of each, int [n].
    """
    of_key, noise_key = jax.random.split(key)
    classes = jax.random.randint(of_key, (n,), 0, jnp.maximum(n_old, 1))
    noise = jax.random.normal(noise_key, (n, means.shape[1]))
    return means[classes] + radius * noise, classes
