"""Losses against answers worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import heads, losses

LN2, LN3 = np.log(2), np.log(3)


def test_cross_entropy_by_hand():
    # Probabilities (1/2, 1/2) and (3/4, 1/4), both of class 0.
    logits, labels = jnp.array([[0.0, 0.0], [LN3, 0.0]]), jnp.array([0, 0])
    expected = (LN2 + np.log(4 / 3)) / 2
    chex.assert_trees_all_close(losses.cross_entropy(logits, labels), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ([0.0, 0.0], LN2),  # 3/4 ln 2 + 1/4 ln 2
        ([2 * LN3, 0.0], -0.75 * np.log(0.75) - 0.25 * np.log(0.25)),  # the teacher's entropy
    ],
)
def test_distillation_by_hand(student, expected):
    # At temperature 2 the teacher's (2 ln 3, 0) are probabilities (3/4, 1/4).
    teacher = jnp.array([[2 * LN3, 0.0]])
    loss = losses.distillation(jnp.array([student]), teacher, 2.0)
    chex.assert_trees_all_close(loss, expected, rtol=1e-6)


def test_distillation_gradient_is_the_difference_of_probabilities():
    student, teacher = jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.0, 2.0, 1.0]])
    grad = jax.grad(losses.distillation)(student, teacher, 2.0)
    expected = (jax.nn.softmax(student / 2) - jax.nn.softmax(teacher / 2)) / 2
    chex.assert_trees_all_close(grad, expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["distillation", "distillation_by_task", "icarl"])
def test_no_gradient_reaches_the_teacher(loss):
    student, teacher = jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.0, 2.0, 1.0]])

    def value(student, teacher):
        if loss == "distillation":
            return losses.distillation(student, teacher, 2.0)
        if loss == "distillation_by_task":
            return losses.distillation_by_task(student, teacher, 2.0, jnp.array([0, 0, -1]))
        return losses.icarl(student, jnp.array([2]), teacher, 2, 3, 100.0)["distillation"]

    to_student, to_teacher = jax.grad(value, argnums=(0, 1))(student, teacher)
    assert np.all(np.asarray(to_student)[:, :2] != 0)
    chex.assert_trees_all_equal(to_teacher, jnp.zeros_like(teacher))


def test_icarl_bce_by_hand():
    # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4: ln 2, then -1/2 ln 3/4 - 1/2 ln 1/4.
    logits, targets = jnp.array([[0.0, LN3]]), jnp.array([[1.0, 0.5]])
    expected = (LN2 - 0.5 * np.log(0.75) - 0.5 * np.log(0.25)) / 100
    chex.assert_trees_all_close(losses.icarl_bce(logits, targets, 100.0), expected, rtol=1e-6)


def test_icarl_bce_is_the_paper_codes_mean_over_100_outputs():
    key = jax.random.key(0)
    logits = jax.random.normal(key, (7, 100))
    targets = jax.random.uniform(jax.random.fold_in(key, 1), (7, 100))
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    t = np.asarray(targets, np.float64)
    expected = np.mean(-t * np.log(p) - (1 - t) * np.log(1 - p))
    chex.assert_trees_all_close(losses.icarl_bce(logits, targets, 100), expected, rtol=1e-5)


def test_icarl_bce_divisor_is_constant():
    logits, targets = jnp.ones((3, 4)), jnp.zeros((3, 4))
    closed = jnp.full((3, 6), heads.CLOSED)
    wide = losses.icarl_bce(
        jnp.concatenate([logits, closed], 1), jnp.concatenate([targets, jnp.zeros((3, 6))], 1), 10.0
    )
    chex.assert_trees_all_equal(wide, losses.icarl_bce(logits, targets, 10.0))


@pytest.mark.parametrize("loss", ["cross_entropy", "distillation", "icarl_bce"])
def test_closed_columns_cost_nothing_and_have_no_gradient(loss):
    open_logits = jnp.array([[0.3, -1.0], [2.0, 0.5]])
    teacher = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    labels = jnp.array([0, 1])

    def pad(x, value):
        return jnp.concatenate([x, jnp.full((2, 3), value)], axis=1)

    def value(logits, closed):
        if loss == "cross_entropy":
            return losses.cross_entropy(logits, labels)
        if loss == "distillation":
            return losses.distillation(logits, closed(teacher, heads.CLOSED), 2.0)
        return losses.icarl_bce(logits, closed(jax.nn.sigmoid(teacher), 0.0), 100.0)

    narrow, narrow_grad = jax.value_and_grad(lambda x: value(x, lambda t, _: t))(open_logits)
    wide, wide_grad = jax.value_and_grad(lambda x: value(x, pad))(pad(open_logits, heads.CLOSED))
    chex.assert_trees_all_close(wide, narrow, rtol=1e-6)
    chex.assert_trees_all_close(wide_grad, pad(narrow_grad, 0.0), atol=1e-7)


def test_wrong_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros((3,), int))
    with pytest.raises(AssertionError):
        losses.distillation(jnp.zeros((2, 3)), jnp.zeros((2, 4)), 2.0)
    with pytest.raises(AssertionError):
        losses.icarl_bce(jnp.zeros((2, 3)), jnp.zeros((2,)), 1.0)
