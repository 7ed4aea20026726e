"""PODNet: both distillations and the NCA loss by numpy, and k-means on planted clusters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from third_task import FACTS, N_OLD, N_SEEN, SHAPE, batch_of, learner_of, loss_of

from cil_jax import losses
from cil_jax.methods.base import Batch
from cil_jax.methods.plan import Fold, Train
from cil_jax.methods.podnet import PODNet

PROXIES = 2


class WithMaps(nn.Module):
    """Records two maps, of which one is before a ReLU and counts; half of the pixels are features.

    Attributes:
      n_features: eight of the sixteen pixels of an image.
    """

    n_features = 8

    @nn.compact
    def __call__(self, images, train):
        x = nn.Conv(3, (3, 3))(images)
        x = nn.BatchNorm(use_running_average=not train)(x)
        self.sow("intermediates", "stage0_before_relu", x)
        self.sow("intermediates", "stage0", nn.relu(x))
        scale = self.param("scale", nn.initializers.ones, (8,))
        return scale * (images.reshape(len(images), -1)[:, :8] + x.mean())


def method_of(**settings):
    values = {"per_class": 2, "proxies": PROXIES, "mirror_means": False, **settings}
    return PODNet(WithMaps(), **FACTS, **values)


@pytest.fixture(scope="module")
def learner():
    return learner_of(method_of())


def pooled(maps):
    """One vector of unit length for each image, by loops."""
    vectors = []
    for image in np.asarray(maps, np.float64) ** 2:
        height, width, n_channels = image.shape
        over_width = [image[h, :, c].sum() for h in range(height) for c in range(n_channels)]
        over_height = [image[:, w, c].sum() for w in range(width) for c in range(n_channels)]
        vector = np.array(over_width + over_height)
        vectors.append(vector / np.linalg.norm(vector))
    return np.array(vectors)


def pod(maps, old):
    return np.linalg.norm(pooled(maps) - pooled(old), axis=1).mean()


def test_the_pooled_distance_is_that_of_loops_and_has_a_gradient_everywhere():
    maps, old = jax.random.normal(jax.random.key(0), (2, 4, 3, 5, 2))
    distance = jax.jit(jax.value_and_grad(losses.pooled_distance))
    assert float(distance(maps, old)[0]) == pytest.approx(pod(maps, old), rel=1e-5)
    value, gradient = distance(maps, maps)
    assert float(value) == 0.0 and not np.any(np.asarray(gradient))
    assert np.any(np.asarray(distance(maps, old)[1]))


def test_a_turned_image_is_as_far_and_a_brighter_one_is_not_far_at_all():
    maps = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
    old = jnp.roll(maps, 1, axis=1)
    turned = losses.pooled_distance(maps.swapaxes(1, 2), old.swapaxes(1, 2))
    np.testing.assert_allclose(turned, losses.pooled_distance(maps, old), rtol=1e-5)
    np.testing.assert_allclose(losses.pooled_distance(3.0 * maps, maps), 0.0, atol=1e-6)


def test_the_nca_loss_by_hand():
    """Logits are logarithms of 4, 2, 1. The margin of ln 2 halves the right one alone."""
    logits = jnp.log(jnp.array([[4.0, 2.0, 1.0], [4.0, 2.0, 1.0], [100.0, 1.0, 1.0]]))
    labels = jnp.array([0, 1, 0])
    terms = [np.log(3 / 2), np.log(5 / 1), 0.0]  # the third would be negative
    found = losses.nca(logits, labels, np.log(2.0))
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(losses.nca(logits, labels, 0.0)) < float(found)  # the margin does not cancel


def test_the_loss_is_nca_and_two_distillations_with_their_factor(learner):
    method = method_of(flat_weight=2.0, spatial_weight=5.0, margin=0.6)
    batch = batch_of([4, 5, 4, 1, 2])
    head = {**learner.weights.params["head"], "scale": jnp.float32(2.5)}
    params = {**learner.weights.params, "head": head}
    learner = learner.replace(weights=learner.weights.replace(params=params))
    loss, parts, _ = loss_of(method.loss, learner, batch)

    def outputs(weights, train):
        variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
        mutable = ["batch_stats", "intermediates"]
        features, recorded = WithMaps().apply(variables, batch.images, train, mutable=mutable)
        return np.asarray(features, np.float64), recorded["intermediates"]["stage0_before_relu"][0]

    (features, maps), (old_features, old_maps) = (
        outputs(learner.weights, True), outputs(learner.teacher, False)
    )  # fmt: skip

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    kernel = np.asarray(head["kernel"], np.float64)[:, :, :N_SEEN]
    cosines = np.einsum("bd,pcd->bpc", unit(features), unit(kernel.swapaxes(1, 2)))
    attention = np.exp(cosines) / np.exp(cosines).sum(axis=1, keepdims=True)
    logits = 2.5 * (attention * cosines).sum(axis=1)
    terms = []
    for row, label in zip(logits, np.asarray(batch.labels), strict=True):
        others = np.exp(np.delete(row, label)).sum()
        terms.append(max(0.0, -np.log(np.exp(row[label] - 2.5 * 0.6) / others)))
    expected = {
        "classification": np.mean(terms),
        "flat": (1 - (unit(features) * unit(old_features)).sum(axis=1)).mean(),
        "spatial": pod(maps, old_maps),
    }
    chex.assert_trees_all_close(parts, expected, rtol=1e-3)
    factor = np.sqrt(N_SEEN / (N_SEEN - N_OLD))
    total = expected["classification"]
    total += factor * (2.0 * expected["flat"] + 5.0 * expected["spatial"])
    assert loss == pytest.approx(total, rel=1e-3)


def imprinted(method, learner, batch):
    for step in method.imprinting():
        assert isinstance(step, Fold)
        sums = jax.jit(step.add)(learner, step.zero(learner), batch)
        learner = jax.jit(step.done)(learner, sums, jax.random.key(0))
    return learner.weights.params["head"]["kernel"]


def test_proxies_of_new_classes_start_at_the_centers_of_their_clusters(learner):
    """Class 4 has two clusters of directions, class 5 one image, and a row holds no image."""
    rng = np.random.default_rng(0)
    directions = np.eye(8)[[0] * 9 + [3] * 5 + [6, 7]] + 0.05 * rng.normal(size=(16, 8))
    images = np.zeros((16, 16))
    images[:, :8] = directions
    labels = jnp.array([4] * 14 + [5, -1])
    images = jnp.asarray(images.reshape(-1, *SHAPE), jnp.float32)
    batch = Batch(images, labels, {}, jnp.zeros(16, bool))
    method = method_of(clustering_passes=4)
    before = np.asarray(learner.weights.params["head"]["kernel"])
    after = np.asarray(imprinted(method, learner, batch))
    length = np.linalg.norm(before[:, :, :N_OLD], axis=1).mean()
    variables = {
        "params": learner.weights.params["backbone"],
        "batch_stats": learner.weights.batch_stats,
    }
    features = np.asarray(WithMaps().apply(variables, images, train=False), np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    centers = np.array([features[:9].mean(axis=0), features[9:14].mean(axis=0)])
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    found = after[:, :, 4] / length
    order = (found @ centers.T).argmax(axis=0)
    assert sorted(order) == [0, 1]
    np.testing.assert_allclose(found[order], centers, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(after[:, :, 4:6], axis=1), length, rtol=1e-4)
    assert np.array_equal(after[:, :, :4], before[:, :, :4])
    # Its one image is in one cluster, and the other proxy has the direction that it had.
    kept = before[:, :, 5] / np.linalg.norm(before[:, :, 5], axis=1, keepdims=True)
    is_kept = np.isclose(after[:, :, 5] / length, kept, atol=1e-5).all(axis=1)
    assert sorted(is_kept) == [False, True]


def test_the_plan_of_a_later_task_clusters_trains_and_finetunes_the_head():
    steps = method_of(clustering_passes=3, finetune_rate=0.05).plan(is_first=False)
    names = [type(step).__name__ for step in steps]
    assert names == ["Fold"] * 3 + ["Train", "Train", "Keep"]
    assert steps[1] == steps[2] != steps[0]  # the later passes share their programs
    finetune = steps[4]
    assert isinstance(finetune, Train) and finetune.name == "head"
    assert [finetune.schedule.rate_at(epoch) for epoch in (0, 19)] == [0.05, 0.05]
