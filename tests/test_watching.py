"""One run as the commands make it: what it says, and what it leaves, while it goes and after."""

import io

import browser
import numpy as np
import pytest
from conftest import small_config
from rich.console import Console

from cil_jax import report
from cil_jax.app import launch
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of iCaRL with a log: its settings, what it said, and the pages it wrote."""
    config = small_config("icarl", tmp_path_factory.mktemp("run") / "one", log="tensorboard")
    console, pages = Console(file=io.StringIO(), width=200), []
    write_page = report.write_page

    def writing(*given):
        file = write_page(*given)
        pages.append(file.read_text())
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_page", writing)
        launch.run_one(config, console, "")
    return config, console.file.getvalue(), pages


def test_each_epoch_and_task_is_a_line(watched):
    _, said, _ = watched
    epochs = [line for line in said.splitlines() if "epoch" in line and "  loss" in line]
    assert len(epochs) == 6 and "\x1b" not in said
    for word in ("task 1/3  epoch 2/2  loss", "rate ", "images/s", "  0:"):
        assert word in epochs[1]
    assert "left 0:" in epochs[-1]


def test_the_page_is_written_while_the_run_goes(watched):
    """At least once; where pages are slower than tasks, one stands for several."""
    config, _, pages = watched
    assert len(pages) >= 2 and "In progress" in pages[0] and "In progress" not in pages[-1]
    assert RunFolder(config.folder()).report_file.read_text() == pages[-1]


def test_the_exemplars_in_the_folder_are_those_of_the_memory(watched):
    config, _, pages = watched
    folder = RunFolder(config.folder())
    memory = Run(config, folder, Callback()).saved_learner().memory
    images, labels = folder.exemplars()
    assert np.bincount(labels).tolist() == memory.counts(5).tolist() == [4] * 5
    for c in range(5):
        expected = np.asarray(memory.images)[np.asarray(memory.labels) == c]
        np.testing.assert_array_equal(images[labels == c], expected)
    assert pages[-1].count('alt="exemplars of ') == 5


def test_tensorboard_reads_what_is_logged(watched):
    from test_logs import read

    config, _, _ = watched
    folder = RunFolder(config.folder())
    shown, _ = read(folder.path / "tensorboard" / "epochs")
    lines = [line for line in folder.measurements() if line["kind"] == "epoch"]
    for tag, key in (("loss/train", "train_loss"), ("accuracy/test/linear", "test_accuracy")):
        expected = [(k + 1, pytest.approx(line[key])) for k, line in enumerate(lines)]
        assert shown[tag] == expected
    assert {"loss_parts/distillation", "rate", "images_per_second", "task"} <= set(shown)
    shown, tags = read(folder.path / "tensorboard" / "tasks")
    for name, one in folder.results()["classifiers"].items():
        expected = zip([2, 4, 5], map(pytest.approx, one["seen_accuracy"]), strict=True)
        assert shown[f"seen_accuracy/{name}"] == list(expected)
    assert set(tags["images"]) == {
        *("seen_accuracy", "accuracy_matrix", "forgetting"),
        *("confusion", "task_confusion", "class_accuracy"),
    }


@pytest.mark.skipif(browser.executable() is None, reason="no Chromium on this machine")
def test_the_page_of_a_real_run_loads(watched, tmp_path):
    config, _, _ = watched
    with browser.page(tmp_path) as page:
        page.open(RunFolder(config.folder()).report_file, width=390)
        assert page.errors == []
        assert all(url.startswith(("file:", "data:")) for url in page.requests)
        assert page.run("document.querySelectorAll('figure svg').length") == 7
        assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
