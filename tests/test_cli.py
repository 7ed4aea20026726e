"""The commands as a user runs them: what they print, and how they refuse."""

import dataclasses
import hashlib
import io
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PRESETS
from PIL import Image
from test_environment import OTHERWISE

from cil_jax.app import command_line, launch
from cil_jax.commands import predict, report, run
from cil_jax.settings import loading
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained.saved_learner import SavedLearner

ROOT = Path(__file__).parents[1]
SMALL = ["--dataset", "digits", "--backbone", "resnet8", "--task-size", "2", "--classes", "4"]
SMALL += ["--epochs", "2", "--batch-size", "64", "--accelerator", "cpu"]


COMMANDS = {  # that are no methods, and a flag of each
    "train": "--method NAME",
    "prepare": "--archive FILE",
    "reproduce": "--reduced",
    "compare": "--page FILE",
    "scenario": "--figure FILE",
    "report": "runs/icarl",
    "predict": "--top N",
    "answers": "--no-all-data",
    "export": "--out FILE",
    "accelerator": "--minutes N",
}


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
    return cwd, command("cil_jax", "icarl", *SMALL, "--memory", "20", "--out", "runs/one", cwd=cwd)


def test_a_run_prints_its_course_its_table_and_where_the_figures_are(a_run):
    cwd, result = a_run
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert "icarl (paper, with batch-size 64) on digits: 4 classes in 2 tasks (2, 2)" in out
    assert "task 1/2  epoch 2/2  loss" in out and "images/s" in out and ", left 0:" in out
    for word in (
        *("nme (method's own)", "linear", "ncm (all data)", "old classes", "new classes", "top-5"),
        *("task-aware", "order seeded 1993, seed 0", "n = 1"),
        "average incremental accuracy",
        "without the first task",
        "last accuracy",
        "forgetting",
    ):
        assert word in out, word
    figures = {f.name for f in (cwd / "runs/one/figures").iterdir()}
    assert figures == {
        *("seen_accuracy.png", "accuracy_matrix.png", "forgetting.png", "curves.png"),
        *("confusion.png", "task_confusion.png", "class_accuracy.png"),
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


@pytest.fixture
def refused(request, monkeypatch, capsys):
    """The one line that a method's flags are refused with, in this process: it is faster."""
    if "a_run" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("a_run")[0])

    def of(method, *flags):
        code = command_line.run_method(method, flags)
        out, error = capsys.readouterr()
        assert code == 2 and out == ""
        assert error.startswith("error: ") and error.count("\n") == 1, error
        return error

    return of


def test_an_existing_run_is_not_overwritten(a_run, refused):
    before = content(a_run[0] / "runs")
    error = refused("icarl", *SMALL, "--memory", "20", "--out", "runs/one")
    assert "runs/one already holds a run" in error and "--resume" in error and "--out" in error
    assert content(a_run[0] / "runs") == before


def test_resuming_with_other_settings_says_which(a_run, refused):
    before = content(a_run[0] / "runs")
    error = refused("icarl", "--out", "runs/one", "--resume", "--epochs", "3", "--seed", "4")
    assert "epochs was 2, is now 3" in error and "seed was 0, is now 4" in error
    assert "it is a run of icarl" in refused("lwf", "--out", "runs/one", "--resume")
    assert content(a_run[0] / "runs") == before


@pytest.fixture(scope="module")
def an_unread_run(tmp_path_factory):
    """The same run, whose output nobody reads, as with `| head -1`, under other options of JAX."""
    cwd = tmp_path_factory.mktemp("unread")
    others = {name.upper(): str(value) for name, value in OTHERWISE.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "cil_jax", "icarl", *SMALL, "--memory", "20", "--out", "run"],
        cwd=cwd,
        env={**os.environ, **others, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    return RunFolder(cwd / "run"), process.returncode, said


def test_a_run_is_trained_to_its_end_where_nobody_reads_its_output(a_run, an_unread_run):
    run, code, said = an_unread_run
    assert (code, said) == (0, "")
    names = [
        sorted(file.name for file in folder.path.glob("*"))
        for folder in (run, RunFolder(a_run[0] / "runs/one"))
    ]
    assert names[0] == names[1]


def test_a_run_under_other_options_of_jax_is_bit_for_bit_the_same(a_run, an_unread_run):
    one, other = RunFolder(a_run[0] / "runs/one"), an_unread_run[0]
    assert one.results()["classifiers"] == other.results()["classifiers"]
    assert one.settings() == other.settings()
    for left, right in zip(one.exemplars(), other.exemplars(), strict=True):
        np.testing.assert_array_equal(left, right)
    losses = [[line.get("train_loss") for line in run.measurements()] for run in (one, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("flag", ["--help", "--print-config"])
@pytest.mark.parametrize(
    ("target", "code", "error"),
    [("pipe", 0, ""), ("/dev/full", 2, "error: can't write to the standard output: No space left")],
)
def test_what_is_only_printed_may_be_cut_off_and_fails_in_one_line(flag, target, code, error):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") if target == "pipe" else open(target, "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "cil_jax", "icarl", flag],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(error) and done.stderr.count("\n") == bool(error)


def test_predictions_end_once_nobody_reads_them(a_run, tmp_path, monkeypatch):
    """And are not made for thousands of pictures."""
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    reads, writes = os.pipe()
    os.close(reads)
    monkeypatch.setattr(predict, "BATCH", 1)
    answered = []
    real = SavedLearner.predict
    monkeypatch.setattr(SavedLearner, "predict", lambda *given: answered.append(1) or real(*given))
    with os.fdopen(writes, "w", buffering=1) as stdout:  # a line at a time
        monkeypatch.setattr(sys, "stdout", stdout)
        assert predict.main([str(a_run[0] / "runs/one"), str(tmp_path)]) == 0
    assert len(answered) == 1


def test_pictures_whose_names_the_terminal_cannot_show_are_answered(a_run, tmp_path, capfd):
    names = [os.fsencode("snow \u2603.png"), b"\xff.png", b"plain.png"]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
        os.rename(tmp_path / "picture.png", os.path.join(os.fsencode(tmp_path), name))
    with pytest.MonkeyPatch.context() as patch:
        stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        patch.setattr(sys, "stdout", stdout)
        assert predict.main([str(a_run[0] / "runs/one"), str(tmp_path)]) == 0
    lines = stdout.buffer.getvalue().decode("ascii").splitlines()[-3:]
    shown = sorted(line.partition(".png  ")[0].rpartition("/")[2] for line in lines)
    assert shown == ["\\udcff", "plain", "snow \\u2603"]


def test_resuming_needs_no_flag_but_the_folder(a_run):
    cwd, first = a_run
    result = command("cil_jax", "icarl", "--out", "runs/one", "--resume", cwd=cwd)
    assert result.returncode == 0, result.stderr
    table = first.stdout[first.stdout.rindex("icarl (paper,") :]
    assert table in result.stdout


REFUSALS = [
    (["--dataset", "mnist"], ["--dataset", "'mnist'", "cifar100", "digits"]),
    (["--backbone", "resnet23"], ["unknown backbone 'resnet23'", "did you mean 'resnet"]),
    (["--seeds", "0,x"], ["--seeds", "'0,x' is not a list such as 0,1,2"]),
    (["--orders", "0"], ["--orders is 0; it must be at least 1"]),
    (["--orders", "2", "--resume"], ["--resume is for a single run"]),
    (["--order", "random"], ["--order", "natural", "seeded"]),
    (["--epochs", "0"], ["--epochs is 0; it must be at least 1"]),
    (["--epochs", "many"], ["--epochs", "'many'", "see --help"]),
    (["--rate-steps", "0.9", "0.7"], ["--rate-steps are 0.9 0.7", "in increasing order"]),
    (["--coordinator", "host0"], ["--coordinator is host0; it must be HOST:PORT, such as"]),
    (["--coordinator", "host0:x"], ["--coordinator is host0:x; it must be HOST:PORT"]),
    (["--log", "tensorbord"], ["unknown --log 'tensorbord': did you mean 'tensorboard'"]),
    (["--task-size", "11"], ["--task-size is 11; with 4 classes it must lie in 1..4"]),
    (["--first-task", "5"], ["--first-task is 5; with 4 classes"]),
    (["--classes", "11"], ["--classes is 11; digits has 10 classes"]),
    (["--memory", "3"], ["--memory 3 is smaller than the number of classes, 4"]),
    (["--memory", "0"], ["--memory 0 is smaller than the number of classes, 4"]),
    (["--resume"], ["runs/new holds no run", "--resume"]),
    (["--no-such-flag"], ["--no-such-flag", "see --help"]),
    (["--batchsize", "3"], ["--batchsize", "did you mean --batch-size?"]),
    (["--preset", "best"], ["--preset", "'best'", "paper"]),
    (["--dataset", "cifar100", "--data-dir", "nothing"], ["cil-jax prepare", "nothing"]),
]


@pytest.fixture
def refusal(refused, monkeypatch, tmp_path):
    """The one line that a new run of a method is refused with; nothing is left of it."""
    monkeypatch.chdir(tmp_path)

    def of(method, *flags):
        error = refused(method, *SMALL, "--out", "runs/new", *flags)
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
    ],
)
def test_a_process_that_is_refused_ends_with_one_line(tmp_path, flags, words):
    result = command("cil_jax", "icarl", *SMALL, "--out", "runs/new", *flags, cwd=tmp_path)
    assert_refused(result, *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("icarl", ["--lambda", "3"]),
        ("icarl", ["--distill", "tasks"]),
        ("icarl", ["--objective", "softmax", "--distill", "none", "--lambda", "3"]),
        ("icarl", ["--objective", "softmax", "--divisor", "10"]),
        ("replay", ["--objective", "softmax", "--divisor", "10"]),
        ("lwf", ["--preset", "lwf-mc", "--softmax-over", "open"]),
    ],
)
def test_a_flag_without_effect_is_said(method, flags, capsys):
    assert run([method, *flags, "--print-config"]) == 0
    warning = f"warning: {flags[-2]} has no effect on {method} with these settings\n"
    assert capsys.readouterr().err == warning


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        (["icarl", "--order-seed", "3"], "--order-seed has no effect on the order icarl: add "),
        (["icarl", "--tasks", "50,50", "--task-size", "3"], "--task-size has no effect: --tasks "),
        (["finetune", "--memory", "50"], "--memory has no effect on finetune, which has no such "),
        (["joint", "--clip-weights"], "--clip-weights has no effect on joint, which has no "),
        (["replay", "--merge", "online"], "--merge has no effect on replay, which has no such "),
    ],
)
def test_a_loop_over_methods_may_give_all_of_them_the_same_flags(flags, warning, capsys):
    assert run([*flags, "--print-config"]) == 0
    assert capsys.readouterr().err.startswith(f"warning: {warning}")


def test_a_loop_over_methods_may_give_all_of_them_the_same_file(tmp_path, capsys, refusal):
    file = tmp_path / "mine.yaml"
    file.write_text("memory: 50\nepochs: 3\nlambda: 2.0\n")
    assert run(["finetune", "--config", str(file), "--print-config"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"warning: {name} in {file} has no effect on finetune, which has no such setting"
        for name in ("memory", "lambda")
    ]
    assert "epochs: 3 " in printed.out and "memory" not in printed.out
    file.write_text("memry: 50\n")
    assert "unknown setting 'memry' of icarl: did you mean 'memory'?" in refusal(
        "icarl", "--config", str(file)
    )


def test_a_flag_that_no_method_has_is_refused(refusal):
    error = refusal("finetune", "--memry", "50")
    assert "unrecognized arguments: --memry 50; did you mean --memory?" in error


def test_flags_with_an_effect_are_taken():
    for method, given in (
        ("icarl", {"objective": "softmax", "lambda_": 3.0, "temperature": 1.0, "memory": 100}),
        ("icarl", {"distill": "none", "divisor": 10.0}),
        ("icarl", {"order": "seeded", "order_seed": 4}),
        ("lwf", {"preset": "pycil", "distill": "tasks", "softmax_over": "open"}),
        ("joint", {"objective": "softmax"}),
        ("fixed", {"divisor": 10.0}),
    ):
        config = command_line.settings(method, PRESETS[method], dict(given))
        assert command_line.without_effect(config, given) == []


def test_defaults_preset_file_and_flags_are_laid_over_each_other_in_this_order(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\nrate: 1\nmemory: 50\n")
    given = {"preset": "pycil", "memory": 30, "first_epochs": 9}
    laid = command_line.layers("icarl", "paper", given, str(file))
    config = loading.config_of(laid)
    assert (config.preset, config.memory, config.rate, config.epochs) == ("pycil", 30, 1.0, 3)
    assert (config.weight_decay, config.task_size, config.first_epochs) == (2e-4, 10, 9)
    # What a layer says of all tasks sets aside what those below it say of the first.
    assert command_line.settings("icarl", "paper", {"preset": "pycil"}).first_epochs == 200
    assert (
        command_line.settings("icarl", "paper", {"preset": "pycil"}, str(file)).first_epochs is None
    )
    assert command_line.settings("lwf", "pycil", {"weight_decay": 0.1}).first_weight_decay is None

    shown = loading.commented(laid)
    lines = {line.split(":")[0]: line.split("# ")[1] for line in shown.splitlines()}
    assert [lines[x] for x in ("task_size", "rate_factor", "rate", "memory", "first_epochs")] == [
        *("default", "preset icarl/pycil", str(file), "flag", "flag")
    ]
    file.write_text(shown)
    assert loading.read(file) == vars(config)


# Private, but there is no other way to ask without starting one.
NO_BACKEND = "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"


def test_settings_are_printed_and_jax_is_not_started(tmp_path):
    """A method's class imports JAX, but starts none of its backends."""
    code = (
        "import sys; from cil_jax.app import command_line;"
        "code = command_line.run_method('icarl', ['--epochs', '3', '--print-config']);"
        f"{NO_BACKEND}; sys.exit(code)"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=path,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not list(tmp_path.iterdir()), done.stderr
    settings = yaml.safe_load(done.stdout)
    assert settings["epochs"] == 3 and settings["preset"] == "paper" and settings["rate"] == 2.0


@pytest.mark.parametrize("preset", ["paper", "pycil", ""])
def test_the_config_of_a_run_given_back_is_the_same_settings(tmp_path, preset):
    """So that the run is repeated: nothing else decides it."""
    more = {"first_epochs": 4, "epochs": 2, "seed": 5, "lambda_": 0.5}
    values = loading.preset_values("icarl", preset) if preset else {}
    named = {"method": "icarl", "preset": preset, "out": str(tmp_path / "run")}
    config = loading.config_of({"made": {**values, **more, **named}})
    RunFolder(config.folder()).start(config)
    file = str(tmp_path / "run/config.yaml")
    assert command_line.settings("icarl", "hybrid1", {}, file).decisive() == config.decisive()
    # Resuming needs it no more, and takes it if it agrees.
    given = {"resume": True, "out": config.out}
    assert command_line.settings("icarl", "paper", given, file) == dataclasses.replace(
        config, resume=True
    )
    # Members of a group are laid over it as over flags.
    common = command_line.settings("icarl", "paper", {"out": str(tmp_path / "group")}, file)
    assert [m.seed for m in replicates.member_configs(common, [0, 1], None)] == [0, 1]
    assert {m.first_epochs for m in replicates.member_configs(common, [0, 1], None)} == {4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "mine.yaml: unknown setting 'epoch' of icarl: did you mean 'epochs'?"),
        ("7: 3", "mine.yaml: unknown setting 7 of icarl; see --help for the known ones"),
        ("seeds: 3", "mine.yaml: seeds is not a setting of a single run: use the flag --seeds"),
        ("epochs: 0", "mine.yaml: --epochs is 0; it must be at least 1"),
        ("epochs: '3'", "mine.yaml: epochs is '3'; it must be a whole number: write 3"),
        ("epochs: true", "mine.yaml: epochs is true; it must be a whole number"),
        ("epochs:", "mine.yaml: epochs has no value"),
        ("rate: 2e-5", "mine.yaml: rate is '2e-5'; it must be a number: write 2.0e-05"),
        ("mirror: yes", "mine.yaml: mirror is true; it must be text: write it in quotes"),
        ("last_relu: 1", "mine.yaml: last_relu is 1; it must be true or false"),
        ("rate_steps: 0.5", "mine.yaml: rate_steps is 0.5; it must be a list of numbers"),
        ("selection: herdin", "mine.yaml: unknown --selection 'herdin': did you mean 'herding'?"),
        ("method: lwf", "mine.yaml is for lwf, not for icarl: cil-jax lwf"),
        ("preset: pycli", "mine.yaml: unknown preset 'pycli' of icarl: did you mean 'pycil'?"),
        ("preset: pycil", "mine.yaml starts from preset 'pycil': leave out --preset paper"),
        ("epochs: [", "mine.yaml: not valid YAML: line 1"),
        ("- epochs", "mine.yaml: holds no settings; write one per line, such as epochs: 10"),
        ("", "mine.yaml: holds no settings"),
        (b"\xff\xfe\x00", "mine.yaml: not a text file"),
        (None, "mine.yaml: can't be read: No such file"),
    ],
    ids=str,
)
def test_a_file_of_settings_is_refused_by_its_name_and_the_settings(refusal, text, message):
    if text is not None:
        text = text.encode() if isinstance(text, str) else text
        Path("mine.yaml").write_bytes(text)
    assert message in refusal("icarl", "--preset", "paper", "--config", "mine.yaml")


def test_a_folder_of_something_else_is_left_alone(tmp_path, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear reader")
    (tmp_path / "file").write_text("")
    for out, words in (("thesis", "not empty and holds no run"), ("file", "is a file")):
        assert words in refused("lwf", *SMALL, "--out", str(tmp_path / out))
    assert [f.name for f in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_folder_of_members_is_no_run_and_says_what_it_is(tmp_path, refusal, capsys):
    for name in ("order1993-seed0", "order1993-seed1"):
        RunFolder(tmp_path / "both" / name).start(loading.preset("icarl"))
    error = refusal("icarl", "--resume", "--out", str(tmp_path / "both"))
    assert "several members" in error and "--seeds" in error
    for ask, more in ((report.main, []), (predict.main, ["picture.png"])):
        assert ask([str(tmp_path / "both"), *more]) == 2
        error = capsys.readouterr().err
        assert f"choose one, such as {tmp_path / 'both' / 'order1993-seed0'}" in error


def test_help_says_what_the_preset_says_of_the_first_task():
    text = " ".join(command_line.make_parser("lwf", "pycil").format_help().split())
    assert "epochs of the first task (default: 200)" in text
    text = " ".join(command_line.make_parser("icarl", "paper").format_help().split())
    assert "epochs of the first task (default: --epochs)" in text


def test_a_damaged_config_is_said(tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("epochs: [")
    error = refused("lwf", "--out", str(tmp_path / "run"), "--resume")
    assert "run/config.yaml is damaged" in error


@pytest.mark.parametrize("name", [*PRESETS, *COMMANDS])
def test_each_command_has_a_help(name, monkeypatch, capsys):
    """Those that have a file in a checkout are run by it, as `python -m` does."""
    in_checkout = (ROOT / "experiments" / f"{name}.py").exists()
    module, words = (f"experiments.{name}", []) if in_checkout else ("cil_jax", [name])
    monkeypatch.setattr(sys, "argv", [module, *words, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    text, error = capsys.readouterr()
    assert ended.value.code == 0 and error == ""
    if name not in PRESETS:
        assert COMMANDS[name] in text
        return
    assert f"cil-jax {name} --accelerator gpu" in text


@pytest.mark.parametrize("method", PRESETS)
def test_help_explains_each_flag_with_its_default(method):
    no_default = ("help", "help_all", "resume", "seeds", "orders", "config", "print_config")
    for action in command_line.make_parser(method, PRESETS[method])._actions:
        assert action.help and ("default" in action.help or action.dest in no_default), action


def test_no_command_imports_jax_before_its_flags_are_read(tmp_path):
    """So that what JAX says of its environment variables is said in a line."""
    names = [*COMMANDS, "benchmark", "exemplars"]
    code = (
        f"import sys, {', '.join(f'cil_jax.commands.{name}' for name in names)};"
        "from cil_jax.app.command_line import settings;"
        "assert 'jax' not in sys.modules;"
        f"settings('icarl', 'paper', {{'epochs': 3}}); {NO_BACKEND}"
    )
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=path, cwd=tmp_path, check=False).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("JAX_ENABLE_X64", ["icarl", *SMALL]),
        ("JAX_DEFAULT_MATMUL_PRECISION", ["prepare", "--archive", "x"]),
        ("JAX_PLATFORMS", ["finetune", *SMALL]),
    ],
)
def test_a_value_that_jax_rejects_is_said_in_one_line(tmp_path, variable, arguments):
    flags = [flag for flag in arguments[1:] if flag not in ("--accelerator", "cpu")]
    result = command("cil_jax", arguments[0], *flags, cwd=tmp_path, **{variable: "perhaps"})
    assert_refused(result, variable if variable in result.stderr else variable.lower())
    assert not list(tmp_path.iterdir())


def test_other_errors_of_values_are_no_fault_of_the_environment():
    with pytest.raises(ValueError, match="invalid literal"):
        command_line.guarded(lambda: int("x"))


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
    start = ["-m", "cil_jax", "icarl", *SMALL, "--memory", "20", "--out", "runs/a run"]
    first, last = stopped(start, tmp_path, "task 2/2  epoch 1/2", signal.SIGINT)
    assert first.startswith("stopping: saving at the next step")
    place, said = last.split("; to continue: ")
    assert place.startswith("saved in task 2, after epoch ")
    assert said == "cil-jax icarl --resume --out 'runs/a run' --accelerator cpu"
    again = ["-m", "cil_jax", *shlex.split(said)[1:]]
    _, last = stopped(again, tmp_path, "continuing in task 2 after epoch", signal.SIGTERM)
    assert last.endswith(said)
    result = command(*again[1:], cwd=tmp_path)
    assert result.returncode == 0 and "continuing in task 2" in result.stdout, result.stderr
    one, two = (RunFolder(run) for run in (tmp_path / "runs/a run", a_run[0] / "runs/one"))
    assert one.results()["classifiers"] == two.results()["classifiers"]


def test_the_command_that_resumes_has_what_the_folder_has_not():
    config = command_line.settings(
        *("icarl", "paper"),
        {"out": "a b", "stream": True, "data_dir": "d", "devices": 2, "seed": 3},
    )
    assert launch.resume_command(config) == (
        "cil-jax icarl --resume --out 'a b' --data-dir d --devices 2 --stream"
    )
