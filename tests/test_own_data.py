"""Data sets of the user's own: npz files, folders of pictures, prepared tfds sets; faulty ones."""

import contextlib
import dataclasses
import faulthandler
import io
import os
import random
import socket
import sys
import time
import unicodedata
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import cil_jax
from cil_jax import data
from cil_jax.app.command_line import guarded
from cil_jax.data import image_files, user_data
from cil_jax.data.tfds import newest_version
from cil_jax.data.user_data import Problems, ReadOptions
from cil_jax.errors import UserError
from cil_jax.settings.config import Config
from cil_jax.storage.run_folder import RunFolder

SECONDS = 60  # after which a test is said to hang


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Decoded arrays of made-up data are not kept."""
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def in_time():
    """A hang ends the tests and says where it was; an exception would not, in another thread."""
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def pixels(n=12, shape=(8, 8), seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8)


def refused(name, **settings):
    """The lines of the error that a data set gives."""
    with pytest.raises(UserError) as error:
        data.load(name, **settings)
    return error.value.lines


# npz


def npz(folder, **arrays):
    """The name of a data set in a file that has these arrays, None for one that it lacks."""
    plain = {"images": pixels(), "labels": np.arange(12) % 3}
    arrays = {k: v for k, v in {**plain, **arrays}.items() if v is not None}
    np.savez(folder / "own.npz", **arrays)
    return f"npz:{folder / 'own.npz'}"


def test_an_npz_with_a_split_is_taken_as_it_is(tmp_path):
    images, labels = pixels(shape=(5, 8, 3)), np.array([0, 1, 2, 2] * 3, np.uint8)
    split = np.array(["train"] * 8 + ["test"] * 4)
    names = np.array(["ä", "b", "c"])
    dataset = data.load(npz(tmp_path, images=images, labels=labels, split=split, names=names))
    np.testing.assert_array_equal(dataset.train_images, images[:8])
    np.testing.assert_array_equal(dataset.test_images, images[8:])
    assert dataset.train_labels.tolist() == [0, 1, 2, 2] * 2
    assert dataset.test_labels.tolist() == [0, 1, 2, 2]
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32
    assert dataset.class_names == ("ä", "b", "c")
    assert dataset.image_shape == (5, 8, 3) and dataset.pad == 1 and not dataset.mirror


def test_an_npz_may_have_test_images_of_their_own_and_no_names(tmp_path):
    test = {"test_images": pixels(6, seed=1), "test_labels": np.arange(6) % 3}
    dataset = data.load(npz(tmp_path, **test))
    np.testing.assert_array_equal(dataset.train_images, pixels()[..., None])
    np.testing.assert_array_equal(dataset.test_images, test["test_images"][..., None])
    assert dataset.class_names == ("0", "1", "2")


def test_an_npz_without_a_split_is_split_by_class(tmp_path):
    name = npz(tmp_path, images=pixels(40), labels=np.array([0] * 30 + [1] * 10))
    dataset = data.load(name)
    assert np.bincount(dataset.test_labels).tolist() == [6, 2]
    assert np.bincount(dataset.train_labels).tolist() == [24, 8]
    assert np.bincount(data.load(name, test_share=0.5).test_labels).tolist() == [15, 5]
    assert data.load(name).sha256() == data.load(name, split_seed=0).sha256() == dataset.sha256()
    assert data.load(name, split_seed=1).sha256() != dataset.sha256()
    everything = np.concatenate([dataset.train_images, dataset.test_images])[..., 0]
    assert {image.tobytes() for image in everything} == {i.tobytes() for i in pixels(40)}


@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_every_class_has_its_share_of_test_images_and_one_at_least(counts, share, seed):
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))
    problems = Problems("x")
    names = [str(c) for c in range(len(counts))]
    options = ReadOptions(test_share=share, split_seed=seed)
    is_test = user_data.hold_out(labels, names, options, problems)
    for c, n in enumerate(counts):
        assert is_test[labels == c].sum() == min(max(round(share * n), 1), n - 1)
    assert not problems


NPZ_FAULTS = [
    ({"images": None}, "images is missing; the file holds labels"),
    ({"labels": None}, "labels is missing; the file holds images"),
    ({"images": pixels() / 255}, "images is float64 [12, 8, 8]; it must be uint8 [N, H, W] or"),
    ({"images": pixels(shape=(3, 8, 8))}, "images is uint8 [12, 3, 8, 8]; it must be uint8"),
    ({"images": pixels(0)}, "images is uint8 [0, 8, 8]; it must be"),
    ({"labels": np.arange(12) / 3}, "labels is float64 [12]; it must be integers [N]"),
    ({"labels": np.zeros((12, 1), int)}, "labels is int64 [12, 1]; it must be integers [N]"),
    ({"labels": np.arange(9) % 3}, "images has 12 entries, but labels has 9"),
    ({"labels": np.arange(12) % 3 - 1}, "labels must lie in 0..1; found -1 (image 0), -1 (im"),
    ({"labels": np.full(12, -1)}, "labels are all negative: number the classes from 0"),
    ({"labels": np.arange(12) % 3 * 2}, "class '1' has no image"),
    ({"labels": np.array([0, 10**9] * 6)}, "labels go up to 1000000000, but only 2 different"),
    ({"labels": np.array([0] * 11 + [1])}, "class '1' has only one image; it needs one for tr"),
    ({"names": np.array(["a", "b"])}, "labels must lie in 0..1; found 2 (image 2), 2 (image 5)"),
    ({"names": np.array(["a", "b", "c", "d"])}, "class 'd' has no image"),
    ({"names": np.array(["a", "b", "a"])}, "two classes are named 'a'"),
    ({"names": np.array(["a", "b", "\n"])}, r"the class name '\n' is not printable text"),
    ({"names": np.array(["a", "b", None])}, "names holds Python objects; it must be strings"),
    ({"names": np.arange(3)}, "names is int64 [3]; it must be strings [classes]"),
    ({"split": np.array(["train", "tset"] * 6)}, "split must be 'train' or 'test', not 'tset'"),
    ({"split": np.array(["train"] * 11 + ["test"])}, "class '0' has no test image"),
    ({"split": np.array(["train"] * 3)}, "images has 12 entries, but split has 3"),
    ({"test_images": pixels()}, "test_labels is missing; the file holds images, labels, test_im"),
    ({"test_images": pixels(shape=(8, 9)), "test_labels": np.arange(12) % 3},
     "images have the shape [8, 8, 1], but test_images have [8, 9, 1]"),
    ({"test_images": pixels(), "test_labels": np.arange(12) % 4}, "class '3' has no training im"),
    ({"splits": np.zeros(3)}, "unknown array 'splits': did you mean 'split'?"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "message"), NPZ_FAULTS, ids=[m[:40] for _, m in NPZ_FAULTS])
def test_a_fault_of_an_npz_is_said_with_its_file(tmp_path, arrays, message):
    lines = refused(npz(tmp_path, **arrays))
    assert lines[0].startswith(f"{tmp_path / 'own.npz'}")
    assert any(message in line for line in lines), lines


def test_all_faults_of_an_npz_are_said_at_once_and_each_on_a_line(tmp_path, capsys):
    name = npz(
        tmp_path,
        images=pixels(11),
        labels=np.array([0, 1, 2, -1] * 3),
        names=np.array(["a", "b", "b", "d"]),
        test_labels=np.array([9]),
        odd=np.zeros(1),
    )
    assert guarded(lambda: data.load(name)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {tmp_path / 'own.npz'} has 11 problems:"
    assert sorted(line.strip() for line in lines[1:]) == sorted([
        "two classes are named 'b'",
        "test_images is missing; the file holds images, labels, names, test_labels, odd",
        "unknown array 'odd': choose from images, labels, names, split, test_images, test_labels",
        "images has 11 entries, but labels has 12",
        "labels must lie in 0..3; found -1 (image 3), -1 (image 7), -1 (image 11)",
        "test_labels must lie in 0..3; found 9 (image 0); there are 4 names",
        *(f"class {c!r} has no test image" for c in "abb"),
        "class 'd' has no training image",
        "class 'd' has no test image",
    ])  # fmt: skip


def test_what_is_no_npz_is_said(tmp_path):
    (tmp_path / "text.npz").write_text("images")
    np.save(tmp_path / "one.npy", pixels())
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "none.npz")
    for file, message in (
        ("text.npz", "is not an npz file, or is incomplete"),
        ("one.npy", "is not an npz file"),
        ("empty.npz", "is not an npz file"),
        ("none.npz", "images is missing; the file holds no array"),
        ("gone.npz", "there is no file"),
        ("x" * 300, "there is no file"),
        ("", f"is a folder: read it with --dataset folder:{tmp_path}"),
    ):
        assert message in "".join(refused(f"npz:{tmp_path / file}"))


def test_damaged_arrays_are_named(tmp_path):
    name, file = npz(tmp_path, images=pixels()), tmp_path / "own.npz"
    whole = file.read_bytes()
    pixel = bytearray(whole)
    pixel[whole.index(pixels().tobytes()) + 100] ^= 1
    file.write_bytes(pixel)
    assert "images can't be read: Bad CRC-32" in refused(name)[0]
    # Of a longer array less is read then, and no checksum would tell.
    npz(tmp_path, images=pixels(1200), labels=np.arange(1200) % 3)
    file.write_bytes(file.read_bytes().replace(b"(1200, 8, 8)", b"(1200, 8, 6)"))
    assert refused(name)[0].endswith("images has another size than its header says")


def test_what_cannot_fit_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    name = npz(tmp_path)
    folder, _ = colour_folder(tmp_path / "pictures")
    monkeypatch.setattr(os, "sysconf", lambda _: 20)  # 400 bytes
    for refusal in (refused(name), refused(folder)):
        assert "GB of memory: use fewer or smaller images" in refusal[0]


# pictures


def encoded(image, kind="PNG", **more):
    content = io.BytesIO()
    image.save(content, kind, **more)
    return content.getvalue()


def test_kinds_of_pixels_become_grey_or_colour():
    """Answers by hand: a picture of one pixel of each kind."""
    orange = Image.new("RGB", (1, 1), (255, 128, 0))
    half = Image.new("RGBA", (1, 1), (255, 0, 0, 51))  # a fifth red, four fifths of the white
    nothing = Image.new("LA", (1, 1), (0, 0))
    hole = Image.new("P", (1, 1), 1)
    hole.putpalette([9, 9, 9, 7, 7, 7])
    deep = Image.fromarray(np.array([[257 * 77]], np.uint16))
    for picture, expected, more in (
        (orange, [255, 128, 0], {}),
        (orange.convert("L"), [151], {}),
        (orange.quantize(), [255, 128, 0], {}),
        (Image.new("1", (1, 1), 1), [255], {}),
        (half, [255, 204, 204], {}),
        (nothing, [255], {}),
        (hole, [7, 7, 7], {}),
        (hole, [255, 255, 255], {"transparency": 1}),
        (deep, [77], {}),
        (deep, [77], {"kind": "TIFF"}),
        (Image.new("CMYK", (1, 1), (0, 255, 0, 0)), [255, 0, 255], {"kind": "TIFF"}),
    ):
        array = image_files.read(encoded(picture, **more))
        assert array.dtype == np.uint8 and array.tolist() == [[expected]], (picture.mode, more)


def test_every_format_is_read():
    image = Image.fromarray(np.full((4, 6, 3), 100, np.uint8))
    for kind in image_files.FORMATS:
        array = image_files.read(encoded(image, kind))
        assert array.shape == (4, 6, 3) and np.abs(array.astype(int) - 100).max() <= 2, kind
    frames = [Image.new("L", (2, 2), shade) for shade in (10, 200)]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image_files.read(moving).max() == 10  # the first
    with pytest.raises(image_files.Unreadable, match="pixels have 32 bits"):
        image_files.read(encoded(Image.new("F", (2, 2)), "TIFF"))
    for none in (b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(image_files.Unreadable, match="not an image in a known format"):
            image_files.read(none)


def test_a_picture_is_turned_as_its_camera_was():
    image = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right to see it upright
    array = image_files.read(encoded(image, exif=exif))
    assert array[..., 0].tolist() == [[40, 10], [50, 20], [60, 30]]


def test_the_middle_square_is_taken_and_brought_to_size():
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    array = image_files.read(encoded(Image.fromarray(wide)), image_size=2)
    assert array.shape == (2, 2, 1) and array.min() > 180  # a third of it all would be 67
    assert image_files.read(encoded(Image.fromarray(wide)), image_size=9).shape == (9, 9, 1)
    photo = Image.fromarray(np.full((300, 400, 3), 90, np.uint8))
    assert image_files.read(encoded(photo, "JPEG"), image_size=8).shape == (8, 8, 3)


def test_a_decompression_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert image_files.read(encoded(Image.new("1", (10, 10)))).shape == (10, 10, 1)
    for side in (11, 15):  # where Pillow would warn, and where it would refuse
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(image_files.Unreadable) as error,
        ):
            image_files.read(encoded(Image.new("1", (side, side))))
        assert str(error.value).startswith("more than 100 pixels")


# folders


def save(file, array, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **more)


def colour_folder(root, counts=(4, 3, 2), size=(8, 8), layout="{c}"):
    """The name of a data set in a folder, and its pictures by class."""
    made = {}
    for c, n in zip("cab", counts, strict=True):
        made[c] = pixels(n, (*size, 3), seed=ord(c))
        for i, image in enumerate(made[c]):
            save(root / layout.format(c=c) / f"{i:02d}.png", image)
    return f"folder:{root}", made


def test_class_folders_are_split_by_class_and_sorted_by_name(tmp_path):
    name, made = colour_folder(tmp_path, counts=(10, 5, 2))
    save(tmp_path / "b" / ".hidden.png", pixels(1)[0])
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "Thumbs.db").write_text("")
    (tmp_path / "README.md").write_text("")
    dataset = data.load(name)
    assert dataset.class_names == ("a", "b", "c") and dataset.image_shape == (8, 8, 3)
    assert np.bincount(dataset.train_labels).tolist() == [4, 1, 8]
    assert np.bincount(dataset.test_labels).tolist() == [1, 1, 2]
    for c, letter in enumerate("abc"):
        rows = [dataset.train_images[dataset.train_labels == c]]
        rows.append(dataset.test_images[dataset.test_labels == c])
        found = {image.tobytes() for image in np.concatenate(rows)}
        assert found == {image.tobytes() for image in made[letter]}
    assert len(data.load(name, test_share=0.5).test_labels) == 5 + 2 + 1


def test_of_test_and_validation_folders_that_of_test_is_taken(tmp_path):
    colour_folder(tmp_path, layout="train/{c}")
    for counts, test in (((1, 1, 1), "val"), ((1, 2, 1), "validation"), ((2, 1, 1), "test")):
        colour_folder(tmp_path, counts=counts, layout=test + "/{c}")
    assert data.load(f"folder:{tmp_path}").test_labels.tolist() == [0, 1, 2, 2]


def test_crops_move_images_by_an_eighth_of_their_shorter_side():
    images, labels = np.zeros((2, 16, 40, 1), np.uint8), np.zeros(2, np.int64)
    assert user_data.user_dataset("wide", (images, images), (labels, labels), ["any"]).pad == 2


@pytest.mark.parametrize("test", ["test", "validation", "val"])
def test_train_and_test_folders_are_taken_as_they_are(tmp_path, test):
    _, made = colour_folder(tmp_path, layout="train/{c}/below")
    _, tested = colour_folder(tmp_path, counts=(1, 2, 1), layout=test + "/{c}")
    (tmp_path / "other").mkdir()
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert dataset.test_labels.tolist() == [0, 0, 1, 2]
    expected = np.concatenate([made[c] for c in "abc"])
    np.testing.assert_array_equal(dataset.train_images, expected)
    expected = np.concatenate([tested[c] for c in "abc"])
    np.testing.assert_array_equal(dataset.test_images, expected)
    lines = refused(f"folder:{tmp_path}", split_seed=1)
    assert lines[0].endswith(f"has a {test} folder: leave out --test-share and --split-seed")


def test_a_class_may_be_named_train(tmp_path):
    for c in ("train", "boat"):
        for i in range(2):
            save(tmp_path / c / f"{i}.png", pixels(1, seed=i)[0])
    assert data.load(f"folder:{tmp_path}").class_names == ("boat", "train")


def test_one_name_written_with_other_code_is_one_class(tmp_path):
    for folder, form in (("train", "NFC"), ("test", "NFD")):
        save(tmp_path / folder / unicodedata.normalize(form, "Käfer") / "1.png", pixels(1)[0])
        save(tmp_path / folder / "🐝" / "1.png", pixels(1)[0])
    assert data.load(f"folder:{tmp_path}").class_names == ("Käfer", "🐝")


def test_grey_pictures_stay_grey_and_are_coloured_among_coloured_ones(tmp_path):
    for i in range(4):
        save(tmp_path / "a" / f"{i}.png", pixels(1, (5, 4), seed=i)[0])
    name = f"folder:{tmp_path}"
    assert data.load(name).image_shape == (5, 4, 1)
    for i in range(4):
        save(tmp_path / "b" / f"{i}.png", pixels(1, (5, 4, 3), seed=i)[0])
    dataset = data.load(name)
    assert dataset.image_shape == (5, 4, 3)
    grey = dataset.train_images[dataset.train_labels == 0]
    assert (grey == grey[..., :1]).all() and grey.std() > 0


def test_all_faults_of_a_folder_are_said_at_once(tmp_path, capsys, in_time):
    name, _ = colour_folder(tmp_path)
    (tmp_path / "a" / "text.png").write_text("hello")
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    whole = (tmp_path / "b" / "00.png").read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "b" / "large.png", pixels(1, (9, 7))[0])
    (tmp_path / "empty").mkdir()
    save(tmp_path / "one" / "x.png", pixels(1, (8, 8))[0])
    save(tmp_path / "stray.png", pixels(1)[0])
    os.mkfifo(tmp_path / "c" / "pipe.png")
    (tmp_path / "c" / "gone.png").symlink_to("nowhere")
    (tmp_path / "c" / "self").symlink_to("self")
    (tmp_path / "c" / "round").symlink_to(tmp_path)
    (tmp_path / "c" / "twice").symlink_to(tmp_path / "c")
    assert guarded(lambda: data.load(name)) == 2
    lines = capsys.readouterr().err.splitlines()
    none = f"not an image in a known format ({', '.join(image_files.FORMATS)})"
    assert lines[0] == f"error: {tmp_path} has 13 problems:"
    assert sorted(lines[1:]) == sorted(f"  {line}" for line in (
        f"a/text.png: {none}",
        f"a/zero.jpg: {none}",
        "b/cut.png: can't be read: image file is truncated",
        "the images have 2 sizes, most often 8 x 8: resize all to N x N pixels with --image-size N",
        "b/large.png: 7 x 9 pixels",
        "class 'empty' has no image; it needs one for training and one for testing",
        "class 'one' has only one image; it needs one for training and one for testing",
        "stray.png: has no label, because it is not in a class folder",
        "c/pipe.png: neither a file nor a folder",
        "c/gone.png: a link to a missing file",
        "c/self: a link to a missing file",
        "c/round: a link to a folder that is already read",
        "c/twice: a link to a folder that is already read",
    ))  # fmt: skip


def test_classes_of_train_and_test_that_differ_are_said(tmp_path):
    for place in ("train/a", "train/b", "test/b", "test/c"):
        save(tmp_path / place / "1.png", pixels(1)[0])
    save(tmp_path / "test" / "2.png", pixels(1)[0])
    assert set(refused(f"folder:{tmp_path}")[1:]) == {
        "class 'a' has no test image",
        "class 'c' has no training image",
        "test/2.png: has no label, because it is not in a class folder",
    }


def test_folders_of_no_use_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    save(tmp_path / "half" / "train" / "a" / "1.png", pixels(1)[0])
    (tmp_path / "half" / "tset").mkdir()
    bad = os.fsdecode(b"\xff")
    os.mkdir(tmp_path / "bad")
    for i in range(2):
        save(tmp_path / "bad" / bad / f"{i}.png", pixels(1)[0])
    for folder, message in (
        ("gone", "there is no folder"),
        ("file", "is a file: if numpy.savez wrote it, read it with --dataset npz:"),
        ("empty", "it has no folders; put the images of each class into a folder"),
        ("half", "has train, but none of test, validation and val; its folders are train, tset"),
        ("bad", r"the class name '\udcff' is not printable text"),
    ):
        assert message in "".join(refused(f"folder:{tmp_path / folder}")), folder


def test_other_sizes_by_the_hundred_are_counted(tmp_path):
    problems = Problems("x")
    sizes = [(4, 4)] * 50 + [(4, n) for n in range(5, 45)]
    image_files.read_all(
        [(str(i), encoded(Image.new("L", size))) for i, size in enumerate(sizes)], None, problems
    )
    assert problems.found[0].startswith("the images have 41 sizes, most often 4 x 4: resize all to")
    assert problems.found[1:3] == ["50: 4 x 5 pixels", "51: 4 x 6 pixels"]
    assert len(problems.found) == 22 and problems.found[-1] == "and 20 more"


def test_pictures_are_decoded_once_for_each_size(tmp_path, monkeypatch):
    name, _ = colour_folder(tmp_path / "d")
    calls = []
    original = image_files.read
    monkeypatch.setattr(image_files, "read", lambda *a: calls.append(a) or original(*a))
    first = data.load(name)
    assert len(calls) == 9 and data.load(name).sha256() == first.sha256()
    assert len(data.load(name, test_share=0.5).test_labels) > 0 and len(calls) == 9
    assert data.load(name, image_size=6).image_shape == (6, 6, 3) and len(calls) == 18
    save(tmp_path / "d" / "a" / "00.png", pixels(1, (8, 8, 3), seed=5)[0])
    assert data.load(name).sha256() != first.sha256() and len(calls) == 27
    (tmp_path / "d" / "a" / "01.png").write_text("no more")  # faults are found in what was cached
    assert "a/01.png: not an image" in refused(name)[0]


# tfds


def prepared(data_dir, name="blobs", n=12, labels=None, sizes=((8, 8),), splits=("train", "test")):
    """A data set that tfds itself prepared as ArrayRecord, and where it is."""

    class Blobs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            shape = (None, None, 3)
            features = {
                "image": tfds.features.Image(shape=shape, encoding_format="png"),
                "coarse": tfds.features.ClassLabel(num_classes=2),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for i in range(n):
                image = pixels(1, (*sizes[i % len(sizes)], 3), seed=i + len(split))[0]
                content = io.BytesIO(encoded(Image.fromarray(image)))
                yield i, {"image": content, "coarse": 0, "label": (labels or [0, 1, 2])[i % 3]}

    Blobs.name = name
    builder = Blobs(data_dir=os.fspath(data_dir), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare()
    return builder.data_path


def test_the_newest_version_is_taken_by_its_numbers(tmp_path):
    for version, kind in (("1.9.0", "array"), ("1.10.0", "array"), ("2.0.0", "tf")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "dataset_info.json").write_text("{}")
        (tmp_path / version / f"x-train.{kind}_record-00000-of-00001").write_text("")
    assert newest_version(tmp_path) == "1.10.0"
    assert newest_version(tmp_path / "1.9.0") is None


def test_a_prepared_set_is_read_without_network(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("a socket was opened")

    prepared(tmp_path)
    monkeypatch.setattr(socket, "socket", no_network)
    dataset = data.load("tfds:blobs", tmp_path)
    assert dataset.class_names == ("x", "y", "z") and dataset.image_shape == (8, 8, 3)
    assert np.bincount(dataset.train_labels).tolist() == [4, 4, 4]
    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        expected = {(pixels(1, (8, 8, 3), i + len(split)).tobytes(), i % 3) for i in range(12)}
        found = zip(images, labels.tolist(), strict=True)
        assert {(image.tobytes(), label) for image, label in found} == expected

    start = time.perf_counter()
    (line,) = refused("tfds:mnist", data_dir=tmp_path)
    assert time.perf_counter() - start < 1
    assert line.startswith(f"there is no mnist in {tmp_path}, which holds blobs: prepare it on ")
    assert "tfds.builder('mnist', file_format='array_record').download_and_prepare()" in line


def test_validation_is_taken_where_there_is_no_test(tmp_path):
    prepared(tmp_path, splits=("train", "validation"))
    assert len(data.load("tfds:blobs", tmp_path).test_labels) == 12
    prepared(tmp_path, name="half", splits=("train", "extra"))
    (line,) = refused("tfds:half", data_dir=tmp_path)
    assert "has the splits train, extra; it needs train, and test or validation" in line


def test_all_faults_of_a_prepared_set_are_said_at_once(tmp_path):
    prepared(tmp_path, labels=[0, 0, -1], sizes=((8, 8), (8, 8), (9, 8)))
    lines = refused("tfds:blobs", data_dir=tmp_path)
    text = "\n".join(lines)
    assert lines[0].startswith(str(tmp_path / "blobs/1.0.0"))
    for split in ("train", "test"):
        assert f"{split}: labels must lie in 0..2; found -1 (record " in text
        assert text.count(f"blobs-{split}.array_record-00000-of-00001, record ") == 4
    for c in "yz":
        assert f"class '{c}' has no training image" in text
    assert "the images have 2 sizes, most often 8 x 8: resize all to" in text


def test_other_ways_of_being_prepared_are_said(tmp_path):
    folder = tmp_path / "blobs" / "1.0.0"
    prepared(tmp_path, sizes=((8, 8), (5, 9)))
    assert data.load("tfds:blobs", tmp_path, image_size=4).image_shape == (4, 4, 3)
    (tmp_path / "many" / "one").mkdir(parents=True)
    os.rename(folder, tmp_path / "many" / "one" / "1.0.0")
    (line,) = refused("tfds:many", data_dir=tmp_path)
    assert "several configurations: choose one of tfds:many:one" in line
    assert data.load("tfds:many:one", tmp_path, image_size=4).n_classes == 3
    for file in (tmp_path / "many" / "one" / "1.0.0").glob("*.array_record*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    (line,) = refused("tfds:many:one", data_dir=tmp_path)
    assert "is not stored as ArrayRecord: prepare it" in line and "'many/one'" in line
    for name in ("tfds:../many", "tfds:a:b:c", "tfds:a/b"):
        assert "must be tfds:NAME or tfds:NAME:CONFIG" in refused(name, data_dir=tmp_path)[0]


# Damage


def damaged(content, chance):
    """The bytes of a file, cut, changed, with more among them, or others altogether."""
    content = bytearray(content)
    how = chance.choice(("cut", "flip", "head", "insert", "text", "none"))
    places = len(content) if how == "flip" else min(200, len(content))
    if how == "cut":
        del content[chance.randrange(len(content)) :]
    elif how in ("flip", "head"):
        for _ in range(chance.choice((1, 4, 20))):
            content[chance.randrange(places)] = chance.randrange(256)
    elif how == "insert":
        content[chance.randrange(len(content)) :][:0] = chance.randbytes(5)
    else:
        content = b"some text" if how == "text" else b""
    return bytes(content)


def loads_or_is_refused(name, place, **settings):
    """1 if a clear message says what is wrong in which file, 0 if nothing shows."""
    try:
        dataset = data.load(name, **settings)
    except UserError as error:
        text = str(error)
        assert text.startswith(str(place)) and len(text) > len(str(place)) + 10, text
        assert "Traceback" not in text and all(line.strip() for line in error.lines), text
        return 1
    assert dataset.train_images.dtype == np.uint8 and len(dataset.train_images)
    return 0


def test_damaged_npz_files_get_a_message(tmp_path, in_time):
    chance = random.Random(0)
    npz(tmp_path, split=np.array(["train"] * 6 + ["test"] * 6), names=np.array(["a", "b", "c"]))
    file = tmp_path / "own.npz"
    packed = io.BytesIO()
    np.savez_compressed(packed, images=pixels(), labels=np.arange(12) % 3)
    whole = (file.read_bytes(), packed.getvalue())
    refusals = 0
    for _ in range(300):
        file.write_bytes(damaged(chance.choice(whole), chance))
        refusals += loads_or_is_refused(f"npz:{file}", file)
    assert refusals > 200


def test_damaged_pictures_get_a_message(tmp_path, in_time):
    chance = random.Random(1)
    image, exif = Image.fromarray(pixels(1, (9, 8, 3))[0]), Image.Exif()
    exif[0x0112] = 8
    kinds = [(kind, image, {}) for kind in image_files.FORMATS]
    kinds += [("PNG", image.convert("P"), {"exif": exif}), ("JPEG", image, {"exif": exif})]
    kinds += [("GIF", image.convert("L"), {}), ("WEBP", image.convert("RGBA"), {"exif": exif})]
    contents = [encoded(image, kind, **more) for kind, image, more in kinds]
    refusals = 0
    for _ in range(40):
        folder = tmp_path / "d"
        for c in "ab":
            (folder / c).mkdir(parents=True, exist_ok=True)
            for i, content in enumerate(contents):
                file = folder / c / f"{i}.{chance.choice(('png', 'jpg'))}"
                is_damaged = chance.random() < 0.5
                file.write_bytes(damaged(content, chance) if is_damaged else content)
        refusals += loads_or_is_refused(f"folder:{folder}", folder, image_size=4)
    assert refusals > 30


def test_damaged_prepared_sets_get_a_message(tmp_path, in_time):
    chance = random.Random(2)
    folder = tmp_path / "blobs" / "1.0.0"
    prepared(tmp_path, n=6)
    whole = {file: file.read_bytes() for file in sorted(folder.iterdir())}
    refusals = 0
    for _ in range(60):
        file = chance.choice(list(whole))
        content = damaged(whole[file].rstrip(b"\0"), chance)
        file.write_bytes(
            content.ljust(len(whole[file]), b"\0") if chance.random() < 0.5 else content
        )
        refusals += loads_or_is_refused("tfds:blobs", folder, data_dir=tmp_path)
        file.write_bytes(whole[file])
    assert refusals > 30


# Settings and whole runs


def test_settings_that_do_not_concern_a_data_set_are_refused(tmp_path):
    name = npz(tmp_path, split=np.array(["train", "test"] * 6))
    for asked, message in (
        (("digits", {"image_size": 8}), "--image-size is for --dataset folder:DIR and tfds:NAME"),
        (("cifar100", {"split_seed": 0}), "--split-seed is for --dataset npz:FILE and folder:DIR"),
        ((name, {"image_size": 8}), "--image-size is for --dataset folder:DIR and tfds:NAME, not"),
        (("tfds:x", {"test_share": 0.1}), "--test-share is for --dataset npz:FILE and folder:DIR"),
        (
            (name, {"test_share": 0.1}),
            "already says which images are for testing: leave out --test-share",
        ),
        (("npz:", {}), "unknown --dataset 'npz:': did you mean 'npz:FILE'?"),
        (("zip:x", {}), "unknown --dataset 'zip:x'"),
        (("tfds", {}), "unknown --dataset 'tfds'"),
    ):
        (line,) = refused(asked[0], **asked[1])
        assert message in line
    with pytest.raises(UserError, match="--test-share is 1; it must lie between 0 and 1"):
        Config(test_share=1)


def test_a_path_is_made_absolute_and_does_not_break_the_run_folders_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config(dataset="npz:some where/my data.v2.npz")
    assert config.dataset == f"npz:{tmp_path}/some where/my data.v2.npz"
    assert config.label() == "npz-my_data.v2-resnet32"
    assert Config(dataset="folder:..//x/").label() == "folder-x-resnet32"
    assert Config(dataset="tfds:mnist:3").label() == "tfds-mnist_3-resnet32"
    assert Config(dataset="folder:/").label() == "folder--resnet32"
    assert Config(dataset="digits").label() == "digits-resnet32"
    assert len(Config(dataset=f"npz:/{'x' * 250}").label()) < 70
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Config(dataset="folder:~/x").dataset == f"folder:{tmp_path}/x"


def test_equal_data_has_one_checksum_and_other_data_another(tmp_path):
    one = data.load(npz(tmp_path))
    assert one.sha256() == dataclasses.replace(one, name="other").sha256()
    for change in (
        {"train_images": one.train_images ^ (np.arange(one.train_images.size) == 5).reshape(
            one.train_images.shape)},
        {"test_labels": one.test_labels[::-1]},
        {"class_names": ("a", "b", "c")},
        {"train_images": one.train_images.reshape(-1, 4, 16, 1)},
    ):  # fmt: skip
        assert dataclasses.replace(one, **change).sha256() != one.sha256()


def test_a_run_on_grey_images_in_classes_of_unequal_sizes(tmp_path):
    """The digits, all but three of a class taken away, so that it can't fill its share."""
    digits = data.load("digits")
    last = int(data.scenario.class_order(10, "seeded", 1993)[4])
    rows = np.flatnonzero(digits.train_labels == last)[3:]
    kept = np.delete(np.arange(len(digits.train_labels)), rows)
    test = {"test_images": digits.test_images, "test_labels": digits.test_labels}
    images, labels = digits.train_images[kept][..., 0], digits.train_labels[kept]
    name = npz(tmp_path, images=images, labels=labels, **test)
    config = small_config("icarl", tmp_path / "run", dataset=name)
    results = cil_jax.run(config)
    assert results["task_sizes"] == [2, 2, 1] and results["class_order"][4] == last
    # Twenty places make four a class, and the last has three images.
    assert results["memory_bytes"] == (4 * 4 + 3) * 8 * 8
    assert results["dataset"] == name and results["data_sha256"] == data.load(name).sha256()
    assert results["classifiers"]["nme"]["seen_accuracy"][0] > 0.7

    begun = RunFolder(config.folder()).settings()
    again = dataclasses.replace(config, resume=True)
    assert cil_jax.run(again)["classifiers"] == results["classifiers"]
    # The same data in another place is the same data, and is found there from now on.
    (tmp_path / "moved").mkdir()
    (tmp_path / "own.npz").rename(tmp_path / "moved" / "own.npz")
    moved = f"npz:{tmp_path / 'moved' / 'own.npz'}"
    at_new_place = cil_jax.run(dataclasses.replace(again, dataset=moved))
    assert at_new_place["classifiers"] == results["classifiers"]
    folder = RunFolder(config.folder())
    assert at_new_place["dataset"] == folder.results()["dataset"] == moved
    settings = folder.settings()
    assert settings["dataset"] == moved and list(settings) == list(begun)
    assert {**settings, "dataset": name} == begun
    images[0, 0, 0] ^= 1
    npz(tmp_path, images=images, labels=labels, **test)
    with pytest.raises(UserError, match="holds other images, labels or names than when the run"):
        cil_jax.run(again)
    assert folder.settings() == settings


def test_a_run_on_a_folder_of_colour_pictures_of_all_sizes(tmp_path):
    order = data.scenario.class_order(4, "seeded", 1993).tolist()
    for c in range(4):
        n = 1 if c == order[3] else 2
        for i in range(n + 1):
            image = pixels(1, (30 + 5 * i, 40, 3), seed=10 * c + i)[0]
            save(
                tmp_path / "d" / ("test" if i == n else "train") / f"class {c}" / f"{i}.jpg", image
            )
    config = small_config(
        "icarl",
        tmp_path / "run",
        dataset=f"folder:{tmp_path / 'd'}",
        image_size=32,
        mirror="yes",
        classes=4,
        epochs=1,
        batch_size=4,
    )
    results = cil_jax.run(config)
    assert results["task_sizes"] == [2, 2] and results["class_order"] == order
    assert results["memory_bytes"] == 7 * 32 * 32 * 3
