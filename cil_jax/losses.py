"""The losses of class-incremental learning, each a pure function of arrays.

Logits of closed head columns are `heads.CLOSED`, a large negative number. Under a softmax such a
column has probability zero, under a sigmoid with target zero it costs nothing, and in neither has
it a gradient: so none of these functions needs a mask.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from cil_jax import heads
from cil_jax.typing import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean softmax cross-entropy.

    Args:
      logits: float [B, C].
      labels: int [B], each in 0..C-1.

    Returns:
      A scalar, in nats.
    """
    chex.assert_rank([logits, labels], [2, 1])
    chex.assert_equal_shape_prefix([logits, labels], 1)
    chex.assert_type([logits, labels], [float, int])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def distillation(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """Knowledge distillation: cross-entropy of the student against the teacher's soft labels.

    Li and Hoiem, "Learning without Forgetting" (2016), eq. 2 to 4,
    https://arxiv.org/abs/1606.09282; Hinton et al., https://arxiv.org/abs/1503.02531.
    The loss is not multiplied by the squared temperature. No gradient reaches the teacher.

    Args:
      student_logits: float [B, C].
      teacher_logits: float [B, C].
      temperature: above 0; both logits are divided by it. Larger is softer.

    Returns:
      A scalar, in nats: the mean over the batch.
    """
    chex.assert_rank([student_logits, teacher_logits], 2)
    chex.assert_equal_shape([student_logits, teacher_logits])
    chex.assert_type([student_logits, teacher_logits], float)
    soft_labels = jax.nn.softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    return optax.softmax_cross_entropy(student_logits / temperature, soft_labels).mean()


def distillation_by_task(
    student_logits: Array, teacher_logits: Array, temperature: float, task_of: Array
) -> Array:
    """Knowledge distillation with a softmax of its own for the outputs of each old task.

    Li and Hoiem, "Learning without Forgetting" (2016), eq. 2 and section 3: each old task keeps
    its own softmax, and the losses of all old tasks are added.

    Args:
      student_logits: float [B, C].
      teacher_logits: float [B, C].
      temperature: above 0; both logits are divided by it.
      task_of: int [C], the old task that an output belongs to; -1 for one that is not distilled.

    Returns:
      A scalar, in nats: the sum over tasks, and its mean over the batch.
    """
    chex.assert_rank([student_logits, teacher_logits, task_of], [2, 2, 1])
    chex.assert_equal_shape([student_logits, teacher_logits])
    chex.assert_type([student_logits, teacher_logits, task_of], [float, float, int])
    n = len(task_of)
    group = jnp.where(task_of < 0, n, task_of)  # one group more, for what is left out

    def log_softmax(logits):
        columns = logits.T / temperature  # [C, B]
        top = jax.lax.stop_gradient(jax.ops.segment_max(columns, group, n + 1))
        shifted = columns - top[group]
        total = jax.ops.segment_sum(jnp.exp(shifted), group, n + 1)
        return shifted - jnp.log(total)[group]

    soft_labels = jnp.exp(log_softmax(jax.lax.stop_gradient(teacher_logits)))
    costs = -soft_labels * log_softmax(student_logits)
    return jnp.where(task_of[:, None] >= 0, costs, 0.0).sum(axis=0).mean()


def icarl(
    logits: Array,
    labels: Array,
    teacher_logits: Array,
    n_old: int | Array,
    n_open: int | Array,
    divisor: float,
) -> dict[str, Array]:
    """iCaRL's loss in its two parts: Rebuffi et al. (2017), Algorithm 3.

    New outputs learn the labels; old ones learn what the old network says, also of exemplars.

    Args:
      logits: float [B, C], of the network that learns.
      labels: int [B], each in 0..C-1.
      teacher_logits: float [B, C], of the old network; no gradient reaches it.
      n_old: outputs 0 .. n_old - 1 are old.
      n_open: outputs from here on cost nothing.
      divisor: see `icarl_bce`.

    Returns:
      Scalars by name: "classification" and "distillation". The loss is their sum.
    """
    chex.assert_rank([logits, labels, teacher_logits], [2, 1, 2])
    targets = jax.nn.one_hot(labels, logits.shape[1])
    is_old = jnp.arange(logits.shape[1]) < n_old
    answers = jax.nn.sigmoid(jax.lax.stop_gradient(teacher_logits))
    new, old = heads.restrict(logits, n_old, n_open), heads.restrict(logits, 0, n_old)
    return {
        "classification": icarl_bce(new, jnp.where(is_old, 0.0, targets), divisor),
        "distillation": icarl_bce(old, jnp.where(is_old, answers, 0.0), divisor),
    }


def icarl_bce(logits: Array, targets: Array, divisor: float) -> Array:
    """iCaRL's loss: binary cross-entropy of every output, over a constant divisor.

    Rebuffi et al., "iCaRL" (2017), Algorithm 3, https://arxiv.org/abs/1611.07725. Targets are the
    old network's sigmoids for old classes and one-hot labels for new ones. The paper's code takes
    the mean over batch x 100 outputs; the divisor keeps that scale however many columns are open.

    Args:
      logits: float [B, C].
      targets: float [B, C], each in 0..1.
      divisor: above 0; 100 in the paper's code.

    Returns:
      A scalar, in nats: the sum over outputs, divided, then its mean over the batch.
    """
    chex.assert_rank([logits, targets], 2)
    chex.assert_equal_shape([logits, targets])
    chex.assert_type([logits, targets], float)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=1).mean() / divisor
