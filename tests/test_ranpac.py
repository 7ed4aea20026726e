"""RanPAC: the chosen ridge and the weights, by NumPy in float64."""

import jax
import numpy as np
import pytest
from frozen_features import ROOM, ROWS, after_tasks, all_of, difference, engine_of

from cil_jax.methods.ranpac import RIDGES, RanPAC

M, TASKS = 128, ((0, 1), (2,), (3, 4))


@pytest.fixture(scope="module")
def engine():
    return engine_of(RanPAC, n_random=M)


@pytest.fixture(scope="module")
def learner(engine):
    return after_tasks(engine, *TASKS)


def solution(random, targets, ridge):
    return np.linalg.solve(random.T @ random + ridge * np.eye(M), random.T @ targets)


def random_of(learner, points):
    return np.maximum(points @ np.asarray(learner.own["projection"], np.float64), 0.0)


def test_the_weights_are_those_of_all_data_at_once_with_the_ridge_of_the_last_task(learner):
    ridge = float(learner.own["ridge"])
    assert any(ridge == pytest.approx(one, rel=1e-6) for one in RIDGES)
    points, targets = all_of(*range(5))
    weights = solution(random_of(learner, points), targets, ridge)
    assert difference(learner.own["weights"][:5], weights.T) < 1e-5


def test_the_ridge_has_the_least_error_on_the_held_out_images(engine):
    """Those that the method marks, a fifth of each class."""
    learner = after_tasks(engine, TASKS[0])
    points, targets = all_of(*TASKS[0])
    random = random_of(learner, points)
    # As in `after_tasks`: the same rows in the same order, of which the method marks some.
    order = np.random.default_rng(0).permutation(ROWS)
    labels = np.full(ROWS, -1, np.int32)
    labels[: len(points)] = targets.argmax(axis=1)
    begun = engine.begin_task(
        engine.create((1, 6, 1), ROOM, learner.normalizer, jax.random.key(0), jax.random.key(1)),
        np.int32(2),
    )
    pool = engine.pool(begun, np.zeros((ROWS, 1, 6, 1), np.uint8), labels[order], ROOM, 150)
    fit, held_out = (
        np.asarray(engine.restrict(begun, pool, kind=engine.kind(step)).active)
        for step in engine.method.passes()
    )
    assert held_out.sum() == 60 and fit.sum() == 240 and not np.any(held_out & fit)
    fit, held_out = order[fit[:ROWS]], order[held_out[:ROWS]]
    errors = []
    for ridge in RIDGES:
        weights = solution(random[fit], targets[fit], ridge)
        errors.append(np.mean((random[held_out] @ weights - targets[held_out]) ** 2))
    best = RIDGES[int(np.argmin(errors))]
    assert float(learner.own["ridge"]) == pytest.approx(best, rel=1e-6)
    assert 0 < int(np.argmin(errors)) < len(RIDGES) - 1


def test_a_given_ridge_is_not_chosen():
    engine = engine_of(RanPAC, n_random=M, ridge=5.0)
    learner = after_tasks(engine, *TASKS)
    points, targets = all_of(*range(5))
    weights = solution(random_of(learner, points), targets, 5.0)
    assert difference(learner.own["weights"][:5], weights.T) < 1e-5
