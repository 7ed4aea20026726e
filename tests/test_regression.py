"""Sums of 48 bits: against float64, where float32 loses the ridge in its rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax.regression import Pair, add_product, ridge_regression, within_class_scatter

N, D, M, C, RIDGE = 2000, 16, 256, 5, 0.1


@pytest.fixture(scope="module")
def data():
    """Random ReLU features [N, M] as ill-conditioned as those of a network, and one-hot labels."""
    rng = np.random.default_rng(0)
    features = rng.random((N, D), np.float32)
    projection = rng.uniform(-1, 1, (D, M)).astype(np.float32)
    labels = rng.integers(0, C, N)
    return np.maximum(features @ projection, 0), np.eye(C, dtype=np.float32)[labels]


@pytest.fixture(scope="module")
def exact(data):
    rows, targets = (x.astype(np.float64) for x in data)
    gram = rows.T @ rows
    assert np.linalg.cond(gram + RIDGE * np.eye(M)) > 1e6
    return gram, np.linalg.solve(gram + RIDGE * np.eye(M), rows.T @ targets).T


add = jax.jit(add_product, static_argnames="sign")


def summed(left, right, order, size=100):
    total = Pair.zeros(left.shape[1], right.shape[1])
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        total = add(total, left[rows], right[rows])
    return total


def difference(values, expected):
    return np.abs(np.asarray(values, np.float64) - expected).max() / np.abs(expected).max()


def test_the_solution_is_that_of_float64_in_any_order(data, exact):
    rows, targets = data
    for order in (np.arange(N), np.random.default_rng(1).permutation(N)):
        gram, product = summed(rows, rows, order), summed(targets, rows, order)
        total = np.float64(gram.high) + np.float64(gram.low)
        assert difference(total, exact[0]) < 1e-14
        weights = jax.jit(ridge_regression)(gram, product, jnp.float32(RIDGE))
        assert weights.dtype == jnp.float32 and difference(weights, exact[1]) < 2e-7


def test_float32_alone_would_lose_digits(data, exact):
    """Or there would be no need for pairs."""
    rows, targets = map(jnp.asarray, data)
    factor = jax.scipy.linalg.cho_factor(rows.T @ rows + RIDGE * jnp.eye(M))
    weights = jax.scipy.linalg.cho_solve(factor, rows.T @ targets).T
    assert not difference(weights, exact[1]) < 1e-3


def test_what_is_added_can_be_taken_out_again(data):
    rows, _ = data
    whole, rest = summed(rows, rows, np.arange(N)), summed(rows, rows, np.arange(1000, N))
    left = add(whole, rows[:1000], rows[:1000], sign=-1)
    assert difference(np.float64(left.high) + np.float64(left.low), rest.high) < 1e-7
    one = Pair.zeros(1, 1)
    for value, sign in ((1.0, 1), (1e-6, 1), (1.0, -1)):
        one = add(one, jnp.array([[value]]), jnp.array([[1.0]]), sign=sign)
    assert float(one.high[0, 0]) == pytest.approx(1e-6, rel=1e-6)  # float32 alone: 9.5e-7


def test_the_scatter_within_classes(data):
    """Far from the origin, where the sum of x x^T is large and the scatter small."""
    rows, targets = data[0] + 100.0, data[1]
    order = np.arange(N)
    scatter = within_class_scatter(
        summed(rows, rows, order), summed(targets, rows, order), jnp.asarray(targets.sum(axis=0))
    )
    centred = rows.astype(np.float64)
    for column in targets.T:
        members = column == 1
        centred[members] -= centred[members].mean(axis=0)
    assert difference(scatter.high, centred.T @ centred) < 1e-6
    assert not jax.config.jax_enable_x64
