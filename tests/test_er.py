"""ER and ER-ACE: the two streams, the outputs that new images leave out, and both losses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import (
    FACTS,
    N_SEEN,
    Small,
    batch_of,
    cross_entropy,
    learner_of,
    logits_of,
    loss_of,
)

from cil_jax import losses
from cil_jax.heads import CLOSED
from cil_jax.methods.er import ER
from cil_jax.methods.er_ace import ERACE, without_absent

SIZE = 3  # of a batch of new images, and of the exemplars beside it


def method_of(cls):
    return cls(Small(), **FACTS, memory=8, batch_size=SIZE)


@pytest.fixture(scope="module")
def learner():
    return learner_of(method_of(ER))


@pytest.fixture(scope="module")
def batch():
    return batch_of([4, 5, 4, 0, 3, 2], n_exemplars=SIZE)


@pytest.mark.parametrize("cls", [ER, ERACE])
def test_as_many_exemplars_as_new_images_after_the_first_task(cls):
    (first, _), (later, _) = (method_of(cls).plan(is_first) for is_first in (True, False))
    assert (first.beside, later.beside) == (0, SIZE)


def test_er_is_the_mean_over_both_streams_normalised_together(learner, batch):
    step = method_of(ER).plan(is_first=False)[0]
    loss, _, output = loss_of(step.loss, learner, batch)
    logits, statistics = logits_of(learner.weights, batch.images)
    assert loss == pytest.approx(cross_entropy(logits[:, :N_SEEN], batch.labels), rel=1e-4)
    chex.assert_trees_all_close(output.batch_stats, statistics, rtol=1e-5)


def test_outputs_of_classes_that_are_old_and_absent_are_left_out():
    """Of classes 0 to 3, which have been seen, the batch has 1 and 3; class 4 is yet to come."""
    logits = jnp.arange(15.0).reshape(3, 5)
    found = without_absent(logits, jnp.array([1, 3, 1]), 4)
    expected = np.where([False, True, False, True, True], logits, CLOSED)
    assert np.array_equal(found, expected)


def test_the_last_class_seen_is_left_out_as_any_other():
    """The authors' code keeps it, by an off-by-one."""
    found = without_absent(jnp.zeros((1, 5)), jnp.array([2]), 4)
    assert (np.asarray(found) == CLOSED).tolist() == [[True, True, False, True, False]]


def test_the_masked_cross_entropy_of_three_images_by_hand():
    """Outputs in logarithms, of classes 1 and 2; that of class 0, which is absent, is large."""
    logits = jnp.log(jnp.array([[90.0, 1.0, 3.0], [90.0, 1.0, 1.0], [90.0, 2.0, 8.0]]))
    labels = jnp.array([2, 1, 1])
    loss = losses.cross_entropy(without_absent(logits, labels, 3), labels)
    assert float(loss) == pytest.approx(-np.log([3 / 4, 1 / 2, 2 / 10]).mean(), rel=1e-5)
    gradient = jax.grad(
        lambda x: losses.cross_entropy(without_absent(x, labels, 3), labels)
    )(logits)  # fmt: skip
    assert not np.any(np.asarray(gradient)[:, 0])


def test_er_ace_adds_the_means_of_streams_that_are_normalised_apart(learner, batch):
    step = method_of(ERACE).plan(is_first=False)[0]
    loss, parts, output = loss_of(step.loss, learner, batch)
    new, statistics = logits_of(learner.weights, batch.images[:SIZE])
    weights = learner.weights.replace(batch_stats=statistics)
    old, statistics = logits_of(weights, batch.images[SIZE:])
    expected = {
        "new": cross_entropy(new[:, 4:N_SEEN], batch.labels[:SIZE] - 4),
        "exemplars": cross_entropy(old[:, :N_SEEN], batch.labels[SIZE:]),
    }
    chex.assert_trees_all_close(parts, expected, rtol=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)
    chex.assert_trees_all_close(output.batch_stats, statistics, rtol=1e-5)
