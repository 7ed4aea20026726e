"""The compiled programs of a run.

Each method of Engine marked as a `Program` is compiled by `jax.jit`. No argument that changes
within a run is static, so each program is compiled once for any number of tasks. Engines with equal
settings share their programs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import export, lax

from cil_jax import memory as memory_lib
from cil_jax.classifiers import Counts, class_sums, nearest_class_mean
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Learner, Normalizer, Purpose, create, derive_key, embed, views
from cil_jax.memory import Chunk, Pool, Slots
from cil_jax.methods.base import Batch, Classifier, Method
from cil_jax.methods.plan import Do, Fold, Step, Train
from cil_jax.network import Weights
from cil_jax.platform.devices import replicate, shard_batch, shard_members
from cil_jax.schedules import SGD
from cil_jax.training.compilation import LESS_EFFORT, FastProgram, Program
from cil_jax.training.contract import loss_result, same_learner
from cil_jax.typing import Array, ImageShape, Key, Params

Sums: TypeAlias = dict[str, Array]  # running sums over the steps of an epoch, by name

# What an update changes: the weights, the method's own arrays, the optimizer state and the sums.
TrainState: TypeAlias = tuple[Weights, Params, optax.OptState, Sums]

EMBED_BATCH = 500  # images per batch when the extras of exemplars are computed


class TrainRequest(NamedTuple):
    """The arguments of `Engine.train`; a run yields them to whoever drives it."""

    learner: Learner
    pool: Pool | Chunk
    sums: Sums
    rate: Array
    weight_decay: Array
    stop: Array
    kind: int


@dataclasses.dataclass(frozen=True)
class Engine:
    """A method with its update rule, augmentation and batch sizes.

    Attributes:
      method: the hooks.
      optimizer: the update rule.
      augmentation: of training images.
      batch_size: images per update.
      eval_batch_size: images per batch in evaluation.
      fast: whether training may use faster convolutions, whose programs the compilation cache
        cannot store; see `cil_jax.training.compilation`.
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
        image_shape: ImageShape,
        n_classes: int,
        normalizer: Normalizer,
        init_key: Key,
        data_key: Key,
    ) -> Learner:
        """Creates a learner that has seen no class; see `cil_jax.learner.create`."""
        return self._new_learner(image_shape, n_classes, normalizer, init_key, data_key)

    def blank(self, image_shape: ImageShape, n_classes: int, normalizer: Normalizer) -> Learner:
        """Returns the shapes and types of the learner that `create` makes; allocates nothing."""
        key = jax.random.key(0)

        def new_learner(normalizer: Normalizer) -> Learner:
            return self._new_learner(image_shape, n_classes, normalizer, key, key)

        return jax.eval_shape(new_learner, normalizer)

    def _new_learner(
        self,
        image_shape: ImageShape,
        n_classes: int,
        normalizer: Normalizer,
        init_key: Key,
        data_key: Key,
    ) -> Learner:
        method = self.method
        key = derive_key(init_key, Purpose.BACKBONE, task=0, epoch=0, step=0)
        weights = method.initial_weights(image_shape, n_classes, key)
        memory_size = method.memory_size or 0
        learner = create(
            weights,
            image_shape=image_shape,
            n_features=method.network.slots * method.network.features_per_backbone(image_shape),
            n_classes=n_classes,
            memory_size=memory_size,
            normalizer=normalizer,
            optimizer=self.optimizer.direction(),
            init_key=init_key,
            data_key=data_key,
        )
        own = method.own(learner)
        extras = jax.eval_shape(self._extras, learner, learner.memory.images[:1])
        extras = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), extras)
        memory = memory_lib.create(memory_size, image_shape, extras)
        return learner.replace(own=own, teacher_own=own, memory=memory)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The different steps of the method's plans; a number says which of them a program takes.

        Steps that differ only in their schedule are one, so they share their programs.
        """
        plans = (*self.method.plan(True), *self.method.plan(False))
        return tuple(dict.fromkeys(plans))

    def kind(self, step: Step) -> int:
        """Returns the number of a step of a plan: its index in `steps`."""
        return self.steps.index(step)

    def _train_step(self, kind: int) -> Train:
        step = self.steps[kind]
        assert isinstance(step, Train)
        return step

    @Program
    def begin_task(self, learner: Learner, n_new: Array) -> Learner:
        """Begins a task of n_new classes with the method's `begin_task`; resets the momentum."""
        begin = self.method.begin_task
        learner = same_learner(begin, learner, begin(learner, n_new, learner.key(Purpose.HEAD)))
        momentum = self.optimizer.direction().init(learner.weights.params)
        return learner.replace(momentum=momentum)

    @partial(Program, static_argnames=("task_room", "class_room"))
    def pool(
        self,
        learner: Learner,
        images: Array | None,
        labels: Array,
        task_room: int,
        class_room: int,
    ) -> Pool:
        """Makes the pool of a task; see `cil_jax.memory.join`.

        All tasks must give the same number of rows: pad smaller ones with rows of label -1.
        """
        return memory_lib.join(images, labels, learner.memory, task_room, class_room)

    def restrict(self, learner: Learner, pool: Pool, kind: int) -> Pool:
        """Restricts a pool to the rows that a step of the plan asks for; copies no image."""
        step = self.steps[kind]
        if not isinstance(step, Train | Fold) or step.rows is None:
            return pool
        return pool.replace(active=self.active_rows(learner, pool, kind=kind))

    @partial(Program, static_argnames=("kind",))
    def active_rows(self, learner: Learner, pool: Pool, kind: int) -> Array:
        """Marks the rows of a pool that a step of the plan asks for, bool [R]."""
        step = self.steps[kind]
        assert isinstance(step, Train | Fold) and step.rows is not None
        return pool.active & step.rows(learner, pool, learner.task_key(Purpose.ROWS))

    def n_steps(self, n_images: int) -> int:
        """Returns the number of updates per epoch; a final partial batch is dropped."""
        return max(1, n_images // self.batch_size)

    def parts(self, kind: int = 0) -> tuple[str, ...]:
        """Returns the names of the parts of the loss in a training of the plan."""
        parts = self._train_step(kind).parts
        return self.method.parts if parts is None else parts

    def n_beside(self, kind: int) -> int:
        """Returns the number of exemplars beside each batch in a training of the plan."""
        return self._train_step(kind).beside

    def no_sums(self, kind: int = 0) -> Sums:
        """Returns the running sums before the first step of an epoch."""
        names = ("steps", "loss", "n_new", "n_new_right", "largest_gradient", *self.parts(kind))
        return {name: jnp.zeros(()) for name in names}

    @partial(FastProgram, static_argnames=("kind",))
    def train(
        self,
        learner: Learner,
        pool: Pool | Chunk,
        sums: Sums,
        rate: Array,
        weight_decay: Array,
        stop: Array,
        kind: int = 0,
    ) -> tuple[Learner, Sums]:
        """Makes the updates of steps learner.step .. stop - 1 of an epoch.

        The random keys of an update depend only on its place in the run, so the result is the same
        however an epoch is split into calls.

        Args:
          learner: at the given epoch and step of a task.
          pool: the images of the task, or the batches of these steps.
          sums: the sums over the earlier steps of this epoch, or `no_sums()`.
          rate: learning rate, float32 [].
          weight_decay: L2 weight-decay coefficient, float32 [].
          stop: int32 [], the step after the last one to make.
          kind: static; which training of the plan it is, see `kind`.

        Returns:
          The learner after the last step, and the sums over all steps of the epoch so far: "loss"
          and its parts; "n_new", the images of new classes, and "n_new_right", those of them that
          the head predicts right; and "steps", the steps with a finite loss. Once the loss is
          non-finite, later values are undefined, and "largest_gradient" is the largest absolute
          entry of that step's gradient; until then it is 0.
        """
        state = (learner.weights, learner.own, learner.momentum, sums)
        update = self._update_function(kind, learner, pool, rate, weight_decay)
        return _after_training(learner, stop, lax.fori_loop(learner.step, stop, update, state))

    @partial(FastProgram, static_argnames=("kind",))
    def train_together(
        self, members: tuple[TrainRequest, ...], n_steps: Array, kind: int = 0
    ) -> tuple[tuple[Learner, Sums], ...]:
        """Makes the next updates of several members, each as `train` would make them.

        On a mesh, each device trains a share of the members if their number can be divided equally;
        otherwise all devices train all members on a share of each batch. The members of a device
        are unrolled in the body of one loop: `jax.vmap` would turn their convolutions into grouped
        ones, which take several times as long on a CPU (BENCHMARKS.md).

        Args:
          members: the requests; their `stop` and `kind` are ignored.
          n_steps: int [], number of updates of each member.
          kind: static; which training of the plan all of them are in.

        Returns:
          For each member the result of `train`.
        """

        def train(
            members: tuple[TrainRequest, ...], n_steps: Array
        ) -> tuple[tuple[Learner, Sums], ...]:
            update_functions = [
                self._update_function(
                    kind, request.learner, request.pool, request.rate, request.weight_decay
                )
                for request in members
            ]

            def update_all(i: Array, states: tuple[TrainState, ...]) -> tuple[TrainState, ...]:
                return tuple(
                    update(request.learner.step + i, state)
                    for request, update, state in zip(
                        members, update_functions, states, strict=True
                    )
                )

            initial = tuple(
                (m.learner.weights, m.learner.own, m.learner.momentum, m.sums) for m in members
            )
            states = lax.fori_loop(0, n_steps, update_all, initial)
            return tuple(
                _after_training(request.learner, request.learner.step + n_steps, state)
                for request, state in zip(members, states, strict=True)
            )

        return shard_members(train, members, n_steps)

    def _update_function(
        self, kind: int, learner: Learner, pool: Pool | Chunk, rate: Array, weight_decay: Array
    ) -> Callable[[Array, TrainState], TrainState]:
        """Returns a function that makes the update of a step; see `train` for the arguments."""
        method, training = self.method, self._train_step(kind)
        loss_function = training.loss or method.loss
        trainable = (training.trainable or method.trainable)(learner)
        direction = self.optimizer.direction(weight_decay)
        draw = pool.draws(
            learner.key(Purpose.SHUFFLE),
            self.batch_size,
            training.beside,
            partial(learner.key, Purpose.BESIDE),
        )

        def checked_loss(params: Params, *others: Any) -> Any:
            returned = loss_function(without_gradients(params, trainable), *others)
            return loss_result(method, training, returned, self.parts(kind))

        def update(step: Array, state: TrainState) -> TrainState:
            weights, own, momentum, sums = state
            key, loss_key = jax.random.split(learner.key(Purpose.AUGMENT, step))
            drawn = jax.tree.map(shard_batch, draw(step))
            images = (
                self.augmentation(key, drawn.images, learner.normalizer)
                if training.augmented
                else learner.normalizer(drawn.images)
            )
            batch = Batch(images, drawn.labels, drawn.extras, drawn.from_memory)
            before = learner.replace(weights=weights, own=own)
            (loss, (parts, output)), grads = jax.value_and_grad(checked_loss, has_aux=True)(
                weights.params, before, batch, loss_key
            )
            updates, momentum = direction.update(grads, momentum, weights.params)
            updates = jax.tree.map(lambda u: -rate * u, updates)
            if trainable is not None:
                updates = jax.tree.map(jnp.multiply, updates, trainable)
            params = cast(Params, optax.apply_updates(weights.params, updates))
            weights = weights.replace(params=params, batch_stats=output.batch_stats)
            trained = before.replace(weights=weights)
            after = method.updated(before, trained, grads)
            after = same_learner(method.updated, trained, after)

            is_new = batch.labels >= learner.n_old
            is_right = is_new & (output.logits.argmax(axis=1) == batch.labels)
            new = {"loss": loss, "n_new": is_new.sum(), "n_new_right": is_right.sum(), **parts}
            was_finite, is_finite = jnp.isfinite(sums["loss"]), jnp.isfinite(sums["loss"] + loss)
            new["steps"] = 1.0 * is_finite
            new["largest_gradient"] = jnp.where(
                was_finite & ~is_finite, largest_entry(lax.optimization_barrier(grads)), 0.0
            )
            return after.weights, after.own, momentum, jax.tree.map(jnp.add, sums, new)

        return update

    # The other steps of a plan.

    @partial(Program, static_argnames=("starts_training",))
    def advance(self, learner: Learner, starts_training: bool) -> Learner:
        """Goes on to the next step of the plan; a training starts with a new optimizer state."""
        learner = learner.replace(place=learner.place + 1)
        if starts_training:
            zero = jnp.int32(0)
            momentum = self.optimizer.direction().init(learner.weights.params)
            learner = learner.replace(epoch=zero, step=zero, momentum=momentum)
        return replicate(learner)

    @partial(Program, static_argnames=("kind",))
    def do(self, learner: Learner, kind: int) -> Learner:
        """Takes a Do step of the plan."""
        step = self.steps[kind]
        assert isinstance(step, Do)
        changed = step.change(learner, self._step_key(learner))
        return replicate(same_learner(step.change, learner, changed))

    def fold(self, learner: Learner, pool: Pool, kind: int) -> Learner:
        """Takes a Fold step of the plan.

        Args:
          learner: at this step.
          pool: the images of the task, restricted to the rows of this step.
          kind: which step it is, see `kind`.
        """
        return self.folded(learner, pool, kind, lambda _: None)

    def folded(
        self,
        learner: Learner,
        index: Pool,
        kind: int,
        take: Callable[[np.ndarray], np.ndarray | None],
    ) -> Learner:
        """Takes a Fold step, with images from `take`, or from the pool where that gives None."""
        step = self.steps[kind]
        assert isinstance(step, Fold)
        n_rows = index.labels.shape[0]
        start = index.n_new_rows if step.source == "memory" else 0
        stop = index.n_new_rows if step.source == "new" else n_rows
        size = min(step.batch_size, stop - start)
        sums = self.fold_zero(learner, kind=kind)
        for first in range(start, stop, size):
            rows = first + np.arange(size, dtype=np.int32)
            in_range = np.minimum(rows, stop - 1)
            sums = self.fold_add(
                learner, sums, index, take(in_range), in_range, rows < stop, kind=kind
            )
        return self.fold_done(learner, sums, kind=kind)

    @partial(Program, static_argnames=("kind",))
    def fold_zero(self, learner: Learner, kind: int) -> Any:
        """Returns the sums of a Fold step before its first image."""
        step = self.steps[kind]
        assert isinstance(step, Fold)
        return step.zero(learner)

    @partial(Program, static_argnames=("kind",))
    def fold_add(
        self,
        learner: Learner,
        sums: Any,
        pool: Pool,
        images: Array | None,
        rows: Array,
        is_row: Array,
        kind: int,
    ) -> Any:
        """Returns the sums of a Fold step with a further batch.

        Args:
          learner: at this step.
          sums: the sums so far.
          pool: the images of the task.
          images: uint8 [B, H, W, C], or None to take them from the pool.
          rows: int [B], where they are from.
          is_row: bool [B], which of them count.
          kind: which step it is, see `kind`.
        """
        step = self.steps[kind]
        assert isinstance(step, Fold)
        drawn = pool.complete(pool.device_images()[rows] if images is None else images, rows)
        batch = Batch(
            learner.normalizer(shard_batch(drawn.images)),
            jnp.where(is_row & pool.active[rows], drawn.labels, -1),
            drawn.extras,
            drawn.from_memory,
        )
        return replicate(step.add(learner, sums, batch))

    @partial(Program, static_argnames=("kind",))
    def fold_done(self, learner: Learner, sums: Any, kind: int) -> Learner:
        """Returns the learner after the last batch of a Fold step."""
        step = self.steps[kind]
        assert isinstance(step, Fold)
        done = step.done(learner, sums, self._step_key(learner))
        return replicate(same_learner(step.done, learner, done))

    def _step_key(self, learner: Learner) -> Key:
        """Returns the random key of a Fold or Do step."""
        return jax.random.fold_in(learner.task_key(Purpose.CHANGE), learner.place)

    @Program
    def keep(self, learner: Learner, pool: Pool) -> Learner:
        """Takes the Keep step: selects the new exemplars and stores them."""
        images, features = pool.device_images(), None
        if self.method.selects_by_features:
            features = embed(self.method.network, learner, images[: pool.n_new_rows])
        slots = self._slots(learner, pool, features)
        return self._stored(learner, pool, slots, images[slots.source])

    @Program
    def end_task(self, learner: Learner) -> Learner:
        """Counts the current task as learned, after the last step of its plan."""
        zero = jnp.int32(0)
        return replicate(learner.replace(task=learner.task + 1, place=zero, epoch=zero, step=zero))

    def _slots(self, learner: Learner, pool: Pool, features: Array | None) -> Slots:
        return self.method.policy(learner, pool, features, learner.key(Purpose.SELECT))

    def _stored(self, learner: Learner, pool: Pool, slots: Slots, images: Array) -> Learner:
        is_filled = slots.labels >= 0
        old = pool.complete(images, slots.source)
        extras = old.extras
        if extras:
            extras = jax.tree.map(
                lambda new, kept: jnp.where(_like(old.from_memory, new), kept, new),
                self._extras(learner, images),
                old.extras,
            )
        memory = memory_lib.Memory(
            images=jnp.where(_like(is_filled, images), images, jnp.uint8(0)),
            labels=slots.labels,
            extras=jax.tree.map(lambda x: jnp.where(_like(is_filled, x), x, 0), extras),
            n_offered=learner.memory.n_offered + (pool.labels[: pool.n_new_rows] >= 0).sum(),
        )
        learner = learner.replace(memory=memory)
        return replicate(same_learner(self.method.kept, learner, self.method.kept(learner)))

    def _extras(self, learner: Learner, images: Array) -> Params:
        """Computes what is stored with images uint8 [N, H, W, C]; arrays [N, ...]."""
        n_open = self.method.n_open(learner)

        def of_batch(images: Array) -> Params:
            images = learner.normalizer(shard_batch(images))
            output = self.method.network(learner.weights, images, n_open)
            return self.method.extras(learner, output)

        n = images.shape[0]
        n_batches = -(-n // EMBED_BATCH)
        size = -(-n // n_batches)
        padded = jnp.pad(images, [(0, n_batches * size - n)] + [(0, 0)] * (images.ndim - 1))
        extras = lax.map(of_batch, padded.reshape(n_batches, size, *images.shape[1:]))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], extras)

    # The parts of an epoch and of `keep` for images on the host: `cil_jax.training.streaming`.

    @Program
    def order(self, learner: Learner, pool: Pool) -> tuple[Array, Array]:
        """Returns the pool's rows in the order of this epoch, int [R], and its image count."""
        return pool.order(learner.key(Purpose.SHUFFLE)), pool.count()

    @partial(Program, static_argnames=("kind",))
    def rows_beside(self, learner: Learner, pool: Pool, steps: Array, kind: int) -> Array:
        """Returns the rows of the exemplars beside the batches of steps [S]; int [S, beside]."""
        n_beside = self._train_step(kind).beside

        def of_step(step: Array) -> Array:
            return pool.sample_exemplars(learner.key(Purpose.BESIDE, step), n_beside)

        return jax.vmap(of_step)(steps)

    @Program
    def select(self, learner: Learner, pool: Pool, features: Array | None) -> Slots:
        """Selects the new exemplars; see `Method.policy`."""
        return self._slots(learner, pool, features)

    @Program
    def store(self, learner: Learner, pool: Pool, slots: Slots, images: Array) -> Learner:
        """Stores the selected exemplars, of which `images` are uint8 [slots, H, W, C]."""
        return self._stored(learner, pool, slots, images)

    @Program
    def sum_features(self, learner: Learner, features: Array, labels: Array) -> Array:
        """Returns the same as `feature_sums`, from features [N, D] instead of images."""
        return class_sums(features, labels, learner.means.shape[0])

    @partial(Program, static_argnames=("mirrored",))
    def embed(self, learner: Learner, images: Array, mirrored: bool) -> Array:
        """Computes features [N, D] of pixels uint8 [N, H, W, C]; see `cil_jax.learner.embed`."""
        return embed(self.method.network, learner, images, mirrored=mirrored)

    @partial(Program, static_argnames=("mirrored",))
    def feature_sums(self, learner: Learner, images: Array, labels: Array, mirrored: bool) -> Array:
        """Sums the unit-length features of each class.

        Summed over all training data and scaled to unit length, they are the class means that
        `evaluate` takes.

        Args:
          learner: its network computes the features.
          images: uint8 [N, H, W, C].
          labels: int32 [N]; rows with a negative label are ignored.
          mirrored: whether to add the features of the mirror images.

        Returns:
          float32 [room, D].
        """
        sums = (
            class_sums(features, labels, learner.means.shape[0])
            for features in views(self.method.network, learner, images, mirrored)
        )
        return sum(sums, start=jnp.zeros(()))

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
        """Applies all classifiers to test images start .. stop - 1 and computes the mean loss.

        Args:
          learner: the learner to evaluate.
          images: uint8 [N, H, W, C].
          labels: int32 [N].
          start, stop: the first row to evaluate and the row after the last one.
          all_data_means: float [room, D], class means of all training data for the classifier
            "ncm", which is added to the method's own; see `feature_sums`. Pass zeros and ignore
            "ncm" if you do not need it.

        Returns:
          Counts by classifier; and the mean of the method's loss, which is meaningful only for
          images of the current task's classes.
        """
        n_images, batch_size = images.shape[0], min(self.eval_batch_size, images.shape[0])
        classifiers = self._classifiers_with_ncm(all_data_means)

        def add_batch(
            i: Array, state: tuple[dict[str, Counts], Array]
        ) -> tuple[dict[str, Counts], Array]:
            counts, total_loss = state
            rows = start + i * batch_size + jnp.arange(batch_size)
            mask = rows < stop
            rows = jnp.minimum(rows, n_images - 1)
            row_labels = labels[rows]
            batch_images = learner.normalizer(shard_batch(images[rows]))
            losses, features = self._losses_and_features(learner, batch_images, row_labels)
            counts = {
                name: counts[name].plus(score(learner, features), row_labels, mask, learner.task_of)
                for name, score in classifiers.items()
            }
            return counts, total_loss + jnp.where(mask, losses, 0.0).sum()

        no_counts = {name: Counts.none(learner.means.shape[0]) for name in classifiers}
        n_batches = -(-(stop - start) // batch_size)
        counts, total_loss = lax.fori_loop(0, n_batches, add_batch, (no_counts, jnp.zeros(())))
        return replicate((counts, total_loss / (stop - start)))

    def _classifiers_with_ncm(self, all_data_means: Array) -> dict[str, Classifier]:
        """Returns the method's classifiers and "ncm", the nearest of the given class means."""

        def ncm(learner: Learner, features: Array) -> Array:
            return nearest_class_mean(features, all_data_means, learner.n_seen)

        return {**self.method.classifiers(), "ncm": ncm}

    def _losses_and_features(
        self, learner: Learner, images: Array, labels: Array
    ) -> tuple[Array, Array]:
        """Computes the loss [B] of each image alone, in evaluation mode, and features [B, D]."""
        extras = jax.tree.map(lambda x: jnp.zeros_like(x[:1]), learner.memory.extras)

        def of_image(image: Array, label: Array) -> tuple[Array, Array]:
            single = Batch(image[None], label[None], extras, jnp.zeros(1, bool))
            loss, (_, output) = self.method.loss(
                learner.weights.params, learner, single, learner.data_key, train=False
            )
            return loss, output.features[0]

        return jax.vmap(of_image)(images, labels)

    # Predictions of a learner outside a run.

    @Program
    def answers(self, learner: Learner, images: Array) -> dict[str, tuple[Array, Array]]:
        """Predicts the classes of images with each of the method's classifiers.

        Args:
          learner: the learner that predicts.
          images: uint8 [N, H, W, C].

        Returns:
          For each classifier the predicted classes, int [N], and the scores as they are presented
          to users, float32 [N, room]; columns n_seen and above are undefined.
        """
        return self._answers(learner, images)

    def exported(self, learner: Learner, classifier: str, platforms: Sequence[str]) -> bytes:
        """Exports the scores of one classifier as a program that contains the weights.

        `jax.export.deserialize` loads it. It maps images uint8 [N, H, W, C], with any N, to scores
        float32 [N, n_seen].

        Args:
          learner: the learner that predicts.
          classifier: one of the method's.
          platforms: where the program must run: any of "cpu", "cuda", "rocm" and "tpu". The layers
            of the backbone must run on all of them; see `cil_jax.models.layers_for`.
        """
        n_seen = int(learner.n_seen)

        def program(images: Array) -> Array:
            # Not by `answers`: as an argument, the whole learner with its exemplars is exported.
            _, scores = self._answers(learner, images)[classifier]
            return scores[:, :n_seen]

        shape = export.symbolic_shape("N, " + ", ".join(map(str, learner.image_shape)))
        images = jax.ShapeDtypeStruct(shape, jnp.uint8)
        return bytes(export.export(jax.jit(program), platforms=platforms)(images).serialize())

    def _answers(self, learner: Learner, images: Array) -> dict[str, tuple[Array, Array]]:
        method, images = self.method, learner.normalizer(images)
        features = method.network(learner.weights, images, learner.n_seen).features
        scores = {name: score(learner, features) for name, score in method.classifiers().items()}
        # The argmax is taken before scaling, which may round two scores to the same value.
        return {
            name: (values.argmax(axis=1), method.scale(name).apply(values))
            for name, values in scores.items()
        }


def _after_training(learner: Learner, step: Array, state: TrainState) -> tuple[Learner, Sums]:
    """Returns the learner with the new state at a step, and the sums."""
    weights, own, momentum, sums = replicate(state)
    return learner.replace(weights=weights, own=own, momentum=momentum, step=step), sums


def without_gradients(params: Params, factors: Params | None) -> Params:
    """Returns params with no gradient through those whose factor is the number 0, not an array."""
    if factors is None:
        return params

    def leaf(x: Array, factor: Array | float) -> Array:
        return lax.stop_gradient(x) if isinstance(factor, int | float) and factor == 0 else x

    return jax.tree.map(leaf, params, factors)


def largest_entry(tree: Any) -> Array:
    """Returns the largest absolute value in a tree of arrays; NaN if any entry is NaN."""
    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()


def _like(mask: Array, array: Array) -> Array:
    """Returns a mask [N] with as many axes as an array [N, ...]."""
    return mask.reshape(-1, *[1] * (array.ndim - 1))
