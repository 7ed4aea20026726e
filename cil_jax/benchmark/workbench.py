"""The work of a run, set up for timing: iCaRL's preset `paper` on random pixels.

The speed does not depend on the content of the images, so no data set is needed.
"""

import dataclasses
import functools
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax import models
from cil_jax.benchmark import flops
from cil_jax.benchmark.settings import Settings
from cil_jax.classifiers import Counts, nearest_mean
from cil_jax.data import Dataset
from cil_jax.learner import Learner, Normalizer
from cil_jax.memory import Pool
from cil_jax.methods import Batch
from cil_jax.selection import herding, herding_of_classes, unit
from cil_jax.settings.config import Config
from cil_jax.settings.loading import preset
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import Results
from cil_jax.training import build
from cil_jax.training.callbacks import Callback
from cil_jax.training.engine import Engine
from cil_jax.training.loop import Run
from cil_jax.typing import Array


class Workbench:
    """The engine of a run, and learners and pools as in the middle of a run.

    Attributes:
      settings: the sizes of the work.
      config: the settings of the run.
      scenario: its tasks, with random pixels.
      engine: its compiled programs.
      test_images, test_labels: the test set, on the device.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.config = preset(
            "icarl",
            "paper",
            backbone=settings.backbone,
            batch_size=settings.batch_size,
            fast=settings.fast,
            memory=settings.memory,
            task_size=settings.task_size,
        )
        dataset = random_dataset(settings)
        self.scenario = build.scenario_of(self.config, dataset)
        self.engine = build.engine_of(self.config, dataset, build.room_of(self.scenario.task_sizes))
        images, labels, _ = self.scenario.test_set()
        self.test_images, self.test_labels = jnp.asarray(images), jnp.asarray(labels)

    def learner(self, task: int) -> Learner:
        """A learner at the start of a task, whose memory is full of random pixels.

        Args:
          task: the task, counted from 0; at least 1.
        """
        settings, dataset = self.settings, self.scenario.dataset
        mean, std = dataset.pixel_statistics(self.config.normalization)
        keys = (jax.random.key(0), jax.random.key(1))
        normalizer = Normalizer(jnp.asarray(mean), jnp.asarray(std))
        new = self.engine.create(dataset.image_shape, settings.n_classes, normalizer, *keys)
        n_new, n_old = settings.task_size, task * settings.task_size
        share = settings.memory // n_old
        owner, rank = np.divmod(np.arange(settings.memory), share)
        is_filled = (owner < n_old) & (rank < settings.images_per_class)
        is_old = jnp.arange(settings.n_classes) < n_old
        learner = self.engine.begin_task(new, jnp.int32(n_new))  # initializes head columns
        learner = learner.replace(
            memory=learner.memory.replace(
                images=jnp.asarray(dataset.train_images[: settings.memory]),
                labels=jnp.asarray(np.where(is_filled, owner, -1), jnp.int32),
            ),
            means=unit(jax.random.normal(keys[0], learner.means.shape)),
            task=jnp.int32(task),
            n_seen=jnp.int32(n_old),
            task_of=jnp.where(is_old, jnp.arange(settings.n_classes) // n_new, -1),
        )
        return self.engine.begin_task(learner, jnp.int32(n_new))

    def pool(self, learner: Learner) -> Pool:
        """The images of the learner's task and its exemplars."""
        task = self.scenario.task(int(learner.task))
        return self.engine.pool(
            learner,
            *task.padded(self.scenario.largest_task),
            task_room=self.settings.task_size,
            class_room=self.scenario.largest_class,
        )

    def steps(self, pool: Pool) -> int:
        """The number of updates in an epoch."""
        return self.engine.n_steps(int(pool.count()))

    def train(self, learner: Learner, pool: Pool, n_steps: int) -> Array:
        """Makes n_steps updates, always the same ones, and returns the sum of their losses."""
        _, sums = self.engine.train(
            learner,
            pool,
            self.engine.no_sums(),
            jnp.float32(self.config.rate),
            jnp.float32(self.config.weight_decay),
            jnp.int32(n_steps),
        )
        return jax.block_until_ready(sums["loss"])

    def embed(self, learner: Learner) -> Array:
        """Features of all test images."""
        features = self.engine.embed(learner, self.test_images, mirrored=False)
        return jax.block_until_ready(features)

    def nearest_means(self, learner: Learner) -> Array:
        """The predictions of NME for all test images, int [N]."""
        return jax.block_until_ready(_nearest_means(self.embed(learner), learner.means))

    def evaluate(
        self, learner: Learner, stop: int | None = None
    ) -> tuple[dict[str, Counts], Array]:
        """Runs `Engine.evaluate` on test images 0 .. stop - 1, or on all."""
        return jax.block_until_ready(
            self.engine.evaluate(
                learner,
                self.test_images,
                self.test_labels,
                jnp.int32(0),
                jnp.int32(len(self.test_labels) if stop is None else stop),
                learner.means,
            )
        )

    def features_to_herd(self, n_classes: int) -> Array:
        """Random features [n_classes, images, D]."""
        shape = (n_classes, self.settings.images_per_class, self.engine.method.backbone.n_features)
        return jax.random.normal(jax.random.key(2), shape)

    def herd(self, features: Array) -> Array:
        """Indices [K, count] of the images that herding selects from features [K, n, D]."""
        return jax.block_until_ready(_herd(features, self.settings.herded))

    def herd_flop(self, features: Array) -> int:
        """Operations of `herd`. Each class takes the same number."""
        herd_class = functools.partial(herding, count=self.settings.herded)
        return len(features) * flops.of(herd_class, features[0])

    def step_flop(self, learner: Learner) -> int:
        """Operations of an update: student, teacher, and gradient of the student."""
        return step_flop(self.engine, learner)

    def forward_flop(self, learner: Learner) -> int:
        """Operations for the features of one image."""
        backbone = self.engine.method.backbone.clone(layers=models.Layers())
        weights = learner.weights
        variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
        return flops.of(backbone.apply, variables, jnp.zeros((1, *learner.image_shape)))

    def evaluation_flop(self, learner: Learner) -> int:
        """Operations for evaluating one image: student and, for the loss, teacher."""
        return step_flop(self.engine, learner, train=False)


class Place(NamedTuple):
    """A point in a run: the workbench, and the learner and pool at the start of a task."""

    bench: Workbench
    learner: Learner
    pool: Pool


def step_flop(engine: Engine, learner: Learner, train: bool = True) -> int:
    """Operations of an update or, if `train` is false, of the loss of one image.

    The count is made with Flax's own layers. The layers that replace them on a CPU do the same
    mathematics.
    """
    backbone = engine.method.backbone.clone(layers=models.Layers())
    method = dataclasses.replace(engine.method, backbone=backbone)
    n = engine.batch_size if train else 1
    images, labels = jnp.zeros((n, *learner.image_shape)), jnp.zeros(n, jnp.int32)
    batch = Batch(images, labels, {}, jnp.zeros(n, bool))
    loss = functools.partial(method.loss, train=train)
    function = jax.value_and_grad(loss, has_aux=True) if train else loss
    return flops.of(function, learner.weights.params, learner, batch, learner.data_key)


@functools.partial(jax.jit, static_argnames="count")
def _herd(features: Array, count: int) -> Array:
    return herding_of_classes(features, count, jnp.ones(features.shape[:2], bool))


@jax.jit
def _nearest_means(features: Array, means: Array) -> Array:
    return nearest_mean(unit(features), means)


def random_dataset(settings: Settings) -> Dataset:
    """A data set of random pixels with the image shape of CIFAR-100."""
    rng, names = np.random.default_rng(0), tuple(map(str, range(settings.n_classes)))

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.frombuffer(rng.bytes(n * 32 * 32 * 3), np.uint8).reshape(n, 32, 32, 3)
        return images, (np.arange(n) % settings.n_classes).astype(np.int32)

    n_train = settings.n_classes * settings.images_per_class
    return Dataset("random", *split(n_train), *split(settings.test_images), names, 4, True)


def small_run_config(settings: Settings) -> Config:
    """The run of `make demo`: digits in tasks of two classes, without `ncm`."""
    return preset(
        "icarl",
        "paper",
        dataset="digits",
        classes=settings.run_classes,
        task_size=2,
        backbone=settings.run_backbone,
        epochs=settings.run_epochs,
        batch_size=32,
        memory=settings.run_memory,
        fast=settings.fast,
        ncm=False,
        devices=1,
    )


def small_run(config: Config) -> Results:
    """Runs it in a temporary folder and returns the contents of results.json."""
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, out=f"{folder}/run")
        return Run(config, RunFolder(config.folder()), Callback()).go()
