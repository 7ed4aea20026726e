"""PODNet, pooled outputs distillation (Douillard et al. 2020, https://arxiv.org/abs/2004.13513).

A network that is to learn in many small steps must not drift: its feature maps, pooled along each
spatial axis, stay close to those of the old network. Each class has several weight vectors
(proxies), so that its images may form several clusters. The authors' code is
https://github.com/arthurdouillard/incremental_learning.pytorch.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.cosine import CosineRehearsal
from cil_jax.methods.plan import Fold
from cil_jax.network import Output
from cil_jax.schedules import Schedule
from cil_jax.selection import unit
from cil_jax.settings.declaring import COUNT, NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class PODNet(CosineRehearsal):
    """NCA loss of a cosine head with proxies, and two distillations of pooled outputs.

        L = NCA + sqrt(C / C_new) * (a * POD_flat + b * POD_spatial)

    with C classes seen, and NCA the mean of max(0, -log(exp(z_y - margin) / sum of exp(z_c) over
    all c except y)). POD_flat is the cosine distance of the features; POD_spatial the mean of
    `pooled_distance` over the stages of the network, before their last ReLU. It needs `last_relu`
    to be false.

    Attributes:
      proxies: number of weight vectors per class.
      margin: of the NCA loss, between cosines; the learned scale multiplies it.
      flat_weight, spatial_weight: a and b.
      clustering_passes: passes of k-means over the images of new classes, whose centers are the
        proxies that a later task starts with.
      finetune_rate: learning rate of the head's training on balanced images.
      weight_decay: a common setting, which also holds for that training.
    """

    proxies: int = setting(10, "weight vectors per class", bound=COUNT)
    margin: float = setting(0.6, "margin of the NCA loss, in cosines", bound=NOT_NEGATIVE)
    flat_weight: float = setting(
        1.0,
        "weight of the distillation of features, which is multiplied by sqrt(seen / new classes)",
        bound=NOT_NEGATIVE,
    )
    spatial_weight: float = setting(
        3.0,
        "weight of the distillation of pooled maps, which is multiplied by the same",
        bound=NOT_NEGATIVE,
    )
    clustering_passes: int = setting(
        5, "passes of k-means that find the first proxies of new classes", bound=COUNT
    )
    finetune_epochs: int = setting(
        20,
        "epochs of training the output layer on equally many images of each class, after a task",
        bound=NOT_NEGATIVE,
    )
    finetune_rate: float = setting(0.05, "learning rate of this training", bound=POSITIVE)
    weight_decay: float = dataclasses.field(default=0.0, kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("classification", "flat", "spatial")

    @property
    def head(self) -> heads.Cosine:
        return heads.Cosine(self.proxies)

    @property
    def finetune_schedule(self) -> Schedule:
        return Schedule(self.finetune_epochs, self.finetune_rate, (), 1.0, self.weight_decay)

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train, maps=True)
        old = self.teacher(learner, batch, maps=True)
        # Without gradient: a lower, even a negative scale would lower the loss by the margin alone.
        margin = self.margin * jax.lax.stop_gradient(params["head"]["scale"])
        flat = losses.cosine_distance(output.features, old.features)
        parts = {
            "classification": losses.nca(output.logits, batch.labels, margin),
            "flat": zero_in_first_task(learner, flat),
            "spatial": zero_in_first_task(learner, pod_spatial(output, old)),
        }
        factor = jnp.sqrt(learner.n_seen / (learner.n_seen - learner.n_old))
        pod = self.flat_weight * parts["flat"] + self.spatial_weight * parts["spatial"]
        return parts["classification"] + factor * pod, (parts, output)

    # Imprinting: k-means of the features of each new class, one pass after another.

    def imprinting(self) -> tuple[Fold, ...]:
        first = Fold(self.no_cluster_sums, self.with_any_clusters, self.with_centers)
        later = Fold(self.no_cluster_sums, self.with_nearest_clusters, self.with_centers)
        return (first, *[later] * (self.clustering_passes - 1))

    def no_cluster_sums(self, learner: Learner) -> Array:
        room, n_features = learner.means.shape
        return jnp.zeros((self.proxies, n_features, room))

    def with_any_clusters(self, learner: Learner, sums: Array, batch: Batch) -> Array:
        """Adds a batch, whose images go to the clusters in turn, before there are centers."""
        cluster = jnp.arange(len(batch.labels)) % self.proxies
        return with_clusters(sums, self._unit_features(learner, batch), cluster, batch.labels)

    def with_nearest_clusters(self, learner: Learner, sums: Array, batch: Batch) -> Array:
        """Adds a batch, whose images go to the cluster of their class with the nearest center."""
        features = self._unit_features(learner, batch)
        kernel = learner.weights.params["head"]["kernel"]
        centers = unit(kernel.transpose(2, 0, 1))[batch.labels.clip(min=0)]
        cluster = jnp.einsum("bd,bpd->bp", features, centers).argmax(axis=1)
        return with_clusters(sums, features, cluster, batch.labels)

    def with_centers(self, learner: Learner, sums: Array, key: Key) -> Learner:
        """Points proxies to the centers of their clusters; those of empty ones stay."""
        del key
        is_empty = jnp.all(sums == 0.0, axis=1, keepdims=True)
        kernel = learner.weights.params["head"]["kernel"]
        return self.pointing_to(learner, jnp.where(is_empty, kernel, sums))

    def _unit_features(self, learner: Learner, batch: Batch) -> Array:
        return unit(self.network(learner.weights, batch.images, learner.n_old).features)


def with_clusters(sums: Array, features: Array, cluster: Array, labels: Array) -> Array:
    """Adds features [B, D] to the sums [clusters, D, classes] of their cluster and class.

    Rows with a negative label do not count.
    """
    n_clusters, _, n_classes = sums.shape
    is_cluster, is_class = jax.nn.one_hot(cluster, n_clusters), jax.nn.one_hot(labels, n_classes)
    return sums + jnp.einsum("bp,bd,bc->pdc", is_cluster, features, is_class)


def pod_spatial(output: Output, old: Output) -> Array:
    """Averages `losses.pooled_distance` over the maps that the backbone records.

    It takes the maps before ReLU where there are any, else all of them.
    """
    names = [name for name in output.maps if name.endswith("_before_relu")] or list(output.maps)
    distances = [losses.pooled_distance(output.maps[name], old.maps[name]) for name in names]
    return jnp.stack(distances).mean()
