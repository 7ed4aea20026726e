"""Files that parse and are not what they must be: readers say so in one line, or do without."""

import copy
import gc
import hashlib
import itertools
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import yaml
from conftest import small_config, write_run

import cil_jax
from cil_jax.commands import compare, report
from cil_jax.errors import UserError
from cil_jax.report import published_results
from cil_jax.storage import checkpoint, replicates
from cil_jax.storage.checkpoint import Checkpoints, damage_of
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained import saved_learner
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run
from cil_jax.training.saving import Saver

WRONG = (-1, 10**400, 0.5, float("nan"), "text", [], [None], {"a": 1})
DELETED = object()


def paths_of(value, depth):
    """Where values lie in nested ones; of a list the first only."""
    if not depth:
        return
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))[:1]
    for key in keys:
        yield (key,)
        if isinstance(value[key], dict | list):
            yield from ((key, *rest) for rest in paths_of(value[key], depth - 1))


def mutants(value, depth):
    """The value with one of its parts of another type, or without it.

    Each part is left out and None, and takes three of the other wrong values by turns.
    """
    others = itertools.cycle(WRONG)
    for path in paths_of(value, depth):
        for wrong in (DELETED, None, *itertools.islice(others, 3)):
            mutant = copy.deepcopy(value)
            *way, last = path
            place = mutant
            for key in way:
                place = place[key]
            if wrong is DELETED:
                del place[last]
            else:
                place[last] = wrong
            yield path, wrong, mutant


def survived(action):
    """Whether an action works; it may refuse with a UserError of one line."""
    try:
        action()
    except UserError as error:
        assert error.lines and all(str(line).strip() for line in error.lines)
        assert all(len(line) < 2000 and "\n" not in line for line in error.lines)
        return False
    return True


def all_survive(value, depth, write, action):
    """Each mutant of a value leads to a UserError or to nothing; returns how many were refused."""
    n_refused = n_all = 0
    for path, wrong, mutant in mutants(value, depth):
        write(mutant)
        try:
            n_refused += not survived(action)
        except Exception as error:
            raise AssertionError(f"{path} = {str(wrong)[:40]}: {error!r}") from error
        n_all += 1
    assert n_refused > n_all / 2
    write(value)
    assert survived(action)


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", exemplars=1, sizes=(2, 1), matrix=((0.9,), (0.5, 0.8)))


@pytest.fixture
def read(run, monkeypatch):
    """What the commands that read a folder do; figures are drawn in tests of their own."""
    monkeypatch.setattr("cil_jax.report.draw", lambda *_: None)
    monkeypatch.setattr(
        published_results, "rows", lambda: []
    )  # which takes a while to compare with
    flags = [f"--{name}={run.path / name}" for name in ("csv", "latex", "markdown", "page")]

    def read():
        run.settings()
        run.confusions(run.results())  # what is refused here is refused at once by both commands
        run.epochs(run.results())
        codes = report.main([str(run.path)]), compare.main([str(run.path), *flags])
        if 2 in codes:
            raise UserError("refused")

    return read


def test_results_of_wrong_types_are_refused_in_a_line(run, read, capsys):
    text = json.loads(run.results_file.read_text())
    for name in ("linear", "ncm"):  # one classifier's fields are enough
        del text["classifiers"][name]
    text["uses_all_data"] = []
    all_survive(text, 3, lambda value: run.results_file.write_text(json.dumps(value)), read)
    assert "Traceback" not in capsys.readouterr().err


def test_lines_of_measurements_of_wrong_types_are_left_out_and_named(run):
    lines = run.metrics_file.read_text().splitlines()

    def read():
        run.epochs(run.results())
        if damaged := run.damaged_lines():
            raise UserError(*damaged)

    for n in (0, len(lines) - 1):

        def write(value, n=n):
            changed = [*lines[:n], json.dumps(value), *lines[n + 1 :]]
            run.metrics_file.write_text("".join(f"{line}\n" for line in changed))

        all_survive(json.loads(lines[n]), 3, write, read)


def test_a_config_of_wrong_types_is_refused_in_a_line(run, read):
    settings = yaml.safe_load(run.config_file.read_text())
    settings = {key: settings[key] for key in ("method", "memory")} | {"versions": {"jax": "1"}}
    wanted = []
    for _, _, mutant in mutants(settings, 2):
        run.config_file.write_text(yaml.safe_dump(mutant))
        wanted.append(survived(read))
    assert any(wanted) and not all(wanted)  # what an older version wrote is read


def test_a_summary_of_wrong_types_is_refused_in_a_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(published_results, "rows", lambda: [])
    summary = json.loads(json.dumps(replicates.summarize([run.results(), run.results()])))
    summary["classifiers"] = {"nme": summary["classifiers"]["nme"]}
    folder = tmp_path / "group"
    folder.mkdir()
    flags = [f"--{name}={tmp_path / name}" for name in ("csv", "latex", "markdown", "page")]

    def read():
        replicates.read_summary(folder)  # what is refused here is refused at once
        if compare.main([str(folder), *flags]) == 2:
            raise UserError("refused")

    file = folder / replicates.SUMMARY
    all_survive(summary, 3, lambda value: file.write_text(json.dumps(value)), read)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 6, 6, 3), np.float32)}, "images: float32"),
        ({"images": np.zeros((2, 6, 6), np.uint8)}, "images: uint8"),
        ({"images": np.zeros((2, 6, 6, 5), np.uint8)}, "images: uint8"),
        ({"images": np.zeros((2, 0, 6, 3), np.uint8)}, "no pixels"),
        ({"images": np.array([{}])}, "Python objects"),
        ({"labels": np.zeros(3, int)}, "labels: int64"),
        ({"labels": np.zeros(2)}, "labels: float64"),
        ({"labels": np.array(["a", "b"])}, "labels: <U1"),
        ({"labels": None}, "labels is missing"),
    ],
)
def test_exemplars_of_another_form_are_refused_in_a_line(run, arrays, said):
    whole = {"images": np.zeros((2, 6, 6, 3), np.uint8), "labels": np.array([0, 1])}
    arrays = {k: v for k, v in {**whole, **arrays}.items() if v is not None}
    np.savez(run.exemplars_file, **arrays)
    with pytest.raises(UserError, match=r"exemplars\.npz is damaged") as error:
        run.exemplars()
    assert said in str(error.value)


def test_exemplars_that_claim_more_than_the_file_has_take_no_memory(run):
    header = (
        b"\x93NUMPY\x01\x00\x76\x00"
        + repr({"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 1, 3)})
        .encode()
        .ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(run.exemplars_file, "w") as archive:
        archive.writestr("images.npy", header)
        archive.writestr("labels.npy", header)
    with pytest.raises(UserError, match="images has another size than its header says"):
        run.exemplars()
    with zipfile.ZipFile(run.exemplars_file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(10**7))
    with pytest.raises(UserError, match="images is too large"):
        run.exemplars()


@pytest.mark.parametrize("content", [b"", b"PK", b"text", bytes(1000), b"\x80\x04."])
def test_exemplars_that_are_no_archive_are_refused_in_a_line(run, content):
    run.exemplars_file.write_bytes(content)
    with pytest.raises(UserError, match=r"exemplars\.npz is damaged"):
        run.exemplars()


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "config.yaml", "exemplars.npz"])
def test_a_pipe_in_a_run_folder_is_not_opened(run, read, name):
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    assert not survived(read)


@pytest.mark.parametrize(
    "text", ["[" * 20_000, '{"a":' * 20_000, "[]", "null", "1" * 5000, "\ud800"]
)
def test_json_of_brackets_and_other_bare_values_is_refused_in_a_line(run, read, text):
    content = f"{text}\n".encode("utf-8", "surrogatepass")
    run.metrics_file.write_bytes(content)
    (line,) = run.damaged_lines()
    assert "metrics.jsonl, line 1, is damaged" in line and "\n" not in line and len(line) < 2000
    assert survived(read)  # the line is left out
    run.results_file.write_bytes(content)
    assert not survived(read)


def test_results_may_not_name_more_classes_than_tasks_have(run):
    results = json.loads(run.results_file.read_text())
    run.results_file.write_text(json.dumps({**results, "class_names": ["a"] * 200_000}))
    with pytest.raises(UserError, match=r"class_names: Expected `array` of length <= 100000"):
        run.results()
    run.results_file.write_text(json.dumps({**results, "class_names": ["a"] * 4}))
    with pytest.raises(UserError, match="class_names: 4 names, but the tasks have 3 classes"):
        run.results()


# What a real run leaves


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run of two tasks, and its learner saved alone."""
    folder = tmp_path_factory.mktemp("learned")
    config = small_config("icarl", folder / "run", classes=4, epochs=1)
    cil_jax.run(config)
    cil_jax.load(folder / "run").save(folder / "alone")
    return folder


@pytest.fixture
def folder(learned, tmp_path):
    """A copy of both."""
    shutil.copytree(learned, tmp_path / "copy")
    return tmp_path / "copy"


def newest(run):
    return max((run / "checkpoints").glob("[0-9]*"), key=lambda file: int(file.name))


def make_sums_fit(folder):
    """What an attacker does who changes a checkpoint."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != checkpoint.SUMS]
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder).as_posix()}\n"
        for f in files
    ]
    (folder / checkpoint.SUMS).write_text("".join(lines))


def test_all_that_a_run_writes_is_read_back(folder):
    """Each key has its place in the schema: what has none would be dropped."""
    run = RunFolder(folder / "run")
    assert run.results() == json.loads(run.results_file.read_text())
    assert run.settings() == yaml.safe_load(run.config_file.read_text())
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert run.measurements() == lines
    with Checkpoints(run.checkpoints) as checkpoints:
        template = cil_jax.load(run.path).state
        _, record = checkpoints.restore(template, print)
    assert record == json.loads((newest(run.path) / "about.json").read_text())["record"]
    summary = replicates.summarize([run.results()])
    replicates.write_summary(folder, summary)
    assert replicates.read_summary(folder) == json.loads(json.dumps(summary))


def test_a_saved_learner_of_wrong_types_is_refused_in_a_line(folder, monkeypatch):
    file = folder / "alone" / saved_learner.LEARNER
    about = json.loads(file.read_text())
    few = ("method", "backbone", "memory", "normalization", "pad", "mirror")
    about["settings"] = {key: about["settings"][key] for key in few}
    about["settings"] |= {"objective": "sigmoid", "memory": 20}

    def load():
        cil_jax.load(folder / "alone")

    all_survive(about, 2, lambda value: file.write_text(json.dumps(value)), load)


def test_a_run_to_load_of_wrong_types_is_refused_in_a_line(folder):
    file = folder / "run" / "results.json"
    results = json.loads(file.read_text())
    changed = {key: results[key] for key in ("class_names", "image_shape", "augmentation")}

    def write(value):
        rest = {key: results[key] for key in results if key not in changed}
        file.write_text(json.dumps({**rest, **value}))

    all_survive(changed, 2, write, lambda: cil_jax.load(folder / "run"))


def test_a_checkpoint_whose_sums_were_made_to_fit_is_refused_in_a_line(folder):
    """Its about.json, for one who continues the run."""
    run = Run(small_config("icarl", folder / "run", classes=4, epochs=1, resume=True),
              RunFolder(folder / "run"), Callback())  # fmt: skip
    learner, there = run.new_learner(), newest(folder / "run")
    about = json.loads((there / "about.json").read_text())
    about["schema"] = dict(list(about["schema"].items())[:2]) | about["schema"]
    history = about["record"]["history"]
    history["scores"] = {"nme": history["scores"]["nme"]} | history["scores"]

    def write(value):
        (there / "about.json").write_text(json.dumps(value))
        make_sums_fit(there)

    def restore():
        with Checkpoints(run.folder.checkpoints) as checkpoints:
            run._saver = Saver(checkpoints, run.folder)
            run._restored(learner)

    few = {**about, "schema": {}}
    for _, _, mutant in mutants(few, 4):
        write({**mutant, **({"schema": about["schema"]} if mutant.get("schema") == {} else {})})
        survived(restore)
    write(about)
    assert survived(restore)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("content", [b"", b'{"a":' * 20_000])
def test_arrays_that_orbax_cannot_read_are_refused_in_a_line(folder, content):
    there = newest(folder / "run")
    names = "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "array_metadatas/process_0"
    for file in (there / checkpoint.LEARNER / name for name in names):
        before = file.read_bytes()
        file.write_bytes(content)
        make_sums_fit(there)
        survived(lambda: cil_jax.load(folder / "run"))
        file.write_bytes(before)
    make_sums_fit(there)
    assert survived(lambda: cil_jax.load(folder / "run"))
    gc.collect()  # Orbax leaves coroutines that were never awaited: they are reported here


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/hostname", "pipe", "with\0nul", "x" * 5000, "learner"]
)
def test_sums_are_read_for_the_files_that_are_there(folder, name, monkeypatch):
    there = newest(folder / "run")
    os.mkfifo(there / "pipe")
    with (there / checkpoint.SUMS).open("a") as out:
        out.write(f"{'0' * 64}  {name}\n")
    opened = []
    real = checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda file: opened.append(file) or real(file))
    said = damage_of(there)
    assert "no such file" in said and "\0" not in said and len(said) < 500
    assert all(file.is_relative_to(there) and file.is_file() for file in opened)
