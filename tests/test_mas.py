"""MAS: the importance of a linear model, by NumPy, and its merging."""

import numpy as np
import pytest
from frozen_features import after_tasks, all_of, difference, engine_of

from cil_jax.methods.mas import MAS


def importance_of(points, learner, n_seen):
    """d |z|^2 / d W_dc = 2 z_c x_d, and by the bias 2 z_c; the mean of their absolute values."""
    head = learner.weights.params["head"]
    kernel, bias = (np.asarray(head[name])[..., :n_seen] for name in ("kernel", "bias"))
    logits = points @ kernel + bias
    return np.mean(np.abs(2 * points[:, :, None] * logits[:, None, :]), axis=0), np.mean(
        np.abs(2 * logits), axis=0
    )


@pytest.mark.parametrize(("alpha", "before", "now"), [(None, 1.0, 1.0), (0.25, 0.25, 0.75)])
def test_the_importance_of_a_linear_model(alpha, before, now):
    engine = engine_of(MAS, alpha=alpha)
    learner = after_tasks(engine, (0, 1), (2,))  # whose weights stay as they begin
    first = [now * x for x in importance_of(all_of(0, 1)[0], after_tasks(engine, (0, 1)), 2)]
    second = [now * x for x in importance_of(all_of(2)[0], learner, 3)]
    for name, old, new in zip(("kernel", "bias"), first, second, strict=True):
        expected = new.copy()
        expected[..., :2] += before * old
        found = np.asarray(learner.own["importance"]["head"][name])
        assert difference(found[..., :3], expected) < 1e-5
        assert not np.any(found[..., 3:])
