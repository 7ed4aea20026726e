"""The growing head."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from cil_jax import heads


def test_growing_opens_new_columns_and_leaves_the_old():
    key = jax.random.key(0)
    one = heads.grow(heads.create(16, 10), 0, 4, key)
    two = heads.grow(one, 4, 3, jax.random.key(1))
    for name in ("kernel", "bias"):
        chex.assert_trees_all_equal(two[name][..., :4], one[name][..., :4])
        assert np.all(np.asarray(two[name][..., 4:7]) != 0)
        chex.assert_trees_all_equal(two[name][..., 7:], jnp.zeros_like(two[name][..., 7:]))


def test_new_weights_are_within_the_bound_of_a_linear_layer_and_all_different():
    head = heads.grow(heads.create(64, 100), 0, 100, jax.random.key(0))
    kernel = np.asarray(head["kernel"])
    assert np.abs(kernel).max() <= 1 / 8
    assert len(np.unique(kernel)) > 0.99 * kernel.size
    np.testing.assert_allclose(kernel.std(), 1 / 8 / np.sqrt(3), rtol=0.03)
    bias = np.asarray(head["bias"])
    assert np.abs(bias).max() <= 1 / 8 and np.abs(bias).max() > 1 / 9


def test_a_padded_head_says_what_a_resized_one_says():
    features = jax.random.normal(jax.random.key(2), (5, 16))
    wide = heads.grow(heads.create(16, 10), 0, 4, jax.random.key(0))
    narrow = heads.grow(heads.create(16, 4), 0, 4, jax.random.key(0))
    outputs = heads.logits(wide, features, 4)
    chex.assert_trees_all_close(outputs[:, :4], heads.logits(narrow, features, 4), rtol=1e-6)
    assert np.all(np.asarray(outputs[:, 4:]) == heads.CLOSED)


def test_counts_may_be_traced():
    grow = jax.jit(heads.grow)
    head = heads.create(3, 4)
    key = jax.random.key(0)
    for n_open, n_new in ((0, 2), (2, 1)):
        expected = heads.grow(head, n_open, n_new, key)
        head = grow(head, n_open, n_new, key)
        chex.assert_trees_all_close(head, expected, rtol=1e-6)
    assert grow._cache_size() == 1


def test_restrict_keeps_a_range_of_columns():
    outputs = heads.restrict(jnp.ones((2, 5)), 1, 3)
    expected = [heads.CLOSED, 1, 1, heads.CLOSED, heads.CLOSED]
    chex.assert_trees_all_equal(outputs, jnp.array([expected] * 2, outputs.dtype))
