"""The losses of class-incremental learning, each a pure function of arrays.

The logit of a closed head column is `heads.CLOSED`, a large negative number. A softmax gives such a
column probability zero, and a sigmoid with target zero gives it zero loss. Its gradient is zero in
both cases, so none of these functions needs a mask.
"""

import chex
import jax
import jax.numpy as jnp
import optax

from cil_jax import heads
from cil_jax.selection import unit
from cil_jax.typing import Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Computes the mean softmax cross-entropy.

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
    """Computes the cross-entropy of the student against the teacher's soft labels.

    Li and Hoiem, "Learning without Forgetting" (2016), eq. 2 to 4,
    https://arxiv.org/abs/1606.09282; Hinton et al., https://arxiv.org/abs/1503.02531.
    The loss is not multiplied by the squared temperature. No gradient flows to the teacher.

    Args:
      student_logits: float [B, C].
      teacher_logits: float [B, C].
      temperature: above 0; both logits are divided by it. A higher value gives softer labels.

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
    """Computes the distillation loss with a separate softmax for each old task.

    Li and Hoiem, "Learning without Forgetting" (2016), eq. 2 and section 3: each old task keeps
    its own softmax, and the losses of all old tasks are added.

    Args:
      student_logits: float [B, C].
      teacher_logits: float [B, C].
      temperature: above 0; both logits are divided by it.
      task_of: int [C], the old task of each output; -1 for an output that is not distilled.

    Returns:
      A scalar, in nats: summed over tasks and averaged over the batch.
    """
    chex.assert_rank([student_logits, teacher_logits, task_of], [2, 2, 1])
    chex.assert_equal_shape([student_logits, teacher_logits])
    chex.assert_type([student_logits, teacher_logits, task_of], [float, float, int])
    n_columns = len(task_of)
    # Outputs that are not distilled form an extra group.
    group = jnp.where(task_of < 0, n_columns, task_of)

    def log_softmax(logits: Array) -> Array:
        """Log-probabilities [C, B] within each group of columns."""
        columns = logits.T / temperature
        top = jax.lax.stop_gradient(jax.ops.segment_max(columns, group, n_columns + 1))
        shifted = columns - top[group]
        total = jax.ops.segment_sum(jnp.exp(shifted), group, n_columns + 1)
        return shifted - jnp.log(total)[group]

    soft_labels = jnp.exp(log_softmax(jax.lax.stop_gradient(teacher_logits)))
    losses = -soft_labels * log_softmax(student_logits)
    return jnp.where(task_of[:, None] >= 0, losses, 0.0).sum(axis=0).mean()


def sigmoid_classification(
    logits: Array, labels: Array, n_open: int | Array, divisor: float
) -> Array:
    """Computes the binary cross-entropy of every open output on the labels; see `icarl_bce`.

    Args:
      logits: float [B, C].
      labels: int [B], each in 0..C-1.
      n_open: outputs n_open and above are ignored.
      divisor: see `icarl_bce`.

    Returns:
      A scalar, in nats.
    """
    chex.assert_rank([logits, labels], [2, 1])
    targets = jax.nn.one_hot(labels, logits.shape[1])
    return icarl_bce(heads.restrict(logits, 0, n_open), targets, divisor)


def distillation_of_old_outputs(
    logits: Array,
    teacher_logits: Array,
    n_old: Array,
    temperature: float,
    task_of: Array | None = None,
) -> Array:
    """Computes the distillation of the old outputs; zero if there are none.

    Args:
      logits: float [B, C], from the network in training.
      teacher_logits: float [B, C], from the old network; no gradient flows to it.
      n_old: int [], outputs 0 .. n_old - 1 are old.
      temperature: above 0; both logits are divided by it.
      task_of: int [C], the task of each output, for a separate softmax for each old task (default:
        one softmax over all old outputs).

    Returns:
      A scalar, in nats.
    """
    old, old_teacher = (heads.restrict(x, 0, n_old) for x in (logits, teacher_logits))
    if task_of is None:
        loss = distillation(old, old_teacher, temperature)
    else:
        is_old = jnp.arange(logits.shape[1]) < n_old
        loss = distillation_by_task(old, old_teacher, temperature, jnp.where(is_old, task_of, -1))
    return jnp.where(n_old > 0, loss, 0.0)


def by_shares(
    logits: Array,
    labels: Array,
    teacher_logits: Array,
    n_old: Array,
    n_seen: Array,
    temperature: float,
) -> tuple[Array, dict[str, Array]]:
    """Computes cross-entropy and distillation, weighted by the shares of new and old classes.

    Wu et al. 2019 (https://arxiv.org/abs/1905.13260), eq. 1 to 3: the distillation of the old
    outputs has the weight n_old / n_seen, the cross-entropy over all outputs has the rest.

    Args:
      logits: float [B, C], from the network in training.
      labels: int [B], each in 0..C-1.
      teacher_logits: float [B, C], from the old network; no gradient flows to it.
      n_old, n_seen: int [], number of old classes, and of old and new ones.
      temperature: see `distillation`.

    Returns:
      The loss, a scalar; and its parts "classification" and "distillation" before weighting.
    """
    parts = {
        "classification": cross_entropy(logits, labels),
        "distillation": distillation_of_old_outputs(logits, teacher_logits, n_old, temperature),
    }
    share = n_old / n_seen
    return (1 - share) * parts["classification"] + share * parts["distillation"], parts


def icarl(
    logits: Array,
    labels: Array,
    teacher_logits: Array,
    n_old: int | Array,
    n_open: int | Array,
    divisor: float,
) -> dict[str, Array]:
    """Computes the two parts of iCaRL's loss: Rebuffi et al. (2017), Algorithm 3.

    New outputs are trained on the labels. Old outputs are trained on the old network's sigmoids,
    for new images and exemplars alike.

    Args:
      logits: float [B, C], from the network in training.
      labels: int [B], each in 0..C-1.
      teacher_logits: float [B, C], from the old network; no gradient flows to it.
      n_old: outputs 0 .. n_old - 1 are old.
      n_open: outputs n_open and above are ignored.
      divisor: see `icarl_bce`.

    Returns:
      The scalars "classification" and "distillation". The loss is their sum.
    """
    chex.assert_rank([logits, labels, teacher_logits], [2, 1, 2])
    targets = jax.nn.one_hot(labels, logits.shape[1])
    is_old = jnp.arange(logits.shape[1]) < n_old
    soft_labels = jax.nn.sigmoid(jax.lax.stop_gradient(teacher_logits))
    new, old = heads.restrict(logits, n_old, n_open), heads.restrict(logits, 0, n_old)
    return {
        "classification": icarl_bce(new, jnp.where(is_old, 0.0, targets), divisor),
        "distillation": icarl_bce(old, jnp.where(is_old, soft_labels, 0.0), divisor),
    }


def icarl_bce(logits: Array, targets: Array, divisor: float) -> Array:
    """Computes iCaRL's loss: binary cross-entropy summed over outputs, divided by a constant.

    Rebuffi et al., "iCaRL" (2017), Algorithm 3, https://arxiv.org/abs/1611.07725. The targets are
    the old network's sigmoids for old classes and one-hot labels for new ones. The paper's code
    averages over batch x 100 outputs; the constant divisor keeps that scale for any number of open
    columns.

    Args:
      logits: float [B, C].
      targets: float [B, C], each in 0..1.
      divisor: above 0; 100 in the paper's code.

    Returns:
      A scalar, in nats: the sum over outputs, averaged over the batch, divided by `divisor`.
    """
    chex.assert_rank([logits, targets], 2)
    chex.assert_equal_shape([logits, targets])
    chex.assert_type([logits, targets], float)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=1).mean() / divisor


def cosine_distance(features: Array, teacher_features: Array) -> Array:
    """Computes 1 minus the cosine between new and old features.

    It is the less-forget constraint of Hou et al. (2019), section 3.3. No gradient flows to the
    teacher.

    Args:
      features: float [B, D], of any length.
      teacher_features: float [B, D], of any length.

    Returns:
      A scalar in 0..2: the mean over the batch.
    """
    chex.assert_rank([features, teacher_features], 2)
    chex.assert_equal_shape([features, teacher_features])
    cosines = unit(features) * unit(jax.lax.stop_gradient(teacher_features))
    return 1.0 - cosines.sum(axis=1).mean()


def pooled_distance(maps: Array, teacher_maps: Array) -> Array:
    """Computes the distance between new and old feature maps, pooled along each spatial axis.

    It is POD-spatial of Douillard et al. (2020), section 3.1, https://arxiv.org/abs/2004.13513, as
    in the authors' code: entries are squared, summed over the width and, apart from that, over the
    height; both sums of an image together form one vector, which is scaled to unit length. No
    gradient flows to the teacher.

    Args:
      maps: float [B, H, W, C].
      teacher_maps: float [B, H, W, C].

    Returns:
      A scalar: the Euclidean distance, averaged over the batch.
    """
    chex.assert_rank([maps, teacher_maps], 4)
    chex.assert_equal_shape([maps, teacher_maps])

    def pooled(maps: Array) -> Array:
        squares = maps.astype(jnp.float32) ** 2
        sums = [squares.sum(axis=axis).reshape(len(maps), -1) for axis in (1, 2)]
        return unit(jnp.concatenate(sums, axis=1))

    difference = pooled(maps) - pooled(jax.lax.stop_gradient(teacher_maps))
    return optax.safe_norm(difference, 0.0, axis=1).mean()


def nca(logits: Array, labels: Array, margin: float | Array) -> Array:
    """Computes the hinged NCA loss: Douillard et al. (2020), eq. 6.

    It is max(0, -log(exp(z_y - margin) / sum of exp(z_c) over all c except y)) for logits z and
    label y, averaged over the batch.

    Args:
      logits: float [B, C].
      labels: int [B], each in 0..C-1.
      margin: subtracted from the logit of the label alone.

    Returns:
      A scalar, in nats.
    """
    chex.assert_rank([logits, labels], [2, 1])
    is_label = labels[:, None] == jnp.arange(logits.shape[1])
    right = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    others = jax.nn.logsumexp(jnp.where(is_label, heads.CLOSED, logits), axis=1)
    return jax.nn.relu(others - (right - margin)).mean()


def margin_ranking(
    cosines: Array,
    labels: Array,
    n_old: int | Array,
    n_seen: int | Array,
    margin: float,
    n_rivals: int,
) -> Array:
    """Computes the margin ranking loss, which keeps exemplars away from similar new classes.

    Hou et al. (2019), section 3.4: the mean of max(0, margin - cosine of the label + cosine of a
    rival) over the images of old classes and their rivals.

    Args:
      cosines: float [B, C], before they are scaled.
      labels: int [B].
      n_old, n_seen: columns 0 .. n_old - 1 are old, and n_old .. n_seen - 1 are new.
      margin: at least 0.
      n_rivals: number of rivals of an image, the new classes with the largest cosines; all new
        classes if there are fewer.

    Returns:
      A scalar; 0 if the batch has no image of an old class.
    """
    chex.assert_rank([cosines, labels], [2, 1])
    new = heads.restrict(cosines, n_old, n_seen)
    rivals, _ = jax.lax.top_k(new, min(n_rivals, cosines.shape[1]))
    right = jnp.take_along_axis(cosines, labels[:, None], axis=1)
    # Where there are too few new classes, the rival is CLOSED and adds nothing.
    loss = jax.nn.relu(margin - right + rivals).sum(axis=1)
    is_old = labels < n_old
    n_terms = is_old.sum() * jnp.minimum(n_rivals, n_seen - n_old)
    return jnp.where(is_old, loss, 0.0).sum() / jnp.maximum(n_terms, 1)
