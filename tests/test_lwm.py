"""LwM: attention maps by hand, and a gradient through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images
from frozen_features import NORMALIZER, Pixels, engine_of

from cil_jax import models
from cil_jax.data.augment import Augmentation
from cil_jax.errors import UserError
from cil_jax.methods.lwm import LwM
from cil_jax.network import Output
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine


def method_of(**settings):
    return LwM(models.build("tiny"), n_classes=4, n_tasks=2, task_room=2, **settings)


@pytest.fixture(scope="module")
def learner():
    """In the second task, with weights that have moved since the first."""
    engine = Engine(method_of(), SGD(), Augmentation(0, False), 4)
    learner = engine.create((8, 8, 1), 4, NORMALIZER, jax.random.key(0), jax.random.key(1))
    for _ in range(2):
        learner = engine.end_task(engine.begin_task(learner, jnp.int32(2)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), learner.weights.params
    )
    return learner.replace(weights=learner.weights.replace(params=params))


BATCH = new_images(jax.random.uniform(jax.random.key(3), (4, 8, 8, 1)), [2, 3, 2, 3])


def test_an_attention_map_by_hand():
    """Two channels with the weights 2 and -1, at four positions: relu(2 a - b), of length 1."""
    maps = jnp.array([[[1.0, 1.0], [2.0, 0.0]], [[0.0, 5.0], [2.0, 1.0]]])[None]
    head = {"kernel": jnp.array([[0.0, 2.0], [9.0, -1.0]]), "bias": jnp.zeros(2)}
    features = maps.mean(axis=(1, 2))
    output = Output(features, jnp.zeros((1, 2)), {}, {"stage1": maps}, features)
    attention = method_of().attention_map(head, output, jnp.array([1]))
    expected = np.array([1.0, 4.0, 0.0, 3.0]) / 26**0.5
    np.testing.assert_allclose(attention, expected[None], rtol=1e-6)


def test_the_attention_loss_has_a_gradient_by_backbone_and_head(learner):
    """Also where both differ from the old ones only little; LwF's loss is the rest."""

    @jax.jit
    def attention(params):
        loss, (parts, _) = method_of(attention=2.0).loss(params, learner, BATCH, jax.random.key(0))
        rest = parts["classification"] + parts["distillation"]
        return parts["attention"], loss - rest

    (value, weighted), grads = jax.value_and_grad(attention, has_aux=True)(learner.weights.params)
    assert float(value) > 1e-3
    assert float(weighted) == pytest.approx(2.0 * float(value), rel=1e-4)
    assert np.any(np.asarray(grads["head"]["kernel"])[:, :2] != 0)  # through the importance
    backbone = [np.abs(x).max() for x in jax.tree.leaves(grads["backbone"])]
    assert max(backbone) > 1e-3

    params = learner.weights.params
    step = 1e-3 / sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(grads)) ** 0.5
    moved = jax.tree.map(lambda x, g: x + step * g, params, grads)
    slope = (attention(moved)[0] - value) / step
    assert float(slope) == pytest.approx(
        sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(grads)), rel=0.1
    )


def test_a_backbone_without_maps_is_refused():
    method = engine_of(LwM).method
    output = Output(jnp.zeros((1, 6)), jnp.zeros((1, 6)), {}, {}, jnp.zeros((1, 6)))
    assert isinstance(method.backbone, Pixels)
    with pytest.raises(UserError, match="LwM needs a backbone that records its last maps"):
        method.attention_map({}, output, jnp.array([0]))
