"""Why a run forgot: hand-worked measures, and what the command finds in a run."""

import json
import shutil

import numpy as np
import pytest
from conftest import small_config

import cil_jax
from cil_jax import metrics
from cil_jax.commands import why as command
from cil_jax.errors import UserError
from cil_jax.report import causes as shown
from cil_jax.report import feature_figures
from cil_jax.storage.run_folder import RunFolder


def test_representations_are_equal_up_to_rotation_scale_and_shift():
    one = np.random.RandomState(0).randn(30, 4)
    rotation, _ = np.linalg.qr(np.random.RandomState(1).randn(4, 4))
    np.testing.assert_allclose(metrics.linear_cka(one, 3 * one @ rotation + 5), 1, rtol=1e-12)
    assert metrics.linear_cka(one, np.ones((30, 2))) == 0


def test_similarity_by_hand():
    """Of centred columns x and y = (x, z), with z orthogonal to x: |x'y|^2 / (|x'x| |y'y|)."""
    x = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    z = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    # x'y = (4, 0), x'x = 4, y'y = diag(4, 4), whose norm is 4 sqrt(2).
    np.testing.assert_allclose(metrics.linear_cka(x, np.hstack([x, z])), 1 / np.sqrt(2))
    assert metrics.linear_cka(x, z) == 0


def test_drift_by_hand():
    """Class 0 turns from (1, 0) to (1, 1), 45 degrees; class 1 stays. A new feature counts not."""
    then = np.array([[2.0, 0, 0], [0, 1, 0], [0, 3, 0]])
    now = np.array([[1.0, 1, 7], [0, 2, 9], [0, 2, 9]])
    labels = np.array([0, 1, 1])
    np.testing.assert_allclose(metrics.mean_drift(then, now, labels, [0]), 45)
    np.testing.assert_allclose(metrics.mean_drift(then, now, labels, [0, 1]), 22.5)


def test_calibration_error_by_hand():
    """Two bins: confidence .9, .7 with one right; .4 and right. Gaps .8 - .5 and .4 - 1."""
    error = metrics.calibration_error(
        np.array([0.9, 0.7, 0.4]), np.array([True, False, True]), n_bins=2
    )
    np.testing.assert_allclose(error, 2 / 3 * 0.3 + 1 / 3 * 0.6)
    assert metrics.calibration_error(np.ones(3), np.ones(3, bool)) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = small_config("icarl", tmp_path_factory.mktemp("why") / "run", features=100, epochs=4)
    cil_jax.run(config)
    return RunFolder(config.folder())


def found(run, capsys):
    assert command.main([str(run.path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_errors_add_up_to_those_of_the_run(run, capsys):
    causes, own = found(run, capsys), run.results()["classifiers"]["nme"]
    assert causes["classifier"] == "nme" and len(causes["tasks"]) == 3
    for task, right in zip(causes["tasks"], own["accuracy_matrix"][-1], strict=True):
        parts = ("right", "wrong_within_task", "wrong_in_other_task")
        np.testing.assert_allclose(sum(task[name] for name in parts), 1)
        assert task["right"] == right
    assert [task["task_aware"] for task in causes["tasks"]] == own["task_aware_matrix"][-1]
    np.testing.assert_allclose(np.sum(causes["task_confusion"], axis=1), 1)


def test_features_drift_since_their_task_but_for_the_last(run, capsys):
    *old, last = found(run, capsys)["tasks"]
    assert last["mean_drift"] == pytest.approx(0, abs=0.1)
    assert last["similarity"] == pytest.approx(1)
    assert all(task["mean_drift"] > 1 and task["similarity"] < 1 for task in old)


def test_equally_many_images_of_each_class_seen_have_features(run):
    for task, n_seen in enumerate((2, 4, 5)):
        features, labels = run.features(task)
        assert np.bincount(labels).tolist() == [20] * n_seen
        assert features.shape == (20 * n_seen, 8) and features.dtype == np.float32


def test_the_page_has_a_section_once_someone_has_asked(run, capsys):
    found(run, capsys)
    page = run.report_file.read_text()
    assert 'id="why"' in page and "are taken for a class of the newest task" in page


def test_a_run_without_features_says_how_to_get_them(run, tmp_path, capsys):
    without = shutil.copytree(run.path, tmp_path / "run", ignore=lambda *_: ["features"])
    assert command.main([str(without)]) == 0
    said = capsys.readouterr().out
    with pytest.raises(UserError, match="has no features of all tasks"):
        command._draw(RunFolder(without), str(tmp_path / "x.png"), "pca")
    assert "--features 1000" in said and "weight length" in said and "similarity  " not in said
    assert "times as long as those of earlier tasks" in said


@pytest.mark.parametrize("projection", feature_figures.PROJECTIONS)
def test_features_are_drawn_once_for_each_task(run, projection):
    saved = [run.features(task) for task in range(3)]
    figure = feature_figures.features(saved, run.results(), projection)
    drawn = [axes for axes in figure.axes if axes.collections]
    assert [axes.get_title() for axes in drawn] == ["after task 1", "after task 2", "after task 3"]
    assert [len(axes.collections[0].get_offsets()) for axes in drawn] == [40, 80, 100]
    if projection == "pca":  # the main axes of the last features, about their mean
        plane = np.asarray(drawn[-1].collections[0].get_offsets())
        np.testing.assert_allclose(plane.mean(axis=0), 0, atol=1e-5)
        x, y = plane.T
        assert abs(np.corrcoef(x, y)[0, 1]) < 1e-5 and x.var() >= y.var() > 0


def test_the_drift_of_each_task_is_drawn_from_its_own_on(run, tmp_path, capsys):
    assert command.main([str(run.path), "--figure", str(tmp_path / "x.png")]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"x.png", "x-drift.png"}
    saved = [run.features(task) for task in range(3)]
    (axes,) = feature_figures.drift(saved, run.results()).axes
    assert [line.get_xdata()[0] for line in axes.lines] == [1, 2, 3]
    assert all(line.get_ydata()[0] == pytest.approx(0, abs=0.1) for line in axes.lines)
    capsys.readouterr()
    tasks = found(run, capsys)["tasks"]
    ends = [line.get_ydata()[-1] for line in axes.lines]
    assert ends == pytest.approx([task["mean_drift"] for task in tasks])


def test_no_sentence_about_earlier_tasks_after_the_first():
    task = {
        "right": 0.5, "wrong_within_task": 0.5, "wrong_in_other_task": 0.0,
        "accuracy_when_learned": 0.5, "task_aware_when_learned": 0.5, "task_aware": 0.5,
        "weight_norm": 1.0, "mean_drift": None, "similarity": None,
    }  # fmt: skip
    causes = {
        "classifier": "linear", "task_confusion": [[1.0]], "tasks": [task],
        "linear_accuracy": 0.5, "confidence": 0.75, "calibration_error": 0.25,
    }  # fmt: skip
    (sentence,) = shown.sentences(causes)
    assert sentence.startswith("The outputs are overconfident: their mean probability is 75.0")
