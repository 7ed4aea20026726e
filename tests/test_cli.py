"""The commands as a user runs them: what they print, and how they refuse."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PRESETS

from cil_jax import cli

ROOT = Path(__file__).parents[1]
SMALL = ["--dataset", "digits", "--backbone", "resnet8", "--task-size", "2", "--classes", "4"]
SMALL += ["--epochs", "1", "--batch-size", "64", "--accelerator", "cpu"]


def command(*arguments, cwd, **environment):
    """A command in a process of its own, in a folder that does not hold the sources."""
    path = {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    unset = ("JAX_PLATFORMS", "TFDS_DATA_DIR")
    kept = {k: v for k, v in os.environ.items() if k not in unset}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env={**kept, **path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def content(folder):
    """Every file of a folder and what is in it."""
    files = sorted(f for f in Path(folder).rglob("*") if f.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def assert_refused(result, *words):
    """One clear line, no traceback, exit code 2."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A finished run in runs/one, and what the command said."""
    cwd = tmp_path_factory.mktemp("cli")
    return cwd, command("experiments.icarl", *SMALL, "--memory", "20", "--out", "runs/one", cwd=cwd)


def test_a_run_prints_its_course_its_table_and_where_the_figures_are(a_run):
    cwd, result = a_run
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "icarl (preset paper) on digits: 4 classes in 2 tasks (2, 2)" in out
    assert "task 1/2  epoch 1/1  loss" in out and "images/s" in out and "left: task" in out
    for word in (
        *("nme (its own)", "linear", "ncm (all data)", "old classes", "new classes", "top-5"),
        *("task-aware", "order seeded 1993, seed 0", "n = 1"),
        "average incremental accuracy",
        "without the first task",
        "last accuracy",
        "forgetting",
    ):
        assert word in out, word
    figures = {f.name for f in (cwd / "runs/one/figures").iterdir()}
    assert figures == {
        f"{n}.png" for n in ("seen_accuracy", "accuracy_matrix", "curves", "confusion")
    }
    assert "figures: runs/one/figures (" in out and all(name in out for name in figures)


def test_the_table_has_the_numbers_of_the_results(a_run):
    cwd, result = a_run
    results = json.loads((cwd / "runs/one/results.json").read_text())
    for one in results["classifiers"].values():
        for value in (one["last_accuracy"], one["average_incremental_accuracy"]):
            assert f"{100 * value:.1f}%" in result.stdout
    row = next(x for x in result.stdout.splitlines() if x.startswith("    2     4"))
    nme, linear = (results["classifiers"][n]["last_accuracy"] for n in ("nme", "linear"))
    assert row.split()[2:4] == [f"{100 * nme:.1f}%", f"{100 * linear:.1f}%"]


def test_an_existing_run_is_not_overwritten(a_run):
    cwd, _ = a_run
    before = content(cwd / "runs")
    result = command("experiments.icarl", *SMALL, "--memory", "20", "--out", "runs/one", cwd=cwd)
    assert_refused(result, "runs/one already holds a run", "--resume", "--out")
    assert content(cwd / "runs") == before


def test_resuming_with_other_settings_says_which(a_run):
    cwd, _ = a_run
    before = content(cwd / "runs")
    result = command(
        "experiments.icarl",
        "--out",
        "runs/one",
        "--resume",
        "--epochs",
        "3",
        "--seed",
        "4",
        cwd=cwd,
    )
    assert_refused(result, "epochs was 1, is now 3", "seed was 0, is now 4")
    result = command("experiments.lwf", "--out", "runs/one", "--resume", cwd=cwd)
    assert_refused(result, "it is a run of icarl")
    assert content(cwd / "runs") == before


def test_resuming_needs_no_flag_but_the_folder(a_run):
    cwd, first = a_run
    result = command("experiments.icarl", "--out", "runs/one", "--resume", cwd=cwd)
    assert result.returncode == 0, result.stderr
    table = first.stdout[first.stdout.index("icarl (paper) on digits") :]
    assert table in result.stdout


REFUSALS = [
    (["--dataset", "mnist"], ["--dataset", "'mnist'", "cifar100", "digits"]),
    (["--backbone", "resnet23"], ["unknown backbone 'resnet23'", "did you mean 'resnet"]),
    (["--softmax-over", "new", "--objective", "softmax"], ["--softmax-over open"]),
    (["--seeds", "0,x"], ["--seeds", "'0,x' is no list such as 0,1,2"]),
    (["--orders", "0"], ["--orders is 0; it must be at least 1"]),
    (["--orders", "2", "--resume"], ["--resume is for a single run"]),
    (["--order", "random"], ["--order", "natural", "seeded"]),
    (["--epochs", "0"], ["--epochs is 0; it must be at least 1"]),
    (["--epochs", "many"], ["--epochs", "'many'"]),
    (["--log", "tensorbord"], ["unknown --log 'tensorbord': did you mean 'tensorboard'"]),
    (["--task-size", "11"], ["task size 11 does not fit 4 classes"]),
    (["--first-task", "5"], ["first task 5 does not fit 4 classes"]),
    (["--classes", "11"], ["11 classes asked for; digits has 10"]),
    (["--memory", "3"], ["--memory 3 is smaller than the number of classes, 4"]),
    (["--memory", "0"], ["--memory 0 is smaller than the number of classes, 4"]),
    (["--resume"], ["runs/new holds no run", "--resume"]),
    (["--no-such-flag"], ["--no-such-flag", "see --help"]),
    (["--batchsize", "3"], ["--batchsize", "did you mean --batch-size?"]),
    (["--preset", "best"], ["--preset", "'best'", "paper"]),
    (["--dataset", "cifar100", "--data-dir", "nothing"], ["experiments.prepare", "nothing"]),
]


@pytest.fixture
def refusal(monkeypatch, tmp_path, capsys):
    """The one line that a method's flags are refused with, in this process: it is faster."""

    def of(method, *flags):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [method, *SMALL, "--out", "runs/new", *flags])
        with pytest.raises(SystemExit) as ended:
            cli.main(method, PRESETS[method])
        out, error = capsys.readouterr()
        assert ended.value.code == 2 and out == ""
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert not Path("runs").exists()
        return error

    return of


@pytest.mark.parametrize(("flags", "words"), REFUSALS, ids=" ".join)
def test_bad_input_gets_one_line_and_leaves_nothing(refusal, flags, words):
    error = refusal("icarl", *flags)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--accelerator", "gpu"], ["no GPU", "cil_jax[cuda13]"]),
        (["--accelerator", "tpu"], ["no TPU", "cil_jax[tpu]"]),
        (["--temperature", "3"], ["--temperature has no effect on icarl with these settings"]),
    ],
)
def test_a_process_that_is_refused_ends_with_one_line(tmp_path, flags, words):
    result = command("experiments.icarl", *SMALL, "--out", "runs/new", *flags, cwd=tmp_path)
    assert_refused(result, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("icarl", ["--lambda", "3"]),
        ("icarl", ["--distill", "tasks"]),
        ("icarl", ["--softmax-over", "open"]),
        ("icarl", ["--objective", "softmax", "--distill", "none", "--lambda", "3"]),
        ("icarl", ["--objective", "softmax", "--divisor", "10"]),
        ("replay", ["--distill", "all"]),
        ("lwf", ["--selection", "random"]),
        ("icarl", ["--order", "natural", "--order-seed", "3"]),
    ],
)
def test_a_flag_without_effect_is_refused(method, flags, refusal):
    error = refusal(method, *flags)
    assert f"{flags[-2]} has no effect on {method} with these settings: leave it out" in error


def test_flags_with_an_effect_are_taken():
    for method, given in (
        ("icarl", {"objective": "softmax", "lambda_": 3.0, "temperature": 1.0, "memory": 100}),
        ("icarl", {"distill": "none", "divisor": 10.0, "order_seed": 4}),
        ("lwf", {"preset": "pycil", "distill": "tasks", "softmax_over": "open"}),
        ("joint", {"objective": "softmax", "softmax_over": "open"}),
        ("fixed", {"divisor": 10.0}),
    ):
        cli.check_effect(cli.settings(method, PRESETS[method], dict(given)), given)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear reader")
    (tmp_path / "file").write_text("")
    for out, words in (("thesis", "not empty and holds no run"), ("file", "is a file")):
        assert_refused(command("experiments.lwf", *SMALL, "--out", out, cwd=tmp_path), words)
    assert [f.name for f in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_damaged_config_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("epochs: [")
    result = command("experiments.lwf", "--out", "run", "--resume", cwd=tmp_path)
    assert_refused(result, "run/config.yaml is damaged")


@pytest.mark.parametrize("name", [*PRESETS, "prepare", "reproduce", "compare", "report"])
def test_help_explains_each_flag_with_its_default(tmp_path, name):
    result = command(f"experiments.{name}", "--help", cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    if name not in PRESETS:
        words = {"prepare": "--archive FILE", "reproduce": "--reduced", "report": "runs/icarl"}
        words["compare"] = "--page FILE"
        assert words[name] in result.stdout
        return
    from cil_jax.cli import make_parser

    for flag in make_parser(name, PRESETS[name])._actions:
        no_default = ("help", "resume", "seeds", "orders")
        assert flag.help and ("default" in flag.help or flag.dest in no_default), flag
    assert f"python -m experiments.{name} " in result.stdout
    assert "--accelerator gpu" in result.stdout


def test_flags_are_read_before_jax_is_imported(tmp_path):
    code = (
        "import sys; from cil_jax.cli import settings;"
        "settings('icarl', 'paper', {'epochs': 3}); assert 'jax' not in sys.modules"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=path, cwd=tmp_path, check=False).returncode
        == 0
    )


def stopped(arguments, cwd, sign, number):
    """What a command said on stderr that was sent a signal when it printed something."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line.startswith(sign):
                process.send_signal(number)
                break
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 128 + number, said
    return [line for line in said.split("\n") if line]


def test_a_stopped_run_says_how_to_go_on_and_ends_the_same(a_run, tmp_path):
    """Ctrl-C, then SIGTERM, each in the second task."""
    flags = [*SMALL, "--memory", "20", "--epochs", "3"]
    start = ["-m", "experiments.icarl", *flags, "--out", "runs/a run"]
    first, last = stopped(start, tmp_path, "task 2/2  epoch 1/3", signal.SIGINT)
    assert first.startswith("stopping: saving at the next step")
    place, said = last.split("; to continue: python ")
    assert place.startswith("saved in task 2, after epoch ")
    assert said == "-m experiments.icarl --resume --out 'runs/a run' --accelerator cpu"
    again = shlex.split(said)
    _, last = stopped(again, tmp_path, "continuing in task 2 after epoch", signal.SIGTERM)
    assert last.endswith(said)
    result = command(*again[1:], cwd=tmp_path)
    assert result.returncode == 0 and "continuing in task 2" in result.stdout, result.stderr
    alone = command("experiments.icarl", *flags, "--out", "runs/alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    one, two = (
        json.loads((tmp_path / f"runs/{n}/results.json").read_text()) for n in ("a run", "alone")
    )
    assert one["classifiers"] == two["classifiers"]


def test_the_command_that_resumes_has_what_the_folder_has_not():
    config = cli.settings(
        *("icarl", "paper"),
        {"out": "a b", "stream": True, "data_dir": "d", "devices": 2, "seed": 3},
    )
    assert cli.resume_command(config) == (
        "python -m experiments.icarl --resume --out 'a b' --data-dir d --devices 2 --stream"
    )
