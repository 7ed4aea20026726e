"""Figures and tables say what the results say."""

import base64
import io
import json
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import PIL.Image
import pytest
from conftest import results_of, write_run
from rich.console import Console

from cil_jax import report
from cil_jax.commands import report as report_command
from cil_jax.confusion import Confusion
from cil_jax.errors import UserError
from cil_jax.report import comparison, figures, matrix_figures, thumbnails
from cil_jax.report.groups import Comparison, Group
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder

NAMES = ["apple", "bear", "cloud", "dove", "<b>elm"]


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path, class_names=NAMES, exemplars=4)


def test_all_figures_are_drawn_from_the_folder_alone(folder):
    files = report.draw(folder)
    assert [f.name for f in files] == [
        "seen_accuracy.png",
        "accuracy_matrix.png",
        "forgetting.png",
        "confusion.png",
        "task_confusion.png",
        "class_accuracy.png",
        "curves.png",
    ]
    for file in files:
        picture = matplotlib.image.imread(file)
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.05


def test_figures_can_be_drawn_for_a_paper(folder, capsys):
    assert report_command.main([str(folder.path), "--format", "pdf", "svg"]) == 0
    names = {file.name for file in folder.figures.iterdir()}
    assert {"curves.pdf", "curves.svg", "forgetting.pdf"} <= names and "curves.png" not in names
    assert (folder.figures / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (folder.figures / "forgetting.svg").read_text()


def test_the_page_is_whole_in_itself_and_has_numbers_and_names(folder):
    page = report.write_page(folder).read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # a name, no address
    assert set(re.findall(r'(?:src|href)="([^#"][^:"]*:)', page)) == {"data:"}
    for text in (
        "38.0%",
        "65.0%",
        "n = 1",
        "ncm (all data)",
        "95.0%",
        *NAMES[:-1],
        "epochs: 2",
        "3 of 3",
        "20 exemplars are kept",
    ):
        assert text in page, text
    assert "&lt;b&gt;" in page and "<b>elm" not in page
    assert folder.settings()["versions"]["jax"] in page


def test_the_page_of_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    folder = write_run(tmp_path, sizes=(2, 2, 1), matrix=((0.9,), (0.5, 0.8)), class_names=NAMES)
    line = next(line for line in folder.measurements() if line["kind"] == "epoch")
    folder.append({**line, "task": 2})  # of a task that has no results yet
    with folder.metrics_file.open("a") as out:
        out.write('{"kind":"ep')
    assert {line["task"] for line in folder.epochs(folder.results())} == {0, 1}
    page = report.write_page(folder).read_text()
    assert "In progress: 2 of 3 tasks learned" in page and "Not learned yet: &lt;b&gt;elm" in page


def test_the_command_reads_the_measurements_once_and_names_damaged_lines(
    tmp_path, monkeypatch, capsys
):
    folder = write_run(tmp_path)
    folder.metrics_file.write_bytes(b"no JSON\n" + folder.metrics_file.read_bytes())
    read = []
    real = RunFolder._lines
    monkeypatch.setattr(RunFolder, "_lines", lambda self: read.append(self) or real(self))
    assert report_command.main([str(tmp_path)]) == 0
    assert len(read) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder.metrics_file}, line 1, is damaged")
    assert folder.report_file.exists() and folder.is_drawn


def test_the_page_and_the_figures_start_no_backend_of_jax(folder):
    code = (
        "import sys; from cil_jax import report; from cil_jax.storage.run_folder import RunFolder;"
        "folder = RunFolder(sys.argv[1]); report.draw(folder); report.write_page(folder);"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", code, folder.path], check=False)
    assert done.returncode == 0 and folder.report_file.exists()


def pixels_of(strip):
    """A strip's pixels [H, W, 3]."""
    data = base64.b64decode(strip.uri.partition(",")[2])
    return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_strip_has_a_classs_exemplars_in_their_order(folder):
    strips = thumbnails.strips(*folder.exemplars())
    assert list(strips) == [0, 1, 2, 3, 4] and strips[3].shown == strips[3].kept == 4
    pixels = pixels_of(strips[3])
    assert pixels.shape == (6, 24, 3) and (pixels[..., 0] == 3).all()
    assert pixels[0, ::6, 1].tolist() == [0, 1, 2, 3]
    assert strips[3].width == 6 * 24 and strips[3].coarse  # six times as large on the page
    assert thumbnails.strips(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int)) == {}


@pytest.mark.parametrize(
    ("side", "channels", "n_classes", "kept", "shown", "size"),
    [(32, 3, 100, 24, 20, 32), (224, 1, 3, 5, 5, 64), (64, 3, 400, 30, 3, 64)],
)
def test_strips_stay_small(side, channels, n_classes, kept, shown, size):
    labels = np.repeat(np.arange(n_classes), kept)[: 40 if n_classes == 3 else None]
    images = np.zeros((len(labels), side, side, channels), np.uint8)
    strip = thumbnails.strips(images, labels)[n_classes - 1]
    assert (strip.shown, strip.kept) == (shown, kept)
    assert pixels_of(strip).shape == (size, size * shown, 3)


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
    axes = matrix_figures.accuracy_matrix(results_of()).axes[0]
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
    measured = Confusion.of([[3, 1], [0, 0]])
    figure = matrix_figures.confusion(results_of((2,), [[0.5]], class_names=NAMES[:2]), measured)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[75, 25], [0, 0]])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["apple", "bear"]


def test_curves_show_loss_and_accuracy_of_training_and_test():
    names = ("task", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
    rows = [(0, 2.0, 3.0, 0.5, 0.25), (0, 1.0, 1.5, 0.75, 0.5), (1, 4.0, 5.0, 1.0, 0.0)]
    epochs = [dict(zip(names, row, strict=True)) for row in rows]
    top, bottom = figures.curves(results_of((1, 1), [[0.5], [0.5, 0.5]]), epochs).axes

    def lines(axes):
        found = [line for line in axes.get_lines() if line.get_marker() == "."]
        return [(line.get_xdata().tolist(), list(line.get_ydata())) for line in found]

    assert lines(top) == [([1, 2], [2, 1]), ([3], [4]), ([1, 2], [3, 1.5]), ([3], [5])]
    assert lines(bottom) == [([1, 2], [50, 75]), ([3], [100]), ([1, 2], [25, 50]), ([3], [0])]
    assert [text.get_text() for text in top.get_legend().texts] == ["train", "test"]


def shown(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_a_caption_says_whose_numbers_they_are():
    said = report.caption(results_of())
    for words in (
        *("icarl (paper) on digits", "3 tasks of 2 x 2 and 1 classes", "resnet8"),
        *("7, then 5 epochs per task", "20 exemplars", "order seeded 1993, seed 0", "n = 1"),
    ):
        assert words in said
    group = replicates.summarize([results_of(), {**results_of(), "order": "seeded 1994"}])
    said = report.caption(group)
    assert "order seeded 1993, seeded 1994;" in said and "n = 2 orders" in said


def test_a_caption_names_what_was_changed_of_the_preset():
    assert report.caption(results_of()).startswith("icarl (paper) on ")  # an older version's
    assert report.caption(results_of(changed={})).startswith("icarl (paper) on ")
    changed = {"selection": "random", "distill": "none"}
    said = "icarl (paper, with selection random, distill none) on "
    one = results_of(changed=changed)
    assert report.caption(one).startswith(said)
    assert report.caption(replicates.summarize([one, one])).startswith(said)
    others = {"rate-steps 0.5 0.75": {"rate_steps": [0.5, 0.75]}, "lambda 0": {"lambda": 0.0}}
    others |= {"no-last-relu": {"last_relu": False}, "weight-decay 2e-05": {"weight_decay": 2e-5}}
    for words, changed in others.items():
        assert report.caption(results_of(changed=changed)).startswith(
            f"icarl (paper, with {words})"
        )
    bare = results_of(preset="", changed={"rate": 1.0})
    assert report.caption(bare).startswith("icarl (with rate 1) on ")


def test_a_caption_names_a_seed_of_the_data_that_is_another():
    one = results_of(seeds={"order": 1993, "init": 1, "data": 1})
    other = results_of(seeds={"order": 1993, "init": 2, "data": 1})
    assert "seed 1; " in report.caption(one) and "data seed" not in report.caption(one)
    assert "seed 2, data seed 1; " in report.caption(other)
    assert ", data seed 1; " in report.caption(replicates.summarize([one, other]))


def test_the_page_and_the_figures_name_what_was_changed(tmp_path):
    folder = write_run(tmp_path, class_names=NAMES, changed={"distill": "none"})
    page = report.write_page(folder).read_text()
    for words in ("<title>", "<h1>"):
        assert f"{words}icarl (paper, with distill none) on digits" in page
    axes = figures.seen_accuracy(folder.results()).axes[0]
    assert axes.get_title().startswith("icarl (paper, with distill none) on digits")
    assert "including the first task" in axes.get_legend().get_title().get_text()


def test_the_table_names_each_classifier_and_has_every_number():
    text = shown(report.summary(results_of()))
    for words in ("nme (method's own)", "ncm (all data)", "old classes", "new classes", "95.0%"):
        assert words in text
    assert "20.0%" not in text  # one cell of the matrix
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert rows["old classes"].count("30.0%") == 3  # (.2 * 2 + .4 * 2) / 4
    assert rows["new classes"].count("70.0%") == 3
    assert rows["top-5"].count(" - ") == 3


@pytest.mark.parametrize(
    ("fraction", "one_decimal", "whole"),
    # 38.15 and 26.85 lie between two binary numbers; half to even would make 30 of 30.5.
    [
        (0.305, "30.5", "31"),
        (0.3815, "38.2", "38"),
        (0.2685, "26.9", "27"),
        (0.2, "20.0", "20"),
        (0.38146, "38.1", "38"),
    ],
)
def test_a_percentage_is_the_same_in_tables_figures_and_pages(
    tmp_path, fraction, one_decimal, whole
):
    results = results_of((2, 2), [[fraction], [fraction] * 2])
    assert f"{one_decimal}%" in shown(report.summary(results))
    labels = figures.seen_accuracy(results).axes[0].texts
    assert {label.get_text() for label in labels} == {one_decimal}
    cells = matrix_figures.accuracy_matrix(results).axes[0].texts
    assert {cell.get_text() for cell in cells} == {whole}
    summary = replicates.summarize([results])
    group = Group("a run", summary, {}, None, ())
    assert f"| {one_decimal} |" in comparison.as_markdown([Comparison((group,), ())])
    axes = figures.seen_accuracy_of_groups({"a run": summary}).axes[0]
    assert f"average {one_decimal}" in axes.get_legend().texts[0].get_text()
    run = write_run(tmp_path, sizes=(2, 2), matrix=[[fraction], [fraction] * 2])
    page = report.write_page(run).read_text()
    assert f"<td>{one_decimal}%</td>" in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    # Not rounded to fewer decimals before percentText in charts.js rounds it for display.
    assert data["classifiers"]["nme"]["seen"] == [round(100 * fraction, 6)] * 2


@pytest.mark.parametrize("n", [1, 30])
def test_one_task_and_many_can_be_drawn(n):
    results = results_of((1,) * n, [[0.5] * (t + 1) for t in range(n)])
    matrix_figures.accuracy_matrix(results)
    figures.seen_accuracy(results)
    text = shown(report.summary(results))
    assert text.count("50.0%") >= 2 * n
    forgetting = next(line for line in text.splitlines() if "forgetting" in line)
    assert ("-" in forgetting) == (n == 1)


def test_only_trainings_of_other_names_may_have_other_parts(tmp_path):
    run = write_run(tmp_path / "run", epochs=1)
    line = next(line for line in run.measurements() if line["kind"] == "epoch")
    run.append({**line, "task": 2, "parts": {"classification": 0.5}, "training": "second"})
    text = report.write_page(run).read_text()
    found = json.loads(re.search(r'"parts": (\{.*?\})', text)[1])
    assert found == {"classification": [*[0.75] * 3, 0.5], "distillation": [*[0.25] * 3, None]}
    run.append({**line, "task": 2, "parts": {"classification": 0.5}})
    with pytest.raises(UserError, match="parts: they differ between epochs"):
        report.write_page(run)
