"""Many classes: what is written and drawn does not grow with their square."""

import json
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import results_of, write_run

from cil_jax import report
from cil_jax.classifiers import Counts
from cil_jax.confusion import Confusion
from cil_jax.errors import UserError
from cil_jax.report import matrix_figures, thinning, thumbnails
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.evaluation import Evaluation
from cil_jax.training.loop import Run

N_TASKS = 10


def evaluation_of(n_classes, folder):
    """What a run keeps of its last evaluation: four test images a class, answers at random.

    Returns:
      Bytes of the line of metrics.jsonl, of confusion.npz, and of what a checkpoint has.
    """
    rng, names = np.random.default_rng(n_classes), ("nme", "linear", "ncm")

    def counts(*_):
        confusion = np.zeros((n_classes, n_classes), np.int32)
        rows = np.repeat(np.arange(n_classes), 4)
        np.add.at(confusion, (rows, rng.integers(0, n_classes, len(rows))), 1)
        zero = np.zeros(n_classes, np.int32)
        return {name: Counts(confusion, zero, zero) for name in names}, 0.0

    evaluation = object.__new__(Evaluation)
    evaluation._counts, evaluation.classifiers = counts, names[:2]  # "ncm" would ask for images
    evaluation._scenario = SimpleNamespace(task_sizes=(n_classes // N_TASKS,) * N_TASKS)
    evaluation.bounds = [4 * n_classes] * (N_TASKS + 1)
    run = object.__new__(Run)
    run.evaluation, run.folder = evaluation, RunFolder(folder)
    run.history = {"scores": {name: [] for name in names}, "seconds": {"evaluate": 0.0}}
    line = run._evaluate(SimpleNamespace(task=N_TASKS, n_seen=n_classes), N_TASKS - 1)
    run._write_confusions()
    kept = len(json.dumps(run.history["confusion"]))
    return len(json.dumps(line)), run.folder.confusion_file.stat().st_size, kept


def test_an_evaluation_does_not_grow_with_the_square_of_the_classes(tmp_path):
    few, some, many = (evaluation_of(n, tmp_path) for n in (10, 100, 1000))
    assert many[0] < 1.2 * few[0]  # the line tells of tasks
    for of_some, of_many in zip(some[1:], many[1:], strict=True):  # of cells: of test images
        assert of_many < 20 * of_some
    assert many[1] < 50_000


def large_run(folder, n_tasks=100, task_size=10):
    """Of many classes with two exemplars and two test images each, which look like nothing."""
    n, rng = n_tasks * task_size, np.random.default_rng(0)
    matrix = rng.random((n_tasks, n_tasks)).tolist()
    names = [f"name of class {c}" for c in range(n)]
    run = write_run(folder, sizes=(task_size,) * n_tasks, matrix=matrix, class_names=names)
    labels = np.repeat(np.arange(n), 2)
    run.write_exemplars(rng.integers(0, 256, (2 * n, 8, 8, 1), np.uint8), labels, names)
    cells = np.stack([labels, rng.integers(0, n, 2 * n), np.ones(2 * n, int)]).astype(np.int32)
    run.write_confusions({name: Confusion(n, cells) for name in run.results()["classifiers"]})
    return run


@pytest.fixture(scope="module")
def of_1000_classes(tmp_path_factory):
    return large_run(tmp_path_factory.mktemp("large"))


def test_the_page_of_1000_classes_is_below_a_megabyte_and_says_what_it_leaves_out(of_1000_classes):
    file = report.write_page(of_1000_classes)
    page = file.read_text()
    assert file.stat().st_size < 1_000_000
    assert page.count('alt="exemplars of ') == thumbnails.CLASSES == 200
    assert page.count('class="class"') == 1000  # any class can be looked for
    for words in ("1000 classes in 100 groups", "Exemplars of 200 classes are shown"):
        assert words in page


def test_more_tasks_than_rows_are_thinned_out_with_a_word(tmp_path):
    page = report.write_page(large_run(tmp_path, n_tasks=150, task_size=1)).read_text()
    assert page.count("100 of 150 tasks are shown, evenly spread.") == 2
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    matrix = data["classifiers"]["nme"]["matrix"]
    assert len(matrix) == len(data["tasks"]) == 100 and data["tasks"][::99] == [1, 150]
    assert [len(row) for row in matrix] == list(range(1, 101))
    assert len(data["groups"]["names"]) == 75 and data["groups"]["names"][1] == "tasks 3-4"


def test_a_page_of_few_classes_says_of_nothing_that_it_is_left_out(tmp_path):
    page = report.write_page(write_run(tmp_path, exemplars=2)).read_text()
    for words in ("consecutive classes", "evenly spread", "tasks are shown"):
        assert words not in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["groups"] == {
        "bounds": [0, 1, 2, 3, 4, 5],
        "names": [f"class {c}" for c in range(5)],
        "tasks": [2, 4],
    }
    assert data["classifiers"]["nme"]["pairs"][0] == [0, 1, 1, 10]


def test_figures_of_many_classes_have_no_more_rows_than_can_be_told_apart(of_1000_classes):
    results = of_1000_classes.results()
    confusions = of_1000_classes.confusions(results)
    axes = matrix_figures.confusion(results, confusions["nme"]).axes[0]
    assert axes.images[0].get_array().shape == (100, 100)
    assert [t.get_text() for t in axes.get_yticklabels()][::99] == ["task 1", "task 100"]
    assert "1000 classes in 100 groups" in axes.get_title()
    assert max(matrix_figures.accuracy_matrix(results).get_size_inches()) <= 16


@pytest.mark.parametrize(
    ("sizes", "n_seen", "n_groups", "some"),
    [
        ((2, 2, 1), 4, 4, {0: "c0", 3: "c3"}),
        ((100,), 100, 100, {99: "c99"}),
        ((10,) * 20, 200, 100, {0: "c0 to c1", 99: "c198 to c199"}),
        ((10,) * 20, 110, 55, {54: "c108 to c109"}),
        ((500, *[50] * 10), 1000, 100, {0: "c0 to c9", 50: "c500 to c509"}),
        ((1000,), 1000, 100, {0: "c0 to c9", 99: "c990 to c999"}),
        ((1,) * 250, 250, 84, {0: "tasks 1-3", 83: "task 250"}),
        ((150, *[1] * 99), 249, 149, {0: "c0 to c2", 148: "task 100"}),
    ],
)
def test_groups_are_whole_tasks_or_parts_of_one(sizes, n_seen, n_groups, some):
    names = [f"c{c}" for c in range(sum(sizes))]
    found = thinning.groups(names, sizes, n_seen)
    assert found.bounds[0] == 0 and found.bounds[-1] == n_seen
    assert len(found.names) == len(found.bounds) - 1 == n_groups
    assert (np.diff(found.bounds) > 0).all()
    assert {g: found.names[g] for g in some} == some
    task_of = np.repeat(np.arange(len(sizes)), sizes)
    inside = [set(task_of[a:b]) for a, b in zip(found.bounds, found.bounds[1:], strict=False)]
    if all(len(tasks) == 1 for tasks in inside):
        begins = [g for g in range(1, n_groups) if inside[g] != inside[g - 1]]
        assert found.tasks == begins
    assert bool(found.note) == (n_seen > 100)


def test_some_of_many_are_spread_evenly_with_both_ends():
    assert thinning.spread(3, 5) == [0, 1, 2] and thinning.spread(9, 3) == [0, 4, 8]
    assert len(thinning.spread(1000, 100)) == 100 and thinning.spread(1, 100) == [0]


MATRIX = [[3, 1, 0, 0], [0, 0, 0, 5], [2, 0, 6, 0], [0, 0, 0, 0]]


def test_cells_are_the_matrix():
    confusion = Confusion.of(MATRIX)
    assert confusion.cells.tolist() == [[0, 0, 1, 2, 2], [0, 1, 3, 0, 2], [3, 1, 5, 2, 6]]
    assert confusion.matrix().tolist() == MATRIX
    assert confusion.images().tolist() == [4, 5, 8, 0]
    assert confusion.grouped([0, 2, 3, 4]).tolist() == [[4, 0, 5], [2, 6, 0], [0, 0, 0]]
    assert [x.tolist() for x in confusion.answers(2)] == [[0, 2], [2, 6]]
    assert [x.tolist() for x in confusion.answers(3)] == [[], []]
    # All of class 1, then a quarter of 0 and of 2, the one that came first first.
    assert confusion.pairs(9) == [(1, 3, 5, 5), (0, 1, 1, 4), (2, 0, 2, 8)]
    assert confusion.pairs(1) == [(1, 3, 5, 5)]
    assert Confusion.of(np.zeros((2, 2), int)).pairs(3) == []


def test_confusions_are_read_as_they_were_written_and_equal_ones_are_equal_files(tmp_path):
    run, files = write_run(tmp_path), []
    matrices = {"nme": np.pad(MATRIX, (0, 1)), "linear": np.eye(5, dtype=int), "ncm": np.eye(5)}
    written = {name: Confusion.of(matrix) for name, matrix in matrices.items()}
    for _ in range(2):
        run.write_confusions(written)
        files.append(run.confusion_file.read_bytes())
    assert files[0] == files[1] and not list(tmp_path.glob("*.tmp"))
    found = RunFolder(tmp_path).confusions(run.results())
    assert list(found) == ["nme", "linear", "ncm"]
    for name, one in written.items():
        assert (found[name].matrix() == one.matrix()).all()


def with_lines_of_an_older_version(run):
    """The run as it was written before confusion.npz: its matrices stand in metrics.jsonl."""
    confusions = run.confusions(run.results())
    lines = run.measurements()
    run.metrics_file.unlink()
    run.confusion_file.unlink()
    for line in lines:
        if line["kind"] == "evaluation":
            n = line["n_seen"]
            own = {name: one.matrix()[:n, :n].tolist() for name, one in confusions.items()}
            line["confusion"] = own
        run.append(line)


def test_a_folder_of_an_older_version_gives_the_same_page(tmp_path, monkeypatch):
    run = write_run(tmp_path, exemplars=2)
    stopped = SimpleNamespace(datetime=SimpleNamespace(now=lambda: datetime(2026, 1, 1)))
    monkeypatch.setattr("cil_jax.report.page.datetime", stopped)
    page, before = report.write_page(run).read_text(), run.confusions(run.results())
    with_lines_of_an_older_version(run)
    assert report.write_page(run).read_text() == page
    for name, one in run.confusions(run.results()).items():  # which figures are drawn from
        assert (one.cells == before[name].cells).all()


def test_confusions_of_an_older_version_are_of_the_last_task_that_has_results(tmp_path):
    """Of three tasks, results were written of two."""
    run = write_run(tmp_path)
    with_lines_of_an_older_version(run)
    found = run.confusions(results_of(matrix=((0.9,), (0.5, 0.8))))
    assert {len(one.matrix()) for one in found.values()} == {4}


def cells_of_all(cells):
    return {f"cells of {name}": cells for name in ("nme", "linear", "ncm")}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-40]), "confusion.npz is damaged: "),
        (lambda f: f.write_bytes(b"junk"), "confusion.npz is damaged: "),
        (lambda f: np.savez(f, n_seen=3), "confusion.npz is damaged: cells of nme is missing"),
        (lambda f: np.savez(f, **{"cells of nme": np.eye(3)}), "confusion.npz is damaged: "),
        (
            lambda f: np.savez(f, n_seen=5, **cells_of_all(np.eye(3))),
            "confusion.npz is damaged: cells of nme: float64",
        ),
        (
            lambda f: np.savez(f, n_seen=5, **cells_of_all(5 * np.eye(3, dtype=np.int32))),
            "confusion.npz is damaged: cells of nme: classes beyond the 5 seen",
        ),
        (lambda f: f.unlink(), "confusion.npz is missing: continue the run with --resume"),
    ],
    ids=["cut", "junk", "empty", "no number", "floats", "classes", "missing"],
)
def test_confusions_that_cannot_be_read_are_one_line(tmp_path, harm, said):
    run = write_run(tmp_path)
    harm(run.confusion_file)
    with pytest.raises(UserError, match=said) as refused:
        report.write_page(run)
    assert "\n" not in str(refused.value)


def test_a_page_that_is_made_before_the_results_tells_of_the_confusions_there_are(tmp_path):
    """Confusions are written first: here they are of three tasks, and the results of two."""
    run = write_run(tmp_path)
    run.write_results(results_of(matrix=((0.9,), (0.5, 0.8))))
    page = report.write_page(run).read_text()
    assert "In progress: 2 of 3 tasks learned" in page and "After task 3. Rows are" in page


def test_lines_are_counted_without_reading_them_as_text(tmp_path):
    run = RunFolder(tmp_path)
    assert run.n_lines == 0
    for number in range(3):
        run.append({"line": number, "text": "\u2028 \x0b"})
    assert run.n_lines == 3
    with run.metrics_file.open("ab") as out:
        out.write(b'{"half')
    assert run.n_lines == 3
