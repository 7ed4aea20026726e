"""The base class of all methods: a frozen dataclass of hyper-parameters with pure hooks.

A method is one file with a subclass. One of the package also has a line in
`cil_jax.settings.code.METHODS` and passes `tests/test_method_contract.py`. The engine compiles the
hooks; a method contains no training loop and no `jax.jit`, and reads or writes no file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import jax.numpy as jnp
from flax import struct

from cil_jax import heads
from cil_jax.classifiers import PROBABILITY, Scale
from cil_jax.learner import SPARE, Learner, Output, Weights, forward
from cil_jax.memory import Memory, Pool
from cil_jax.settings.declaring import setting
from cil_jax.typing import Array, Backbone, Key, Params

Classifier = Callable[[Learner, Array], Array]  # (learner, features [B, D]) -> scores [B, room]

# The loss, a scalar; its parts by name; and the output of the network in training.
LossResult: TypeAlias = tuple[Array, tuple[Mapping[str, Array], Output]]


class Batch(struct.PyTreeNode):
    """Normalised images float [B, H, W, C] and their labels int32 [B]."""

    images: Array
    labels: Array


@dataclasses.dataclass(frozen=True)
class Method:
    """The hooks, with defaults for everything except the loss.

    A field made by `cil_jax.settings.declaring.setting` is a hyper-parameter: it has a flag, a key
    in presets and in config.yaml, and its value is checked. `cil_jax.methods.build` fills in the
    others: the backbone, and fields that have the name of a common setting.

    Attributes:
      backbone: the Linen module that computes features.
      outputs: "growing" to open head columns when their classes arrive, "fixed" to open all of
        them in the first task. Only classes seen are predicted in either case.
      presets: recipes by name, for a method from outside the package; those of the package are
        files in `cil_jax/settings/presets/`.
      headline: the name of the classifier that counts as the method's prediction.
      parts: the names of the parts of the loss.
      keeps_all_data: whether each task also trains on all images of all earlier tasks, as an upper
        bound does. An incremental learner must not.
    """

    backbone: Backbone
    outputs: str = setting(
        "growing",
        "growing: add the outputs of new classes when their task begins; fixed: train the outputs "
        "of all classes from the first task on",
        choices=("growing", "fixed"),
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    parts: ClassVar[tuple[str, ...]] = ()
    keeps_all_data: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        """The name of the classifier that counts as the method's prediction."""
        return "linear"

    @property
    def memory_size(self) -> int | None:
        """Number of exemplars over all classes; None for a method that keeps none."""
        return None

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        """Returns the fields of this method that have no effect under the given settings.

        For example, a temperature has no effect if the loss has no distillation. Reports then leave
        the setting out.

        Args:
          config: the settings of the run, those of this method included.
        """
        del config
        return set()

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Runs before training: freezes the network as the teacher and opens head columns.

        Args:
          learner: after the previous task.
          n_new: int [], number of classes that the task brings.
          key: a random key, for the weights of the new columns.
        """
        n_old, n_seen = learner.n_seen, learner.n_seen + n_new
        column = jnp.arange(learner.task_of.shape[0])
        is_new = (column >= n_old) & (column < n_seen)
        after = learner.replace(
            teacher=learner.weights,
            n_old=n_old,
            n_seen=n_seen,
            task_of=jnp.where(is_new, learner.task, learner.task_of),
        )
        n_open = self.n_open(learner)
        params = dict(learner.weights.params)
        params["head"] = heads.grow(params["head"], n_open, self.n_open(after) - n_open, key)
        return after.replace(weights=learner.weights.replace(params=params))

    def n_open(self, learner: Learner) -> Array:
        """Returns the number of open head columns, int32 []."""
        if self.outputs == "growing":
            return learner.n_seen
        return jnp.where(learner.n_seen > 0, (learner.task_of != SPARE).sum(), 0)

    def trainable(self, learner: Learner) -> Params | None:
        """Returns factors that the updates are multiplied by; None if all weights are trained.

        The factors form a tree like params, of arrays that broadcast to them; 0 freezes a weight.
        """
        del learner

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of a batch.

        Args:
          params: what the loss is differentiated by, with the structure of learner.weights.params.
          learner: everything else, including the teacher and the class counts.
          batch: augmented images in training, plain images in evaluation.
          key: the random key of this step, for a loss that draws random numbers.
          train: whether the network runs in training mode. The teacher never does.

        Returns:
          The loss, a scalar; its parts, with the names in `parts`; and the network's output.
        """
        raise TypeError(f"{type(self).__name__} does not define loss")

    def end_task(self, learner: Learner, pool: Pool, key: Key) -> Learner:
        """Runs after training: selects exemplars, estimates importances, corrects bias, or nothing.

        Args:
          learner: after training on the task.
          pool: the images it was trained on.
          key: a random key.
        """
        del pool, key
        return learner

    # For images that stay on the host, `end_task` of a method with a memory is split in two:
    # `select` and `keep`.

    @property
    def selects_by_features(self) -> bool:
        """Whether `select` needs the features of the new images."""
        return False

    def select(
        self, learner: Learner, pool: Pool, features: Array | None, key: Key
    ) -> tuple[Memory, Array]:
        """Selects the new images to keep.

        Args:
          learner: after training on the task.
          pool: the images it was trained on; its `images` may be None.
          features: float [N, D], of the pool's new rows; None unless `selects_by_features`.
          key: a random key.

        Returns:
          The result of `cil_jax.memory.reallocate`.
        """
        raise TypeError(f"{type(self).__name__} keeps no exemplars")

    def keep(self, learner: Learner, after: Memory, new_images: Array) -> Learner:
        """Stores the images that `select` selected.

        Args:
          learner: after training on the task.
          after: the memory that `select` returned.
          new_images: uint8 [room, H, W, C], the images in the rows that `select` returned.
        """
        raise TypeError(f"{type(self).__name__} keeps no exemplars")

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns the classifiers by name; each of them is evaluated and reported."""
        return {"linear": linear}

    def scale(self, classifier: str) -> Scale:
        """Returns how the scores of a classifier are presented to users."""
        del classifier
        return PROBABILITY

    def student(self, params: Params, learner: Learner, batch: Batch, train: bool) -> Output:
        """Applies the network in training to a batch."""
        weights = Weights(params, learner.weights.batch_stats)
        return forward(self.backbone, weights, batch.images, self.n_open(learner), train=train)

    def teacher(self, learner: Learner, batch: Batch) -> Output:
        """Applies the network of the previous task to a batch, in evaluation mode."""
        return forward(self.backbone, learner.teacher, batch.images, learner.n_old)


def linear(learner: Learner, features: Array) -> Array:
    """Scores features by the logits of the head. The literature calls its argmax "CNN"."""
    return heads.logits(learner.weights.params["head"], features, learner.n_seen)


def zero_in_first_task(learner: Learner, value: Array) -> Array:
    """Returns the value, or zero in the first task, in which there is no teacher."""
    return jnp.where(learner.n_old > 0, value, 0.0)
