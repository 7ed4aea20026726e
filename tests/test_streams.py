"""Scenario files: how many images of each class come with each task, and which runs they allow."""

import matplotlib.image
import numpy as np
import pytest
from conftest import small_config, write_run

import cil_jax
from cil_jax.commands import compare, run
from cil_jax.data import scenario
from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError
from cil_jax.report.groups import compare as compared
from cil_jax.settings import streams
from cil_jax.settings.config import Config
from cil_jax.settings.streams import Stream

N_IMAGES, SIZES = 16, (2, 1, 1)


def scenario_of(**values):
    """Four classes of 16 images, each of which says which it is, in tasks of 2, 1 and 1."""
    labels = np.tile(np.arange(4, dtype=np.int32), N_IMAGES)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    names = tuple("abcd")
    dataset = Dataset("toy", images, labels, images[:4], labels[:4], names, 0, False)
    return scenario.create(dataset, order="natural", tasks="2,1,1", stream=Stream(**values))


def images_of(task):
    return set(task.images.ravel().tolist())


def test_each_class_comes_once_unless_a_file_says_otherwise():
    plain = scenario_of()
    assert plain.counts().tolist() == [[16, 0, 0], [16, 0, 0], [0, 16, 0], [0, 0, 16]]
    task = plain.task(1)
    assert task.images.ravel().tolist() == list(range(2, 64, 4)) and set(task.labels) == {2}
    assert not plain.stream.returns and str(plain.stream) == ""


def test_the_images_of_imbalanced_classes_fall_exponentially():
    """From 16 to an eighth of it: by 2 from each of the four classes to the next."""
    long_tailed = scenario_of(imbalance=8.0)
    assert long_tailed.counts().sum(axis=1).tolist() == [16, 8, 4, 2]
    assert not long_tailed.stream.returns and long_tailed.largest_class == 16
    shuffled = scenario_of(imbalance=8.0, imbalance_order="shuffled", seed=2).counts().sum(axis=1)
    assert sorted(shuffled.tolist()) == [2, 4, 8, 16] and shuffled.tolist() != [16, 8, 4, 2]
    rows = [images_of(scenario_of(imbalance=8.0, seed=seed).task(2)) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    assert scenario_of(imbalance=1e9).counts().sum(axis=1).min() == 1  # of no class nothing


def test_blurry_classes_leave_a_share_of_their_images_to_later_tasks():
    """A quarter of 16; those of the last task have no later one. No image comes twice."""
    blurry = scenario_of(blurry=0.25)
    assert blurry.counts().tolist() == [[12, 2, 2], [12, 2, 2], [0, 12, 4], [0, 0, 16]]
    tasks = [images_of(blurry.task(t)) for t in range(3)]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == 4 * N_IMAGES
    assert (blurry.largest_task, blurry.n_images(1)) == (24, 16)
    assert blurry.n_all_images == 64 and images_of(blurry.up_to(1)) == tasks[0] | tasks[1]


def test_a_share_is_not_rounded_down_by_the_rounding_of_its_product():
    labels = np.repeat(np.arange(2, dtype=np.int32), 100)
    images = np.zeros((200, 1, 1, 1), np.uint8)
    dataset = Dataset("toy", images, labels, images, labels, ("a", "b"), 0, False)
    blurry = scenario.create(dataset, order="natural", task_size=1, stream=Stream(blurry=0.29))
    assert blurry.counts().tolist() == [[71, 29], [0, 100]]


def test_repeated_classes_bring_the_same_images_again():
    """All in each later task with probability 1; half of the classes with 1/2."""
    repeated = scenario_of(repeat=1.0)
    assert repeated.counts().tolist() == [[16, 16, 16], [16, 16, 16], [0, 16, 16], [0, 0, 16]]
    assert images_of(repeated.task(0)) < images_of(repeated.task(1))
    assert images_of(repeated.first_seen(1)) == images_of(scenario_of().task(1))
    assert repeated.up_to(2).images.size == repeated.n_all_images == 64
    assert (repeated.largest_class, repeated.largest_task) == (16, 64)
    drawn = [scenario_of(repeat=0.5, seed=seed).counts()[0, 1] > 0 for seed in range(200)]
    assert 0.35 < np.mean(drawn) < 0.65


def test_a_file_is_stored_as_its_content(tmp_path):
    file = tmp_path / "stream.yaml"
    file.write_text("imbalance: 10  # long-tailed\nblurry: 0.1\nseed: 0\n")
    assert Config(scenario=str(file)).scenario == "imbalance 10, blurry 0.1"
    assert streams.parsed("imbalance 10, blurry 0.1") == Stream(imbalance=10.0, blurry=0.1)
    every = Stream(12.5, "shuffled", 0.2, 0.3, 7)
    assert streams.parsed(str(every)) == every
    file.write_text("imbalance: 1\n")
    assert Config(scenario=str(file)).scenario is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imbalanced: 10", "unknown setting 'imbalanced': did you mean 'imbalance'"),
        ("imbalance: 0.5", "imbalance is 0.5; it must be finite and at least 1"),
        ("blurry: 1", "blurry is 1; it must be at least 0 and below 1"),
        ("repeat: yes", "repeat is True; it must be a number and lie in 0..1"),
        ("seed: 1.5", "seed is 1.5; it must be a whole number and lie in"),
        ("imbalance_order: random", "imbalance_order is 'random'; it must be ordered or shuffled"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(tmp_path, text, words):
    (tmp_path / "stream.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError) as refused:
        Config(scenario=str(tmp_path / "stream.yaml"))
    assert words in str(refused.value) and str(tmp_path) in str(refused.value)


def test_a_file_that_is_missing_is_said():
    with pytest.raises(UserError, match="there is no file of this name"):
        Config(scenario="missing.yaml")


def test_a_run_learns_from_what_the_scenario_brings(tmp_path):
    """All images of the digits that are left, and its caption names the scenario."""
    stream = "imbalance 4, blurry 0.3, repeat 0.5"
    config = small_config("replay", tmp_path / "run", epochs=1, scenario=stream)
    results = cil_jax.run(config)
    assert results["scenario"] == stream and "scenario" not in results["changed"]
    assert len(results["classifiers"]["ncm"]["seen_accuracy"]) == 3


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("slda", {}, "slda can't learn from new images of old classes"),
        ("fixed", {}, "fixed can't learn from new images of old classes"),
        ("lwf", {"softmax_over": "new"}, "add --softmax-over open"),
    ],
)
def test_a_method_that_takes_new_classes_only_says_so(tmp_path, method, settings, words):
    config = small_config(method, tmp_path, scenario="blurry 0.2", **settings)
    with pytest.raises(UserError, match=words):
        cil_jax.run(config)


def test_runs_of_other_scenarios_are_not_compared(tmp_path):
    write_run(tmp_path / "one")
    config = small_config("icarl", tmp_path / "two", scenario="blurry 0.1")
    write_run(tmp_path / "two", scenario="blurry 0.1", config=config)
    plain, blurry = compared([tmp_path / "one", tmp_path / "two"])
    assert "blurry 0.1" in blurry.protocol and "blurry" not in plain.protocol
    assert compare.main([str(tmp_path / "two")]) == 0


def test_the_preview_shows_classes_by_tasks(tmp_path, capsys):
    (tmp_path / "stream.yaml").write_text("blurry: 0.5\n")
    file = tmp_path / "x.png"
    flags = ["--dataset", "digits", "--task-size", "5", "--figure", str(file)]
    assert run(["scenario", str(tmp_path / "stream.yaml"), *flags]) == 0
    out = capsys.readouterr().out
    assert "digits, 2 tasks of 5 classes, order seeded 1993, blurry 0.5" in out
    first, second = [
        [int(word) for word in line.split() if word.isdecimal()]
        for line in out.replace("│", " ").splitlines()
        if line.strip(" │")[:1] in ("1", "2")
    ]
    assert first[:2] == [1, 5] and first[5:] == [0, 0] and second[5] == 5
    assert abs(first[2] - second[6]) <= 5  # a half of each of five classes, rounded down
    picture = matplotlib.image.imread(file)
    assert picture.shape[0] > 200 and picture.std() > 0.1
