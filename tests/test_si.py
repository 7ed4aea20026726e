"""SI: the path integral on a quadratic by hand, also beside a penalty."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_features import NORMALIZER, ROOM, SHAPE, engine_of

from cil_jax.methods.si import SI


@pytest.fixture(scope="module")
def learner():
    engine = engine_of(SI)
    learner = engine.create(SHAPE, ROOM, NORMALIZER, jax.random.key(0), jax.random.key(1))
    return engine.begin_task(learner, jnp.int32(2))


def filled(learner, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), learner.weights.params)


def at(learner, value):
    return learner.replace(weights=learner.weights.replace(params=filled(learner, value)))


def entries(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_two_steps_of_gradient_descent_on_a_quadratic(learner):
    """L = x^2 / 2 from 2 at rate 1/2: to 1, then 1/2, so w = 2 * 1 + 1 * 1/2.

    O = 2.5 / ((1/2 - 2)^2 + 0.25) = 1.
    """
    method = engine_of(SI, damping=0.25).method
    start = at(learner, 2.0)
    start = start.replace(own={**start.own, "anchor": start.weights.params})
    now = start
    for before, after in ((2.0, 1.0), (1.0, 0.5)):
        moved = at(now, after)
        now = method.updated(now, moved, filled(now, before))  # the gradient is x
    np.testing.assert_allclose(entries(now.own["path"]), 2.5)
    done = method.consolidated(now, None)
    np.testing.assert_allclose(entries(done.own["importance"]), 1.0)
    chex.assert_trees_all_equal(done.own["anchor"], start.weights.params)


def test_the_gradient_of_the_penalty_has_no_part_in_the_path(learner):
    """A step from 2 to 1.5 with the anchor 1, O = 3 and c = 0.5: the penalty's gradient is 3."""
    method = engine_of(SI, lambda_=0.5).method
    own = {"importance": filled(learner, 3.0), "anchor": filled(learner, 1.0)}
    before = at(learner, 2.0).replace(own={**own, "path": filled(learner, 0.0)})
    after = method.updated(before, at(before, 1.5), filled(learner, 7.0))
    np.testing.assert_allclose(entries(after.own["path"]), (7.0 - 3.0) * 0.5)


def test_a_task_begins_with_its_weights_as_anchor_and_an_empty_path(learner):
    """Those of the outputs that it opens included."""
    method = engine_of(SI).method
    used = learner.replace(own={**learner.own, "path": filled(learner, 1.0)})
    begun = method.begin_task(used, jnp.int32(2), jax.random.key(3))
    chex.assert_trees_all_equal(begun.own["anchor"], begun.weights.params)
    assert np.any(np.asarray(begun.own["anchor"]["head"]["kernel"])[:, 2:4])
    assert not np.any(entries(begun.own["path"]))
