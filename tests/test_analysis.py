"""Herded against random exemplars under one network."""

import dataclasses

import numpy as np
import pytest
from conftest import small_config

import cil_jax
from cil_jax.commands import exemplars
from cil_jax.errors import UserError
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained.analysis import selection_by_count
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = small_config("icarl", tmp_path_factory.mktemp("analysis") / "run")
    cil_jax.run(config)
    return Run(config, RunFolder(config.folder()), Callback())


def test_the_memory_s_own_number_gives_the_run_s_own_accuracy(run):
    """20 exemplars of 5 classes: 4 each. The last task's were herded by this very network."""
    (four,) = selection_by_count(run, [4], 1)
    results = run.folder.results()["classifiers"]["nme"]
    assert abs(four.herded - results["last_accuracy"]) < 0.15


def test_mirror_images_count_in_the_means_as_in_the_runs_own(run):
    def herded(**settings):
        config = dataclasses.replace(run.config, **settings)
        again = Run(config, RunFolder(config.folder()), Callback())
        return [one.herded for one in selection_by_count(again, [1, 2, 4], 1)]

    without = herded(mirror="no")
    assert herded(mirror="yes", mirror_means="no") == without
    assert herded(mirror="yes", mirror_means="yes") != without


def test_with_all_images_the_choice_does_not_matter(run):
    smallest = min(np.bincount(run.scenario.task(t).labels)[-1] for t in range(3))
    few, many = selection_by_count(run, [1, int(smallest) - 10], 5)
    assert np.std(many.random) < np.std(few.random)
    assert abs(np.mean(many.random) - many.herded) < 0.03
    assert few.herded > np.mean(few.random)


def test_more_than_there_are_is_refused(run):
    with pytest.raises(UserError, match="--counts must lie in 1"):
        selection_by_count(run, [1000], 1)
    with pytest.raises(UserError, match="--counts must lie in 1"):
        selection_by_count(run, [0], 1)


def test_the_command_prints_a_row_for_each_count(run, capsys):
    assert exemplars.main([str(run.folder.path), "--counts", "1", "3", "--draws", "2"]) == 0
    out = capsys.readouterr().out
    assert "random, mean of 2" in out and out.count("%") == 6
    said = " ".join(out.split())
    for words in (
        "icarl (paper",
        "order seeded 1993, seed 0",
        "n = 1",
        "nearest mean of exemplars",
    ):
        assert words in said
    assert exemplars.main([str(run.folder.path / "none")]) == 2
    assert "holds no run" in capsys.readouterr().err
