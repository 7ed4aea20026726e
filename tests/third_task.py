"""A tiny network, and a learner in its third task, for tests of what a loss computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cil_jax import learner as learners
from cil_jax.methods import Batch
from cil_jax.schedules import SGD

# Two classes a task, and one that is to come.
SHAPE, ROOM, N_OLD, N_SEEN = (4, 4, 1), 7, 4, 6
FACTS = {"n_classes": ROOM, "n_tasks": 4, "task_room": 2}


class Small(nn.Module):
    """Four features, normalised, so that a loss depends on who is in the batch."""

    n_features = 4

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(self.n_features)(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def learner_of(method, n_tasks=3):
    """At the start of the third task, or another, with a teacher that is another network."""
    weights = method.initial_weights(SHAPE, ROOM, jax.random.key(0))
    pixel = jnp.ones((1, 1, 1))
    learner = learners.create(
        weights,
        image_shape=SHAPE,
        n_features=method.network.features_per_backbone(SHAPE),
        n_classes=ROOM,
        memory_size=method.memory_size or 0,
        normalizer=learners.Normalizer(0.5 * pixel, 0.25 * pixel),
        optimizer=SGD().direction(),
        init_key=jax.random.key(1),
        data_key=jax.random.key(2),
    )
    own = method.own(learner)
    learner = learner.replace(own=own, teacher_own=own)
    for task in range(n_tasks):
        learner = learner.replace(task=jnp.int32(task))
        learner = method.begin_task(learner, jnp.int32(2), jax.random.key(3 + task))
    params = jax.tree.map(lambda x: 1.5 * x + 0.1, learner.weights.params)
    return learner.replace(weights=learner.weights.replace(params=params))


def loss_of(loss, learner, batch, key=0):
    """The loss of a batch as a number, its parts, and the output."""
    key = jax.random.key(key)
    value, (parts, output) = jax.jit(loss)(learner.weights.params, learner, batch, key)
    return float(value), {name: float(part) for name, part in parts.items()}, output


def batch_of(labels, n_exemplars=0, extras=None):
    """Random images, each of another scale; the last ones are exemplars."""
    n = len(labels)
    images = jax.random.normal(jax.random.key(9), (n, *SHAPE))
    images *= jnp.arange(1.0, n + 1)[:, None, None, None]
    return Batch(images, jnp.array(labels), extras or {}, jnp.arange(n) >= n - n_exemplars)


def logits_of(weights, images, train=True):
    """The logits [B, ROOM] of a network with a linear head, in float64, and its statistics."""
    variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
    features, changed = Small().apply(variables, images, train=train, mutable=["batch_stats"])
    head = weights.params["head"]
    logits = features @ head["kernel"] + head["bias"]
    return np.asarray(logits, np.float64), changed["batch_stats"]


def log_softmax(logits):
    """In float64, over the last axis."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def cross_entropy(logits, labels):
    """Its mean over the images."""
    return -log_softmax(logits)[np.arange(len(labels)), np.asarray(labels)].mean()
