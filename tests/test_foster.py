"""FOSTER: both losses by NumPy, the weights of classes, and what the compression starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import FACTS, ROOM, Small, batch_of, cross_entropy, learner_of, log_softmax, loss_of

from cil_jax.methods.foster import FOSTER, class_weights
from cil_jax.methods.plan import Fold, Keep, Train

D, N_OLD, N_SEEN = Small.n_features, 2, 4
COUNTS = np.array([3.0, 4.0, 40.0, 50.0, 0.0, 0.0, 0.0])


def method_of(**settings):
    return FOSTER(Small(), **FACTS, memory=8, mirror_means=False, **settings)


@pytest.fixture(scope="module")
def learner():
    """In its second task: the old network is frozen, and a copy of it is trained."""
    learner = learner_of(method_of(), 2)
    return learner.replace(own={**learner.own, "counts": jnp.asarray(COUNTS, jnp.float32)})


def features_of(params, batch_stats, images, train):
    variables = {"params": params, "batch_stats": batch_stats}
    features, _ = Small().apply(variables, images, train=train, mutable=["batch_stats"])
    return np.float64(features)


def weights_of(beta):
    """By the definition, among the classes seen."""
    weights = (1 - beta) / (1 - beta ** COUNTS[:N_SEEN])
    return weights / weights.mean()


def logits_of(head, features):
    return (features @ np.float64(head["kernel"]) + np.float64(head["bias"]))[:, :N_SEEN]


def boosted_logits(weights, images, train):
    """Those of both backbones, of which the frozen one is in evaluation mode."""
    frozen = jax.tree.map(lambda x: x[0], {k: weights.frozen[k] for k in ("params", "batch_stats")})
    old = features_of(frozen["params"], frozen["batch_stats"], images, train=False)
    new = features_of(weights.params["backbone"], weights.batch_stats, images, train)
    return logits_of(weights.params["head"], np.concatenate([old, new], axis=1)), old, new


def test_rare_classes_have_larger_weights_whose_mean_is_one():
    found = class_weights(jnp.asarray(COUNTS, jnp.float32), 0.9, N_SEEN)
    np.testing.assert_allclose(found[:N_SEEN], weights_of(0.9), rtol=1e-5)
    assert found[0] > found[1] > found[2] > found[3] and np.all(found[N_SEEN:] == 1)
    # With so many images that 0.9^n is nothing, all count alike.
    np.testing.assert_allclose(class_weights(jnp.full(3, 500.0), 0.9, 3), 1, rtol=1e-6)


def test_boosting_divides_the_outputs_by_the_weights_and_distils_the_old_network(learner):
    batch = batch_of([2, 3, 3, 2, 0, 1], n_exemplars=2)
    method = method_of(boosting_beta=0.9, distillation_weight=3.0)
    loss, parts, output = loss_of(method.loss, learner, batch)
    logits, old, new = boosted_logits(learner.weights, batch.images, train=True)
    classification = cross_entropy(logits / weights_of(0.9), batch.labels)
    assert parts["classification"] == pytest.approx(classification, rel=1e-4)
    of_new = logits_of(learner.weights.params["auxiliary"], new)
    assert parts["new_features"] == pytest.approx(cross_entropy(of_new, batch.labels), rel=1e-4)
    teacher = features_of(
        learner.teacher.params["backbone"], learner.teacher.batch_stats, batch.images, train=False
    )
    np.testing.assert_allclose(old, teacher, rtol=1e-4)
    head = learner.teacher.params["head"]
    soft = np.exp(log_softmax((teacher @ head["kernel"][:D] + head["bias"])[:, :N_OLD] / 2))
    distillation = -(soft * log_softmax(logits[:, :N_OLD] / 2)).sum(axis=1).mean()
    assert parts["distillation"] == pytest.approx(distillation, rel=1e-4)
    total = parts["classification"] + parts["new_features"] + 3 * parts["distillation"]
    assert loss == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(output.logits[:, :N_SEEN], logits, rtol=1e-3, atol=1e-5)


def test_the_compression_starts_as_the_old_network_and_learns_balanced_soft_labels(learner):
    method = method_of(compression_beta=0.9)
    student = jax.jit(method.compressed)(learner, jax.random.key(5))
    weights, old = student.weights, learner.teacher
    assert int(weights.frozen["count"]) == 0
    same = jax.tree.map(np.array_equal, weights.params["backbone"], old.params["backbone"])
    assert all(jax.tree.leaves(same))
    kernel, old_kernel = weights.params["head"]["kernel"], old.params["head"]["kernel"]
    assert np.array_equal(kernel[:D, :N_OLD], old_kernel[:D, :N_OLD])
    assert np.all(kernel[:D, N_OLD:N_SEEN] != 0) and not np.any(kernel[D:])

    batch = batch_of([2, 3, 0, 1, 2])
    loss, _, output = loss_of(method.loss_of_compression, student, batch)
    boosted, _, _ = boosted_logits(learner.weights, batch.images, train=False)
    soft = np.exp(log_softmax(boosted / 2)) * weights_of(0.9)
    soft /= soft.sum(axis=1, keepdims=True)
    features = features_of(old.params["backbone"], old.batch_stats, batch.images, train=True)
    logits = logits_of({"kernel": kernel[:D], "bias": weights.params["head"]["bias"]}, features)
    np.testing.assert_allclose(output.logits[:, :N_SEEN], logits, rtol=1e-3, atol=1e-5)
    expected = -(soft * log_softmax(logits / 2)).sum(axis=1).mean()
    assert loss == pytest.approx(expected, rel=1e-4)
    relabelled = batch.replace(labels=jnp.array([0, 0, 3, 2, 1]))
    assert loss_of(method.loss_of_compression, student, relabelled)[0] == loss


def test_a_later_task_counts_boosts_compresses_and_keeps(learner):
    method = method_of(epochs=17, rate=0.2)
    count, boosting, _, compression, keep = method.plan(is_first=False)
    assert isinstance(keep, Keep) and method.plan(is_first=True) == (Train(), Keep())
    assert boosting.schedule is None and isinstance(count, Fold)
    schedule = compression.schedule
    assert (schedule.epochs, schedule.rate_at(0), schedule.weight_decay) == (13, 0.2, 0.0)
    assert schedule.rate_at(12) < 0.01
    memory = learner.memory.replace(labels=jnp.array([0, 0, 1, 0, -1, -1, -1, -1]))
    sums = count.zero(learner.replace(memory=memory))
    sums = count.add(learner, sums, batch_of([2, 3, 3, -1]))
    counted = count.done(learner, sums, jax.random.key(0)).own["counts"]
    assert counted.tolist() == [3, 1, 1, 2, 0, 0, 0] and len(counted) == ROOM
