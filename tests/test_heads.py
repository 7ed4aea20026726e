"""The heads: columns that open, and what they say."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cil_jax import heads

LINEAR, COSINE = heads.Linear(), heads.Cosine()


def test_growing_opens_new_columns_and_leaves_the_old():
    key = jax.random.key(0)
    one = LINEAR.grow(LINEAR.create(16, 10), 0, 4, key)
    two = LINEAR.grow(one, 4, 3, jax.random.key(1))
    for name in ("kernel", "bias"):
        chex.assert_trees_all_equal(two[name][..., :4], one[name][..., :4])
        assert np.all(np.asarray(two[name][..., 4:7]) != 0)
        chex.assert_trees_all_equal(two[name][..., 7:], jnp.zeros_like(two[name][..., 7:]))


def test_new_weights_are_within_the_bound_of_a_linear_layer_and_all_different():
    head = LINEAR.grow(LINEAR.create(64, 100), 0, 100, jax.random.key(0))
    kernel = np.asarray(head["kernel"])
    assert np.abs(kernel).max() <= 1 / 8
    assert len(np.unique(kernel)) > 0.99 * kernel.size
    np.testing.assert_allclose(kernel.std(), 1 / 8 / np.sqrt(3), rtol=0.03)
    bias = np.asarray(head["bias"])
    assert np.abs(bias).max() <= 1 / 8 and np.abs(bias).max() > 1 / 9


def test_a_padded_head_says_what_a_resized_one_says():
    features = jax.random.normal(jax.random.key(2), (5, 16))
    wide = LINEAR.grow(LINEAR.create(16, 10), 0, 4, jax.random.key(0))
    narrow = LINEAR.grow(LINEAR.create(16, 4), 0, 4, jax.random.key(0))
    outputs = LINEAR.logits(wide, features, 4)
    chex.assert_trees_all_close(outputs[:, :4], LINEAR.logits(narrow, features, 4), rtol=1e-6)
    assert np.all(np.asarray(outputs[:, 4:]) == heads.CLOSED)


def test_counts_may_be_traced():
    grow = jax.jit(LINEAR.grow)
    head = LINEAR.create(3, 4)
    key = jax.random.key(0)
    for n_open, n_new in ((0, 2), (2, 1)):
        expected = LINEAR.grow(head, n_open, n_new, key)
        head = grow(head, n_open, n_new, key)
        chex.assert_trees_all_close(head, expected, rtol=1e-6)
    assert grow._cache_size() == 1


def test_restrict_keeps_a_range_of_columns():
    outputs = heads.restrict(jnp.ones((2, 5)), 1, 3)
    expected = [heads.CLOSED, 1, 1, heads.CLOSED, heads.CLOSED]
    chex.assert_trees_all_equal(outputs, jnp.array([expected] * 2, outputs.dtype))


def test_a_cosine_head_says_scaled_cosines_and_only_of_open_columns():
    head = COSINE.grow(COSINE.create(3, 4), 0, 2, jax.random.key(0))
    features = jnp.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    head = {"kernel": head["kernel"].at[0, :, 0].set(jnp.array([0.0, 0.0, 9.0])), "scale": 5.0}
    logits = COSINE.logits(head, features, 2)
    np.testing.assert_allclose(logits[0, 0], 5 * 0.8, rtol=1e-6)
    np.testing.assert_allclose(logits[1, :2], 0.0)
    assert np.all(np.asarray(logits[:, 2:]) == heads.CLOSED)


def test_the_cosine_of_a_class_weighs_its_proxies_by_their_softmax():
    head = {"kernel": jnp.array([[[1.0], [0.0]], [[0.0], [2.0]]]), "scale": jnp.ones(())}
    logits = heads.Cosine(proxies=2).logits(head, jnp.array([[3.0, 4.0]]), 1)
    weights = np.exp([0.6, 0.8]) / np.exp([0.6, 0.8]).sum()
    np.testing.assert_allclose(logits, [[weights @ [0.6, 0.8]]], rtol=1e-6)


def test_the_gradient_of_a_cosine_head_is_finite_where_columns_are_closed():
    head = COSINE.grow(COSINE.create(3, 4), 0, 2, jax.random.key(0))

    def total(head):
        return COSINE.logits(head, jnp.array([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0]]), 2)[:, :2].sum()

    grads = jax.grad(total)(head)
    chex.assert_tree_all_finite(grads)
    assert np.all(np.asarray(grads["kernel"][..., 2:]) == 0)


def test_imprinted_columns_have_the_direction_given_and_the_mean_length_of_the_old():
    kernel = jnp.array([[[3.0, 0.0, 0.0, 0.0], [4.0, 1.0, 0.0, 0.0]]])  # lengths 5 and 1
    directions = jnp.array([[9.0, 9.0, 0.0, 9.0], [9.0, 9.0, 2.0, 9.0]])
    head = COSINE.imprint({"kernel": kernel, "scale": jnp.ones(())}, directions, 2, 1)
    np.testing.assert_allclose(head["kernel"][0, :, 2], [0.0, 3.0])
    chex.assert_trees_all_equal(head["kernel"][..., :2], kernel[..., :2])
    assert not np.any(np.asarray(head["kernel"][..., 3]))
    first = COSINE.imprint({"kernel": kernel, "scale": jnp.ones(())}, directions, 0, 1)
    np.testing.assert_allclose(np.linalg.norm(first["kernel"][0, :, 0]), 1.0, rtol=1e-6)


def test_each_proxy_can_be_imprinted_with_a_direction_of_its_own():
    head = heads.Cosine(proxies=2).create(2, 3)
    directions = jnp.zeros((2, 2, 3)).at[:, :, 1].set(jnp.array([[0.0, 5.0], [3.0, 4.0]]))
    kernel = heads.Cosine(proxies=2).imprint(head, directions, 0, 2)["kernel"]
    np.testing.assert_allclose(kernel[:, :, 1], [[0.0, 1.0], [0.6, 0.8]], rtol=1e-6)
    assert not np.any(np.asarray(kernel[:, :, [0, 2]]))
