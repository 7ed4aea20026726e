"""What results.json says of a run, and in what it is another than its preset's."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from conftest import small_config

from cil_jax.report import published_results
from cil_jax.settings.loading import preset
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run
from cil_jax.training.results import changed, results_of


def test_runs_as_published_change_nothing():
    for row in published_results.rows():
        if row.can_be_run:
            assert changed(published_results.config(row, "full", "")) == {}


def test_the_reduced_protocol_is_one_change_under_its_name():
    for row in published_results.rows(protocol="reduced"):
        config = published_results.config(row, "reduced", "")
        assert changed(config) == {"protocol": "reduced"}
        assert changed(dataclasses.replace(config, rate=0.3)) == {
            "protocol": "reduced",
            "rate": 0.3,
        }
        other = changed(dataclasses.replace(config, brightness=0.5))
        assert "protocol" not in other and other["brightness"] == 0.5


def test_what_captions_tell_anyway_is_no_change():
    others = {"dataset": "digits", "classes": 4, "task_size": 2, "order_seed": 7, "seed": 3}
    others |= {"data_seed": 5, "backbone": "resnet8", "epochs": 3, "memory": 9, "ncm": False}
    assert changed(preset("icarl", "pycil", **others, fast=True, out="x")) == {}
    assert changed(small_config("icarl", "x")) == {"batch_size": 32}


@pytest.mark.parametrize(
    ("method", "name", "settings", "expected"),
    [
        ("icarl", "paper", {"selection": "random", "distill": "none"}, None),
        ("lwf", "pycil", {"lambda_": 0.0}, {"lambda": 0.0}),
        ("icarl", "paper", {"lambda_": 0.0}, {}),  # which a sigmoid has no use for
        # What the preset says of the first task alone is set aside by saying it of all.
        ("icarl", "pycil", {"rate_steps": (0.5, 0.8)}, {"rate_steps": [0.5, 0.8]}),
        ("icarl", "pycil", {"first_weight_decay": None}, {"weight_decay": 2e-4}),
        ("icarl", "pycil", {"first_rate_steps": (0.5,)}, {"first_rate_steps": [0.5]}),
        ("icarl", "pycil", {"precision": "bfloat16"}, None),
    ],
    ids=str,
)
def test_what_is_not_the_presets_is_a_change(method, name, settings, expected):
    expected = settings if expected is None else expected
    assert changed(preset(method, name, **settings)) == expected


def test_without_a_preset_a_run_is_held_against_the_defaults():
    assert changed(preset("lwf")) == {}
    assert changed(preset("lwf", rate=1.0)) == {"rate": 1.0}
    assert (
        changed(dataclasses.replace(preset("lwf", rate=1.0), preset="mine")) == {}
    )  # not known here


def test_a_run_that_goes_on_counts_the_outputs_of_the_classes_seen(tmp_path):
    """And says the seed of the data, which is the run's where no other is given."""
    config = small_config("finetune", tmp_path / "run", seed=3)
    run = Run(config, RunFolder(config.folder()), Callback())
    learner = run.new_learner().replace(task=jnp.int32(1), n_seen=jnp.int32(2))
    scores = {"task_accuracy": [0.5], "task_aware": [0.5], "top5": None}
    run.history["scores"] = {name: [scores] for name in run.history["scores"]}
    results = results_of(run.config, run.scenario, run.engine, learner, run.history)
    backbone = sum(x.size for x in jax.tree.leaves(learner.weights.params["backbone"]))
    assert results["parameters"] == backbone + 2 * (8 + 1)  # eight features and a bias
    assert results["seeds"] == {"order": 1993, "init": 3, "data": 3}
