"""What a person sees while a run goes, and how long it is said to take."""

import io
import re
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from conftest import small_config
from rich.console import Console

from cil_jax.platform import machine
from cil_jax.report import terminal
from cil_jax.report.terminal import Standing, Terminal
from cil_jax.report.time_left import TimeLeft
from cil_jax.training.callbacks import Position


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_times_left_by_hand():
    """Two tasks of two epochs of ten updates: 2 s an update, 3 s an epoch's test, 8 s an end."""
    clock = Clock()
    time_left = TimeLeft([20, 20], [2, 2], [2, 4], clock)
    time_left.begin(0, 0)

    def pass_time(seconds):
        clock.now += seconds

    pass_time(100)  # compiling
    time_left.trained(2)
    assert time_left.estimate() == (None, None)
    pass_time(6)
    time_left.trained(5)
    # 15 and 20 updates; nothing is known of evaluation yet.
    assert time_left.estimate() == (pytest.approx(30), pytest.approx(70))
    pass_time(10)
    time_left.trained(10)
    pass_time(3)
    time_left.epoch_done(0, 0)
    # 10 updates, an epoch's test, an end like a test of as many classes; then twice the classes.
    assert time_left.estimate() == (pytest.approx(20 + 3 + 3), pytest.approx(26 + 40 + 2 * 3 + 6))
    pass_time(20)
    time_left.trained(10)
    pass_time(3)
    time_left.epoch_done(0, 1)
    assert time_left.done == 20
    pass_time(8)
    time_left.task_done(0)
    # The end took 8 s with 2 classes, and will take 16 s with 4.
    assert time_left.estimate() == (pytest.approx(40 + 6 + 16), pytest.approx(62))
    pass_time(20)
    time_left.trained(10)
    assert time_left.done == 30 and time_left.total == 40
    time_left.epoch_done(1, 1)
    time_left.task_done(1)
    assert time_left.estimate() == (None, None) and time_left.done == 40


def test_a_run_that_is_resumed_in_a_task_without_training_has_no_estimate():
    time_left = TimeLeft([20, 0], [2, 0], [2, 4], Clock())
    time_left.begin(1, 0)
    assert time_left.estimate() == (None, None)
    assert time_left.done == time_left.total == 20


def test_a_pool_that_is_smaller_than_was_thought_does_not_quicken_the_pace():
    clock = Clock()
    time_left = TimeLeft([100, 100], [1, 1], [1, 2], clock)
    time_left.begin(0, 0)
    for step in (10, 40):  # there are 40 only
        clock.now += step
        time_left.trained(step)
    time_left.epoch_done(0, 0)
    assert time_left.estimate()[0] == pytest.approx(0)
    time_left.task_done(0)
    clock.now += 13.333333
    time_left.trained(10)
    assert time_left.estimate()[1] == pytest.approx(90 * 40 / 30, rel=1e-3)


def test_a_run_that_goes_on_counts_what_was_done():
    time_left = TimeLeft([20, 30], [2, 3], [2, 4], Clock())
    time_left.begin(1, 2)
    assert time_left.done == 40


def shown(what, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(what)
    return console.file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [100, 80, 60, 40, 30])
def test_it_fits_every_width_by_leaving_out_the_less_important(width):
    facts = ["loss 0.1234", "5,230 images/s", "rate 0.02", "last nme 55.3%"]
    facts += ["classification 0.0834, distillation 0.0400", "1.2 GB"]
    standing = Standing(
        "task 10/10  epoch 12/70",
        ["23%  left: task 0:01:20, run 0:12:45", "23%  left: 0:12:45", "23%"],
        facts,
        0.2,
    )
    lines = shown(standing, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width and len(lines) <= 3
    assert "task 10/10  epoch 12/70" in text and "loss 0.1234" in text
    assert ("left: task 0:01:20, run 0:12:45" in text) == (width >= 80)
    assert ("left: 0:12:45" in text) == (width == 60) and ("23%" in text) == (width > 30)
    assert all(fact in text for fact in facts) == (width >= 60)


def made_up_run(method="icarl", n_tasks=2):
    """What Terminal asks of a run."""
    return SimpleNamespace(
        config=small_config(method, "", epochs=2),
        scenario=SimpleNamespace(task_sizes=(2,) * n_tasks, bounds=[0, 2, 4]),
        mesh=None,
        folder=SimpleNamespace(path="runs/x"),
        course=SimpleNamespace(
            n_updates=lambda task: 20,
            n_epochs=lambda task: 2,
            epochs_done=lambda learner: learner.epoch,
        ),
        history={"scores": {"nme": []}},
        engine=SimpleNamespace(
            method=SimpleNamespace(headline="nme", classifier_in_training="linear")
        ),
        evaluation=SimpleNamespace(classifiers=["nme", "linear"], bounds=(0, 30, 40)),
    )


LEARNER = SimpleNamespace(task=0, epoch=0, step=0)
PARTS = {"classification": 0.25, "distillation": 0.125}
EPOCH = {
    **{"task": 0, "epoch": 0, "train_loss": 0.375, "parts": PARTS, "rate": 0.02},
    **{"train_accuracy": 0.5, "test_accuracy": 0.25, "images_per_second": 1234.5},
}
TASK = {
    "task": 0,
    "n_seen": 2,
    "seen_accuracy": {"nme": 0.75, "linear": 0.5},
    "task_accuracy": {"nme": [0.75], "linear": [0.5]},
}


def watched(console, clock, **how):
    """A task and a half, an update a second."""
    run = made_up_run()
    with Terminal(console, **how) as one:
        one.started(run, LEARNER)
        for step in (1, 5, 10):
            clock.now += 5
            one.trained(run, Position(0, 0, step, 10, 0.375, 1234.5, 0.02, PARTS))
        one.epoch_done(run, EPOCH)
        one.trained(run, Position(0, 1, 10, 10, 0.375, 1234.5, 0.02, PARTS))
        one.epoch_done(run, {**EPOCH, "epoch": 1})
        one.task_done(run, TASK)
        one.trained(run, Position(1, 0, 5, 10, 0.375, 1234.5, 0.02, PARTS))
        return one._live.tasks


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(terminal, "TimeLeft", lambda *args: TimeLeft(*args[:3], clock))
    return clock


def test_at_a_terminal_all_is_said_in_one_display(clock):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    (task,) = watched(console, clock)
    text = "\n".join(shown(task.fields["standing"], 80))
    for word in (
        *("task 2/2", "epoch 1/2", "left: task ", "run ", "loss 0.3750", "rate 0.02"),
        *("1,234 images/s", "last nme 75.0%", "classification 0.2500, distillation 0.1250", "GB"),
    ):
        assert word in text or (word == "GB" and "MB" in text), word
    assert "    1     2    75.0%    50.0%     75.0%" in console.file.getvalue()


def test_elsewhere_there_is_one_plain_line_an_epoch(clock):
    console = Console(file=io.StringIO(), width=80)
    watched(console, clock, name="seed 3")
    lines = console.file.getvalue().splitlines()
    assert all(line.startswith("seed 3  ") for line in lines)
    epochs = [line for line in lines if "epoch" in line and "loss" in line]
    assert len(epochs) == 2 and "\x1b" not in console.file.getvalue()
    for word in (
        "task 1/2  epoch 1/2  loss 0.3750  rate 0.02  train 50.0%  test 25.0%  1,234 images/s  ",
        # 30 updates of 1.25 s, as the first were, and a sixth of the way to 1 s.
        ", left 0:00:36",
    ):
        assert word in epochs[0], epochs[0]
    assert max(map(len, lines)) <= 120
    assert (
        sum("train and test: accuracy on the task's own classes (linear)" in x for x in lines) == 1
    )


def test_the_row_of_a_later_task_has_new_and_old_classes_by_hand():
    console, run = Console(file=io.StringIO(), width=80), made_up_run()
    one = Terminal(console)
    one.started(run, SimpleNamespace(task=1, epoch=0, step=0))
    # Of the old classes' twenty images 9 are right and 5 taken for new ones; of the new 15 of 20.
    confusion = [[5, 3, 2, 0], [3, 4, 0, 3], [0, 1, 8, 1], [1, 0, 2, 7]]
    line = {"task": 1, "n_seen": 4, "seen_accuracy": {"nme": 0.6, "linear": 0.5}}
    one.task_done(
        run, {**line, "task_accuracy": {"nme": [0.45, 0.75]}, "confusion": {"nme": confusion}}
    )
    assert console.file.getvalue().splitlines()[-1].split()[:6] == [
        *("2", "4", "60.0%", "50.0%", "75.0%", "45.0%")
    ]


@pytest.mark.parametrize(
    ("headline", "others"), [("nme", ("linear", "ncm")), ("linear", ("nme", "ncm"))]
)
def test_the_head_of_the_rows_names_every_classifier_and_fits(headline, others):
    console, run = Console(file=io.StringIO(), width=80), made_up_run()
    run.evaluation.classifiers = [headline, *others]
    run.engine.method.headline, run.history = headline, {"scores": {headline: []}}
    one = Terminal(console)
    one.started(run, LEARNER)
    numbers = {name: 1.0 for name in (headline, *others)}
    accuracy = {"seen_accuracy": numbers, "task_accuracy": {headline: [1.0]}}
    one.task_done(run, {**TASK, **accuracy})
    *_, head, row = console.file.getvalue().splitlines()
    for name in ("ncm (all data)", f"  {headline}: new", f"  {headline}: old"):
        assert name in head
    assert len(head) == len(row) <= 80
    ends = [match.end() for match in re.finditer("100.0%|-", row)]
    assert all(head[end - 1] != " " and head[end] == " " for end in ends) and len(ends) == 5


def test_old_classes_are_weighed_by_their_test_images():
    """30 of the first task, 10 of the second, 20 of the third."""
    console, run = Console(file=io.StringIO(), width=80), made_up_run(n_tasks=3)
    run.evaluation.bounds = (0, 30, 40, 60)
    one = Terminal(console)
    one.started(run, LEARNER)
    accuracy = {"nme": [0.9, 0.1, 0.5], "linear": [0.0, 0.0, 0.0]}
    one.task_done(run, {**TASK, "task": 2, "n_seen": 6, "task_accuracy": accuracy})
    assert console.file.getvalue().splitlines()[-1].split()[4:6] == ["50.0%", "70.0%"]


def test_the_first_line_names_what_was_changed_and_a_seed_of_the_data():
    for others, words in (
        ({"lambda_": 0.0}, ("with batch-size 32, lambda 0) on digits", "seed 0")),
        ({"data_seed": 7}, ("with batch-size 32) on digits", "seed 0, data seed 7")),
    ):
        console, run = Console(file=io.StringIO(), width=80), made_up_run()
        run.config = small_config("lwf", "", epochs=2, **others)
        Terminal(console).started(run, LEARNER)
        first = console.file.getvalue().splitlines()[0]
        assert first.startswith("lwf (li-hoiem, ") and first.endswith(words[1])
        assert words[0] in first


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(
    ("seconds_per_update", "words"),
    [
        (0.1, None),
        (5.0, "about 3 minutes"),  # 36 updates are left at the second call
        (300.0, "about 3.0 hours"),
    ],
)
def test_after_the_first_updates_it_says_how_long_it_takes(
    clock, is_terminal, seconds_per_update, words
):
    text = words_after_updates(clock, seconds_per_update, is_terminal, "cifar100")
    assert text.count("this run will take") == (1 if words else 0)
    assert words is None or f"this run will take {words} on this machine" in text
    assert ("to try it in a minute: cil-jax " in text) == (seconds_per_update > 100)


def test_a_slow_run_that_is_small_already_gets_no_advice_to_try_a_smaller_one(clock):
    text = words_after_updates(clock, 300.0, is_terminal=False, dataset="digits")
    assert "this run will take about" in text and "to try it" not in text


def words_after_updates(clock, seconds_per_update, is_terminal, dataset):
    """What the terminal says of a run of two epochs a task, up to its sixth update."""
    console, run = Console(file=io.StringIO(), width=200, force_terminal=is_terminal), made_up_run()
    run.config = small_config("lwf", "", dataset=dataset)
    one = Terminal(console)
    one.started(run, LEARNER)
    for step in (2, 4, 6):
        clock.now += 2 * seconds_per_update
        one.trained(run, Position(0, 0, step, 10, 0.375, 1234.5, 0.02, PARTS))
    return console.file.getvalue()


def test_durations_in_words():
    said = {20: "20 seconds", 61: "1 minute", 3700: "62 minutes", 7200: "2.0 hours"}
    assert {seconds: terminal._roughly(seconds) for seconds in said} == said
    assert terminal._roughly(4 * 86400) == "4.0 days"


def test_several_runs_share_a_display(clock):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with terminal.progress(console) as live:
        for name in ("seed 0", "seed 1"):
            tasks = watched(console, clock, name=name, live=live)
        assert [task.fields["standing"].place[:6] for task in tasks] == ["seed 0", "seed 1"]


def test_compiling_is_no_working_time():
    start, before = machine.working_time(), time.perf_counter()
    jax.jit(lambda x: jnp.sort(x @ x + 1)).lower(jnp.ones((3, 3))).compile()
    worked, passed = machine.working_time() - start, time.perf_counter() - before
    assert 0 < worked < passed - 0.003


def test_memory_in_use_is_below_its_peak():
    used, peak = machine.memory_in_use(), machine.peak_memory()
    assert 50_000_000 < used <= 1.01 * peak
