"""The compiled programs of a run.

Each method of Engine is one program. Nothing that changes within a run is static, so each is
compiled once, whatever the number of tasks. Two engines with equal settings share their programs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import export, lax

from cil_jax import memory as memory_lib
from cil_jax.classifiers import Counts, class_sums, nearest_class_mean
from cil_jax.data.augment import Augmentation
from cil_jax.devices import shared_out, spread, whole
from cil_jax.learner import Learner, Normalizer, Purpose, Weights, create, embed, forward, views
from cil_jax.memory import Chunk, Memory, Pool
from cil_jax.methods.base import Batch, Method
from cil_jax.programs import LESS_EFFORT, FastProgram, Program
from cil_jax.schedules import SGD
from cil_jax.typing import Array, Key

Sums = dict[str, Array]


class Updates(NamedTuple):
    """Updates that a run asks for: the arguments of `Engine.train`."""

    learner: Learner
    pool: Pool | Chunk
    sums: Sums
    rate: Array
    weight_decay: Array
    stop: Array


@dataclasses.dataclass(frozen=True)
class Engine:
    """A method, how its weights move, and how its images are drawn.

    Attributes:
      method: the hooks.
      optimizer: the update rule.
      augmentation: of training images.
      batch_size: images an update.
      eval_batch_size: images at once in evaluation.
      fast: whether training may use convolutions that the compilation cache cannot keep; see
        `cil_jax.programs`.
    """

    method: Method
    optimizer: SGD
    augmentation: Augmentation
    batch_size: int
    eval_batch_size: int = 500
    fast: bool = False

    @partial(Program, static_argnames=("image_shape", "n_classes"), options=LESS_EFFORT)
    def create(
        self,
        image_shape: tuple[int, int, int],
        n_classes: int,
        normalizer: Normalizer,
        init_key: Key,
        data_key: Key,
    ) -> Learner:
        """A learner that knows nothing yet."""
        return self._created(image_shape, n_classes, normalizer, init_key, data_key)

    def blank(
        self, image_shape: tuple[int, int, int], n_classes: int, normalizer: Normalizer
    ) -> Learner:
        """The shapes and types of the learner that `create` makes; no memory is taken for it."""
        key = jax.random.key(0)

        def created(normalizer):
            return self._created(image_shape, n_classes, normalizer, key, key)

        return jax.eval_shape(created, normalizer)

    def _created(self, image_shape, n_classes, normalizer, init_key, data_key) -> Learner:
        return create(
            self.method.backbone,
            image_shape=image_shape,
            n_classes=n_classes,
            memory_size=self.method.memory_size or 0,
            normalizer=normalizer,
            optimizer=self.optimizer.direction(),
            init_key=init_key,
            data_key=data_key,
        )

    @Program
    def begin_task(self, learner: Learner, n_new: Array) -> Learner:
        """Opens the task's columns, freezes the teacher, forgets the momentum."""
        learner = self.method.begin_task(learner, n_new, learner.key(Purpose.HEAD))
        fresh = self.optimizer.direction().init(learner.weights.params)
        return learner.replace(momentum=fresh)

    @partial(Program, static_argnames=("task_room", "class_room"))
    def pool(
        self,
        learner: Learner,
        images: Array | None,
        labels: Array,
        task_room: int,
        class_room: int,
    ) -> Pool:
        """The task's new images, padded to a common number with label -1, and the memory's.

        Without images where these stay on the host; see `cil_jax.stream`.
        """
        return memory_lib.join(images, labels, learner.memory, task_room, class_room)

    def steps(self, n_images: int) -> int:
        """Updates an epoch: a rest smaller than a batch is left out."""
        return max(1, n_images // self.batch_size)

    def no_sums(self) -> Sums:
        """Running sums before an epoch's first step."""
        names = ("steps", "loss", "n_new", "n_new_right", "largest_gradient", *self.method.parts)
        return {name: jnp.zeros(()) for name in names}

    @FastProgram
    def train(
        self,
        learner: Learner,
        pool: Pool | Chunk,
        sums: Sums,
        rate: Array,
        weight_decay: Array,
        stop: Array,
    ) -> tuple[Learner, Sums]:
        """Updates learner.step .. stop - 1 of an epoch.

        However an epoch is cut into calls, the result is the same: every update is addressed by
        its task, epoch and step.

        Args:
          learner: its epoch and step say where in the task it is.
          pool: what it learns from, or the batches of these steps.
          sums: from the same epoch's earlier steps, or `no_sums()`.
          rate: the learning rate, float32 [].
          weight_decay: times a weight is added to its gradient, float32 [].
          stop: the step before which to stop.

        Returns:
          The learner after the last step, and the sums over all steps of the epoch so far: loss and
          its parts, images of new classes and how many of them the head got right; and `steps`, how
          many there were before the loss was not finite. If it ceased to be, all that comes after
          means nothing, and `largest_gradient` is that step's largest |entry|; it is 0 otherwise.
        """
        update, carry = self._updates(learner, pool, sums, rate, weight_decay)
        return _trained(learner, stop, lax.fori_loop(learner.step, stop, update, carry))

    @FastProgram
    def train_together(
        self, members: tuple[Updates, ...], n: Array
    ) -> tuple[tuple[Learner, Sums], ...]:
        """The next n updates of each of several members, as `train` makes them one by one.

        Each device of a mesh trains a share of the members, where these can be divided; else all
        devices train all members, with a share of each batch. The members of a device are written
        out one by one in the body of one loop: under `jax.vmap` their convolutions become grouped
        ones, which take the CPU several times as long (BENCHMARKS.md).

        Args:
          members: what each asks for; their `stop` is not looked at.
          n: int [].
        """

        def train(members, n):
            each = [self._updates(*member[:-1]) for member in members]

            def update(i, carries):
                return tuple(
                    update(member.learner.step + i, carry)
                    for member, (update, _), carry in zip(members, each, carries, strict=True)
                )

            carries = lax.fori_loop(0, n, update, tuple(carry for _, carry in each))
            return tuple(
                _trained(member.learner, member.learner.step + n, carry)
                for member, carry in zip(members, carries, strict=True)
            )

        return shared_out(train, members, n)

    def _updates(
        self, learner: Learner, pool: Pool | Chunk, sums: Sums, rate: Array, weight_decay: Array
    ) -> tuple[Callable[[Array, Any], Any], Any]:
        """What makes an update, given its step and what moves; and what moves, before the first."""
        batch_of = pool.batches(learner.key(Purpose.SHUFFLE), self.batch_size)
        direction = self.optimizer.direction(weight_decay)
        trainable = self.method.trainable(learner)

        def update(step, carry):
            weights, momentum, sums = carry
            key, loss_key = jax.random.split(learner.key(Purpose.AUGMENT, step))
            images, labels = map(spread, batch_of(step))
            batch = Batch(self.augmentation(key, images, learner.normalizer), labels)
            now = learner.replace(weights=weights)
            (loss, (parts, output)), grads = jax.value_and_grad(self.method.loss, has_aux=True)(
                weights.params, now, batch, loss_key
            )
            updates, momentum = direction.update(grads, momentum, weights.params)
            updates = jax.tree.map(lambda u: -rate * u, updates)
            if trainable is not None:
                updates = jax.tree.map(jnp.multiply, updates, trainable)
            weights = Weights(optax.apply_updates(weights.params, updates), output.batch_stats)

            is_new = batch.labels >= learner.n_old
            is_right = is_new & (output.logits.argmax(axis=1) == batch.labels)
            new = {"loss": loss, "n_new": is_new.sum(), "n_new_right": is_right.sum(), **parts}
            was_finite, is_finite = jnp.isfinite(sums["loss"]), jnp.isfinite(sums["loss"] + loss)
            new["steps"] = 1.0 * is_finite
            new["largest_gradient"] = lax.cond(
                was_finite & ~is_finite, largest_entry, lambda _: 0.0, grads
            )
            return weights, momentum, jax.tree.map(jnp.add, sums, new)

        return update, (learner.weights, learner.momentum, sums)

    @Program
    def end_task(self, learner: Learner, pool: Pool) -> Learner:
        """What the method does after training on a task; the task is then learned."""
        learner = self.method.end_task(learner, pool, learner.key(Purpose.SELECT))
        return _learned(learner)

    # The same in parts, with images that stay on the host between them: see `cil_jax.stream`.

    @Program
    def order(self, learner: Learner, pool: Pool) -> tuple[Array, Array]:
        """The rows int [R] of this epoch in their order, and how many of them have an image."""
        return pool.shuffled(learner.key(Purpose.SHUFFLE)), pool.count()

    @Program
    def select(self, learner: Learner, pool: Pool, features: Array | None) -> tuple[Memory, Array]:
        """What the memory shall hold, and int [room], the rows of the pool to fill it from."""
        return self.method.select(learner, pool, features, learner.key(Purpose.SELECT))

    @Program
    def keep(self, learner: Learner, after: Memory, new_images: Array) -> Learner:
        """The end of `end_task`, with what `select` asked for."""
        return _learned(self.method.keep(learner, after, new_images))

    @Program
    def sums_of(self, learner: Learner, features: Array, labels: Array) -> Array:
        """`feature_sums` of features [N, D] that are there."""
        return class_sums(features, labels, learner.means.shape[0])

    @partial(Program, static_argnames=("mirrored",))
    def embed(self, learner: Learner, images: Array, mirrored: bool) -> Array:
        """Features [N, D] of pixels uint8 [N, H, W, C], in evaluation mode."""
        return embed(self.method.backbone, learner, images, mirrored=mirrored)

    @partial(Program, static_argnames=("mirrored",))
    def feature_sums(self, learner: Learner, images: Array, labels: Array, mirrored: bool) -> Array:
        """Sums [room, D] of the unit-length features of each class.

        Args:
          learner: whose features.
          images: uint8 [N, H, W, C].
          labels: int32 [N]; rows with a negative label are left out.
          mirrored: whether the mirror images are added as well.

        Summed over all training data and brought to unit length, they are the class means that
        `evaluate` takes.
        """
        sides = views(self.method.backbone, learner, images, mirrored)
        return sum(class_sums(features, labels, learner.means.shape[0]) for features in sides)

    @Program
    def evaluate(
        self,
        learner: Learner,
        images: Array,
        labels: Array,
        start: Array,
        stop: Array,
        all_data_means: Array,
    ) -> tuple[dict[str, Counts], Array]:
        """All classifiers on test images start .. stop - 1, and the mean of the method's loss.

        Args:
          learner: who answers.
          images: uint8 [N, H, W, C].
          labels: int32 [N].
          start, stop: the rows that count.
          all_data_means: float [room, D], class means of all training data, for the classifier
            "ncm" beside the method's own; see `feature_sums`. Zeros where it is not asked for.

        Returns:
          Counts for each classifier; and the loss, which means something for classes of the
          current task only.
        """
        n, room = images.shape[0], learner.means.shape[0]
        size = min(self.eval_batch_size, n)

        def ncm(learner, features):
            return nearest_class_mean(features, all_data_means, learner.n_seen)

        scorers = {**self.method.classifiers(), "ncm": ncm}

        def loss_and_features(image, label):
            batch = Batch(image[None], label[None])
            loss, (_, output) = self.method.loss(
                learner.weights.params, learner, batch, learner.data_key, train=False
            )
            return loss, output.features[0]

        def add(i, carry):
            counts, total = carry
            rows = start + i * size + jnp.arange(size)
            exists = rows < stop
            rows = jnp.minimum(rows, n - 1)
            batch_labels = labels[rows]
            batch = learner.normalizer(spread(images[rows]))
            loss, features = jax.vmap(loss_and_features)(batch, batch_labels)
            counts = {
                name: counts[name].plus(
                    score(learner, features), batch_labels, exists, learner.task_of
                )
                for name, score in scorers.items()
            }
            return counts, total + jnp.where(exists, loss, 0.0).sum()

        counts = {name: Counts.none(room) for name in scorers}
        n_batches = -(-(stop - start) // size)
        counts, total = lax.fori_loop(0, n_batches, add, (counts, jnp.zeros(())))
        return whole((counts, total / (stop - start)))

    # What a learner answers, outside the measurements of a run.

    @Program
    def answers(self, learner: Learner, images: Array) -> dict[str, tuple[Array, Array]]:
        """What each of the method's classifiers says.

        Args:
          learner: who answers.
          images: uint8 [N, H, W, C].

        Returns:
          For each classifier the best class, int [N], and all scores as people are shown them,
          float32 [N, room]; columns from n_seen on mean nothing.
        """
        return self._answers(learner, images)

    def exported(self, learner: Learner, classifier: str, platforms: Sequence[str]) -> bytes:
        """`answers` of one classifier as a program with its weights, for `jax.export.deserialize`.

        It takes images uint8 [N, H, W, C] of any N, and gives float32 [N, n_seen].

        Args:
          learner: who answers.
          classifier: one of the method's.
          platforms: where it shall run, of "cpu", "cuda", "rocm" and "tpu". The backbone must not
            be one for the CPU alone.
        """
        n_seen = int(learner.n_seen)

        def program(images):
            # Not by `answers`: what a compiled program takes is kept whole, exemplars included.
            _, scores = self._answers(learner, images)[classifier]
            return scores[:, :n_seen]

        shape = export.symbolic_shape("N, " + ", ".join(map(str, learner.image_shape)))
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        return bytes(export.export(jax.jit(program), platforms=platforms)(images).serialize())

    def _answers(self, learner: Learner, images: Array) -> dict[str, tuple[Array, Array]]:
        method, images = self.method, learner.normalizer(images)
        features = forward(method.backbone, learner.weights, images, learner.n_seen).features
        raw = {name: score(learner, features) for name, score in method.classifiers().items()}
        # What is shown may round two scores to one.
        return {name: (x.argmax(axis=1), method.scale(name).of(x)) for name, x in raw.items()}


def _trained(learner: Learner, stop: Array, carry: Any) -> tuple[Learner, Sums]:
    """After the updates before `stop`, and the sums so far."""
    weights, momentum, sums = whole(carry)
    return learner.replace(weights=weights, momentum=momentum, step=stop), sums


def largest_entry(tree: Any) -> Array:
    """The largest absolute value in a tree of arrays, NaN if one is."""
    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()


def _learned(learner: Learner) -> Learner:
    """With one task more."""
    return whole(learner.replace(task=learner.task + 1, epoch=jnp.int32(0)))
