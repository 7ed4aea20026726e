"""Every method in whole runs on digits: stopped in each step of its plan, taught and exported.

A new method of the package passes this file as it is. `make test` runs it with a few methods that
have all hooks and kinds of steps among them, and `make test-all` with every method; so the time of
`make test` does not grow with their number. `test_method_contract.py` has the equations of all.
"""

import dataclasses
import json
import signal
import zipfile
from pathlib import Path

import chex
import numpy as np
import pytest
from conftest import small_config
from jax import export as jax_export
from test_method_contract import covering, some
from test_run import final_learner, resumed

import cil_jax
from cil_jax import data
from cil_jax.errors import UserError
from cil_jax.methods import METHODS
from cil_jax.methods.plan import Train
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained.export import export
from cil_jax.training import lockstep, loop
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run
from cil_jax.training.signals import Stopped

DIGITS = data.load("digits")
EPOCHS = {"gdumb": 13}  # which trains on fifty exemplars alone, one update an epoch
UNSAVED = ("seconds", "memory", "machine")  # what may differ between two runs


def config_of(method, folder, **settings):
    """Three tasks of 3, 3 and 1 digits, in one epoch each."""
    values = {"classes": 7, "task_size": 3, "epochs": EPOCHS.get(method, 1), **settings}
    config = small_config(method, folder, **values)
    small = {"memory": 50, "finetune_epochs": 1, "head_epochs": 2}
    return dataclasses.replace(config, **{k: v for k, v in small.items() if hasattr(config, k)})


def left(config):
    """The results and measurements of a run, without times, and its last learner."""
    folder = RunFolder(config.folder())
    lines = [{**line, "images_per_second": 0} for line in folder.measurements()]
    results = {k: v for k, v in folder.results().items() if k not in UNSAVED}
    return results, lines, folder.confusion_file.read_bytes(), final_learner(config)


def assert_same(config, other):
    *files, learner = left(config)
    *other_files, other_learner = left(other)
    assert files == other_files
    chex.assert_trees_all_equal(learner, other_learner)


# Methods that have all that a run saves, and all steps of a plan, among them.
COVERING = covering(without=("network", "initial_weights", "updated", "frozen backbones"))
# `test_every_other_method.py` has the others, so that two workers share them.
HALF = [*COVERING[::2], *sorted(set(METHODS) - set(COVERING))[::2]]


def run_whole(method, tmp_path_factory):
    """Returns the settings of a whole run."""
    config = config_of(method, tmp_path_factory.mktemp(method) / "run")
    cil_jax.run(config)
    return config


@pytest.fixture(scope="module", params=some(HALF, COVERING))
def config(request, tmp_path_factory):
    return run_whole(request.param, tmp_path_factory)


def test_it_learns_something(config):
    """Of its first three classes, after thirteen updates; chance is 1 / 3."""
    results = RunFolder(config.folder()).results()
    best = max(one["accuracy_matrix"][0][0] for one in results["classifiers"].values())
    assert best > 0.4
    plans = map(Run(config, RunFolder(config.folder()), Callback()).course.plan, range(3))
    has_training = [any(isinstance(step, Train) for step in plan) for plan in plans]
    n_epochs = EPOCHS.get(config.method, 1)
    assert results["epochs"] == [n_epochs * trains for trains in has_training] and has_training[0]
    assert all(np.isfinite(x["train_loss"]) for x in left(config)[1] if x["kind"] == "epoch")


def test_with_images_on_the_host_it_is_the_same(config, tmp_path):
    streamed = config_of(config.method, tmp_path / "run", stream=True)
    cil_jax.run(streamed)
    assert_same(streamed, config)


class Stops:
    """Stops a run at the beginning and within each step of the plan of the second task."""

    def __init__(self, monkeypatch):
        self.stopped_at = set()
        save_or_stop = Run._save_or_stop

        def patched(run, learner, *args, **kwargs):
            at = (int(learner.task), int(learner.place), int(learner.step), int(learner.epoch))
            is_new = at[0] == 1 and at[2] in (0, 1) and at not in self.stopped_at
            self.stopped_at |= {at} if is_new else set()
            run.stop_asked = lambda: signal.SIGTERM if is_new else 0
            save_or_stop(run, learner, *args, **kwargs)

        monkeypatch.setattr(Run, "_save_or_stop", patched)


def test_stopped_in_each_step_of_its_plan_it_ends_the_same(config, tmp_path, monkeypatch):
    again = config_of(config.method, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "SECONDS_A_CALL", 0.0)  # the updates one by one
        stops = Stops(patch)
        for _ in range(50):
            try:
                cil_jax.run(again)
                break
            except Stopped:
                again = resumed(again)
    plan = Run(again, RunFolder(again.folder()), Callback()).course.plan(1)
    assert {place for _, place, _, _ in stops.stopped_at} == set(range(len(plan)))
    within = {place for _, place, step, _ in stops.stopped_at if step}
    assert within == {place for place, step in enumerate(plan) if isinstance(step, Train)}
    assert_same(again, config)


@pytest.mark.slow
def test_together_with_another_seed_it_is_the_same(config, tmp_path):
    members = [config_of(config.method, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    lockstep.go([Run(m, RunFolder(m.folder()), Callback()) for m in members])
    assert_same(members[0], config)
    one, other = (left(member)[-1].weights.params["backbone"] for member in members)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(one, other)


def digits_of(classes):
    rows = np.isin(DIGITS.train_labels, classes)
    return DIGITS.train_images[rows], np.searchsorted(classes, DIGITS.train_labels[rows])


def test_a_loaded_learner_predicts_learns_and_is_saved_and_exported(config, tmp_path):
    learner = cil_jax.load(config.out)
    new = sorted(set(range(10)) - {int(name) for name in learner.class_names})[:2]
    images, labels = digits_of(new)
    before = {name: learner.predict(images[:20], name) for name in learner.classifiers}
    for answers in before.values():
        assert answers.scores.shape == (20, 7) and np.isfinite(answers.scores).all()
    names = [str(label) for label in new]
    if learner.engine.method.keeps_all_data:
        with pytest.raises(UserError, match="trains on all images of all classes"):
            learner.learn(images, labels, names)
    else:
        learner.learn(images, labels, names)
        assert list(learner.class_names[7:]) == names and int(learner.state.n_seen) == 9
        chex.assert_tree_all_finite([learner.state.weights, learner.state.own])
    learner.save(tmp_path / "saved")
    loaded = cil_jax.load(tmp_path / "saved")
    chex.assert_trees_all_equal(loaded.state, learner.state)
    answers = learner.predict(images[:20])
    np.testing.assert_array_equal(loaded.predict(images[:20]).scores, answers.scores)

    export(loaded, tmp_path / "learner.zip")
    with zipfile.ZipFile(tmp_path / "learner.zip") as file:
        program = jax_export.deserialize(bytearray(file.read("program.bin")))
        names = json.loads(file.read("about.json"))["class_names"]
    assert names == list(learner.class_names)
    scores = np.asarray(program.call(images[:20]))
    np.testing.assert_allclose(scores, answers.scores, rtol=1e-4, atol=1e-5)


def test_no_file_of_the_engine_names_a_method():
    """Only its own file, its line in the registry and its presets do."""
    package = Path(cil_jax.__file__).parent
    files = [package / "learner.py", package / "memory.py", package / "network.py"]
    for file in [*files, *(package / "training").glob("*.py"), package / "methods/base.py"]:
        words = set(file.read_text().replace('"', " ").replace(".", " ").split())
        assert not words & {*METHODS, *(METHODS[name].__name__ for name in METHODS)} - {"fixed"}
