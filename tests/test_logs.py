"""What is written beside a run: nothing there holds it up, stops it, or is written twice."""

import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import small_config, write_run

from cil_jax.app import command_line
from cil_jax.errors import UserError
from cil_jax.report import trackers
from cil_jax.report.background_thread import Background
from cil_jax.report.trackers import Pager, TensorBoard, Wandb
from cil_jax.training.callbacks import Callback, CallbackList


def test_work_is_done_in_order_and_all_of_it_before_the_end():
    done = []
    with Background(print) as background:
        for number in range(20):
            background.submit("add", lambda number=number: done.append(number))
    assert done == list(range(20))


class Now:
    """A background that does at once what it is asked for."""

    def submit(self, name, work):
        work()


def of_tasks(folder, n_tasks):
    """A run whose tasks bring a class each, as far as a pager asks."""
    scenario = SimpleNamespace(bounds=list(range(n_tasks + 1)))
    return SimpleNamespace(folder=SimpleNamespace(path=folder), scenario=scenario)


@pytest.mark.parametrize(("a_page", "begun"), [(0.0, 99), (0.25, 20), (1.0, 5), (50.0, 1)])
def test_pages_take_a_twentieth_of_a_run_at_most(tmp_path, monkeypatch, a_page, begun):
    """A hundred tasks of a second each; the last one's page is for whoever makes the figures."""
    clock, written = [100.0], []

    def write_page(folder):
        written.append(clock[0])
        clock[0] += a_page

    monkeypatch.setattr(trackers.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(trackers.report, "write_page", write_page)
    pager, run = Pager(Now()), of_tasks(tmp_path, 100)
    for n_seen in range(1, 101):
        clock[0] += 1.0
        pager.task_done(run, {"n_seen": n_seen})
    pager.end()
    assert len(written) == begun


def test_a_run_that_is_stopped_leaves_its_last_page(tmp_path, monkeypatch):
    clock, written = [100.0], []
    monkeypatch.setattr(trackers.time, "perf_counter", lambda: clock[0])

    def write_page(folder):
        written.append(folder.path)
        clock[0] += 10.0

    monkeypatch.setattr(trackers.report, "write_page", write_page)
    pager, run = Pager(Now()), of_tasks(tmp_path, 5)
    pager.task_done(run, {"n_seen": 1})
    pager.task_done(run, {"n_seen": 2})
    assert written == [tmp_path]
    pager.end()
    assert written == [tmp_path] * 2
    pager.end()  # nothing came since
    assert written == [tmp_path] * 2


def test_no_page_is_asked_for_while_one_is_written(tmp_path, monkeypatch):
    begun, go, written = threading.Event(), threading.Event(), []

    def write_page(folder):
        begun.set()
        assert go.wait(30)
        written.append(folder)

    monkeypatch.setattr(trackers.report, "write_page", write_page)
    with Background(print) as background:
        pager, run = Pager(background), of_tasks(tmp_path, 9)
        pager.task_done(run, {"n_seen": 1})
        assert begun.wait(30)
        for n_seen in range(2, 9):
            pager.task_done(run, {"n_seen": n_seen})
        go.set()
    assert len(written) == 1


def test_a_page_that_fails_is_one_line_and_no_more(tmp_path):
    said = []
    with Background(said.append) as background:
        Pager(background).task_done(of_tasks(tmp_path / "nothing", 2), {"n_seen": 1})
        background.submit("next", lambda: said.append("next"))
    assert said[0].startswith("report.html failed; the run continues: UserError: ")
    assert "\n" not in said[0] and said[1:] == ["next"]


def scalars(loss):
    return {"loss/train": loss, "rate": 0.1}


def read(folder):
    """What TensorBoard shows of a folder: the scalars by tag, and the tags of all kinds."""
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
    from tensorboard.util import tensor_util

    old = event_accumulator.EventAccumulator(str(folder))
    new = plugin_event_accumulator.EventAccumulator(str(folder))
    old.Reload()
    new.Reload()
    tags = old.Tags()
    shown = {tag: [(e.step, e.value) for e in old.Scalars(tag)] for tag in tags["scalars"]}
    for tag, points in shown.items():  # of TensorBoard's two readers each hides in its own way
        values = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in new.Tensors(tag)]
        assert points == values, tag
    return shown, tags


def test_a_run_that_goes_on_is_shown_once(tmp_path):
    """Three epochs and a task; resumed after the second epoch, it writes others in their place."""
    folder, settings = SimpleNamespace(path=tmp_path), small_config("icarl", tmp_path)
    picture = {"confusion": np.zeros((4, 5, 3), np.uint8)}
    first = TensorBoard(None)
    first.open(folder, settings, 0, 0, 0)
    for epoch in (1, 2, 3):
        first.epoch(epoch, 0, scalars(1.0))
    first.evaluation(2, 3, 0, {"seen_accuracy/nme": 0.5}, picture)
    first.close()
    again = TensorBoard(None)
    again.open(folder, settings, 2, 0, 2)
    for epoch in (3, 4):
        again.epoch(epoch, 0, scalars(2.0))
    again.evaluation(2, 4, 0, {"seen_accuracy/nme": 0.75}, picture)
    again.close()
    shown, tags = read(tmp_path / "tensorboard" / "epochs")
    assert shown["loss/train"] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    assert "settings/text_summary" in tags["tensors"]
    shown, tags = read(tmp_path / "tensorboard" / "tasks")
    assert shown["seen_accuracy/nme"] == [(2, 0.75)] and tags["images"] == ["confusion"]


class FakeWandb:
    """What is called of wandb, in order."""

    Image = staticmethod(lambda pixels: ("image", pixels.shape))

    def __init__(self):
        self.calls = []

    def init(self, **given):
        self.calls.append(("init", given))
        return self

    def define_metric(self, name, step_metric=None):
        self.calls.append(("define", name, step_metric))

    def log(self, values, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


@pytest.fixture
def fake(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def made_up_run(tmp_path):
    """What a log asks of a run: two tasks of two epochs."""
    settings = small_config("icarl", tmp_path, epochs=2)
    folder = write_run(tmp_path, config=settings)
    scenario = SimpleNamespace(task_sizes=(2, 2, 1), bounds=[0, 2, 4, 5])
    method = SimpleNamespace(classifier_in_training="linear")
    return SimpleNamespace(
        folder=folder,
        config=settings,
        scenario=scenario,
        engine=SimpleNamespace(method=method),
        course=SimpleNamespace(
            n_epochs=lambda task: 2,
            epochs_done=lambda learner: learner.epoch,
        ),
    )


def tell(one, run, task, epoch):
    """As a run would, from this epoch of a task to the task's end."""
    one.started(run, SimpleNamespace(task=task, epoch=epoch))
    lines = run.folder.measurements()
    for line in lines:
        if line["kind"] == "epoch" and line["task"] == task and line["epoch"] >= epoch:
            one.epoch_done(run, line)
    one.task_done(run, next(x for x in lines if x["kind"] == "evaluation" and x["task"] == task))
    one.end()


def test_wandb_is_told_all_and_goes_on_with_the_same_run(tmp_path, fake):
    run, said = made_up_run(tmp_path), []
    for task, epoch in ((0, 0), (2, 1)):
        with Background(said.append) as background:
            tell(Wandb(background), run, task, epoch)
    assert said == []
    first, second = (call[1] for call in fake.calls if call[0] == "init")
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["config"]["epochs"] == 2 and first["dir"] == str(tmp_path)
    logged = [call[1:] for call in fake.calls if call[0] == "log"]
    # The lines of metrics.jsonl: two epochs and an evaluation a task.
    assert [step for step, _ in logged] == [0, 1, 2, 7, 8]
    assert logged[1][1]["epoch"] == 2 and logged[1][1]["train/loss/train"] == 2.0
    assert logged[1][1]["train/loss_parts/distillation"] == 0.25
    assert logged[2][1]["classes_seen"] == 2
    assert logged[2][1]["seen/confusion"][0] == "image"
    assert logged[4][1]["seen/seen_accuracy/nme"] == pytest.approx(0.38)
    assert logged[4][1]["seen/seen_loss"] == 4.0
    assert [logged[4][1][f"seen/task_accuracy/nme/task {t}"] for t in (1, 2, 3)] == [0.2, 0.4, 0.7]
    assert [call[0] for call in fake.calls].count("finish") == 2
    assert ("define", "seen/*", "classes_seen") in fake.calls


def test_a_log_that_fails_says_so_once(tmp_path, fake, monkeypatch):
    def refuses(**_):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(fake, "init", refuses)
    run, said = made_up_run(tmp_path), []
    with Background(said.append) as background:
        tell(Wandb(background), run, 0, 0)
    assert said == ["--log wandb failed; the run continues: OSError: no network"]


def test_a_run_has_the_callbacks_that_are_asked_for(tmp_path):
    both = small_config("icarl", tmp_path, log="tensorboard")
    with trackers.opened(both, print) as found:
        assert [type(one) for one in found] == [Pager, TensorBoard]
        found.pop()  # it was told nothing, and has nothing to close
    with trackers.opened(small_config("icarl", tmp_path), print, page=False) as found:
        assert found == []


def test_several_callbacks_hear_all_that_one_hears():
    events = [name for name in vars(Callback) if not name.startswith("_")]
    assert len(events) == 5
    heard = []

    class Listener:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, event):
            return lambda *what: heard.append((self.name, event, what))

    both = CallbackList([Listener("first"), Listener("second")])
    for event in events:
        getattr(both, event)("run", event)
    assert heard == [(n, e, ("run", e)) for e in events for n in ("first", "second")]


def test_a_log_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(UserError, match="unknown --log 'tensorbord': did you mean 'tensorboard'"):
        small_config("icarl", "", log="tensorbord")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--log wandb needs wandb, .*: pip install 'cil_jax\[wandb\]'"
    ):
        small_config("icarl", "", log="wandb")


def test_the_flag_may_be_said_twice_or_with_a_comma():
    parser = command_line.make_parser("icarl", "paper")
    for words in (["--log", "tensorboard", "--log", "wandb"], ["--log", "tensorboard, wandb"]):
        assert parser.parse_args(words).log == "tensorboard,wandb"


def test_nothing_ends_the_thread():
    def interrupted():
        raise KeyboardInterrupt

    said = []
    with Background(said.append) as background:
        background.submit("a log", interrupted)
        background.submit("next", lambda: said.append("next"))
    assert said == ["a log failed; the run continues: KeyboardInterrupt: ", "next"]
