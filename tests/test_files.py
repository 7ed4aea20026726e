"""Files are written whole or not at all, reach the disk, and nothing half written stays behind."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from conftest import small_config, write_run

from cil_jax.commands import compare, report, reproduce
from cil_jax.data import prepare
from cil_jax.data.cache import cached
from cil_jax.errors import UserError
from cil_jax.files import writing
from cil_jax.storage import checkpoint, replicates
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained import export
from cil_jax.trained.saved_learner import SavedLearner
from cil_jax.training.build import room_of
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    """A learner that knows nothing, with the methods of one that was loaded."""
    folder = tmp_path_factory.mktemp("files") / "none"
    config = small_config("icarl", folder, classes=4, pad=1, mirror="no")
    run = Run(config, RunFolder(config.folder()), Callback())
    room = room_of(run.scenario.task_sizes)
    return SavedLearner(config, run.new_learner(), ("owl", "bat"), room)


@pytest.fixture
def finished(tmp_path):
    return write_run(tmp_path / "run", exemplars=2)


def save(learner, folder, times=1):
    with Checkpoints(folder) as checkpoints:
        for _ in range(times):
            checkpoints.save(learner.state, {})


def temporary_files(folder):
    return [str(f) for f in Path(folder).rglob("*") if "tmp" in f.name or f.name.startswith(".pre")]


# What reaches the disk, and in which order


def identity(status):
    return status.st_dev, status.st_ino


@pytest.fixture
def journal(monkeypatch):
    """What is flushed and what is renamed, in order: ('fsync', file) or ('rename', file, path)."""
    done = []

    def fsync(descriptor, real=os.fsync):
        done.append(("fsync", identity(os.fstat(descriptor))))
        real(descriptor)

    def renamed(real):
        def rename(source, target, **named):
            moved = [os.stat(source), *(f.stat() for f in Path(source).rglob("*"))]
            done.append(("rename", str(target), {identity(status) for status in moved}))
            real(source, target, **named)

        return rename

    monkeypatch.setattr(os, "fsync", fsync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed(getattr(os, name)))
    return done


def assert_on_disk(journal, file):
    """All that got this name was flushed before that, and the folder that keeps the name after."""
    (place,) = (i for i, done in enumerate(journal) if done[:2] == ("rename", str(file)))
    before = {done[1] for done in journal[:place] if done[0] == "fsync"}
    after = {done[1] for done in journal[place:] if done[0] == "fsync"}
    assert journal[place][2] <= before
    assert identity(file.parent.stat()) in after


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "exemplars.npz", "metrics.jsonl"])
def test_files_of_a_run_are_flushed_before_they_are_renamed_and_their_folder_after(
    tmp_path, journal, name
):
    folder = RunFolder(tmp_path)
    folder.start(small_config("icarl", tmp_path))
    folder.write_results({})
    folder.write_exemplars(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, int), ["owl"])
    folder.append({"line": 1})
    folder.cut(1)
    assert_on_disk(journal, tmp_path / name)


def test_a_new_line_is_flushed_and_so_is_the_folder_when_it_is_the_first(tmp_path, journal):
    folder = RunFolder(tmp_path)
    folder.append({"line": 1})
    file = identity(folder.metrics_file.stat())
    assert journal == [("fsync", file), ("fsync", identity(tmp_path.stat()))]
    folder.append({"line": 2})
    assert journal[2:] == [("fsync", file)]


def test_checkpoints_are_flushed_before_they_get_their_number_and_their_folder_after(
    tmp_path, learner, journal
):
    save(learner, tmp_path / "checkpoints")
    assert len(list((tmp_path / "checkpoints/0").rglob("*"))) > 5
    assert_on_disk(journal, tmp_path / "checkpoints/0")
    assert ("fsync", identity(tmp_path.stat())) in journal  # which names `checkpoints`


def test_a_saved_learner_is_flushed_before_it_gets_its_name(tmp_path, learner, journal):
    learner.save(tmp_path / "saved")
    assert_on_disk(journal, tmp_path / "saved/checkpoints")
    assert_on_disk(journal, tmp_path / "saved/learner.json")
    assert sorted(os.listdir(tmp_path / "saved")) == ["checkpoints", "learner.json"]


# Writing that fails


class Exports:
    """Stands for an engine: exporting a real program takes long."""

    def __init__(self, learner):
        self.method = learner.engine.method

    def exported(self, *_):
        return b"program" * 1000


def writers(tmp_path, learner):
    """For each command or function that writes: the call, and what it writes."""
    run, out = str(tmp_path / "run"), tmp_path / "out"
    calls = {
        name: (lambda name=name: compare.main([run, f"--{name}", str(out)]), out)
        for name in ("csv", "latex", "markdown", "page", "figure")
    }

    def raising(call):
        try:
            call()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    def cache():
        cached("images", tmp_path, 0, lambda: {"images": np.zeros(9, np.uint8)})
        return 0 if list((tmp_path / "cache").glob("*.npz")) else 2

    return {
        **calls,
        "reproduce": (lambda: reproduce.main(["--markdown", str(out)]), out),
        "report": (lambda: report.main([run]), tmp_path / "run/report.html"),
        "summary": (
            lambda: raising(lambda: replicates.write_summary(tmp_path, {})),
            tmp_path / "summary.json",
        ),
        "save": (lambda: raising(lambda: learner.save(out)), out),
        "export": (lambda: raising(lambda: export.export(learner, out)), out),
        "cache": (cache, tmp_path / "cache"),
    }


WRITERS = sorted(writers(Path(), None))


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_nothing_half_stays_and_the_next_try_works(
    tmp_path, finished, learner, monkeypatch, capsys, name
):
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export, "engine_of", lambda *_, **__: Exports(learner))
    monkeypatch.chdir(tmp_path)
    write, file = writers(tmp_path, learner)[name]
    with monkeypatch.context() as patch:

        def full(descriptor):
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", full)
        assert write() == 2
    if name == "cache":  # which nobody needs
        assert os.listdir(file) == []
    else:
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: can't write") and "No space left on device" in line
        assert not file.exists()
    assert temporary_files(tmp_path) == []
    assert write() == 0 and file.exists()


def test_an_export_that_fails_within_the_archive_leaves_none(tmp_path, learner, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "engine_of", lambda *_, **__: Exports(learner))
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", fail)
        with pytest.raises(UserError, match=r"out\.zip: No space left on device"):
            export.export(learner, tmp_path / "out.zip")
    assert os.listdir(tmp_path) == []
    export.export(learner, tmp_path / "out.zip")
    assert zipfile.is_zipfile(tmp_path / "out.zip")


def test_what_can_not_be_replaced_is_written_to_directly(tmp_path):
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writing.replace_text(pipe, "through the pipe")
    assert os.read(reader, 99) == b"through the pipe" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    link.symlink_to(file)
    for text in ("first", "second"):
        writing.replace_text(link, text)
        assert link.is_symlink() and file.read_text() == text
    writing.replace_text(Path("/dev/null"), "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_permissions_follow_the_umask(tmp_path, monkeypatch, umask, mode):
    """So that a group can share a cache."""
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "cache"))
    before = os.umask(umask)
    try:
        cached("images", tmp_path, 0, lambda: {"images": np.zeros(9, np.uint8)})
        RunFolder(tmp_path).write_results({})
    finally:
        os.umask(before)
    (file,) = (tmp_path / "cache").iterdir()
    for written in (file, tmp_path / "results.json"):
        assert stat.S_IMODE(written.stat().st_mode) == mode


# Writers that are killed

KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from cil_jax.data.cache import cached
from cil_jax.storage.run_folder import RunFolder

def killed(out, **_):
    with open(getattr(out, "name", out), "ab") as more:
        more.write(b"PK" + bytes(28) + b"images.npy")
    os.kill(os.getpid(), 9)

np.savez = killed
if sys.argv[1] == "cache":
    cached("images", Path(sys.argv[2]), 0, lambda: {"images": np.zeros(9)})
RunFolder(sys.argv[2]).write_exemplars(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, int), ["owl"])
"""


@pytest.mark.parametrize("what", ["cache", "run"])
def test_what_a_killed_writer_left_goes_with_the_next_start(tmp_path, monkeypatch, what):
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "cache"))
    command = [sys.executable, "-c", KILLED, what, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, check=False).returncode == -9
    (left,) = temporary_files(tmp_path)
    assert os.path.getsize(left) > 0
    if what == "cache":
        cached("images", tmp_path, 0, lambda: {"images": np.zeros(9)})
    else:
        RunFolder(tmp_path).check(small_config("icarl", tmp_path))  # it counts as empty
        with RunFolder(tmp_path).locked():
            pass
    assert temporary_files(tmp_path) == []


def test_what_a_living_writer_writes_stays(tmp_path):
    with writing.scratch_folder(tmp_path) as scratch, writing.replaced(tmp_path / "a") as out:
        (scratch / "part").write_text("x")
        out.write(b"x")
        writing.sweep(tmp_path)
        writing.replace_text(tmp_path / "b", "another")
        assert len(temporary_files(tmp_path)) == 2 and (scratch / "part").exists()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def no_flock(*_):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def test_without_locks_only_what_is_a_day_old_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_flock)
    with writing.replaced(tmp_path / "file"):
        writing.sweep(tmp_path)
        (left,) = temporary_files(tmp_path)
        status = os.stat(left)
        os.utime(left, (status.st_atime, status.st_mtime - 25 * 3600))
        writing.sweep(tmp_path)
        assert temporary_files(tmp_path) == []
        Path(left).touch()


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """Between being made and being locked it looks like one that was left."""
    real, swept = fcntl.flock, []

    def flock(descriptor, how):
        if not swept:
            swept.extend(temporary_files(tmp_path))
            writing.remove(Path(swept[0]))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    writing.replace_text(tmp_path / "file", "text")
    assert swept and os.listdir(tmp_path) == ["file"]
    swept.clear()
    with writing.scratch_folder(tmp_path) as scratch:
        assert swept and scratch.is_dir()


def test_what_killed_writers_of_older_versions_left_goes_and_what_others_own_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path))
    with (tmp_path / "tmpab12cd_x.tmp").open("wb") as out:
        np.savez(out, images=np.zeros(1000))
    for name in ("tmpab12cd_y.tmp", "tmpnotes.tmp", ".cil_jax-notes.tmp"):
        (tmp_path / name).write_text("of another program")
    link = tmp_path / ".cil_jax-0123456789abcdef.tmp"
    link.symlink_to(tmp_path / "tmpnotes.tmp")
    cached("images", tmp_path, 0, lambda: {"images": np.zeros(9)})
    there = {file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"}
    assert there == {"tmpab12cd_y.tmp", "tmpnotes.tmp", ".cil_jax-notes.tmp", link.name}


def test_what_a_killed_preparation_left_goes_and_what_others_own_stays(tmp_path):
    ours = (".prepare-ab12cd_x/content", ".cil_jax-0123456789abcdef.tmp/made")
    for name in (*ours, ".prepare-mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".prepare-ab12cd_y").mkdir()
    (tmp_path / ".prepare-ab12cd_y/notes").write_text("of another program")
    with pytest.raises(UserError, match="there is no archive"):
        prepare.prepare(tmp_path, tmp_path / "none")
    assert sorted(os.listdir(tmp_path)) == [".prepare-ab12cd_y", ".prepare-mine"]


def test_a_learner_can_be_saved_where_a_save_was_killed(tmp_path, learner):
    left = tmp_path / "saved/.cil_jax-0123456789abcdef.tmp/checkpoints/unfinished"
    left.mkdir(parents=True)
    learner.save(tmp_path / "saved")
    assert sorted(os.listdir(tmp_path / "saved")) == ["checkpoints", "learner.json"]


# Paths that a library below reads as something else


def restored(folder, learner):
    blank = jax.tree.map(np.zeros_like, jax.device_get(learner.state.weights))
    with Checkpoints(folder) as checkpoints:
        found, _ = checkpoints.restore(learner.state.replace(weights=blank), pytest.fail)
    return found


@pytest.mark.parametrize("name", ["[lr=0.1]", "a\\b", "b?*", os.fsdecode(b"byte\xff")])
def test_checkpoints_can_be_read_wherever_they_are_saved(tmp_path, learner, name):
    save(learner, tmp_path / name / "checkpoints")
    found = restored(tmp_path / name / "checkpoints", learner)
    chex.assert_trees_all_equal(found, learner.state)
    assert os.listdir(tmp_path) == [name]


def test_a_checkpoint_that_can_not_be_read_back_replaces_none(tmp_path, learner, monkeypatch):
    folder = tmp_path / "[1]"
    save(learner, folder, times=2)
    monkeypatch.setattr(checkpoint, "_MISREAD", checkpoint.re.compile("(?!)"))
    with pytest.raises(UserError, match="can't be read back and was removed; older ones stay"):
        save(learner, folder)
    monkeypatch.undo()
    assert sorted(os.listdir(folder)) == ["0", "1"]
    chex.assert_trees_all_equal(restored(folder, learner), learner.state)


def test_where_no_harmless_path_can_be_had_the_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "[t]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "[t]"))
    with pytest.raises(UserError, match=r"can't be saved in .*\[r\]: choose a folder whose path"):
        Checkpoints(tmp_path / "[r]").__enter__()
    with Checkpoints(tmp_path / "r"):
        pass


# What lies in `checkpoints` and is not a checkpoint


@pytest.fixture
def two_checkpoints(tmp_path, learner):
    folder = tmp_path / "checkpoints"
    save(learner, folder, times=2)
    return folder


def link_to_a_checkpoint(folder):
    (folder / "1").rename(folder.parent / "moved")
    (folder / "1").symlink_to(folder.parent / "moved")
    return "1"


def file_named_as_one(folder):
    (folder / "77").write_text("notes")
    return "77"


def copy_of_one(folder):
    shutil.copytree(folder / "1", folder / "0009")
    return "0009"


def folder_of_others(folder):
    (folder / "2").mkdir()
    (folder / "2/photographs").mkdir()
    return "2"


@pytest.mark.parametrize(
    "put", [link_to_a_checkpoint, file_named_as_one, copy_of_one, folder_of_others]
)
def test_what_is_no_checkpoint_is_passed_over_and_stays(two_checkpoints, learner, put):
    name, said = put(two_checkpoints), []
    before = {f: f.lstat().st_ino for f in (two_checkpoints / name).parent.parent.rglob("*")}
    with Checkpoints(two_checkpoints) as checkpoints:
        assert checkpoints.restore(learner.state, said.append) is not None
        assert said == [f"{two_checkpoints / name} is not a checkpoint; it is ignored"]
        for _ in range(3):
            checkpoints.save(learner.state, {})
    kept = [f for f in before if f.is_relative_to(two_checkpoints / name) or "moved" in f.parts]
    assert kept and all(f.lstat().st_ino == before[f] for f in kept)
    numbers = sorted(int(f.name) for f in two_checkpoints.iterdir() if f.name != name)
    assert len(numbers) == 2 and numbers[0] > 1


def test_what_has_to_go_is_removed_and_no_link_is_followed(two_checkpoints, learner):
    outside = two_checkpoints.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    unfinished = two_checkpoints / checkpoint.UNFINISHED
    for put in (lambda: unfinished.symlink_to(outside), lambda: unfinished.write_text("a file")):
        put()
        with Checkpoints(two_checkpoints) as checkpoints:
            checkpoints.sweep()
            assert not os.path.lexists(unfinished)
            checkpoints.save(learner.state, {})
    (newest,) = two_checkpoints.iterdir()
    (newest / "link").symlink_to(outside)
    save(learner, two_checkpoints)
    assert not newest.exists() and (outside / "file").read_text() == "mine"
