"""What sets the methods apart, by hand and against plain NumPy."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images

from cil_jax import models
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Learner, Normalizer, create
from cil_jax.memory import join
from cil_jax.methods import build
from cil_jax.methods.fixed import FixedRepresentation
from cil_jax.network import Network
from cil_jax.schedules import SGD
from cil_jax.settings.loading import preset
from cil_jax.training.engine import Engine

N_OLD, N_SEEN, ROOM = 3, 5, 8


@pytest.fixture(scope="module")
def backbone():
    return models.build("tiny")


def learner_of(backbone, n_old=N_OLD, n_seen=N_SEEN) -> Learner:
    """A learner in the middle of a run, whose two networks differ."""
    normalizer = Normalizer(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    network = Network(backbone)
    learner = create(
        network.create((8, 8, 1), ROOM, jax.random.key(0)),
        image_shape=(8, 8, 1),
        n_features=backbone.n_features,
        n_classes=ROOM,
        memory_size=10,
        normalizer=normalizer,
        optimizer=SGD().direction(),
        init_key=jax.random.key(0),
        data_key=jax.random.key(1),
    )

    def with_head(seed):
        kernel, bias = jax.random.split(jax.random.key(seed))
        head = {
            "kernel": jax.random.normal(kernel, (8, ROOM)),
            "bias": jax.random.normal(bias, (ROOM,)),
        }
        return learner.weights.replace(params={**learner.weights.params, "head": head})

    return learner.replace(
        weights=with_head(2),
        teacher=with_head(3),
        n_old=jnp.int32(n_old),
        n_seen=jnp.int32(n_seen),
    )


def outputs(method, learner, batch):
    """What student and teacher say, as float64, all columns open."""
    student = jax.jit(partial(method.student, train=False))(
        learner.weights.params, learner, batch
    ).features
    teacher = jax.jit(method.teacher)(learner, batch).features

    def head(features, weights):
        h = weights.params["head"]
        return np.asarray(features, np.float64) @ np.asarray(h["kernel"], np.float64) + np.asarray(
            h["bias"], np.float64
        )

    return head(student, learner.weights), head(teacher, learner.teacher)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def case(name, backbone, **settings):
    method = build(preset(name, **settings), backbone, mirror_means=True)
    learner = learner_of(backbone)
    images = jax.random.normal(jax.random.key(5), (6, 8, 8, 1))
    batch = new_images(
        images, jnp.array([3, 4, 4, 3, 0, 2] if name == "icarl" else [3, 4, 4, 3, 3, 4])
    )
    loss, (parts, _) = jax.jit(partial(method.loss, train=False))(
        learner.weights.params, learner, batch, jax.random.key(0)
    )
    return loss, parts, *outputs(method, learner, batch), np.asarray(batch.labels)


def test_finetune_is_cross_entropy_over_all_open_outputs(backbone):
    loss, _, student, _, labels = case("finetune", backbone, softmax_over="open")
    expected = -log_softmax(student[:, :N_SEEN])[np.arange(6), labels].mean()
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_lwf_is_lambda_times_distillation_plus_cross_entropy(backbone):
    loss, parts, student, teacher, labels = case(
        "lwf", backbone, softmax_over="new", lambda_=3.0, temperature=2.0
    )
    new = student[:, N_OLD:N_SEEN]
    cross_entropy = -log_softmax(new)[np.arange(6), labels - N_OLD].mean()
    soft = np.exp(log_softmax(teacher[:, :N_OLD] / 2))
    distillation = -(soft * log_softmax(student[:, :N_OLD] / 2)).sum(axis=1).mean()
    chex.assert_trees_all_close(parts["distillation"], distillation, rtol=1e-5)
    chex.assert_trees_all_close(loss, 3 * distillation + cross_entropy, rtol=1e-5)


def test_lwf_has_nothing_to_distil_in_the_first_task(backbone):
    method = build(preset("lwf", softmax_over="new"), backbone)
    learner = learner_of(backbone, n_old=0, n_seen=2)
    batch = new_images(jnp.ones((2, 8, 8, 1)), jnp.array([0, 1]))
    (loss, (parts, _)), grads = jax.value_and_grad(method.loss, has_aux=True)(
        learner.weights.params, learner, batch, jax.random.key(0)
    )
    assert float(parts["distillation"]) == 0 and float(loss) == float(parts["classification"])
    chex.assert_tree_all_finite(grads)


def test_icarl_is_the_papers_loss(backbone):
    """Old outputs learn the old network's sigmoids, also of exemplars (labels 0 and 2 here)."""
    loss, parts, student, teacher, labels = case(
        "icarl", backbone, objective="sigmoid", divisor=100.0
    )
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    targets = np.eye(ROOM)[labels]
    targets[:, :N_OLD] = sigmoid(teacher[:, :N_OLD])
    p = sigmoid(student)
    bce = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))[:, :N_SEEN]
    chex.assert_trees_all_close(loss, bce.sum() / (6 * 100), rtol=1e-5)
    chex.assert_trees_all_close(parts["distillation"], bce[:, :N_OLD].sum() / 600, rtol=1e-5)


@pytest.mark.parametrize("mirror_means", [True, False])
def test_icarl_keeps_the_herded_images_and_their_means(backbone, mirror_means):
    """What is kept, against the paper's Algorithm 4 and eq. 2 in NumPy, after the first task."""
    settings = preset("icarl", memory=10)
    method = build(settings, backbone, mirror_means=mirror_means)
    learner = learner_of(backbone, n_old=0, n_seen=2)
    images = np.random.RandomState(0).randint(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    labels = np.tile([0, 1], 6)
    pool = join(images, labels.astype(np.int32), learner.memory, 3, 6)
    after = engine_for(method).keep(learner, pool)

    def unit_features(pixels):
        weights = learner.weights
        output = jax.jit(method.network)(weights, pixels / 255.0, 2)
        features = np.asarray(output.features, np.float64)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    assert after.memory.counts(3).tolist() == [5, 5, 0]
    for c in (0, 1):
        own = images[labels == c]
        features, picks = unit_features(own), []
        for k in range(1, 6):
            sums = features[picks].sum(axis=0) + features
            distances = np.linalg.norm(features.mean(axis=0) - sums / k, axis=1)
            distances[picks] = np.inf
            picks.append(int(distances.argmin()))
        kept = np.asarray(after.memory.images)[5 * c : 5 * c + 5]
        np.testing.assert_array_equal(kept, own[picks])
        mean = unit_features(kept).mean(axis=0)
        if mirror_means:
            mean = mean + unit_features(kept[:, :, ::-1]).mean(axis=0)
        np.testing.assert_allclose(after.means[c], mean / np.linalg.norm(mean), atol=1e-5)


def test_random_exemplars_are_other_images_for_another_key(backbone):
    method = build(preset("icarl", memory=10, selection="random"), backbone, mirror_means=True)
    learner = learner_of(backbone, n_old=0, n_seen=2)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), np.uint8)
    labels = np.tile([0, 1], 20)
    pool = join(images, labels.astype(np.int32), learner.memory, 3, 20)
    engine = engine_for(method)
    others = learner.replace(data_key=jax.random.key(5))
    one, two = (engine.keep(x, pool).memory for x in (learner, others))
    for memory in (one, two):
        kept = np.asarray(memory.images)[:, 0, 0, 0]
        assert len(set(kept.tolist())) == 10 and np.all(labels[kept] == np.repeat([0, 1], 5))
        first, second = (kept // 2).reshape(2, 5).tolist()  # places within the class
        assert first != second
    assert not np.array_equal(one.images, two.images)


def sigmoid_bce(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


def test_lwf_mc_is_icarls_loss_on_new_images(backbone):
    settings = {"objective": "sigmoid", "divisor": 100.0, "lambda_": 3.0}  # of a softmax only
    loss, _, student, teacher, labels = case("lwf", backbone, **settings)
    targets = np.eye(ROOM)[labels]
    targets[:, :N_OLD] = 1 / (1 + np.exp(-teacher[:, :N_OLD]))
    expected = sigmoid_bce(student, targets)[:, :N_SEEN].sum() / 600
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_fixed_outputs_train_those_to_come_towards_zero(backbone):
    settings = {"objective": "sigmoid", "divisor": 100.0, "outputs": "fixed"}
    loss, _, student, teacher, labels = case("icarl", backbone, **settings)
    targets = np.eye(ROOM)[labels]
    targets[:, :N_OLD] = 1 / (1 + np.exp(-teacher[:, :N_OLD]))
    chex.assert_trees_all_close(loss, sigmoid_bce(student, targets).sum() / 600, rtol=1e-5)
    loss, _, student, _, labels = case("finetune", backbone, outputs="fixed", softmax_over="open")
    expected = -log_softmax(student)[np.arange(6), labels].mean()
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_hybrids_without_distillation_learn_the_labels_of_all_outputs(backbone):
    settings = {"objective": "sigmoid", "divisor": 100.0, "distill": "none"}
    loss, parts, student, _, labels = case("icarl", backbone, **settings)
    expected = sigmoid_bce(student, np.eye(ROOM)[labels])[:, :N_SEEN].sum() / 600
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)
    assert float(parts["distillation"]) == 0


def test_icarl_as_pycil_has_it_is_cross_entropy_and_distillation(backbone):
    loss, _, student, teacher, labels = case("icarl", backbone, objective="softmax")
    cross_entropy = -log_softmax(student[:, :N_SEEN])[np.arange(6), labels].mean()
    soft = np.exp(log_softmax(teacher[:, :N_OLD] / 2))
    distillation = -(soft * log_softmax(student[:, :N_OLD] / 2)).sum(axis=1).mean()
    chex.assert_trees_all_close(loss, cross_entropy + distillation, rtol=1e-5)


def test_replay_is_cross_entropy_over_all_open_outputs(backbone):
    loss, _, student, _, labels = case("replay", backbone)
    expected = -log_softmax(student[:, :N_SEEN])[np.arange(6), labels].mean()
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)


def test_li_and_hoiem_distil_each_old_task_in_a_softmax_of_its_own(backbone):
    settings = preset("lwf", softmax_over="new", distill="tasks", lambda_=2.0)
    method = build(settings, backbone, mirror_means=True)
    learner = learner_of(backbone).replace(task_of=jnp.array([0, 0, 1, 2, 2, -1, -1, -1]))
    images = jax.random.normal(jax.random.key(5), (6, 8, 8, 1))
    batch = new_images(images, jnp.array([3, 4, 4, 3, 3, 4]))
    _, (parts, _) = jax.jit(partial(method.loss, train=False))(
        learner.weights.params, learner, batch, jax.random.key(0)
    )
    student, teacher = outputs(method, learner, batch)
    expected = 0.0
    for columns in ([0, 1], [2]):
        soft = np.exp(log_softmax(teacher[:, columns] / 2))
        expected -= (soft * log_softmax(student[:, columns] / 2)).sum(axis=1).mean()
    chex.assert_trees_all_close(parts["distillation"], expected, rtol=1e-5)


def test_the_task_of_each_class_is_known(backbone):
    method = build(preset("finetune"), backbone)
    learner = learner_of(backbone, n_old=0, n_seen=0)
    for task, n_new in enumerate((2, 3)):
        learner = method.begin_task(learner.replace(task=jnp.int32(task)), n_new, jax.random.key(0))
    assert learner.task_of.tolist() == [0, 0, 1, 1, 1, -1, -1, -1]


def test_fixed_outputs_are_all_opened_by_the_first_task_and_left_by_the_others(backbone):
    method = build(preset("finetune", outputs="fixed"), backbone)
    zeros = jax.tree.map(jnp.zeros_like, learner_of(backbone).weights.params["head"])
    learner = learner_of(backbone, n_old=0, n_seen=0)
    params = {**learner.weights.params, "head": zeros}
    learner = learner.replace(weights=learner.weights.replace(params=params))
    assert int(method.n_open(learner)) == 0
    one = method.begin_task(learner, 2, jax.random.key(0))
    assert int(method.n_open(one)) == ROOM and int(one.n_seen) == 2
    assert np.all(np.abs(np.asarray(one.weights.params["head"]["kernel"])).max(axis=0) > 0)
    two = method.begin_task(one, 2, jax.random.key(1))
    chex.assert_trees_all_equal(two.weights.params, one.weights.params)


def engine_for(method):
    return Engine(method, SGD(), Augmentation(0, False), batch_size=4)


def one_step(method, learner, labels):
    """An engine, the arguments of its `train` for one update, and the kind of the training."""
    engine = engine_for(method)
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    pool = engine.pool(learner, images, np.array(labels, np.int32), 2, 4)
    numbers = (jnp.float32(0.1), jnp.float32(0.01), jnp.int32(1))
    kind = engine.kind(method.plan(is_first=int(learner.n_old) == 0)[0])
    return engine, (learner, pool, engine.no_sums(kind), *numbers), kind


def trained_one_step(method, learner, labels):
    engine, arguments, kind = one_step(method, learner, labels)
    return engine.train(*arguments, kind=kind)[0]


def test_a_fixed_representation_moves_new_outputs_only_after_the_first_task(backbone):
    method = build(preset("fixed", objective="sigmoid"), backbone)
    first = learner_of(backbone, n_old=0, n_seen=3)
    after = trained_one_step(method, first, [0, 1, 2, 0])
    same = jax.tree.map(np.array_equal, after.weights, first.weights)
    assert not any(jax.tree.leaves(same.params["backbone"]))
    assert not any(jax.tree.leaves(same.batch_stats))

    later = learner_of(backbone)
    after = trained_one_step(method, later, [3, 4, 3, 4])
    chex.assert_trees_all_equal(
        (after.weights.params["backbone"], after.weights.batch_stats),
        (later.weights.params["backbone"], later.weights.batch_stats),
    )
    moved = {
        k: np.asarray(after.weights.params["head"][k] != v)
        for k, v in later.weights.params["head"].items()
    }
    assert not moved["kernel"][:, :N_OLD].any() and not moved["bias"][:N_OLD].any()
    assert moved["kernel"][:, N_OLD:N_SEEN].all() and moved["bias"][N_OLD:N_SEEN].all()


class FrozenByArrays(FixedRepresentation):
    """The same, with factors that the compiler does not know."""

    def new_outputs(self, learner):
        return jax.tree.map(jnp.float32, super().new_outputs(learner))


def test_no_gradient_is_computed_of_weights_that_the_number_zero_freezes(backbone):
    learner = learner_of(backbone)
    method = build(preset("fixed", objective="sigmoid"), backbone)
    heads, n_convolutions = [], []
    for one in (method, FrozenByArrays(**vars(method))):
        engine, arguments, kind = one_step(one, learner, [3, 4, 3, 4])
        heads.append(engine.train(*arguments, kind=kind)[0].weights.params["head"])
        train = jax.jit(partial(Engine.train.__wrapped__, engine, kind=kind))
        n_convolutions.append(train.lower(*arguments).as_text().count("stablehlo.convolution"))
    chex.assert_trees_all_close(*heads, rtol=1e-6)
    # Of three convolutions, the gradients of three kernels and of two inputs.
    assert n_convolutions == [3, 3 + 5]


def test_joint_training_begins_anew_with_all_outputs_fresh(backbone):
    method = build(preset("joint"), backbone)
    before = learner_of(backbone, n_old=0, n_seen=3)
    after = method.begin_task(before, 2, jax.random.key(9))
    assert (int(after.n_old), int(after.n_seen)) == (3, 5)
    head = np.asarray(after.weights.params["head"]["kernel"])
    assert np.all(np.abs(head[:, :5]).max(axis=0) > 0) and not head[:, 5:].any()
    assert not np.array_equal(head, before.weights.params["head"]["kernel"])


@pytest.mark.parametrize(("answer", "headline"), [("nme", "nme"), ("linear", "linear")])
def test_the_answer_decides_the_headline_and_both_are_reported(backbone, answer, headline):
    method = build(preset("icarl", answer=answer), backbone, mirror_means=True)
    assert method.headline == headline == next(iter(method.classifiers()))
    assert set(method.classifiers()) == {"nme", "linear"}


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["lwf", "icarl"])
def test_the_loss_runs_its_teacher_in_evaluation_mode_while_it_trains(backbone, name, objective):
    """The teacher's running statistics decide what it says; a batch's own would hide them."""
    method = build(preset(name, objective=objective), backbone, mirror_means=True)
    learner = learner_of(backbone)
    batch = new_images(
        jax.random.normal(jax.random.key(5), (6, 8, 8, 1)), jnp.array([3, 4, 4, 3, 3, 4])
    )
    loss = jax.jit(partial(method.loss, train=True))

    def parts(learner):
        return loss(learner.weights.params, learner, batch, jax.random.key(0))[1][0]

    moved = jax.tree.map(lambda x: 4 * x + 1, learner.teacher.batch_stats)
    other = learner.replace(teacher=learner.teacher.replace(batch_stats=moved))
    one, two = parts(learner), parts(other)
    assert abs(float(one["distillation"] - two["distillation"])) > 1e-4
    chex.assert_trees_all_equal(one["classification"], two["classification"])
