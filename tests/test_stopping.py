"""What stops a run, in order or not, and that nothing saved is lost: see also test_killed.py."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from conftest import small_config
from test_run import Stopper

import cil_jax
from cil_jax import report
from cil_jax.errors import UserError
from cil_jax.storage import checkpoint
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import loop, saving, signals, streaming
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run

ROOT = Path(__file__).parents[1]
# What TensorStore still had to write to a disk that is full ends after its event loop, at any time.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def small(out, **more):
    return small_config("icarl", out, **{"classes": 4, "epochs": 1, **more})


def resumed(out, **more):
    return small(out, resume=True, **more)


def decided(results):
    return {k: v for k, v in results.items() if k not in ("seconds", "memory")}


def content(folder):
    """Every file but the lock and what is in it."""
    files = (f for f in Path(folder).rglob("*") if f.is_file() and f.name != ".lock")
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two tasks, its results, and an untaught learner of its shapes."""
    config = small(tmp_path_factory.mktemp("stopping") / "run")
    with pytest.MonkeyPatch.context() as patch:  # a checkpoint for each task, however long it takes
        patch.setattr(saving, "SECONDS_UNSAVED", np.inf)
        results = cil_jax.run(config)
    run = Run(config, RunFolder(config.folder()), Callback())
    return Path(config.folder()), results, run.new_learner()


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def restored(folder, template):
    """Tasks learned by the checkpoint that is taken, and what was said of others."""
    said = []
    with Checkpoints(folder / "checkpoints") as checkpoints:
        learner, _ = checkpoints.restore(template, said.append)
    return int(learner.task), said


def checkpoints_of(folder):
    return sorted(f.name for f in (folder / "checkpoints").iterdir())


# Checkpoints


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def test_the_checksums_are_those_of_the_command(copied):
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    if shutil.which(check[0]) is None:
        pytest.skip("there is no sha256sum here")
    assert subprocess.run(check, cwd=copied / "checkpoints/1", check=False).returncode == 0


def test_damage_to_any_file_is_seen_and_named(copied):
    folder = copied / "checkpoints/1"
    assert checkpoint.damage_of(folder) == ""
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert len(files) > 5
    for file in files:
        name, before = file.relative_to(folder).as_posix(), file.read_bytes()
        for damage in (flip, truncate, Path.unlink):
            damage(file)
            found = checkpoint.damage_of(folder)
            assert found and (name in found or name == "SHA256SUMS"), (name, damage)
            file.write_bytes(before)
    sums = folder / "SHA256SUMS"
    for byte in range(0, len(before := sums.read_bytes()), 9):
        sums.write_bytes(before[:byte] + bytes([before[byte] ^ 1]) + before[byte + 1 :])
        assert checkpoint.damage_of(folder), byte
    sums.write_bytes(before)
    (folder / "learner/more").write_text("")
    assert checkpoint.damage_of(folder) == "learner/more: not listed in SHA256SUMS"


def test_the_newest_checkpoint_is_that_of_the_largest_number(finished, copied):
    *_, template = finished
    there = sorted((copied / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    for folder, number in zip(there, ("9", "10"), strict=True):
        folder.rename(folder.with_name(number))
    assert restored(copied, template) == (2, [])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(finished, copied, damage):
    *_, template = finished
    assert restored(copied, template) == (2, [])
    file = max((copied / "checkpoints/1/learner").rglob("*"), key=lambda f: f.stat().st_size)
    damage(file)
    task, (said,) = restored(copied, template)
    assert task == 1 and "checkpoints/1 is damaged" in said and said.endswith("continuing from 0")
    assert file.relative_to(copied / "checkpoints/1").as_posix() in said


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_the_same(finished, copied):
    _, results, template = finished
    flip(copied / "checkpoints/1/about.json")
    (copied / "checkpoints/unfinished/learner").mkdir(parents=True)
    heard = []

    class Listener(Callback):
        def warned(self, run, text):
            heard.append(text)

    again = cil_jax.run(resumed(copied), Listener())
    assert decided(again) == decided(results) and "about.json" in heard[0]
    assert checkpoints_of(copied) == ["0", "2"]  # the damaged one and the leftover are gone
    assert restored(copied, template) == (2, [])


def test_a_run_that_goes_on_elsewhere_says_so_in_one_line(copied):
    newest = max((copied / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    shutil.rmtree(newest)  # so that there is something left to train
    file = copied / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    stored["machine"]["cores"], stored["versions"]["jax"] = 4096, "0.1.0"
    file.write_text(yaml.safe_dump(stored))
    heard = []

    class Listener(Callback):
        def warned(self, run, text):
            heard.append(text)

    for _ in range(2):  # the second time all is done
        cil_jax.run(resumed(copied), Listener())
    (line,) = heard
    assert "because the environment has changed: jax was 0.1.0, is now " in line
    assert "; cores was 4096, is now " in line and "\n" not in line


def test_results_tell_no_more_tasks_than_a_checkpoint_that_is_taken(tmp_path, monkeypatch):
    """The checkpoint after the first task is damaged, the one before it is within that task."""
    monkeypatch.setattr(loop, "SECONDS_A_CALL", 0.0)
    out = tmp_path / "run"
    for config, stop in ((small(out), ("trained", 0, 0)), (resumed(out), ("task_done", 0))):
        with pytest.raises(signals.Stopped):
            cil_jax.run(config, Stopper(*stop))
    assert RunFolder(out).results_file.exists()
    flip(max((out / "checkpoints").iterdir()) / "about.json")
    with pytest.raises(signals.Stopped):
        cil_jax.run(resumed(out), Stopper("epoch_done", 0, 0))
    assert not RunFolder(out).results_file.exists()


def test_if_all_are_damaged_the_run_stops_and_nothing_is_touched(copied):
    flip(copied / "checkpoints/1/about.json")
    (copied / "checkpoints/0/SHA256SUMS").unlink()
    (copied / "checkpoints/unfinished").mkdir()
    with (copied / "metrics.jsonl").open("a") as out:
        out.write('{"kind":')
    before = content(copied)
    with pytest.raises(UserError) as refused:
        cil_jax.run(resumed(copied))
    (line,) = refused.value.lines
    assert "no checkpoint can be read; nothing was changed" in line
    assert "1 is damaged (about.json: wrong checksum" in line
    assert "0 is damaged (SHA256SUMS: can't be read: No such file" in line
    assert content(copied) == before and (copied / "checkpoints/unfinished").exists()


def test_if_all_are_gone_a_run_with_results_is_not_begun_anew(copied):
    shutil.rmtree(copied / "checkpoints")
    before = content(copied)
    with pytest.raises(UserError, match="has results but no checkpoint to continue from"):
        cil_jax.run(resumed(copied))
    assert content(copied) == before


def test_results_that_a_kill_kept_from_being_written_are_written(copied):
    """It came between the last checkpoint and the file."""
    file = copied / "results.json"
    before = file.read_bytes()
    for left in (None, b'{"of": "the task before"}'):
        file.unlink() if left is None else file.write_bytes(left)
        cil_jax.run(resumed(copied))
        assert file.read_bytes() == before


def test_exemplars_that_are_not_the_checkpoints_are_written_again(copied):
    """A power failure may lose the file, or bring back the one of the task before."""
    file = copied / "exemplars.npz"
    before = file.read_bytes()
    for left in (None, before[:100]):
        file.unlink() if left is None else file.write_bytes(left)
        cil_jax.run(resumed(copied))
        assert file.read_bytes() == before


def test_a_damaged_line_of_measurements_is_named_and_stays_and_later_ones_are_not_read(copied):
    file, heard = copied / "metrics.jsonl", []
    first, second, third, last = file.read_bytes().splitlines(keepends=True)
    damaged = [first.replace(b'"', b"\xff", 1), second, third.replace(b":", b"\r", 1), last]
    file.write_bytes(b"".join([*damaged, b"\xff no JSON\n", b"half"]))

    class Listener(Callback):
        def warned(self, run, text):
            heard.append(text)

    cil_jax.run(resumed(copied), Listener())
    assert file.read_bytes() == b"".join(damaged)
    assert [line.partition(" is damaged: ")[0] for line in heard] == [
        f"{file}, line {number}," for number in (1, 3)
    ]
    folder = RunFolder(copied)
    assert folder.measurements() == [json.loads(line) for line in (second, last)]
    report.draw(folder)
    assert report.write_page(folder).exists()


def test_other_formats_are_refused_by_name(finished, copied):
    *_, template = finished
    folder = copied / "checkpoints/1"
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps({**about, "format": 5}))
    lines = (
        f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in files(folder)
    )
    (folder / "SHA256SUMS").write_text("".join(lines))
    with pytest.raises(UserError, match="of format 5, and this version of cil_jax reads format 4"):
        restored(copied, template)
    old = copied / "checkpoints/2/about"  # as formats 1 and 2 lay there
    old.mkdir(parents=True)
    (old / "metadata").write_text('{"format": 2, "schema": {}, "record": {}}')
    with pytest.raises(UserError, match=r"has checkpoints of format 2, and .* reads format 4"):
        restored(copied, template)


def files(folder):
    there = (f for f in folder.rglob("*") if f.is_file() and f.name != "SHA256SUMS")
    return [f.relative_to(folder).as_posix() for f in there]


def test_reading_a_run_folder_runs_no_code(finished, copied, monkeypatch):
    *_, template = finished

    def forbidden(*_, **__):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr("builtins.eval", forbidden)
    assert restored(copied, template) == (2, [])
    code = f"!!python/object/apply:pathlib.Path.touch [{copied / 'touched'}]"
    (copied / "config.yaml").write_text(code)
    with pytest.raises(UserError, match=r"config.yaml is damaged: not valid YAML: line 1: tags"):
        RunFolder(copied).settings()
    assert not (copied / "touched").exists()


# In order


def test_a_streamed_run_stops_within_an_epoch_and_ends_the_same(finished, tmp_path, monkeypatch):
    """In other chunks than before it stopped, and bit for bit as with images on the device."""
    folder, results, template = finished

    class Stop(Callback):
        def trained(self, run, position):
            run.stop_asked = lambda: signal.SIGINT if position.step == 3 else 0

    monkeypatch.setattr(streaming, "CHUNK_STEPS", 3)
    with pytest.raises(signals.Stopped, match="in task 1, after epoch 0 and step 3") as stopped:
        cil_jax.run(small(tmp_path / "run", stream=True), Stop())
    assert signals.exit_code(stopped.value) == 130
    monkeypatch.setattr(streaming, "CHUNK_STEPS", 2)
    again = cil_jax.run(resumed(tmp_path / "run", stream=True))
    assert decided(again) == decided(results)
    one, other = (Checkpoints(f / "checkpoints") for f in (folder, tmp_path / "run"))
    with one, other:
        chex.assert_trees_all_equal(
            one.restore(template, print)[0], other.restore(template, print)[0]
        )


def test_it_is_saved_when_it_is_time(tmp_path, monkeypatch):
    """After every update if no second may be lost, and at the ends of tasks anyway."""
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda _, learner, __: saved.append(learner))
    monkeypatch.setattr(loop, "SECONDS_A_CALL", 0.0)

    def places(name, seconds):
        saved.clear()
        monkeypatch.setattr(saving, "SECONDS_UNSAVED", seconds)
        cil_jax.run(small(tmp_path / name))
        return [saving.place(learner) for learner in saved]

    assert places("seldom", 1000.0) == ["after task 1", "after task 2"]
    monkeypatch.setattr(saving, "SAVING_SHARE", np.inf)
    often = places("often", 0.0)
    in_task = [f"in task 2, after epoch 0 and step {s}" for s in range(1, 10)]
    assert [p for p in often if p in in_task] == in_task
    assert often[-2:] == ["in task 2, after epoch 1", "after task 2"]


WAITER = """
import hashlib, os, sys
from cil_jax.training import signals
from cil_jax.app.command_line import guarded, leave

def wait():
    with signals.noted("heard") as asked:
        print("ready", flush=True)
        if sys.argv[1] == "computes":  # for minutes, and no line of Python in between
            hashlib.pbkdf2_hmac("sha512", b"", b"", 500_000_000)
        while not asked():
            pass
    raise signals.Stopped(asked(), "stopped in order")

def sleep():
    print("ready", flush=True)
    while True:
        pass

leave(guarded(sleep if sys.argv[1] == "sleeps" else wait))
"""


@contextlib.contextmanager
def waiter(how):
    with subprocess.Popen(
        [sys.executable, "-c", WAITER, how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("how", ["waits", "sleeps"])
def test_a_signal_ends_a_command_with_its_code(how, number, code):
    with waiter(how) as process:
        process.send_signal(number)
        assert process.wait(timeout=30) == code
        said = process.stderr.read().split("\n")
    assert said == (
        ["", "heard", "", "stopped in order", ""] if how == "waits" else ["", "stopped", ""]
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_it_at_once_even_while_it_compiles(number, code):
    with waiter("computes") as process:
        process.send_signal(signal.SIGTERM)
        assert [process.stderr.readline() for _ in range(2)] == ["\n", "heard\n"]
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == code


def test_a_hangup_after_another_signal_leaves_time_to_save():
    """A terminal that is closed may send it twice, and systemd sends it after SIGTERM."""
    with waiter("computes") as process:
        for number in (signal.SIGHUP, signal.SIGHUP):
            process.send_signal(number)
            time.sleep(0.2)
        assert process.poll() is None


def test_a_signal_is_noted_though_nobody_reads_what_is_said():
    with waiter("waits") as process:
        process.stderr.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_so(number):
    """As for a run that was started with nohup, or with & in a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.raised(), signals.noted("") as asked:
            os.kill(os.getpid(), number)
            assert asked() == 0 and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_handlers_are_there_only_while_a_run_goes():
    before = [signal.getsignal(s) for s in signals.STOPPING]
    with signals.noted("") as asked:
        assert asked() == 0
        assert [signal.getsignal(s) for s in signals.STOPPING] != before
    assert [signal.getsignal(s) for s in signals.STOPPING] == before
    assert signal.set_wakeup_fd(-1) == -1


# The folder


def test_a_folder_in_use_is_refused(copied):
    before = content(copied)
    with (
        RunFolder(copied).locked(),
        pytest.raises(UserError, match="in use by another process") as e,
    ):
        cil_jax.run(resumed(copied))
    assert f"process {os.getpid()} on " in str(e.value) and content(copied) == before
    with RunFolder(copied).locked():  # the one that was refused left nothing
        pass


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    code = (
        "import sys, time; from cil_jax.storage.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked(): print('locked', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with (
            pytest.raises(UserError, match=f"process {holder.pid} on"),
            RunFolder(tmp_path / "run").locked(),
        ):
            pass
        holder.kill()
        holder.wait()
    with RunFolder(tmp_path / "run").locked():
        pass


# Where the file system has no flock, as on Lustre: one that is killed within a run folder.
FLOCKLESS = """
import errno, fcntl, os, sys
from cil_jax.storage.run_folder import RunFolder

def flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

fcntl.flock = flock
with RunFolder(sys.argv[1]).locked():
    os.kill(os.getpid(), 9)
"""


def test_a_run_that_was_killed_where_there_is_no_flock_goes_on(finished, copied, monkeypatch):
    (copied / ".lock").unlink()  # a file of flock, which without flock counts as a lock
    command = [sys.executable, "-c", FLOCKLESS, str(copied)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL and not done.stderr, done.stderr
    shutil.rmtree(copied / "checkpoints/1")  # so that there is something left to train

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(copied).locked():
        refused = f"in use by another process \\(process {os.getpid()} on .*remove .*[.]lock"
        with pytest.raises(UserError, match=refused), RunFolder(copied).locked():
            pass
    assert decided(cil_jax.run(resumed(copied))) == decided(finished[1])


def test_a_path_that_libraries_misread_holds_a_run_and_a_learner(finished, tmp_path):
    out = tmp_path / os.fsdecode(b"[lr=0.1]\\*\xff")
    with pytest.raises(signals.Stopped):
        cil_jax.run(small(out), Stopper("task_done", 0))
    assert decided(cil_jax.run(resumed(out))) == decided(finished[1])
    learner = cil_jax.load(out)
    learner.save(tmp_path / "b[1]")
    chex.assert_trees_all_equal(cil_jax.load(tmp_path / "b[1]").state, learner.state)
    assert sorted(os.listdir(tmp_path)) == sorted([out.name, "b[1]"])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if made.returncode:
        pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place):
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))


def test_a_full_disk_is_said_and_loses_nothing(finished, small_disk):
    _, results, template = finished

    class Filler(Callback):
        def epoch_done(self, run, line):
            if line["task"] == 1:
                fill(small_disk)

    with pytest.raises(UserError) as refused:
        cil_jax.run(small(small_disk / "run"), Filler())
    (line,) = refused.value.lines
    assert f"can't write to {small_disk}/run: No space left on device" in line
    assert "--resume" in line
    assert restored(small_disk / "run", template) == (1, [])
    assert checkpoints_of(small_disk / "run") == ["0"]  # and nothing half
    with pytest.raises(UserError, match="No space left"):
        cil_jax.run(resumed(small_disk / "run"))
    (small_disk / "filler").unlink()
    assert decided(cil_jax.run(resumed(small_disk / "run"))) == decided(results)


def test_arrays_that_are_larger_than_the_disk_are_said_by_us_alone(finished, small_disk, caplog):
    large = finished[2].replace(means=jax.random.normal(jax.random.key(0), (1000, 1000)))
    with (
        Checkpoints(small_disk / "checkpoints") as checkpoints,
        pytest.raises(OSError, match="No space left on device"),
    ):
        checkpoints.save(large, {})
    assert not caplog.records  # of the libraries below
    assert checkpoints_of(small_disk) == []


def test_each_file_of_a_run_survives_a_full_disk(small_disk):
    folder = RunFolder(small_disk / "run")
    folder.start(small(small_disk / "run"))
    folder.append({"line": 1})
    folder.write_results({"results": 1})
    fill(small_disk)
    long = "x" * 10_000
    for write in (folder.append, folder.write_results):
        with pytest.raises(UserError, match="No space left on device: fix this"):
            write({"more": long})
    with pytest.raises(UserError, match="No space left"):
        folder.start(small(small_disk / "run"))
    (small_disk / "filler").unlink()
    assert json.loads(folder.results_file.read_text()) == {"results": 1}
    assert folder.settings()["epochs"] == 1
    folder.cut(1)
    assert folder.metrics_file.read_text() == '{"line":1}\n'


def test_a_folder_that_cannot_be_written_is_said(finished, copied, small_disk):
    shutil.copytree(finished[0], small_disk / "run")
    before = content(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for config, hint in ((small(small_disk / "new"), False), (resumed(small_disk / "run"), True)):
        with pytest.raises(UserError, match=r"can't write to .*: Read-only file system") as refused:
            cil_jax.run(config)
        assert ("--resume" in str(refused.value)) is hint
    assert content(small_disk) == before


def test_checkpoints_that_cannot_be_written_are_said(tmp_path):
    class Vandal(Callback):
        def epoch_done(self, run, line):
            run.folder.checkpoints.write_text("no folder")

    with pytest.raises(UserError, match=r"can't write to .*run: (File exists|Not a directory)"):
        cil_jax.run(small(tmp_path / "run"), Vandal())


# Losses that are not finite


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_is_good(tmp_path, finished):
    *_, template = finished

    class Accelerator(Callback):
        def task_done(self, run, line):
            config = dataclasses.replace(run.config, rate=1e30)
            run.course = dataclasses.replace(run.course, config=config)

    with pytest.raises(UserError) as stopped:
        cil_jax.run(small(tmp_path / "run"), Accelerator())
    (line,) = stopped.value.lines
    assert line.startswith("the loss is no longer finite in task 2, epoch 1, step 2, at learning ")
    assert "learning rate 1e+30 and a largest gradient of" in line
    assert "; the checkpoint after task 1 is kept: start again with a lower --rate" in line
    assert restored(tmp_path / "run", template) == (1, [])
    assert checkpoints_of(tmp_path / "run") == ["0"]


def test_a_network_that_is_not_finite_is_never_saved(tmp_path):
    config = small(tmp_path / "run")
    run = Run(config, RunFolder(config.folder()), Callback())
    learner = run.new_learner()
    learner.weights.params["head"]["bias"] = jnp.full(4, np.inf)
    with (
        Checkpoints(run.folder.checkpoints) as checkpoints,
        pytest.raises(UserError, match="the network is no longer finite after task 0"),
    ):
        saving.Saver(checkpoints, run.folder).save(learner, {})
    assert not (tmp_path / "run/checkpoints").exists()


@dataclasses.dataclass(frozen=True)
class Endless:
    """A method whose loss is not finite, though its gradient is."""

    method: object

    def __getattr__(self, name):
        return getattr(self.method, name)

    def loss(self, *args, **named):
        loss, more = self.method.loss(*args, **named)
        return loss + jnp.inf, more


def test_the_step_is_counted_and_its_gradient_measured(tmp_path):
    """The momentum after one step, which began at zero, is that step's gradient."""
    config = small(tmp_path / "run")
    run = Run(config, RunFolder(config.folder()), Callback())
    learner = run.engine.begin_task(run.new_learner(), jnp.int32(2))
    pool = run.pool(learner, run.scenario.task(0))
    endless = dataclasses.replace(run.engine, method=Endless(run.engine.method))

    def trained(engine, learner, sums, stop):
        zero = jnp.float32(0.0)
        return engine.train(learner, pool, sums, jnp.float32(0.1), zero, jnp.int32(stop))

    two, sums = trained(run.engine, learner, run.engine.no_sums(), 2)
    assert float(sums["steps"]) == 2 and float(sums["largest_gradient"]) == 0
    _, bad = trained(endless, two, sums, 5)
    assert float(bad["steps"]) == 2 and np.isinf(bad["loss"])
    # Without the gradients of the steps before: the third alone.
    fresh = two.replace(momentum=learner.momentum)
    third, _ = trained(run.engine, fresh, sums, 3)
    leaves = [np.abs(x).max() for x in jax.tree.leaves(third.momentum) if x.ndim]
    assert float(bad["largest_gradient"]) == pytest.approx(max(leaves), rel=1e-5)
