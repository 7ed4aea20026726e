"""How folders of pictures are laid out: the names of splits, and what is passed over."""

import numpy as np
import pytest
from PIL import Image

from cil_jax import data
from cil_jax.data.folder import files_in
from cil_jax.data.user_data import Problems
from cil_jax.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Decoded arrays of made-up data are not kept."""
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def save(file, shade=0):
    """A picture of one pixel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (1, 1), shade).save(file, "PNG")


def refused(folder):
    with pytest.raises(UserError) as error:
        data.load(f"folder:{folder}")
    return str(error.value)


SPLITS = [
    ("Train", "Test"),
    ("TRAIN", "VAL"),
    ("training", "testing"),
    ("Training", "Validation"),
    ("train", "valid"),
    ("training_set", "test_set"),
    ("Train Data", "test-images"),
    ("trainset", "testset"),
]


@pytest.mark.parametrize(("train", "test"), SPLITS)
def test_names_of_splits_count_in_any_case(tmp_path, train, test):
    for i, (split, c) in enumerate((s, c) for s in (train, test) for c in ("cat", "dog")):
        save(tmp_path / split / c / "x.png", shade=i)
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train_images.ravel().tolist() == [0, 1]
    assert dataset.test_images.ravel().tolist() == [2, 3]


def test_test_is_taken_before_validation(tmp_path):
    for shade, split in enumerate(("val", "train", "Testing")):
        save(tmp_path / split / "cat" / "x.png", shade)
    dataset = data.load(f"folder:{tmp_path}")
    assert (dataset.train_images.item(), dataset.test_images.item()) == (1, 2)


def test_two_folders_for_one_split_are_refused(tmp_path):
    for split in ("Train", "training", "test"):
        save(tmp_path / split / "cat" / "x.png")
    assert "has Train and training, which are names of the same split" in refused(tmp_path)


def test_splits_that_would_be_taken_for_classes_are_refused(tmp_path):
    for split in ("learn", "TEST", "Validation"):
        for c in ("cat", "dog"):
            save(tmp_path / split / c / "x.png")
            save(tmp_path / split / c / "y.png")
    message = "holds only folders, like a train or test folder: put class folders into train and"
    text = refused(tmp_path)
    assert f"TEST: {message}" in text and f"Validation: {message}" in text
    assert "learn:" not in text
    (tmp_path / "learn").rename(tmp_path / "Train")
    assert data.load(f"folder:{tmp_path}").class_names == ("cat", "dog")


def test_splits_within_a_class_folder_are_refused(tmp_path):
    """Their pictures would all be the class', and some would be held out whatever they are."""
    for c in ("cat", "dog"):
        for split in ("Train", "val"):
            save(tmp_path / c / split / "x.png")
    text = refused(tmp_path)
    for c in ("cat", "dog"):
        assert f"{c}: holds Train and val: put class folders into train and test" in text


def test_the_folder_above_the_data_set_is_refused(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "archive" / split / "cat" / "x.png")
    assert "if archive is the whole data set, pass that folder to --dataset" in refused(tmp_path)
    assert data.load(f"folder:{tmp_path / 'archive'}").class_names == ("cat",)


def test_classes_may_have_the_names_of_splits_and_folders_within(tmp_path):
    for name in ("train/steam/x.png", "train/y.png", "Test/x.png", "Test/below/y.png"):
        save(tmp_path / "train" / name)
        save(tmp_path / "test" / name)
    save(tmp_path / "other" / "x.png")
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.class_names == ("Test", "train")
    assert np.bincount(dataset.train_labels).tolist() == [2, 2]


def test_what_systems_leave_behind_is_passed_over_in_any_case(tmp_path):
    for c in ("cat", "dog"):
        for i in range(2):
            save(tmp_path / c / f"{i}.png")
    for name in ("@eaDir", "@EADIR", "__MACOSX", "__macosx"):
        save(tmp_path / name / "x.png")
        save(tmp_path / "cat" / name / "x.png")
    for name in ("Thumbs.db", "thumbs.DB", "THUMBS.DB", "desktop.ini", "Desktop.ini"):
        (tmp_path / "dog" / name).write_text("")
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train_labels) + len(dataset.test_labels) == 4
    problems = Problems(tmp_path)
    assert len(files_in(tmp_path, problems)) == 4 and not problems
