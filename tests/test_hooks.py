"""What hooks of a method return is checked before anything is trained with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import ROOM, SHAPE, Small

from cil_jax import losses
from cil_jax.data.augment import Augmentation
from cil_jax.errors import UserError
from cil_jax.learner import Normalizer
from cil_jax.methods.base import Method
from cil_jax.methods.plan import Do, Fold, Train
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

NORMALIZER = Normalizer(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))


class Sound(Method):
    """Every step, and nothing wrong."""

    parts = ("change", "cross_entropy")

    def own(self, learner):
        return {"count": jnp.zeros(())}

    def plan(self, is_first):
        return (Train(), Fold(self.zero, self.add, self.done), Do(self.change))

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        loss = losses.cross_entropy(output.logits, batch.labels)
        return loss, ({"cross_entropy": loss, "change": 0.0 * loss}, output)

    def zero(self, learner):
        return jnp.zeros(())

    def add(self, learner, sums, batch):
        return sums + (batch.labels >= 0).sum()

    def done(self, learner, sums, key):
        return learner.replace(own={"count": sums})

    def change(self, learner, key):
        return learner


def take_steps(cls):
    """The steps of a first task of a method, one update of its training among them."""
    method = cls(Small(), n_classes=ROOM, n_tasks=3, task_room=2)
    engine = Engine(method, SGD(), Augmentation(0, False), 2)
    learner = engine.create(SHAPE, ROOM, NORMALIZER, jax.random.key(0), jax.random.key(1))
    learner = engine.begin_task(learner, jnp.int32(2))
    pool = engine.pool(learner, np.zeros((4, *SHAPE), np.uint8), np.array([0, 1, 0, 1]), 2, 2)
    numbers = (jnp.float32(0.1), jnp.float32(0.0), jnp.int32(1))
    learner, _ = engine.train(learner, pool, engine.no_sums(0), *numbers, kind=0)
    learner = engine.fold(learner, pool, kind=1)
    return engine.do(learner, kind=2)


def test_a_sound_method_passes():
    assert take_steps(Sound).own["count"] == 4


def more_in_own(self, learner, sums, key):
    return learner.replace(own={"count": sums, "n": sums})


def other_shape(self, learner, key):
    return learner.replace(own={"count": jnp.zeros(3)})


def integer(self, before, learner, grads):
    return learner.replace(own={"count": jnp.int32(1)})


def nothing(self, learner, sums, key):
    learner.replace(own={"count": sums})


def own_alone(self, learner, key):
    return {"count": jnp.zeros(())}


def fewer_parts(self, params, learner, batch, key, train=True):
    loss, (parts, output) = Sound.loss(self, params, learner, batch, key, train)
    return loss, ({"cross_entropy": parts["cross_entropy"]}, output)


def no_output(self, params, learner, batch, key, train=True):
    loss, (parts, _) = Sound.loss(self, params, learner, batch, key, train)
    return loss, parts


def features_as_output(self, params, learner, batch, key, train=True):
    loss, (parts, output) = Sound.loss(self, params, learner, batch, key, train)
    return loss, (parts, output.features)


def loss_by_image(self, params, learner, batch, key, train=True):
    loss, rest = Sound.loss(self, params, learner, batch, key, train)
    return jnp.ones(2) * loss, rest


MISTAKES = [
    (
        "done",
        more_in_own,
        r"\.own\['n'\] was absent and is float32\[\]; what a method keeps is dec",
    ),
    (
        "change",
        other_shape,
        r"Mine.other_shape must .*\.own\['count'\] was float32\[\] and is float32\[3",
    ),
    ("updated", integer, r"Mine.integer must not change .* was float32\[\] and is int32\[\]"),
    ("done", nothing, "Mine.nothing must return the learner; it has returned nothing"),
    ("change", own_alone, "Mine.own_alone must return the learner; it has returned a dict"),
    (
        "loss",
        fewer_parts,
        r"where `parts` of the method names \['change', 'cross_entropy'\]; the pa",
    ),
    ("loss", no_output, r"must return \(loss, \(parts, output\)\); it has returned \("),
    ("loss", features_as_output, "with the network's output; the output is a "),
    ("loss", loss_by_image, r"the loss must be one number; it has shape \(2,\)"),
]


@pytest.mark.parametrize(("name", "hook", "words"), MISTAKES, ids=[m[1].__name__ for m in MISTAKES])
def test_a_mistake_is_said_with_the_hook_that_made_it(name, hook, words):
    with pytest.raises(UserError, match=words) as error:
        take_steps(type("Mine", (Sound,), {name: hook}))
    assert len(error.value.lines) == 1
