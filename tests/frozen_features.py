"""Features that need no training: the pixels. For tests of methods with a frozen network."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer
from cil_jax.methods.plan import Fold
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

D, ROOM, PER_CLASS = 6, 6, 150
SHAPE = (1, D, 1)
ROWS = ROOM * PER_CLASS  # more than one batch of a fold
NORMALIZER = Normalizer(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))


class Pixels(nn.Module):
    """The pixels, 0..1, are the features."""

    n_features = D

    @nn.compact
    def __call__(self, images, train):
        return images.reshape(len(images), -1) * self.param("gain", nn.initializers.ones, (D,))


def engine_of(method, **settings):
    facts = {"n_classes": ROOM, "n_tasks": 4, "task_room": ROOM}
    return Engine(method(Pixels(), **facts, **settings), SGD(), Augmentation(0, False), 16)


def images_of(name, n=PER_CLASS):
    """Images of a class, which differs from others in its mean and its covariance."""
    rng = np.random.default_rng(name)
    mean, mixing = rng.uniform(60, 190, D), rng.normal(0, 12, (D, D))
    pixels = mean + rng.normal(size=(n, D)) @ mixing
    return pixels.clip(0, 255).astype(np.uint8).reshape(n, *SHAPE)


def features_of(images):
    """Features [N, D] in float64."""
    return images.reshape(len(images), -1) / 255.0


def after_tasks(engine, *tasks):
    """A learner after tasks of the given classes, such as (0, 1), (2,); nothing is trained."""
    learner = engine.create(SHAPE, ROOM, NORMALIZER, jax.random.key(0), jax.random.key(1))
    for names in tasks:
        n_old = int(learner.n_seen)
        learner = engine.begin_task(learner, jnp.int32(len(names)))
        images, labels = np.zeros((ROWS, *SHAPE), np.uint8), np.full(ROWS, -1, np.int32)
        images[: len(names) * PER_CLASS] = np.concatenate([images_of(name) for name in names])
        labels[: len(names) * PER_CLASS] = n_old + np.repeat(np.arange(len(names)), PER_CLASS)
        order = np.random.default_rng(n_old).permutation(ROWS)
        pool = engine.pool(learner, images[order], labels[order], ROOM, PER_CLASS)
        for place, step in enumerate(engine.method.plan(is_first=not n_old)):
            learner = engine.advance(learner, starts_training=False) if place else learner
            if isinstance(step, Fold):
                kind = engine.kind(step)
                learner = engine.fold(learner, engine.restrict(learner, pool, kind=kind), kind=kind)
        learner = engine.end_task(learner)
    return learner


def all_of(*names):
    """Features [N, D] and one-hot labels [N, classes] of classes, in float64."""
    features = np.concatenate([features_of(images_of(name)) for name in names])
    return features, np.repeat(np.eye(len(names)), PER_CLASS, axis=0)


def difference(values, expected):
    """The largest error, in units of the largest entry."""
    return np.abs(np.asarray(values, np.float64) - expected).max() / np.abs(expected).max()
