"""Learning rates and the update rule."""

import chex
import jax.numpy as jnp
import optax
import pytest

from cil_jax import schedules


def test_the_papers_rate_falls_after_epochs_49_and_63():
    rates = [schedules.step_rate(e, 70, 2.0, (0.7, 0.9), 5.0) for e in range(70)]
    assert rates[:49] == [2.0] * 49
    assert rates[49:63] == pytest.approx([0.4] * 14)
    assert rates[63:] == pytest.approx([0.08] * 7)


def test_two_steps_at_one_epoch_both_count():
    assert schedules.step_rate(1, 1, 1.0, (0.7, 0.9), 5.0) == pytest.approx(1 / 25)
    assert schedules.step_rate(0, 1, 1.0, (0.7, 0.9), 5.0) == 1.0


def test_updates_are_pytorchs_by_hand():
    # d = g + 0.1 w for kernels, d = g for the rest; b = 0.5 b + d; the weight moves by -rate b.
    params = {"layer": {"kernel": jnp.array(1.0), "bias": jnp.array(1.0)}}
    grads = {"layer": {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)}}
    direction = schedules.SGD(momentum=0.5, weight_decay=0.1).direction()
    state = direction.init(params)
    weights, buffers = {"kernel": 1.0, "bias": 1.0}, {"kernel": 0.0, "bias": 0.0}
    for _ in range(3):
        updates, state = direction.update(grads, state, params)
        moves = {name: -0.1 * update for name, update in updates["layer"].items()}
        params = optax.apply_updates(params, {"layer": moves})
        for name, decay in (("kernel", 0.1), ("bias", 0.0)):
            buffers[name] = 0.5 * buffers[name] + 2.0 + decay * weights[name]
            weights[name] -= 0.1 * buffers[name]
    chex.assert_trees_all_close(params["layer"], weights, rtol=1e-6)
