"""Learning rates and the update rule."""

import chex
import jax.numpy as jnp
import optax
import pytest

from cil_jax import schedules
from cil_jax.settings.loading import preset
from cil_jax.training.build import schedule_of


def test_the_papers_rate_falls_after_epochs_49_and_63():
    rates = [schedules.step_rate(e, 70, 2.0, (0.7, 0.9), 5.0) for e in range(70)]
    assert rates[:49] == [2.0] * 49
    assert rates[49:63] == pytest.approx([0.4] * 14)
    assert rates[63:] == pytest.approx([0.08] * 7)


def test_a_rate_falls_after_the_nearest_whole_number_of_epochs():
    # 0.7 and 0.9 of three epochs are 2.1 and 2.7.
    rates = [schedules.step_rate(epoch, 3, 8.0, (0.7, 0.9), 2.0) for epoch in range(4)]
    assert rates == [8.0, 8.0, 4.0, 2.0]


def test_two_steps_at_one_epoch_both_count():
    assert schedules.step_rate(1, 1, 1.0, (0.7, 0.9), 5.0) == pytest.approx(1 / 25)
    assert schedules.step_rate(0, 1, 1.0, (0.7, 0.9), 5.0) == 1.0


@pytest.mark.parametrize("method", ["icarl", "lwf", "replay", "finetune"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_short_task_begins_at_the_full_rate_too(method, epochs):
    config = preset(method, "pycil", epochs=epochs)
    assert [schedule_of(config, task).rate_at(0) for task in (0, 1)] == [0.1, 0.1]


def test_a_cosine_falls_from_the_rate_to_zero():
    schedule = schedules.Schedule(4, 2.0, (0.5,), 10.0, 0.0, "cosine")
    half = 2**-0.5
    expected = [2.0, 1.0 + half, 1.0, 1.0 - half]
    assert [schedule.rate_at(epoch) for epoch in range(4)] == pytest.approx(expected)


def test_restarts_are_pytorchs_after_an_epoch_at_a_tenth():
    """By CosineAnnealingWarmRestarts with T_0 = 1 and T_mult = 2, which starts with epoch 1."""
    schedule = schedules.Schedule(256, 2.0, (), 1.0, 0.0, "restarts")
    rates = [schedule.rate_at(epoch) for epoch in range(256)]
    assert rates[0] == pytest.approx(0.2)
    assert [e for e in range(256) if rates[e] == 2.0] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert rates[3] == pytest.approx(1.01) and rates[6] == pytest.approx(1.01)
    assert rates[5] == pytest.approx(1.01 + 0.99 * 2**-0.5)
    assert 0.02 < rates[255] < 0.021


def test_the_shape_of_the_rate_is_a_setting():
    config = preset("replay", "pycil", rate_shape="cosine", epochs=10)
    assert schedule_of(config, 1).rate_at(5) == pytest.approx(0.05)
    assert schedule_of(preset("replay", "pycil"), 1).shape == "steps"


def test_updates_are_pytorchs_by_hand():
    # d = g + 0.1 w for kernels, d = g for the rest; b = 0.5 b + d; the weight moves by -rate b.
    params = {"layer": {"kernel": jnp.array(1.0), "bias": jnp.array(1.0)}}
    grads = {"layer": {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)}}
    direction = schedules.SGD(momentum=0.5).direction(weight_decay=0.1)
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


def test_recipes_step_by_step_as_pycil_has_them():
    """Epochs, falls and decay of the first task and of the others."""
    for method, name, first, later in (
        ("icarl", "pycil", (200, [60, 120, 170]), (170, [80, 120])),
        ("replay", "pycil", (200, [60, 120, 170]), (70, [30, 50])),
        ("finetune", "pycil", (200, [60, 120, 170]), (80, [40, 70])),
        ("lwf", "pycil", (200, [60, 120, 160]), (250, [60, 120, 180, 220])),
    ):
        config = preset(method, name)
        for task, (epochs, milestones) in enumerate((first, later, later)):
            schedule = schedule_of(config, task)
            assert schedule.epochs == epochs and config.decay == "all"
            assert schedule.weight_decay == (5e-4 if task == 0 else 2e-4)
            rates = [0.1 * 0.1 ** sum(e >= m for m in milestones) for e in range(epochs)]
            assert [schedule.rate_at(e) for e in range(epochs)] == pytest.approx(rates)


def test_a_setting_of_all_tasks_sets_aside_the_first_tasks_own():
    assert schedule_of(preset("icarl", "pycil", epochs=10), 0).epochs == 10
    assert schedule_of(preset("icarl", "pycil", epochs=10, first_epochs=20), 0).epochs == 20
    assert schedule_of(preset("icarl", "pycil", weight_decay=0.0), 0).weight_decay == 0.0
    assert schedule_of(preset("icarl", "pycil", rate=1.0), 0).drops == (0.3, 0.6, 0.85)
