"""A learner out of a run's folder: it answers as the run did, learns on, and travels.

None of it reads the data set of the run.
"""

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from PIL import Image
from test_cli import content
from test_run import Stopper, resumed

import cil_jax
from cil_jax import data, report
from cil_jax.commands import export, predict
from cil_jax.data.scenario import create
from cil_jax.errors import UserError
from cil_jax.learner import Normalizer
from cil_jax.methods import METHODS
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained import teaching
from cil_jax.trained.saved_learner import Answers
from cil_jax.training import build
from cil_jax.training.signals import Stopped

DIGITS = data.load("digits")
STOPS = {
    "unlearned": ("epoch_done", 0, 0),
    "first task": ("task_done", 0),
    "second task begun": ("epoch_done", 1, 0),
    "second task": ("task_done", 1),
}


@pytest.fixture(autouse=True)
def no_data_set(monkeypatch):
    """Here nobody reads one, unless a test says so."""

    def read(*_, **__):
        raise AssertionError("the data set was read")

    monkeypatch.setattr(build, "dataset_of", read)
    monkeypatch.setattr("cil_jax.training.loop.dataset_of", read)


def scenario():
    return create(DIGITS, task_size=2, classes=5)


def run(config, stop=None):
    """Runs until an event, or to the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cil_jax.training.loop.dataset_of", lambda _: DIGITS)
        with contextlib.suppress(Stopped):
            cil_jax.run(config, Stopper(*stop) if stop else None)


# All methods go through tests/test_every_method.py.
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("ewc", "joint", "lwf")]


@pytest.fixture(scope="module", params=["icarl", *OTHERS])
def config(request, tmp_path_factory):
    """Of a whole run, beside whose folder are copies of how it was before."""
    folder = tmp_path_factory.mktemp("saved")
    config = small_config(request.param, folder / "run")
    for name, stop in STOPS.items():
        run(config, stop)
        shutil.copytree(config.out, folder / name)
        config = resumed(config)
    run(config)
    return config


def before(config, stop):
    """The folder of the run as it was at one of the STOPS."""
    return Path(config.out).parent / stop


icarl_only = pytest.mark.parametrize("config", ["icarl"], indirect=True)


def new_digits(n_classes=3):
    """Digits that no run here knows: images, labels and names."""
    names = [str(c) for c in range(10) if c not in scenario().class_order][:n_classes]
    labels = DIGITS.train_labels
    rows = np.isin(labels, [int(name) for name in names])
    places = np.searchsorted([int(name) for name in names], labels[rows])
    return DIGITS.train_images[rows], places, names


def test_a_loaded_learner_answers_as_its_run_did(config):
    learner = cil_jax.load(config.out)
    images, labels, _ = scenario().test_set()
    assert learner.class_names == scenario().class_names
    measured = RunFolder(config.out).confusions(RunFolder(config.out).results())
    assert learner.classifiers == [name for name in measured if name != "ncm"]
    for name in learner.classifiers:
        answers = learner.predict(images, name)
        confusion = np.zeros((5, 5), int)
        np.add.at(confusion, (labels, answers.labels), 1)
        assert (confusion == measured[name].matrix()).all() and answers.classifier == name
        assert answers.names == [learner.class_names[label] for label in answers.labels]
        best = zip(answers.names, answers.scores.max(axis=1).tolist(), strict=True)
        assert answers.top(1) == [[one] for one in best]
    assert learner.predict(images).classifier == learner.engine.method.headline


def test_scores_are_what_they_are_said_to_be(config):
    learner = cil_jax.load(config.out)
    answers = learner.predict(DIGITS.test_images[:9], "linear")
    assert answers.scores.shape == (9, 5) and answers.scores.dtype == np.float32
    if getattr(config, "objective", "softmax") == "softmax":
        assert answers.meaning == "probability over all known classes"
        np.testing.assert_allclose(answers.scores.sum(1), 1.0, rtol=1e-5)
    else:
        assert answers.meaning == "probability of each class by itself"
        assert np.all((answers.scores > 0) & (answers.scores < 1))
    if "nme" not in learner.classifiers:
        return
    answers = learner.predict(DIGITS.test_images[:9], "nme")
    features = np.asarray(learner.engine.embed(learner.state, DIGITS.test_images[:9], False))
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = features @ np.asarray(learner.state.means[:5]).T
    np.testing.assert_allclose(answers.scores, cosines, rtol=1e-4, atol=1e-5)


def test_the_answer_comes_first_among_equal_scores():
    scores = np.array([[0.5, 1.0, 1.0], [1.0, 0.2, 0.3]], np.float32)
    answers = Answers(np.array([2, 0]), scores, ("owl", "bat", "cat"), "linear", "")
    assert answers.names == ["cat", "owl"]
    assert [[name for name, _ in best] for best in answers.top(2)] == [
        ["cat", "bat"],
        ["owl", "cat"],
    ]


@icarl_only
def test_answers_do_not_depend_on_how_many_images_are_asked_about(config):
    learner = cil_jax.load(config.out)
    images = np.concatenate([DIGITS.test_images] * 2)[:600]
    scores = learner.predict(images).scores
    for n in (1, 16, 17, 300):
        np.testing.assert_allclose(
            learner.predict(images[:n, ..., 0]).scores, scores[:n], rtol=1e-5
        )
    assert learner.predict(images[:0]).scores.shape == (0, 5)
    before = type(learner.engine).answers._cache_size()
    learner.predict(images[:5]), learner.predict(images[:99])
    assert type(learner.engine).answers._cache_size() == before


def test_teaching_is_what_the_run_would_have_done(config):
    """From a run that stopped in the middle of its second task: that task, from its images.

    It is the one with most images, and with the class that has most, so that pools are of one size.
    """
    stopped, images = before(config, "second task begun"), DIGITS.test_images
    files = content(stopped)
    learner = cil_jax.load(stopped)
    assert content(stopped) == files
    assert learner.class_names == scenario().class_names[:2]
    first = cil_jax.load(before(config, "first task"))
    np.testing.assert_array_equal(learner.predict(images).scores, first.predict(images).scores)
    for name in ("task", "epoch", "step", "n_old", "n_seen", "task_of"):
        chex.assert_trees_all_equal(getattr(learner.state, name), getattr(first.state, name))

    task = scenario().task(1)
    lesson = (task.images, task.labels - 2, scenario().class_names[2:4])
    if METHODS[config.method].keeps_all_data:
        with pytest.raises(UserError, match="trains on all images of all classes"):
            learner.learn(*lesson)
        return
    heard = []
    assert learner.learn(*lesson, progress=heard.append) is learner
    assert [(x.task, x.epoch) for x in heard] == [(1, 0), (1, 1)]
    end = cil_jax.load(before(config, "second task"))
    assert learner.class_names == end.class_names
    same = ("weights", "own", "memory", "means", "task", "epoch", "n_old", "n_seen", "task_of")
    for name in same:
        chex.assert_trees_all_equal(getattr(learner.state, name), getattr(end.state, name))


@icarl_only
def test_more_classes_than_the_run_had_room_for(config, tmp_path):
    learner, (images, labels, names) = cil_jax.load(config.out), new_digits()
    assert learner.learn(images, labels, names, epochs=8).state.means.shape[0] == 10
    assert int(learner.engine.method.n_open(learner.state)) == 8
    assert learner.class_names == (*scenario().class_names, *names)
    assert learner.state.memory.counts(10).tolist() == [20 // 8] * 8 + [0] * 2
    assert np.mean(learner.predict(images).labels - 5 == labels) > 0.5
    old = learner.predict(scenario().test_set()[0])
    assert old.scores.shape[1] == 8 and set(scenario().class_names) <= set(old.names)

    learner.save(tmp_path / "taught")
    again = cil_jax.load(tmp_path / "taught")
    chex.assert_trees_all_equal(again.state, learner.state)
    assert again.class_names == learner.class_names
    np.testing.assert_array_equal(again.predict(images).scores, learner.predict(images).scores)
    assert (again.config.pad, again.config.mirror) == (1, "no")


@icarl_only
def test_another_seed_teaches_otherwise_and_the_same_one_the_same(config):
    def taught(seed):
        learner = cil_jax.load(config.out).learn(*new_digits(), epochs=1, seed=seed)
        return np.asarray(learner.state.weights.params["head"]["kernel"])

    np.testing.assert_array_equal(taught(3), taught(3))
    assert np.any(taught(3) != taught(None))


@icarl_only
def test_a_lesson_is_trained_as_a_later_task(config):
    """Not as the first one, of which a recipe may say something else."""
    learner, heard = cil_jax.load(config.out), []
    learner.config = dataclasses.replace(learner.config, epochs=1, first_epochs=3)
    learner.learn(*new_digits(1), progress=heard.append)
    assert [position.epoch for position in heard] == [0]


@icarl_only
def test_a_lesson_that_can_not_be_learned_is_refused_and_changes_nothing(config):
    learner, (images, labels, names) = cil_jax.load(config.out), new_digits()
    known, state = learner.class_names, learner.state
    for lesson, message in (
        ((images, labels, [*names[:2], known[0]]), f"class '{known[0]}' is known already"),
        ((images, labels, ["owl", "owl", "bat"]), "two classes are named 'owl'"),
        ((images, labels, names[:2]), "labels lie in 0..2; with 2 new classes they must lie in 0"),
        ((images, labels - 1, names), "labels lie in -1..1"),
        ((images, labels, [*names, "owl"]), "class 'owl' has no image"),
        ((images, labels[1:], names), "images need integers ["),
        ((images, labels.astype(float), names), "the labels are float64"),
        ((images[:0], labels[:0], names), "there is nothing to learn"),
        ((images, labels, []), "there is nothing to learn"),
        ((images / 255, labels, names), "the images are float64; pixels must be uint8, 0..255"),
        ((images[:, :7], labels, names), "takes [N, 8, 8, 1]: 8 x 8 pixels, grey"),
        ((images[0], labels, names), "the images are an array [8, 8, 1]; this learner takes"),
        ((np.repeat(images, 3, axis=3), labels, names), "this learner takes [N, 8, 8, 1]"),
        ((images, labels, [*"abcdefghijklmnopq"]), "has no image"),
    ):
        with pytest.raises(UserError) as error:
            learner.learn(*lesson)
        assert message in str(error.value)
    with pytest.raises(UserError, match="the memory holds 20 exemplars, too few for 22 classes"):
        learner.learn(images[:17], np.arange(17), [f"class {c}" for c in range(17)])
    with pytest.raises(UserError, match="epochs is 0; it must be at least 1"):
        learner.learn(images, labels, names, epochs=0)
    with pytest.raises(UserError, match="unknown classifier 'nmee': did you mean 'nme'"):
        learner.predict(images, "nmee")
    learner.config = dataclasses.replace(learner.config, rate=1e30)
    with pytest.raises(UserError, match=r"no longer finite in epoch 1, .* is unchanged"):
        learner.learn(images, labels, names, epochs=1)
    assert learner.class_names == known and learner.state is state


@icarl_only
def test_what_can_not_be_loaded_is_said(config, tmp_path):
    unlearned = before(config, "unlearned")
    for folder, message in (
        (unlearned, "has not learned its first task yet: continue it with --resume"),
        (tmp_path, "holds neither a run nor a saved learner"),
    ):
        with pytest.raises(UserError, match=message):
            cil_jax.load(folder)
    shutil.copytree(config.out, tmp_path / "old")
    results = tmp_path / "old/results.json"
    facts = json.loads(results.read_text())
    del facts["class_names"]
    results.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="lacks class_names: it was written by an older"):
        cil_jax.load(tmp_path / "old")
    results.write_text("{")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        cil_jax.load(tmp_path / "old")
    with pytest.raises(UserError, match="is not empty: choose another folder"):
        cil_jax.load(config.out).save(tmp_path / "old")


@pytest.fixture
def photographs(tmp_path):
    """A folder with pictures of two new digits, in colour and larger, and one that is none."""
    images, labels, names = new_digits(2)
    folder = tmp_path / "photographs"
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images[labels == label][:4]):
            larger = np.repeat(np.repeat(image, 4, 0), 4, 1)
            Image.fromarray(np.repeat(larger, 3, 2)).save(folder / name / f"{i}.png")
    return folder, names


@icarl_only
def test_predict_names_what_is_in_pictures(config, photographs, capsys):
    folder, names = photographs
    learner = cil_jax.load(config.out)
    one = str(folder / names[0] / "2.png")
    assert predict.main([config.out, one, str(folder), "--top", "2"]) == 0
    head, about, first, *others = capsys.readouterr().out.splitlines()
    assert head == (
        f"{config.out}: 5 classes, classified by nme (cosine to the mean of the class' exemplars)"
    )
    assert about == report.caption(RunFolder(config.out).results())
    image = data.read_folder(folder, (8, 8, 1)).images[2]
    (best, score), (second, other) = learner.predict(image[None]).top(2)[0]
    assert first == f"{one}  {best} {score:.3f}  {second} {other:.3f}"
    assert [line.split("  ")[0] for line in others] == [
        str(folder / name / f"{i}.png") for name in names for i in range(4)
    ]


@icarl_only
def test_pictures_that_can_not_be_read_are_named_and_the_others_answered(
    config, photographs, capsys
):
    folder, names = photographs
    (folder / names[0] / "0.png").write_text("no picture")
    (folder / "more.txt").write_text("nor this")
    flags = [config.out, str(folder), "nothing.png", "--json", "--classifier", "linear"]
    assert predict.main(flags) == 2
    out, error = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["run"], answer["classifier"]) == (config.out, "linear")
    assert len(answer["pictures"]) == 7 and len(answer["pictures"][0]["answers"]) == 3
    assert set(answer["pictures"][0]["answers"][0]) == {"class", "score"}
    lines = error.splitlines()
    assert lines[0] == "error: could not read 3 of the images:" and len(lines) == 4
    assert lines[1:] == [f"  {line}" for line in answer["unread"]]
    assert "0.png: not an image in a known" in error and "more.txt: not an image" in error
    assert "nothing.png: can't be read: No such file or directory" in error


@icarl_only
def test_a_folder_of_pictures_teaches(config, photographs, capsys):
    folder, names = photographs
    learner = cil_jax.load(config.out)
    lesson = data.read_folder(folder, learner.image_shape)
    assert lesson.images.shape == (8, 8, 8, 1) and lesson.class_names == names
    assert lesson.labels.tolist() == [0] * 4 + [1] * 4
    images, labels, _ = new_digits(2)
    for label in (0, 1):
        larger = lesson.images[lesson.labels == label].astype(int)
        assert np.abs(larger - images[labels == label][:4]).mean() < 20  # enlarged, and back


def test_a_folder_that_can_not_teach_says_all_that_is_wrong(photographs):
    folder, names = photographs
    (folder / "empty").mkdir()
    (folder / names[0] / "notes.txt").write_text("none")
    Image.new("L", (9, 9)).save(folder / "stray.png")
    with pytest.raises(UserError) as error:
        data.read_folder(folder, (8, 8, 1))
    text = str(error.value)
    assert "has 3 problems" in text and "class 'empty' has no image" in text
    assert "notes.txt: not an image" in text and "stray.png: has no label" in text
    with pytest.raises(UserError, match="there is no folder"):
        data.read_folder(folder / "nothing", (8, 8, 1))


@pytest.mark.parametrize("config", ["icarl", OTHERS[-1]], indirect=True)
def test_an_exported_program_needs_neither_cil_jax_nor_flax(config, tmp_path, capsys):
    """The very lines that it says use it, in a process of their own, with images put in."""
    file = tmp_path / "learner.zip"
    assert export.main([config.out, "--out", str(file)]) == 0
    use = capsys.readouterr().out.partition("\n\n")[2]
    answers = cil_jax.load(config.out).predict(DIGITS.test_images[:40])
    np.save(tmp_path / "images.npy", DIGITS.test_images[:40])
    placeholder = "np.zeros((1, 8, 8, 1), np.uint8)"
    assert use.count(placeholder) == 1 and answers.meaning in use
    code = use.replace(placeholder, "np.load('images.npy')") + (
        "import sys; assert not {'cil_jax', 'flax'} & sys.modules.keys()\n"
        "np.save('scores.npy', scores); assert program.call(images[:3]).shape[0] == 3\n"
    )
    python = [sys.executable, "-c", code]
    done = subprocess.run(python, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and eval(done.stdout) == answers.names, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), answers.scores, atol=1e-5)

    if config.method == "icarl":  # its exemplars stay at home
        with zipfile.ZipFile(file) as parts:
            # No time of writing: the same learner is the same archive.
            assert {part.date_time for part in parts.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            program = parts.read("program.bin")
        state = cil_jax.load(config.out).state
        mean, picture = np.asarray(state.means[0]), np.asarray(state.memory.images[0])
        assert mean.tobytes() in program  # a picture would be found as well
        assert picture.any() and picture.tobytes() not in program

    assert export.main([config.out, "--out", str(file)]) == 2
    assert "exists already: choose another --out" in capsys.readouterr().err
    assert export.main([config.out, "--out", str(file), "--classifier", "knn"]) == 2
    assert "unknown classifier 'knn'" in capsys.readouterr().err


@icarl_only
def test_an_exported_program_answers_with_seen_classes_only(config):
    """From a learner with room for a class that its run had not met yet."""
    learner = cil_jax.load(before(config, "second task"))
    assert (len(learner.class_names), len(learner.state.means)) == (4, 5)
    images = DIGITS.test_images[:3]
    for name in learner.classifiers:
        exported = learner.engine.exported(learner.state, name, ["cpu"])
        scores = jax.export.deserialize(bytearray(exported)).call(images)
        assert scores.shape == (3, 4)
        np.testing.assert_allclose(scores, learner.predict(images, name).scores, atol=1e-5)


def test_a_picture_becomes_of_the_size_and_colours_that_are_asked_for(tmp_path):
    colours = np.zeros((4, 8, 3), np.uint8)
    colours[:, 2:6] = (255, 0, 0)
    Image.fromarray(colours).save(tmp_path / "red.png")
    red = data.image_files.read(tmp_path / "red.png", (4, 4), 3)
    assert np.all(red == (255, 0, 0)) and red.shape == (4, 4, 3)  # the middle
    assert data.image_files.read(tmp_path / "red.png", 4, 1)[0, 0, 0] == 76  # 299 / 1000 of 255
    assert data.image_files.read(tmp_path / "red.png", (2, 4), 3).shape == (2, 4, 3)
    assert np.array_equal(data.image_files.read(tmp_path / "red.png", (4, 8)), colours)
    Image.fromarray(colours[..., 0]).save(tmp_path / "grey.png")
    grey = data.image_files.read(tmp_path / "grey.png", channels=3)
    assert np.array_equal(grey, np.repeat(colours[..., :1], 3, 2))


def test_a_task_for_which_there_is_no_room_is_refused_and_not_lost(tmp_path):
    """Writing beyond the last slot of an array would be dropped without a word."""
    config = small_config("finetune", tmp_path / "run", pad=0, mirror="no")
    engine = build.engine_of(config, None, build.Room(4, 1, 2))
    normalizer = Normalizer(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1)))
    learner = engine.create((8, 8, 1), 4, normalizer, jax.random.key(0), jax.random.key(1))
    assert teaching.room_for(build.Room(4, 1, 2), learner, 2) == build.Room(4, 1, 2)
    later = learner.replace(task=jnp.int32(1), n_seen=jnp.int32(2))
    assert teaching.room_for(build.Room(4, 1, 2), later, 2) == build.Room(4, 4, 2)
    assert teaching.room_for(build.Room(4, 4, 2), later, 3) == build.Room(8, 4, 3)
    lesson = teaching.Lesson(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="too little for this task"):
        teaching.taught(engine, config, later, lesson)
