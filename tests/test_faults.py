"""Faults that implementations of these methods are known to have, each ruled out here.

A teacher in training mode is ruled out in test_method_contract.py, and inside the loss in
test_methods.py, which also has herding on plain images; old data that reaches the learner past the
memory in test_run.py; metrics that assume equal tasks in test_metrics.py.
"""

import dataclasses
import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

import cil_jax
from cil_jax import data
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import saving
from cil_jax.training.callbacks import Callback
from cil_jax.training.evaluation import Evaluation
from cil_jax.training.loop import Run

MEMORY = 23  # divides neither by 2, 4 nor 5 classes


@pytest.fixture(scope="module", params=["herding", pytest.param("random", marks=pytest.mark.slow)])
def finished(request, tmp_path_factory):
    config = small_config(
        *("icarl", tmp_path_factory.mktemp("faults") / "run"),
        **{"memory": MEMORY, "selection": request.param, "pad": 2, "mirror": "yes"},
    )
    cil_jax.run(config)
    run = Run(config, RunFolder(config.folder()), Callback())
    return run, run.saved_learner()


# For what does not depend on how exemplars are selected.
herding_only = pytest.mark.parametrize("finished", ["herding"], indirect=True)


def exemplars(learner):
    """Pixels and class of every kept image."""
    labels = np.asarray(learner.memory.labels)
    return np.asarray(learner.memory.images)[labels >= 0], labels[labels >= 0]


def as_bytes(images):
    return {image.tobytes() for image in images}


def test_exemplars_are_untouched_training_images_of_their_class(finished):
    """Not cropped, not mirrored, not from the test set, none twice."""
    run, learner = finished
    images, labels = exemplars(learner)
    for place in range(5):
        task = next(t for t in range(3) if place < run.scenario.bounds[t + 1])
        new = run.scenario.task(task)
        own = as_bytes(images[labels == place])
        assert own <= as_bytes(new.images[new.labels == place])
        assert len(own) == MEMORY // 5


def test_selection_never_looks_at_test_data(finished, tmp_path, monkeypatch):
    """With every test image made black, the same exemplars are kept."""
    run, learner = finished
    config = small_config(
        *("icarl", tmp_path / "run"),
        **{"memory": MEMORY, "selection": run.config.selection, "pad": 2, "mirror": "yes"},
    )
    real = run.scenario.dataset
    black = dataclasses.replace(real, test_images=np.zeros_like(real.test_images))
    monkeypatch.setattr(data, "load", lambda *_, **__: black)  # nobody can reach the real ones
    blind = Run(config, RunFolder(config.folder()), Callback())
    results = blind.go()
    for got, kept in zip(exemplars(blind.saved_learner()), exemplars(learner), strict=True):
        np.testing.assert_array_equal(got, kept)
    assert results["classifiers"] != run.folder.results()["classifiers"]


@herding_only
def test_what_the_evaluation_says_changes_nothing_that_is_learned(finished, tmp_path, monkeypatch):
    """Whether accuracies fall and losses rise or the reverse: no epoch and no rate goes by them."""
    run, learner = finished
    counted = Evaluation._counts

    def misled(name, share_of):
        calls = itertools.count()

        def told(self, *given):
            counts, _ = counted(self, *given)
            share = share_of(next(calls))

            def changed(one):
                n = one.confusion.sum(axis=1)
                right = np.floor(share * n).astype(int)
                confusion = np.diag(right) + np.roll(np.diag(n - right), 1, axis=1)
                return one.replace(confusion=confusion, top5=right, task_aware=right)

            return {name: changed(one) for name, one in counts.items()}, 10.0 * (1 - share)

        monkeypatch.setattr(Evaluation, "_counts", told)
        config = dataclasses.replace(run.config, out=str(tmp_path / name))
        again = Run(config, RunFolder(config.folder()), Callback())
        again.go()
        lines = [line for line in again.folder.measurements() if line["kind"] == "epoch"]
        both = [[x for x in lines if x["task"] == task] for task in range(3)]
        accuracies = {np.sign(b["test_accuracy"] - a["test_accuracy"]) for a, b in both}
        losses = {np.sign(b["test_loss"] - a["test_loss"]) for a, b in both}
        return again.saved_learner(), accuracies, losses

    falling, *signs = misled("falling", lambda call: 1 - call / 20)
    assert signs == [{-1}, {1}]
    rising, *signs = misled("rising", lambda call: call / 20)
    assert signs == [{1}, {-1}]
    for other in (falling, rising):
        chex.assert_trees_all_equal(other, learner)


@herding_only
def test_means_are_of_plain_exemplars_in_evaluation_mode(finished):
    """Each image embedded by itself: no augmentation, no statistics of a batch."""
    run, learner = finished
    images, labels = exemplars(learner)
    for place in range(5):
        rows = []
        for image in images[labels == place]:
            for side in (image, image[:, ::-1]):
                feature = run.engine.embed(learner, jnp.asarray(side[None]), mirrored=False)
                rows.append(np.asarray(feature[0], np.float64))
        rows = [row / np.linalg.norm(row) for row in rows]
        mean = np.mean(rows, axis=0)
        np.testing.assert_allclose(learner.means[place], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_memory_never_holds_more_than_it_says(tmp_path, monkeypatch):
    """Whenever it is saved, whatever the number of classes; and no class has more than another."""
    kept = []
    monkeypatch.setattr(saving, "SECONDS_UNSAVED", 0.0)
    monkeypatch.setattr(saving, "SAVING_SHARE", float("inf"))  # however long a save takes
    monkeypatch.setattr(Checkpoints, "save", lambda _, learner, record: kept.append(learner))
    cil_jax.run(small_config("replay", tmp_path / "run", memory=MEMORY, epochs=1))
    seen = [(int(learner.task), learner.memory.counts(5).tolist()) for learner in kept]
    assert len(kept) >= 9  # within each epoch, after it and after the task
    shares = {0: [0] * 5, 1: [11, 11, 0, 0, 0], 2: [5, 5, 5, 5, 0], 3: [4] * 5}
    assert [counts for _, counts in seen] == [shares[task] for task, _ in seen]
    assert sorted({task for task, _ in seen}) == [0, 1, 2, 3]
    assert all(sum(counts) <= MEMORY for _, counts in seen)
