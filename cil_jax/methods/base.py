"""The base class of all methods: a frozen dataclass of hyper-parameters with pure hooks.

A method is one file with a subclass. One of the package also has a line in
`cil_jax.settings.code.METHODS` and passes `tests/test_method_contract.py`. The engine compiles the
hooks; a method contains no training loop and no `jax.jit`, and reads or writes no file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct

from cil_jax.classifiers import PROBABILITY, Scale
from cil_jax.errors import UserError
from cil_jax.learner import SPARE, Learner
from cil_jax.memory import Pool, Slots
from cil_jax.methods.plan import Keep, Plan, Train
from cil_jax.network import Network, Output, Weights
from cil_jax.settings.declaring import setting
from cil_jax.typing import Array, Backbone, ImageShape, Key, Params

Classifier = Callable[[Learner, Array], Array]  # (learner, features [B, D]) -> scores [B, room]

# The loss, a scalar; its parts by name; and the output of the network in training.
LossResult: TypeAlias = tuple[Array, tuple[Mapping[str, Array], Output]]


class Batch(struct.PyTreeNode):
    """Images that a loss is computed of.

    Attributes:
      images: float [B, H, W, C], normalised.
      labels: int32 [B].
      extras: what `Method.extras` has stored with the exemplars among them; arrays [B, ...],
        undefined for new images.
      from_memory: bool [B], which of them are exemplars.
    """

    images: Array
    labels: Array
    extras: Params
    from_memory: Array


@dataclasses.dataclass(frozen=True)
class Method:
    """The hooks, with defaults for everything except the loss.

    A field made by `cil_jax.settings.declaring.setting` is a hyper-parameter: it has a flag, a key
    in presets and in config.yaml, and its value is checked. `cil_jax.methods.build` fills in the
    others: the backbone, and fields that have the name of a common setting.

    Attributes:
      backbone: the Linen module that computes features.
      n_classes, n_tasks: number of classes and of tasks that there is room for.
      task_room: the largest number of classes in a task.
      outputs: "growing" to open head columns when their classes arrive, "fixed" to open all of
        them in the first task. Only classes seen are predicted in either case.
      presets: recipes by name, for a method from outside the package; those of the package are
        files in `cil_jax/settings/presets/`.
      headline: the name of the classifier that counts as the method's prediction.
      parts: the names of the parts of the loss.
      keeps_all_data: whether each task also trains on all images of all earlier tasks, as an upper
        bound does. An incremental learner must not.
      takes_old_classes: whether the new images of a task may be of old classes, too.
    """

    backbone: Backbone
    n_classes: int = dataclasses.field(default=1, kw_only=True)
    n_tasks: int = dataclasses.field(default=1, kw_only=True)
    task_room: int = dataclasses.field(default=1, kw_only=True)
    outputs: str = setting(
        "growing",
        "growing: add the outputs of new classes when their task begins; fixed: train the outputs "
        "of all classes from the first task on",
        choices=("growing", "fixed"),
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    parts: ClassVar[tuple[str, ...]] = ()
    keeps_all_data: ClassVar[bool] = False
    takes_old_classes: ClassVar[bool] = True

    # What the learner consists of.

    @property
    def network(self) -> Network:
        """The backbone and the head; a method may choose another head, or several backbones."""
        return Network(self.backbone)

    @property
    def memory_size(self) -> int | None:
        """Number of exemplars over all classes; None for a method that keeps none."""
        return None

    def initial_weights(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        """Initialises the weights, with room for n_classes; a method may add parameters."""
        return self.network.create(image_shape, n_classes, key)

    def own(self, learner: Learner) -> Params:
        """Returns the arrays that the method itself keeps, as they are before the first task.

        Their shapes must not change later. `Learner.own` holds them; hooks that return a learner
        may replace it, and `Learner.teacher_own` is what it was at the end of the previous task.

        Args:
          learner: a new learner whose `own` is empty.
        """
        del learner
        return {}

    def extras(self, learner: Learner, output: Output) -> Params:
        """Returns what is stored with an exemplar when it is selected, by name.

        Args:
          learner: after training on the task.
          output: the network's output in evaluation mode for images [B] without augmentation.

        Returns:
          Arrays [B, ...].
        """
        del learner, output
        return {}

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

    # What happens in a task.

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Runs before the plan: freezes the network as the teacher and opens head columns.

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
            teacher_own=learner.own,
            n_old=n_old,
            n_seen=n_seen,
            task_of=jnp.where(is_new, learner.task, learner.task_of),
        )
        n_open = self.n_open(learner)
        params = dict(learner.weights.params)
        n_added = self.n_open(after) - n_open
        params["head"] = self.network.head.grow(params["head"], n_open, n_added, key)
        return after.replace(weights=learner.weights.replace(params=params))

    def plan(self, is_first: bool) -> Plan:
        """Returns the steps of a task: by default, train and, with a memory, keep exemplars.

        Args:
          is_first: whether it is the first task, in which there are no old classes.
        """
        del is_first
        return (Train(), Keep()) if self.memory_size is not None else (Train(),)

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

    def trainable(self, learner: Learner) -> Params | None:
        """Returns factors that the updates are multiplied by; None if all weights are trained.

        The factors form a tree like params, of arrays or numbers that broadcast to them; 0 freezes
        a weight. Of weights whose factor is the number 0.0, no gradient is computed at all.
        """
        del learner

    def updated(self, before: Learner, learner: Learner, grads: Params) -> Learner:
        """Runs after each update, for what it must leave in the weights or in `own`.

        Args:
          before: the learner before the update.
          learner: the learner after it; its `weights` and `own` may be replaced.
          grads: the gradient of the loss.
        """
        del before, grads
        return learner

    # Exemplars.

    @property
    def selects_by_features(self) -> bool:
        """Whether `policy` needs the features of the new images."""
        return False

    def policy(self, learner: Learner, pool: Pool, features: Array | None, key: Key) -> Slots:
        """Decides which images the memory keeps; see the policies in `cil_jax.memory`.

        Args:
          learner: after training on the task.
          pool: the images of the task and the exemplars; its `images` may be None.
          features: float [N, D], of the pool's new rows; None unless `selects_by_features`.
          key: a random key.
        """
        raise TypeError(f"{type(self).__name__} keeps no exemplars")

    def kept(self, learner: Learner) -> Learner:
        """Runs after the memory has got its new exemplars; for class means, for example."""
        return learner

    # Predictions.

    @property
    def headline(self) -> str:
        """The name of the classifier that counts as the method's prediction."""
        return "linear"

    @property
    def classifier_in_training(self) -> str:
        """The name of the classifier whose accuracy is reported after each epoch."""
        return "linear" if "linear" in self.classifiers() else self.headline

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns the classifiers by name; each of them is evaluated and reported."""
        return {"linear": self.linear}

    def scale(self, classifier: str) -> Scale:
        """Returns how the scores of a classifier are presented to users."""
        del classifier
        return PROBABILITY

    # Forgetting on request.

    def forgotten(self, learner: Learner, label: int, features: Array | None) -> Learner:
        """Takes a class out of `own`, as if it had never been learned; later classes move down.

        It is called outside compiled programs.

        Args:
          learner: between two tasks.
          label: the class.
          features: float [N, D], of all images that the class was learned from, or None.

        Raises:
          UserError: if the class can't be forgotten exactly; says why in one line.
        """
        raise UserError(
            f"{type(self).__name__} trains on the images of every class, so it can't forget one"
        )

    # For use in hooks.

    def n_open(self, learner: Learner) -> Array:
        """Returns the number of open head columns, int32 []."""
        if self.outputs == "growing":
            return learner.n_seen
        return jnp.where(learner.n_seen > 0, (learner.task_of != SPARE).sum(), 0)

    def new_weights(self, learner: Learner, key: Key) -> Weights:
        """Initialises the weights again, with as many open columns as the learner has."""
        backbone_key, head_key = jax.random.split(key)
        room = learner.means.shape[0]
        weights = self.initial_weights(learner.image_shape, room, backbone_key)
        head = self.network.head.grow(weights.params["head"], 0, self.n_open(learner), head_key)
        return weights.replace(params={**weights.params, "head": head})

    def student(
        self, params: Params, learner: Learner, batch: Batch, train: bool, maps: bool = False
    ) -> Output:
        """Applies the network in training to a batch; see `Network`."""
        weights = learner.weights.replace(params=params)
        return self.network(weights, batch.images, self.n_open(learner), train=train, maps=maps)

    def teacher(self, learner: Learner, batch: Batch, maps: bool = False) -> Output:
        """Applies the network of the previous task to a batch, in evaluation mode."""
        output = self.network(learner.teacher, batch.images, learner.n_old, maps=maps)
        return jax.lax.stop_gradient(output)

    def linear(self, learner: Learner, features: Array) -> Array:
        """Scores features by the logits of the head. The literature calls its argmax "CNN"."""
        return self.network.head.logits(learner.weights.params["head"], features, learner.n_seen)


def with_head(learner: Learner, head: Params) -> Learner:
    """Returns the learner with another head."""
    params = {**learner.weights.params, "head": head}
    return learner.replace(weights=learner.weights.replace(params=params))


def head_alone(learner: Learner) -> Params:
    """Returns the factors of a training of the head alone, for a `Train` step."""
    params = learner.weights.params
    return {**all_factors(params, 0.0), "head": all_factors(params["head"], 1.0)}


def all_factors(params: Params, value: float | Array) -> Params:
    """Returns the same factor for all weights, for `Method.trainable`."""
    return jax.tree.map(lambda _: value, params)


def zero_in_first_task(learner: Learner, value: Array) -> Array:
    """Returns the value, or zero in the first task, in which there is no teacher."""
    return jnp.where(learner.n_old > 0, value, 0.0)
