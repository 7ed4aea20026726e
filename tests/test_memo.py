"""MEMO: what is shared and what is not, where gradients flow, and how large the network is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import models
from cil_jax.errors import UserError
from cil_jax.methods.memo import MEMO
from cil_jax.network import Network, SplitNetwork, n_parameters_in_use

SHAPE, ROOM, N_OPEN = (8, 8, 1), 6, 4
BACKBONE = models.build("two-stage")
NETWORK = SplitNetwork(BACKBONE, slots=3)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (5, *SHAPE))


def moved(tree, by):
    return jax.tree.map(lambda x: x + by, tree)


@pytest.fixture(scope="module")
def weights():
    """With two frozen last stages, which differ from each other and from the trained one."""
    weights = jax.jit(NETWORK.create, static_argnums=(0, 1))(SHAPE, ROOM, jax.random.key(1))
    for _ in range(2):
        weights = NETWORK.expand(weights)
        last = moved(weights.params["backbone"]["last"], 0.1)
        backbone = {**weights.params["backbone"], "last": last}
        weights = weights.replace(params={**weights.params, "backbone": backbone})
    head = NETWORK.head.grow(weights.params["head"], 0, N_OPEN, jax.random.key(2))
    return weights.replace(params={**weights.params, "head": head})


def whole(weights, slot):
    """The variables of the backbone that is not split, with the last stage of a slot."""
    params, stats = weights.params["backbone"], weights.batch_stats
    last, last_stats = params["last"], stats["last"]
    if slot < 2:
        stacks = weights.frozen["params"], weights.frozen["batch_stats"]
        last, last_stats = jax.tree.map(lambda x: x[slot], stacks)
    # The first part has the stem and the block of the first stage, numbered as in the whole.
    names = {"BasicBlock_0": "BasicBlock_1"}
    renamed = ({names[k]: v for k, v in tree.items()} for tree in (last, last_stats))
    params, stats = (
        {**a, **b} for a, b in zip((params["shared"], stats["shared"]), renamed, strict=True)
    )
    return {"params": params, "batch_stats": stats}


def test_the_features_are_those_of_whole_backbones_that_share_all_but_the_last_stage(
    weights, images
):
    output = NETWORK(weights, images, N_OPEN)
    expected = [BACKBONE.apply(whole(weights, slot), images, train=False) for slot in range(3)]
    np.testing.assert_allclose(output.features, np.concatenate(expected, axis=1), rtol=1e-4)
    np.testing.assert_allclose(output.newest, expected[2], rtol=1e-4)
    one = NETWORK(weights.replace(frozen={**weights.frozen, "count": jnp.int32(1)}), images, 4)
    assert np.any(one.features[:, :8]) and not np.any(one.features[:, 16:])


def test_gradients_flow_through_frozen_stages_and_not_into_them(weights, images):
    """Of the features of the first frozen stage by themselves."""

    def cost(weights, network):
        features = network(weights, images, N_OPEN).features
        return (features[:, :8] ** 2).sum()

    grads = jax.jit(jax.grad(cost, allow_int=True), static_argnums=1)(weights, NETWORK)
    shared, last = (grads.params["backbone"][name] for name in ("shared", "last"))
    assert all(np.any(x != 0) for x in jax.tree.leaves(shared))
    assert not any(np.any(x != 0) for x in jax.tree.leaves(last))
    assert not any(np.any(x != 0) for x in jax.tree.leaves(grads.frozen["params"]))

    def reference(shared):
        variables = whole(weights, 0)
        params = {**variables["params"], **shared}
        features = BACKBONE.apply({**variables, "params": params}, images, train=False)
        return (features**2).sum()

    expected = jax.jit(jax.grad(reference))(weights.params["backbone"]["shared"])
    scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
    for ours, theirs in zip(*map(jax.tree.leaves, (shared, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * scale)


def test_in_training_shared_and_trained_stages_use_the_batch_and_frozen_ones_do_not(
    weights, images
):
    output = NETWORK(weights, images, N_OPEN, train=True)
    for part in ("shared", "last"):
        pairs = zip(*(jax.tree.leaves(x.batch_stats[part]) for x in (output, weights)), strict=True)
        assert all(np.any(new != old) for new, old in pairs)


def test_a_further_task_costs_a_last_stage_and_its_outputs(weights):
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(weights.params["backbone"][name]))
        for name in ("shared", "last")
    }
    head = 3 * 8 * N_OPEN + N_OPEN
    assert n_parameters_in_use(weights, N_OPEN) == sizes["shared"] + 3 * sizes["last"] + head
    whole_network = Network(BACKBONE).create(SHAPE, ROOM, jax.random.key(0))
    n_whole = sum(x.size for x in jax.tree.leaves(whole_network.params["backbone"]))
    assert sum(sizes.values()) == n_whole


def test_the_published_share_of_the_last_stage():
    """Of the 463,504 parameters of a ResNet-32, the last stage has three quarters."""
    shared, last = models.build("resnet32").split()
    images = jnp.zeros((1, 32, 32, 3))
    maps, variables = jax.eval_shape(shared.init_with_output, jax.random.key(0), images)
    assert maps.shape == (1, 16, 16, 32)
    maps = jnp.zeros(maps.shape)
    of_last = jax.eval_shape(last.init, jax.random.key(0), maps)
    counts = [sum(x.size for x in jax.tree.leaves(v["params"])) for v in (variables, of_last)]
    assert sum(counts) == 463_504 and counts[1] == 64 * 9 * (32 + 9 * 64) + 10 * 128


def test_a_backbone_that_cannot_be_split_is_refused():
    class Plain:
        n_features = 4

    method = MEMO(Plain(), memory=4)
    with pytest.raises(UserError, match=r"Plain can't be split: it needs a method split\(\)"):
        method.initial_weights(SHAPE, ROOM, jax.random.key(0))
