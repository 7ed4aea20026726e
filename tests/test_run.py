"""Whole runs on real digits: what they record, and that an interrupted one ends the same."""

import copy
import dataclasses
import json
import signal

import chex
import jax
import numpy as np
import pytest
import yaml
from conftest import small_config

import cil_jax
from cil_jax.app import command_line
from cil_jax.errors import UserError
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import loop
from cil_jax.training.callbacks import Callback
from cil_jax.training.engine import Engine
from cil_jax.training.loop import Run
from cil_jax.training.signals import Stopped

PROGRAMS = (
    *("create", "begin_task", "pool", "train", "advance", "keep", "end_task"),
    *("feature_sums", "evaluate"),
)


class Stopper(Callback):
    """Asks a run to stop at an event: its name, task and epoch from 0; 'trained' is at step 3."""

    def __init__(self, event, task, epoch=None):
        self.at, self.asked = (event, task, epoch), 0

    def started(self, run, learner):
        run.stop_asked = lambda: self.asked

    def _heard(self, *event):
        self.asked = signal.SIGTERM if self.at == event else 0

    def trained(self, run, position):
        self._heard("trained" if position.step == 3 else "later", position.task, position.epoch)

    def epoch_done(self, run, line):
        self._heard("epoch_done", line["task"], line["epoch"])

    def task_done(self, run, line):
        self._heard("task_done", line["task"], None)


def without_times(results):
    memory = {k: v for k, v in results["memory"].items() if k != "peak"}
    return {**{k: v for k, v in results.items() if k != "seconds"}, "memory": memory}


def final_learner(config):
    """The learner of the newest checkpoint."""
    return Run(config, RunFolder(config.folder()), Callback()).saved_learner()


def sizes_of_program_caches():
    return {name: getattr(Engine, name)._cache_size() for name in PROGRAMS}


def programs_of(method):
    """How often each program is compiled in a run."""
    of_memory = dict.fromkeys(("advance", "keep"), int(method == "icarl"))
    return {**dict.fromkeys(PROGRAMS, 1), **of_memory}


def resumed(config):
    return dataclasses.replace(config, resume=True)


# A method with a memory, and one without and one that keeps all data; all methods go through
# tests/test_every_method.py.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("finetune", "joint")]


@pytest.fixture(scope="module", params=["icarl", *OTHERS])
def uninterrupted(request, tmp_path_factory):
    """Config, results and programs compiled of a whole run."""
    config = small_config(request.param, tmp_path_factory.mktemp(request.param) / "run")
    jax.clear_caches()  # else programs of another test's equal engine would serve
    results = cil_jax.run(config)
    return config, results, sizes_of_program_caches()


# For what does not depend on the method.
icarl_only = pytest.mark.parametrize("uninterrupted", ["icarl"], indirect=True)


def test_each_program_is_compiled_once_whatever_the_number_of_tasks(uninterrupted):
    config, results, compiled = uninterrupted
    assert results["task_sizes"] == [2, 2, 1]
    assert compiled == programs_of(config.method)


def test_the_run_folder_is_complete(uninterrupted):
    config, results, _ = uninterrupted
    folder = RunFolder(config.folder())
    assert json.loads(folder.results_file.read_text()) == results
    assert set(results) == {
        *("method", "preset", "changed", "dataset", "order", "backbone", "epochs", "exemplars"),
        *("keeps_all_data", "uses_all_data", "data_sha256"),
        *("class_order", "class_names", "image_shape", "augmentation"),
        "task_sizes",
        "seeds",
        "classifiers",
        "headline",
        *("memory", "memory_bytes"),
        "parameters",
        *("seconds", "machine"),
    }
    for one in results["classifiers"].values():
        assert [len(row) for row in one["accuracy_matrix"]] == [1, 2, 3]
        assert set(one) == {
            *("accuracy_matrix", "task_aware_matrix"),
            *("seen_accuracy", "old_accuracy", "new_accuracy"),
            *("task_aware_accuracy", "top5_accuracy"),
            "average_incremental_accuracy",
            "average_incremental_accuracy_without_first",
            "last_accuracy",
            "forgetting",
            "backward_transfer",
        }
    settings = yaml.safe_load(folder.config_file.read_text())
    assert settings["versions"]["jax"] and settings["epochs"] == 2
    assert settings["divisor"] == config.divisor
    assert settings["rate_steps"] == list(config.rate_steps)


def test_metrics_have_a_line_an_epoch_and_an_evaluation(uninterrupted):
    config, results, _ = uninterrupted
    lines = RunFolder(config.folder()).measurements()
    kinds = [(line["kind"], line["task"], line.get("epoch")) for line in lines]
    assert kinds == [
        entry
        for t in range(3)
        for entry in (("epoch", t, 0), ("epoch", t, 1), ("evaluation", t, None))
    ]
    for line in lines:
        if line["kind"] == "epoch":
            # By hand: the falls after so many of two epochs, none within the first.
            steps = config.rate_steps
            if line["task"] == 0 and config.first_rate_steps:
                steps = config.first_rate_steps
            falls = sum(line["epoch"] >= max(1, round(2 * step)) for step in steps)
            assert line["rate"] == pytest.approx(config.rate / config.rate_factor**falls)
            for name in ("train_loss", "test_loss"):
                assert np.isfinite(line[name]) and line[name] >= 0
                # Labels of one class that compete with no other cost nothing.
                assert line[name] > 0 or (
                    line["task"] == 2 and getattr(config, "softmax_over", "") == "new"
                )
            assert 0 <= line["train_accuracy"] <= 1 and 0 <= line["test_accuracy"] <= 1
    run = RunFolder(config.folder())
    confusions = run.confusions(run.results())
    assert list(confusions) == list(results["classifiers"])
    for name, one in results["classifiers"].items():
        for t, line in enumerate(x for x in lines if x["kind"] == "evaluation"):
            assert line["n_seen"] == (2, 4, 5)[t] and "confusion" not in line
            assert line["seen_accuracy"][name] == pytest.approx(one["seen_accuracy"][t])
            assert line["task_accuracy"][name] == pytest.approx(one["accuracy_matrix"][t])
        # The last row of the accuracy matrix again, counted from the confusion matrix here.
        confusion = confusions[name].matrix()
        assert confusion.shape == (5, 5)
        assert one["last_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
        for t, classes in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
            right = np.trace(confusion[classes, classes]) / confusion[classes].sum()
            assert one["accuracy_matrix"][-1][t] == pytest.approx(right)


@icarl_only
def test_the_loss_on_all_classes_seen_is_the_mean_of_those_of_the_tasks(uninterrupted):
    config, _, _ = uninterrupted
    run = Run(config, RunFolder(config.folder()), Callback())
    learner = run.saved_learner()
    of_tasks = [run.evaluation.of_task(learner, task)[1] for task in range(3)]
    n_images = np.diff(run.evaluation.bounds)
    *_, last = (line for line in run.folder.measurements() if line["kind"] == "evaluation")
    assert last["loss"] == pytest.approx(np.average(of_tasks, weights=n_images), rel=1e-5)


def test_parameters_and_memory_are_counted(uninterrupted):
    config, results, _ = uninterrupted
    # tiny: 9*8 + 2*9*8*8 in kernels, 2 a channel in 3 normalisations, head 9 * 5.
    assert results["parameters"] == 72 + 1152 + 2 * (3 * 8) + 45
    images = 20 if config.method in ("icarl", "replay") else 0
    assert results["memory_bytes"] == results["memory"]["exemplars"] == images * 64
    # Four bytes a number; the network ends with its columns all open, and has a mean and a
    # variance for each channel of its normalisations beside.
    numbers = results["parameters"] + 2 * (3 * 8)
    assert results["memory"]["parameters"] == results["memory"]["teacher"] == 4 * numbers
    # On the CPU the peak is the process', which holds at least JAX.
    assert results["memory"]["peak"] > 10_000_000


EVENTS = [("trained", 1), ("epoch_done", 0), ("epoch_done", 1), ("task_done", None)]
STOPS = [(event, task, epoch) for task in (0, 1) for event, epoch in EVENTS]
MIDDLE, AN_EPOCH = ("trained", 1, 1), ("epoch_done", 1, 0)


@pytest.fixture
def check_resumed(uninterrupted, tmp_path, monkeypatch):
    """Checks that a run which is stopped somewhere and resumed ends bit for bit the same."""
    return lambda stop: assert_resumed_is_the_same(uninterrupted, tmp_path, monkeypatch, stop)


def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(check_resumed):
    check_resumed(MIDDLE)


# Elsewhere, with the method that has most to restore.
@icarl_only
@pytest.mark.parametrize("stop", [stop for stop in STOPS if stop != MIDDLE], ids=str)
def test_so_does_one_that_is_stopped_elsewhere(check_resumed, stop):
    check_resumed(stop)


def assert_resumed_is_the_same(uninterrupted, tmp_path, monkeypatch, stop):
    config, results, _ = uninterrupted
    task, epoch = stop[1] + 1, stop[2]
    said = {
        "trained": f"saved in task {task}, after epoch {epoch} and step 3",
        "epoch_done": f"saved in task {task}, after epoch {(epoch or 0) + 1}",
        "task_done": f"saved after task {task}",
    }[stop[0]]
    again = small_config(config.method, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=said):
        patch.setattr(loop, "SECONDS_A_CALL", 0.0)  # steps one by one, until it stops
        cil_jax.run(again, Stopper(*stop))
    assert without_times(cil_jax.run(resumed(again))) == without_times(results)
    # A restored learner is, to the compiler, what a new one is.
    assert sizes_of_program_caches() == programs_of(config.method)
    chex.assert_trees_all_equal(final_learner(again), final_learner(config))
    times = {"images_per_second": 0}
    lines, expected = (RunFolder(c.folder()).measurements() for c in (again, config))
    assert [{**x, **times} for x in lines] == [{**x, **times} for x in expected]
    files = [RunFolder(c.folder()).confusion_file.read_bytes() for c in (again, config)]
    assert files[0] == files[1]


@icarl_only
@pytest.mark.parametrize("extra", ['{"kind":"epoch","task":1,"epoch":1}\n', '{"kind":"ep'])
def test_lines_after_the_last_checkpoint_are_written_anew(uninterrupted, tmp_path, extra):
    config, results, _ = uninterrupted
    again = small_config(config.method, tmp_path / "run")
    with pytest.raises(Stopped):
        cil_jax.run(again, Stopper(*AN_EPOCH))
    folder = RunFolder(again.folder())
    with folder.metrics_file.open("a") as out:
        out.write(extra)
    leftover = folder.checkpoints / "unfinished"
    (leftover / "learner").mkdir(parents=True)
    assert without_times(cil_jax.run(resumed(again))) == without_times(results)
    assert len(folder.measurements()) == 9 and not leftover.exists()


def test_resuming_a_complete_run_changes_nothing(uninterrupted):
    config, results, _ = uninterrupted
    folder = RunFolder(config.folder())
    files = (folder.results_file, folder.confusion_file)
    before = [file.read_bytes() for file in files]
    folder.confusion_file.unlink()  # which is written again
    assert cil_jax.run(resumed(config)) == results
    assert [file.read_bytes() for file in files] == before


@icarl_only
def test_a_checkpoint_of_an_older_version_knows_no_confusions(uninterrupted, tmp_path, monkeypatch):
    """They are in metrics.jsonl then, and those of the next evaluation in their file."""
    config, results, _ = uninterrupted
    again = small_config(config.method, tmp_path / "run")
    with pytest.raises(Stopped):
        cil_jax.run(again, Stopper(*AN_EPOCH))
    restore = Checkpoints.restore

    def older(self, template, warn):
        learner, record = restore(self, template, warn)
        del record["history"]["confusion"]
        return learner, record

    monkeypatch.setattr(Checkpoints, "restore", older)
    there = []

    class Look(Callback):
        def started(self, run, learner):
            there.append(run.folder.confusion_file.exists())

    assert without_times(cil_jax.run(resumed(again), Look())) == without_times(results)
    assert there == [False]
    files = [RunFolder(c.folder()).confusion_file.read_bytes() for c in (again, config)]
    assert files[0] == files[1]


@icarl_only
def test_a_checkpoint_of_another_shape_is_refused_by_name(uninterrupted):
    config, _, _ = uninterrupted
    other = small_config(config.method, config.folder(), backbone="resnet8")
    run = Run(other, RunFolder(other.folder()), Callback())
    with (
        Checkpoints(run.folder.checkpoints) as checkpoints,
        pytest.raises(UserError, match=r"has .*float32\[.* is expected"),
    ):
        checkpoints.restore(run.new_learner(), print)


def test_results_repeat_and_seeds_matter(uninterrupted, tmp_path):
    config, results, _ = uninterrupted
    again = cil_jax.run(small_config(config.method, tmp_path / "again"))
    assert without_times(again) == without_times(results)
    other = cil_jax.run(small_config(config.method, tmp_path / "other", seed=1))
    assert other["classifiers"] != results["classifiers"]


@icarl_only
def test_the_config_of_a_run_repeats_it_bit_for_bit(uninterrupted, tmp_path):
    config, results, _ = uninterrupted
    given = {"out": str(tmp_path / "again")}
    again = command_line.settings("icarl", "hybrid2", given, RunFolder(config.folder()).config_file)
    assert without_times(cil_jax.run(again)) == without_times(results)
    chex.assert_trees_all_equal(final_learner(again), final_learner(config))


def test_old_data_reaches_the_learner_through_the_memory_only(tmp_path, uninterrupted):
    """Once a task is learned its training images are overwritten, and nothing changes."""
    config, results, _ = uninterrupted
    results = copy.deepcopy(results)

    class Vandal(Callback):
        def task_done(self, run, line):
            first, end = run.scenario.bounds[line["task"] : line["task"] + 2]
            dataset = run.scenario.dataset
            gone = np.isin(dataset.train_labels, run.scenario.class_order[first:end])
            dataset.train_images[gone] = 0

    # The analysis of all data is no part of the learner, and sees what was done to the data.
    again = small_config(config.method, tmp_path / "run")
    vandalised = without_times(cil_jax.run(again, Vandal()))
    for one in (vandalised, results):
        one["classifiers"] = {k: v for k, v in one["classifiers"].items() if k != "ncm"}
    if config.method == "joint":  # by its name: no flag excuses another method
        assert vandalised["classifiers"] != results["classifiers"]
    else:
        assert vandalised == without_times(results)
        chex.assert_trees_all_equal(final_learner(again), final_learner(config))


@pytest.mark.slow
def test_a_larger_lambda_remembers_more(tmp_path):
    """The first two digits after two more were learned, mean of three seeds.

    Distillation keeps the old outputs apart from each other, and the more of it, the better the old
    classes hold against the new ones.
    """

    def remembered(weight, seed):
        out = tmp_path / f"{weight}-{seed}"
        settings = {"backbone": "two-stage", "lambda_": weight, "seed": seed}
        config = small_config("lwf", out, classes=4, epochs=8, **settings)
        linear = cil_jax.run(config)["classifiers"]["linear"]
        return linear["task_aware_matrix"][1][0], linear["accuracy_matrix"][1][0]

    none, some, much = (
        np.mean([remembered(w, s) for s in range(3)], axis=0) for w in (0.0, 1.0, 10.0)
    )
    assert none[0] + 0.1 < some[0] and none[0] + 0.1 < much[0]
    assert some[1] + 0.1 < much[1]


def test_finetuning_forgets_and_icarl_does_not(tmp_path):
    def matrix(method):
        more = {"softmax_over": "open"} if method == "finetune" else {}
        config = small_config(method, tmp_path / method, classes=4, epochs=12, **more)
        results = cil_jax.run(config)
        return results["classifiers"][results["headline"]]["accuracy_matrix"]

    finetune, icarl = matrix("finetune"), matrix("icarl")
    assert finetune[0][0] > 0.9 and finetune[1][1] > 0.9 and finetune[1][0] < 0.1
    assert icarl[0][0] > 0.9 and icarl[1][1] > 0.8 and icarl[1][0] > 0.6


def test_rate_and_weight_decay_of_each_task_reach_its_updates(tmp_path, monkeypatch):
    heard = []
    train = Engine.train

    def listening(self, learner, pool, sums, rate, weight_decay, stop, kind):
        heard.append((int(learner.task), int(learner.epoch), float(rate), float(weight_decay)))
        return train(self, learner, pool, sums, rate, weight_decay, stop, kind)

    monkeypatch.setattr(Engine, "train", listening)
    decays = {"first_weight_decay": 0.25, "weight_decay": 0.125}
    rates = {"rate": 0.5, "rate_steps": (0.5,), "first_rate_steps": (1.0,), "rate_factor": 2.0}
    cil_jax.run(small_config("finetune", tmp_path / "run", **decays, **rates))
    assert dict.fromkeys(heard) == dict.fromkeys(
        [(0, 0, 0.5, 0.25), (0, 1, 0.5, 0.25)]
        + [(t, e, 0.5 / 2**e, 0.125) for t in (1, 2) for e in (0, 1)]
    )
