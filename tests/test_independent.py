"""Losses and their gradients against plain NumPy in float64, on random cases.

Nothing here is taken from the library: formulas are written from the papers, and gradients are
central differences of those formulas.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import losses

N, C, N_OLD, N_OPEN = 5, 9, 4, 7


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cross_entropy(logits, labels, **_):
    return -np.log(softmax(logits)[np.arange(N), labels]).mean()


def distillation(logits, teacher, **_):
    return -(softmax(teacher / 2) * np.log(softmax(logits / 2))).sum(axis=1).mean()


def distillation_by_task(logits, teacher, **_):
    parts = [([0, 1, 2]), ([3]), ([4, 5])]  # columns 6 to 8 are left out
    return sum(distillation(logits[:, p], teacher[:, p]) for p in parts)


def icarl(logits, labels, teacher, **_):
    targets = np.eye(C)[labels]
    targets[:, :N_OLD] = sigmoid(teacher[:, :N_OLD])
    p = sigmoid(logits)
    costs = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
    return costs[:, :N_OPEN].sum() / (N * 100)


def icarl_bce(logits, targets, **_):
    p = sigmoid(logits)
    return (-targets * np.log(p) - (1 - targets) * np.log(1 - p)).sum() / (N * 100)


OURS = {
    cross_entropy: lambda x, c: losses.cross_entropy(x, c["labels"]),
    distillation: lambda x, c: losses.distillation(x, c["teacher"], 2.0),
    distillation_by_task: lambda x, c: losses.distillation_by_task(
        x, c["teacher"], 2.0, jnp.array([0, 0, 0, 1, 2, 2, -1, -1, -1])
    ),
    icarl: lambda x, c: sum(
        losses.icarl(x, c["labels"], c["teacher"], N_OLD, N_OPEN, 100.0).values()
    ),
    icarl_bce: lambda x, c: losses.icarl_bce(x, c["targets"], 100.0),
}


def differences(function, x):
    """Central differences in float64."""
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-5
        grad[place] = (function(x + step) - function(x - step)) / 2e-5
    return grad


@pytest.mark.parametrize("plain", OURS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_loss_and_gradient_are_those_of_plain_numpy(plain, seed):
    rng = np.random.RandomState(seed)
    logits, teacher = rng.randn(2, N, C) * rng.uniform(0.5, 6)
    case = {
        "labels": rng.randint(N_OLD, N_OPEN, N),
        "teacher": teacher,
        "targets": rng.uniform(size=(N, C)),
    }
    ours = jax.value_and_grad(OURS[plain])
    loss, grad = ours(jnp.float32(logits), jax.tree.map(jnp.asarray, to_float32(case)))
    np.testing.assert_allclose(loss, plain(logits, **case), rtol=2e-5)
    expected = differences(lambda x: plain(x, **case), logits)
    np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=2e-6)


def to_float32(case):
    return {k: v.astype(np.float32 if v.dtype == float else np.int32) for k, v in case.items()}
