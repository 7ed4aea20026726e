"""Herded against random exemplars, and several classifiers, under one network."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import small_config

import cil_jax
from cil_jax.commands import answers as answers_command
from cil_jax.commands import exemplars
from cil_jax.errors import UserError
from cil_jax.report import figures
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained.analysis import Selected, selection_by_count
from cil_jax.trained.answers import answers
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


def test_the_figure_has_the_accuracies_and_the_deviation_of_the_draws(run):
    rows = [Selected(1, 0.5, (0.2, 0.4)), Selected(10, 0.6, (0.5, 0.5))]
    (axes,) = figures.selection(rows, run.folder.results()).axes
    herded, random = (line.get_ydata().tolist() for line in axes.lines)
    assert herded == [50, 60] and random == pytest.approx([30, 50])
    band = axes.collections[0].get_datalim(axes.transData)
    assert band.y0 == pytest.approx(30 - 100 * np.std([0.2, 0.4], ddof=1))


def test_the_command_prints_a_row_for_each_count(run, capsys, tmp_path):
    figure = tmp_path / "x.svg"
    flags = ["--counts", "1", "3", "--draws", "2", "--figure", str(figure)]
    assert exemplars.main([str(run.folder.path), *flags]) == 0
    assert "<svg" in figure.read_text()
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


def test_the_classifiers_of_a_run_answer_as_they_did_in_it(run):
    found = answers(run)
    assert [(one.name, one.source) for one in found] == [
        *(("nme", "the run"), ("linear", "the run"), ("weight aligning", "the head alone")),
        *(("bias correction", "exemplars"), ("ridge", "exemplars")),
        *((name, "all training data") for name in ("ncm", "ridge", "fecam")),
    ]
    by_name = {one.name: one for one in found if one.name != "ridge"}
    for name, measured in run.folder.results()["classifiers"].items():
        assert by_name[name].seen == pytest.approx(measured["last_accuracy"], abs=1e-6)
        assert by_name[name].tasks == pytest.approx(measured["accuracy_matrix"][-1], abs=1e-6)
    assert all(0 < one.seen <= 1 and len(one.tasks) == 3 for one in found)
    # The outputs of so small a network have learned little, but its features are of use.
    ridge = [one.seen for one in found if one.name == "ridge"]
    assert 0.3 < ridge[0] < ridge[1]
    without = answers(run, all_data=False)
    assert without == found[:5]


def test_the_command_names_what_each_classifier_was_made_from(run, capsys):
    folder = str(run.folder.path)
    assert answers_command.main([folder, "--no-all-data"]) == 0
    out = capsys.readouterr().out
    for words in ("nme (method's own)", "the head alone", "exemplars", "task 3", "n = 1"):
        assert words in out
    assert "all training data" not in out
    assert answers_command.main([folder, "--no-all-data", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)["classifiers"]
    assert [one["name"] for one in read][:2] == ["nme", "linear"]
    assert answers_command.main([folder, "--ridge", "0"]) == 2
    assert "--ridge is 0.0; it must be above 0" in capsys.readouterr().err
