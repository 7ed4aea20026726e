"""Herding, the closest rows, the highest entropy and uniform selection."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import selection

# Unit vectors with mean (0.75, 0.15). Nearest to it is 0. With 0 kept, the pairs' means are
# (.8, .4), (.8, -.4) and (.9, .3): nearest is 3. With 0 and 3 kept, the triples' means are
# (.8, .47) and (.8, -.07): nearest is 2.
FOUR = np.array([[1, 0], [0.6, 0.8], [0.6, -0.8], [0.8, 0.6]])


def plain_herding(features, count):
    """The paper's Algorithm 4 word by word, in float64."""
    rows = np.asarray(features, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    target, picks = rows.mean(axis=0), []
    for k in range(1, count + 1):
        distances = [
            np.inf if i in picks else np.linalg.norm(target - rows[[*picks, i]].sum(0) / k)
            for i in range(len(rows))
        ]
        picks.append(int(np.argmin(distances)))
    return picks


def test_four_points_by_hand():
    picks = selection.herding(jnp.array(FOUR), 4)
    chex.assert_trees_all_equal(picks, jnp.array([0, 3, 2, 1], jnp.int32))


def test_the_scale_of_a_row_does_not_matter():
    scaled = FOUR * np.array([[1e-25], [7.0], [40.0], [1e25]])
    chex.assert_trees_all_equal(selection.herding(jnp.array(scaled), 3), jnp.array([0, 3, 2]))


@pytest.mark.parametrize("seed", range(8))
def test_herding_is_the_papers_algorithm_without_repeats(seed):
    rng = np.random.RandomState(seed)
    n, d = rng.randint(5, 60), rng.randint(2, 20)
    features = rng.randn(n, d) + rng.randn(d)
    picks = np.asarray(selection.herding(jnp.array(features), n))
    assert picks.tolist() == plain_herding(features, n)
    assert sorted(picks.tolist()) == list(range(n))


def test_a_shorter_selection_is_a_prefix():
    features = jax.random.normal(jax.random.key(0), (50, 8)) + 1
    long = selection.herding(features, 30)
    chex.assert_trees_all_equal(selection.herding(features, 10), long[:10])


def test_herding_follows_the_mean_better_than_chance():
    features = selection.unit(jax.random.normal(jax.random.key(0), (500, 64)) + 0.3)
    mean = features.mean(axis=0)

    def distance(rows):
        return float(jnp.linalg.norm(features[rows].mean(axis=0) - mean))

    herded = distance(selection.herding(features, 20))
    by_chance = [distance(selection.uniform(jax.random.key(i), 500, 20)) for i in range(20)]
    assert herded < 0.5 * min(by_chance)


def test_masked_rows_do_not_exist():
    features = np.concatenate([FOUR, 100 * np.ones((3, 2))])
    mask = jnp.arange(7) < 4
    picks = selection.herding(jnp.array(features), 4, mask)
    chex.assert_trees_all_equal(picks, selection.herding(jnp.array(FOUR), 4))
    picks = selection.uniform(jax.random.key(0), 7, 4, mask)
    assert sorted(np.asarray(picks).tolist()) == [0, 1, 2, 3]


def test_classes_are_herded_each_by_itself():
    features = jax.random.normal(jax.random.key(0), (3, 20, 4)) + 1
    masks = jnp.arange(20) < jnp.array([[20], [12], [7]])
    together = selection.herding_of_classes(features, 9, masks)
    alone = [selection.herding(f, 9, m) for f, m in zip(features, masks, strict=True)]
    n_real = 7  # picks beyond the rows that exist are arbitrary
    chex.assert_trees_all_equal(together[:2], jnp.stack(alone[:2]))
    chex.assert_trees_all_equal(together[2, :n_real], alone[2][:n_real])


def test_a_zero_row_does_no_harm():
    picks = selection.herding(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 3)
    assert sorted(np.asarray(picks).tolist()) == [0, 1, 2]


def test_the_rows_closest_to_the_mean_by_hand():
    """Squared distances of the rows of FOUR to their mean: .085, .445, .925 and .205."""
    picks = selection.closest(jnp.array(FOUR) * 3.0, 4)
    chex.assert_trees_all_equal(picks, jnp.array([0, 3, 1, 2], jnp.int32))
    # Without row 2, the mean is (.8, .47): row 3 is at .018, row 1 at .15 and row 0 at .26.
    picks = selection.closest(jnp.array(FOUR), 3, jnp.array([True, True, False, True]))
    chex.assert_trees_all_equal(picks, jnp.array([3, 1, 0], jnp.int32))


def test_the_rows_of_highest_entropy_by_hand():
    """Of two classes at even odds, at 3 to 1 and at 1 to 9; a closed third one does not count."""
    odds = np.array([[1.0, 9.0], [3.0, 1.0], [5.0, 5.0], [1.0, 9.0]])
    logits = np.concatenate([np.log(odds), np.full((4, 1), -1e9)], axis=1)
    picks = selection.highest_entropy(jnp.array(logits), 4)
    chex.assert_trees_all_equal(picks, jnp.array([2, 1, 0, 3], jnp.int32))
    picks = selection.highest_entropy(jnp.array(logits), 2, jnp.array([True, True, False, True]))
    chex.assert_trees_all_equal(picks, jnp.array([1, 0], jnp.int32))


def test_uniform_is_uniform_and_without_repeats():
    keys = jax.random.split(jax.random.key(0), 2000)
    picks = np.asarray(jax.vmap(lambda k: selection.uniform(k, 6, 3))(keys))
    assert all(len(set(row)) == 3 for row in picks.tolist())
    # Each row is picked in half of 2000 draws: within 5 standard deviations of 22.4.
    assert np.abs(np.bincount(picks.ravel(), minlength=6) - 1000).max() < 112
    assert np.abs(np.bincount(picks[:, 0], minlength=6) - 333.3).max() < 85


@pytest.mark.parametrize("count", [-1, 5])
def test_more_picks_than_rows_are_refused(count):
    with pytest.raises(ValueError, match=f"cannot select {count} of 4"):
        selection.herding(jnp.array(FOUR), count)
    with pytest.raises(ValueError, match=f"cannot select {count} of 4"):
        selection.uniform(jax.random.key(0), 4, count)
    for policy in (selection.closest, selection.highest_entropy):
        with pytest.raises(ValueError, match=f"cannot select {count} of 4"):
            policy(jnp.array(FOUR), count)
