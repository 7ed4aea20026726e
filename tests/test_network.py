"""Networks: what a backbone records, and several backbones side by side."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import models
from cil_jax.network import Network, n_parameters_in_use

SHAPE, ROOM = (8, 8, 1), 6


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (3, *SHAPE))


def weights_of(network, seed=0):
    weights = jax.jit(network.create, static_argnums=(0, 1))(SHAPE, ROOM, jax.random.key(seed))
    head = network.head.grow(weights.params["head"], 0, 4, jax.random.key(1))
    return weights.replace(params={**weights.params, "head": head})


def test_a_network_returns_the_maps_of_each_stage_if_it_is_asked_for_them(images):
    network = Network(models.build("two-stage"))
    weights = weights_of(network)
    output = network(weights, images, 4, maps=True)
    assert {k: v.shape for k, v in output.maps.items()} == {
        "stage0": (3, 8, 8, 4),
        "stage0_before_relu": (3, 8, 8, 4),
        "stage1": (3, 4, 4, 8),
        "stage1_before_relu": (3, 4, 4, 8),
    }
    for name in ("stage0", "stage1"):
        before_relu = output.maps[f"{name}_before_relu"]
        assert before_relu.min() < 0
        np.testing.assert_array_equal(output.maps[name], nn.relu(before_relu))
    np.testing.assert_allclose(output.maps["stage1"].mean((1, 2)), output.features, rtol=1e-6)
    assert network(weights, images, 4).maps == {}
    trained = network(weights, images, 4, train=True, maps=True)
    assert trained.maps.keys() == output.maps.keys()
    assert not np.array_equal(trained.maps["stage1"], output.maps["stage1"])  # batch statistics


class Plain(nn.Module):
    """A network without batch statistics."""

    @nn.compact
    def __call__(self, images, train=False):
        del train
        return nn.Dense(5)(images.reshape(images.shape[0], -1))


def test_a_backbone_needs_no_batch_statistics_and_no_number_of_features(images):
    network = Network(Plain())
    weights = weights_of(network)
    assert weights.batch_stats == {} and weights.params["head"]["kernel"].shape == (5, ROOM)
    output = network(weights, images, 4, train=True)
    assert output.features.shape == (3, 5) and output.batch_stats == {}


@pytest.fixture(scope="module")
def expanded():
    """A network of three slots with two in use, and the weights of each step."""
    network = Network(models.build("tiny"), slots=3)
    one = weights_of(network)
    two = network.expand(one)
    other = weights_of(network, seed=5).params["backbone"]
    return network, one, two.replace(params={**two.params, "backbone": other})


def test_frozen_features_stay_and_new_ones_come_beside_them(expanded, images):
    network, one, two = expanded
    call = jax.jit(network.__call__)
    before, after = call(one, images, 4), call(two, images, 4)
    assert before.features.shape == (3, 3 * 8)
    np.testing.assert_array_equal(after.features[:, :8], before.features[:, :8])
    np.testing.assert_array_equal(after.features[:, 8:16], after.newest)
    assert np.any(np.asarray(after.newest) != np.asarray(before.newest))
    for output, n_used in ((before, 8), (after, 16)):
        assert not np.any(np.asarray(output.features[:, n_used:]))
    assert call._cache_size() == 1  # whatever the number of backbones in use


def test_no_gradient_reaches_frozen_backbones_and_that_of_the_new_one_is_right(expanded, images):
    network, _, two = expanded

    def total(weights):
        return network(weights, images, 4).logits[:, :4].sum()

    params, frozen = two.params, two.frozen
    grads = jax.grad(lambda p: total(two.replace(params=p)))(params)
    # The new backbone alone, with its own rows of the head.
    head = {**params["head"], "kernel": params["head"]["kernel"][8:16]}
    alone = Network(network.backbone)
    small = two.replace(params={**params, "head": head}, frozen={})
    expected = jax.grad(lambda p: alone(small.replace(params=p), images, 4).logits[:, :4].sum())(
        small.params
    )
    for one, other in zip(
        jax.tree.leaves(grads["backbone"]), jax.tree.leaves(expected["backbone"]), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    floats = {"params": frozen["params"], "batch_stats": frozen["batch_stats"]}
    of_frozen = jax.grad(lambda f: total(two.replace(frozen={**f, "count": frozen["count"]})))(
        floats
    )
    assert not any(np.any(np.asarray(g)) for g in jax.tree.leaves(of_frozen))


def test_parameters_are_counted_as_they_are_in_use(expanded):
    _, one, two = expanded
    backbone = sum(x.size for x in jax.tree.leaves(one.params["backbone"]))
    assert n_parameters_in_use(one, 4) == backbone + 4 * (8 + 1)
    assert n_parameters_in_use(two, 4) == 2 * backbone + 4 * (16 + 1)
    plain = weights_of(Network(models.build("tiny")))
    assert n_parameters_in_use(plain, 4) == backbone + 4 * (8 + 1)


def test_rows_of_the_head_are_those_of_slots_in_use(expanded):
    network, one, two = expanded
    marks = np.asarray(jnp.stack([network.is_row_in_use(w, 24).sum(1) for w in (one, two)]))
    assert marks.tolist() == [[8, 8], [16, 8]]
    assert np.asarray(network.is_row_in_use(two, 24))[1, 8:16].all()
