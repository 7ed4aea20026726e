"""A data set of the user's own as a folder of pictures, in a folder for each class.

    DIR/train/CLASS/picture.png, DIR/test/CLASS/picture.png
    DIR/CLASS/picture.png          a share of each class is held out for testing

train may also be called training or train_set, and test testing or test_set, in any case. Where
there is no test folder, validation (val, valid) is taken. A class folder may hold folders, whose
pictures belong to the class too. Names that begin with a dot, and what systems leave behind, are
ignored. Classes come in the order of their names.
"""

import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cil_jax.data import pictures
from cil_jax.data.cache import cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.data.own import (
    Problems,
    Reading,
    check_classes,
    check_names,
    dataset,
    existing,
    hold_out,
    look_alike,
    refuse_split,
)
from cil_jax.errors import UserError


def _split_name(stem: str) -> re.Pattern:
    return re.compile(rf"{stem}([ _-]?(set|data|images))?", re.IGNORECASE)


TRAIN = _split_name("train(ing)?")
TESTS = (_split_name("test(ing)?"), _split_name("val(id(ation)?)?"))  # the first that is there
# What Windows, macOS and Synology leave behind, in lower case.
NO_PICTURES = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")

Split = dict[str, list[Path]]  # the pictures of each class


def load(path: str, reading: Reading) -> Dataset:
    """The data set of a folder.

    Args:
      path: of the folder.
      reading: how large pictures become, and what share is for testing where there is no test
        folder.

    Raises:
      UserError: with all that is wrong with it.
    """
    root = existing(path, is_file=False)
    problems = Problems(root)
    train, test = _splits(root, reading, problems)
    names = sorted({*train, *(test or {})})
    check_names(names, problems)
    files, labels = _in_order(train, names)
    n_train = len(files)
    if test is None:
        is_test = hold_out(labels, names, reading, problems)
    else:
        test_files, test_labels = _in_order(test, names)
        check_classes(names, labels, test_labels, problems)
        files, labels = files + test_files, np.concatenate([labels, test_labels])
        is_test = np.arange(len(files)) >= n_train
    if not names:
        problems.add("there are no folders in it, one for each class")
    images = _images(root, files, reading.image_size, problems)
    problems.check()
    return dataset(
        f"folder:{path}",
        (images[~is_test], images[is_test]),
        (labels[~is_test], labels[is_test]),
        names,
    )


class Labelled(NamedTuple):
    """Images uint8 [N, H, W, C], labels int [N] in 0..classes-1, and the classes' names."""

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]


def read_folder(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> Labelled:
    """All pictures of a folder that has a folder for each class: nothing is held out.

    Args:
      path: of the folder; DIR/CLASS/picture.png.
      image_shape: (H, W, C) that each picture is brought to.

    Raises:
      UserError: with all that is wrong with it.
    """
    root = _folder(path)
    problems = Problems(root)
    classes = _classes(root, root, problems)
    names = sorted(classes)
    check_names(names, problems)
    if not names:
        problems.add("there are no folders in it, one for each class")
    for name in names:
        if not classes[name]:
            problems.add(f"class {name!r} has no picture")
    files, labels = _in_order(classes, names)
    named = [(_relative(file, root), file) for file in files]
    images = pictures.read_all(named, image_shape[:2], problems, channels=image_shape[2])
    problems.check()
    return Labelled(images, labels, names)


def files_in(path: str | os.PathLike, problems: Problems) -> list[Path]:
    """All files in a folder and the folders in it but hidden ones; what is no file is a problem.

    Raises:
      UserError: if there is no such folder.
    """
    return _pictures(_folder(path), _folder(path), problems)


def _folder(path: str | os.PathLike) -> Path:
    root = Path(path).expanduser()
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}")
    return root


def _images(
    root: Path, files: list[Path], image_size: int | None, problems: Problems
) -> np.ndarray:
    """uint8 [N, H, W, C], from the cache if no file has changed.

    Raises:
      UserError: with the problems found before, and those of the pictures.
    """

    def make():
        named = ((_relative(file, root), file) for file in files)
        images = pictures.read_all(named, image_size, problems)
        problems.check()
        return {"images": images}

    state = (state_of(files, root), pictures.DECODER)
    return cached("folder", root, state, make, how=f"size {image_size}")["images"]


def _splits(root: Path, reading: Reading, problems: Problems) -> tuple[Split, Split | None]:
    """Pictures for training and for test; None for the latter if they are to be split."""
    folders = [entry for entry in _entries(root, problems) if _is_folder(entry)]
    # A class may be named train: its folder then holds pictures.
    train = _named([entry for entry in folders if _holds_folders(entry)], TRAIN, root)
    if train is None:
        return _classes(root, root, problems), None
    found = (_named(folders, name, root) for name in TESTS)
    test = next((folder for folder in found if folder), None)
    if test is None:
        raise UserError(
            f"{root} has {train.name}, but none of test, validation, val; its folders are "
            f"{', '.join(entry.name for entry in folders)}"
        )
    refuse_split(reading, f"{root} has a {test.name} folder")
    return _classes(train, root, problems), _classes(test, root, problems)


def _named(folders: list[os.DirEntry], name: re.Pattern, root: Path) -> Path | None:
    """The one of some folders that has a name.

    Raises:
      UserError: if several have.
    """
    found = [entry for entry in folders if name.fullmatch(entry.name)]
    if len(found) > 1:
        names = " and ".join(entry.name for entry in found)
        raise UserError(f"{root} has {names}, which are one split by their names: merge them")
    return Path(found[0].path) if found else None


def _holds_folders(entry: os.DirEntry) -> bool:
    return any(_is_folder(inner) for inner in _entries(Path(entry.path), Problems("")))


def _refuse_splits(entry: os.DirEntry, where: str, problems: Problems) -> None:
    """Test images would be trained on if a split were taken for a class, or for a part of one."""
    inside = _entries(Path(entry.path), Problems(""))
    names = [inner.name for inner in inside if _is_folder(inner)]
    is_split = any(name.fullmatch(entry.name) for name in (TRAIN, *TESTS))
    if is_split and names and len(names) == len(inside):
        problems.add(
            f"{where}: holds only folders, as a split does: put class folders into train and test, "
            "or rename it if it is a class"
        )
    train = [name for name in names if TRAIN.fullmatch(name)]
    test = [name for name in names if any(pattern.fullmatch(name) for pattern in TESTS)]
    if train and test:
        problems.add(
            f"{where}: holds {train[0]} and {test[0]}: put class folders into train and test; if "
            f"{where} is the whole data set, name that folder"
        )


def _classes(folder: Path, root: Path, problems: Problems) -> Split:
    """The pictures of each class folder, in the order of their names."""
    found: Split = {}
    spelled: dict[str, str] = {}
    known = pictures.suffixes()
    for entry in _entries(folder, problems):
        where = _relative(entry.path, root)
        if _is_folder(entry):
            _refuse_splits(entry, where, problems)
            # Some systems store an accent as a letter of its own.
            name = unicodedata.normalize("NFC", entry.name)
            if name in found:
                problems.add(f"{where}: {look_alike(spelled[name], entry.name)}")
            spelled[name] = entry.name
            found[name] = _pictures(Path(entry.path), root, problems)
        elif Path(entry.name).suffix.lower() in known:
            problems.add(f"{where}: no label, for it lies in no class folder")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            problems.add(f"{where}: a link to nothing")
    return found


def _pictures(folder: Path, root: Path, problems: Problems) -> list[Path]:
    """All files in a class folder and the folders in it. What is no file is a problem."""
    seen = set() if folder == root else {_identity(root), _identity(folder.parent)}
    found, folders = [], [folder]
    while folders:
        here = folders.pop()
        if _identity(here) in seen:  # links could lead round and round
            problems.add(f"{_relative(here, root)}: a link to a folder that is read already")
            continue
        seen.add(_identity(here))
        for entry in _entries(here, problems):
            path = Path(entry.path)
            if _is_folder(entry):
                folders.append(path)
            elif os.path.isfile(path):
                found.append(path)
            else:  # opening a pipe would wait for ever
                what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
                problems.add(f"{_relative(path, root)}: {what}")
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    """The same for a folder and for links to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: Path, problems: Problems) -> list[os.DirEntry]:
    """What lies in a folder and is not hidden; nothing if it is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if e.name[0] != "." and e.name.lower() not in NO_PICTURES]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.add(f"{folder}: {error.strerror}")
        return []
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # such as a link to itself


def _in_order(split: Split, names: list[str]) -> tuple[list[Path], np.ndarray]:
    """The pictures and labels of all classes."""
    files = [file for name in names for file in split.get(name, [])]
    counts = [len(split.get(name, [])) for name in names]
    return files, np.repeat(np.arange(len(names)), counts)


def _relative(path: str | os.PathLike, root: Path) -> str:
    return os.path.relpath(path, root)
