"""Figures and tables say what the results say."""

import io
import re

import matplotlib.image
import numpy as np
import pytest
from conftest import results_of
from rich.console import Console

from cil_jax import members, report
from cil_jax.record import RunFolder
from cil_jax.report import figures
from experiments import compare

NAMES = ("apple", "bear", "cloud", "dove", "elm")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_results(results_of())
    for task in range(3):
        for epoch in range(2):
            values = {"train_loss": 1.0, "test_loss": 1.2, "train_accuracy": 0.5}
            values["test_accuracy"] = 0.4
            folder.append({"kind": "epoch", "task": task, "epoch": epoch, **values})
        n = (2, 4, 5)[task]
        folder.append({"kind": "evaluation", "confusion": {"nme": np.eye(n, dtype=int).tolist()}})
    return folder


def test_all_figures_are_drawn_from_the_folder_alone(folder):
    files = report.draw(folder, NAMES)
    assert [f.name for f in files] == [
        "seen_accuracy.png",
        "accuracy_matrix.png",
        "curves.png",
        "confusion.png",
    ]
    for file in files:
        picture = matplotlib.image.imread(file)
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.05


def test_the_page_shows_figures_that_are_there_numbers_and_names(folder):
    folder.config_file.write_text("epochs: 2\nnote: <b>\n")
    report.draw(folder, NAMES)
    page = report.write_page(folder, NAMES).read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 4 and all((folder.path / source).exists() for source in sources)
    assert "http" not in page  # it is opened from disk, without a network
    for text in (
        "38.0%",
        "65.0%",
        "n = 1",
        "ncm (all data)",
        "95.0%",
        *NAMES,
        "epochs: 2",
        "&lt;b&gt;",
        "3 of 3",
    ):
        assert text in page, text


def test_seen_accuracy_shows_the_results():
    results = results_of()
    axes = figures.seen_accuracy(results).axes[0]
    for line, one in zip(axes.get_lines(), results["classifiers"].values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), [2, 4, 5])
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(one["seen_accuracy"]))


def test_labels_at_the_end_of_lines_do_not_cover_each_other():
    axes = figures.seen_accuracy(results_of()).axes[0]  # three lines with one end
    heights = sorted(text.xy[1] for text in axes.texts)
    assert np.diff(heights).min() >= 5 - 1e-9
    assert np.mean(heights) == pytest.approx(
        100 * results_of()["classifiers"]["nme"]["last_accuracy"]
    )
    assert {text.get_text() for text in axes.texts} == {"38.0"}


def test_the_accuracy_matrix_has_its_values_in_place():
    axes = figures.accuracy_matrix(results_of()).axes[0]
    shown = {
        (round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts
    }
    assert shown == {
        (0, 0): "90",
        (1, 0): "50",
        (1, 1): "80",
        (2, 0): "20",
        (2, 1): "40",
        (2, 2): "70",
    }


def test_the_confusion_matrix_is_in_percent_of_the_true_class():
    evaluation = {"confusion": {"nme": [[3, 1], [0, 0]]}}
    figure = figures.confusion(results_of((2,), [[0.5]]), evaluation, NAMES)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[75, 25], [0, 0]])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["apple", "bear"]


def shown(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_a_caption_says_whose_numbers_they_are():
    said = report.caption(results_of())
    for words in (
        *("icarl (paper) on digits", "3 tasks of 2 or 1 classes", "resnet8"),
        *("7, then 5 epochs a task", "20 exemplars", "order seeded 1993, seed 0", "n = 1"),
    ):
        assert words in said
    group = members.summarize([results_of(), {**results_of(), "order": "seeded 1994"}])
    said = report.caption(group)
    assert "order seeded 1993, seeded 1994;" in said and "n = 2 orders" in said


def test_the_table_names_each_classifier_and_has_every_number():
    text = shown(report.summary(results_of()))
    for words in ("nme (its own)", "ncm (all data)", "old classes", "new classes", "95.0%"):
        assert words in text
    assert "20.0%" not in text  # one cell of the matrix
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert rows["old classes"].count("30.0%") == 3  # (.2 * 2 + .4 * 2) / 4
    assert rows["new classes"].count("70.0%") == 3
    assert rows["top-5"].count(" - ") == 3


@pytest.mark.parametrize("n", [1, 30])
def test_one_task_and_many_can_be_drawn(n):
    results = results_of((1,) * n, [[0.5] * (t + 1) for t in range(n)])
    figures.accuracy_matrix(results)
    figures.seen_accuracy(results)
    text = shown(report.summary(results))
    assert text.count("50.0%") >= 2 * n
    forgetting = next(line for line in text.splitlines() if "forgetting" in line)
    assert ("-" in forgetting) == (n == 1)


def test_runs_of_one_protocol_are_compared_and_others_refused(tmp_path, capsys):
    for name, order in (("one", "seeded 1"), ("two", "seeded 1"), ("odd", "natural")):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).write_results({**results_of(), "order": order})
    runs = [str(tmp_path / name) for name in ("one", "two", "odd", "none")]
    figure = tmp_path / "figure.png"
    assert compare.main([*runs[:2], "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    protocol = ("3 tasks of 2 or 1 classes", "seeded 1", "resnet8")
    for word in ("one", "two", "nme", "linear", "38.0%", *protocol):
        assert word in out  # .4 * .2 + .4 * .4 + .2 * .7
    assert matplotlib.image.imread(figure).shape[0] > 200
    assert compare.main([runs[0], runs[2]]) == 2
    assert "odd and one differ in orders" in capsys.readouterr().err
    assert compare.main([runs[0], runs[3]]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_groups_are_compared_by_their_means(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    low, high = ([[0.9], [0.5, 0.8], [x] * 3] for x in (0.2, 0.4))
    for name, matrices in (("group", (low, high)), ("other", (high, high))):
        (tmp_path / name).mkdir()
        results = [results_of(matrix=matrix) for matrix in matrices]
        members.write_summary(tmp_path / name, members.summarize(results))
    assert compare.main([str(tmp_path / "group"), str(tmp_path / "other")]) == 0
    out = capsys.readouterr().out
    assert "30.0% +- 14.1" in out and "40.0% +- 0.0" in out
    summaries = {"group": members.summarize([results_of(matrix=m) for m in (low, high)])}
    axes = figures.comparison(summaries).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [90, 65, 30])
    assert len(axes.collections) == 1 and "n = 2" in axes.get_legend().texts[0].get_text()
