"""Users' own data as a folder of image files, with one folder per class:

    DIR/train/CLASS/image.png and DIR/test/CLASS/image.png
    DIR/CLASS/image.png          a random part of each class is used for testing

The folder train may also be named training or train_set, and test may be named testing or test_set,
in upper or lower case. Without a test folder, a folder named validation (val, valid) is used.
Images in subfolders of a class folder belong to the class too. Names that begin with a dot and
files that operating systems create, such as Thumbs.db, are ignored. Classes are sorted by name.
"""

import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cil_jax.data import image_files
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.data.user_data import (
    Problems,
    ReadOptions,
    check_classes,
    check_names,
    existing_path,
    hold_out,
    look_alike,
    refuse_split_options,
    user_dataset,
)
from cil_jax.errors import UserError


def _split_pattern(stem: str) -> re.Pattern[str]:
    """Returns the pattern of the names of a split's folder."""
    return re.compile(rf"{stem}([ _-]?(set|data|images))?", re.IGNORECASE)


TRAIN = _split_pattern("train(ing)?")
TESTS = (_split_pattern("test(ing)?"), _split_pattern("val(id(ation)?)?"))  # the first one found
# Names, in lower case, of files and folders that Windows, macOS and Synology create.
IGNORED = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")

NO_CLASSES = "it has no folders; put the images of each class into a folder"
BROKEN_LINK = "a link to a missing file"

Entry = os.DirEntry[str]
Split = dict[str, list[Path]]  # the image files of each class


def load(path: str, options: ReadOptions) -> Dataset:
    """Loads the data set of a folder.

    Args:
      path: path of the folder.
      options: the size of the images, and how to choose test images if there is no test folder.

    Raises:
      UserError: if there is no such folder or its data is faulty; the message lists all problems.
    """
    root = existing_path(path, is_file=False)
    problems = Problems(root)
    train, test = _splits(root, options, problems)
    names: list[str] = sorted(set(train) | set(test or ()))
    check_names(names, problems)
    files, labels = _files_and_labels(train, names)
    n_train = len(files)
    if test is None:
        is_test = hold_out(labels, names, options, problems)
    else:
        test_files, test_labels = _files_and_labels(test, names)
        check_classes(names, labels, test_labels, problems)
        files, labels = files + test_files, np.concatenate([labels, test_labels])
        is_test = np.arange(len(files)) >= n_train
    if not names:
        problems.add(NO_CLASSES)
    images = _cached_images(root, files, options.image_size, problems)
    problems.check()
    return user_dataset(
        f"folder:{path}",
        (images[~is_test], images[is_test]),
        (labels[~is_test], labels[is_test]),
        names,
    )


class LabelledImages(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int [N], each in 0..classes-1.
      class_names: the name of each class.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]


def read_folder(path: str | os.PathLike[str], image_shape: tuple[int, int, int]) -> LabelledImages:
    """Reads all images of a folder with one folder per class, DIR/CLASS/image.png.

    No test images are held out.

    Args:
      path: path of the folder.
      image_shape: (H, W, C), the height, width and number of channels to convert each image to.

    Raises:
      UserError: if there is no such folder or its data is faulty; the message lists all problems.
    """
    root = _folder(path)
    problems = Problems(root)
    classes = _classes(root, root, problems)
    names = sorted(classes)
    check_names(names, problems)
    if not names:
        problems.add(NO_CLASSES)
    for name in names:
        if not classes[name]:
            problems.add(f"class {name!r} has no image")
    files, labels = _files_and_labels(classes, names)
    named_files = [(_relative(file, root), file) for file in files]
    images = image_files.read_all(named_files, image_shape[:2], problems, channels=image_shape[2])
    problems.check()
    return LabelledImages(images, labels, names)


def files_in(path: str | os.PathLike[str], problems: Problems) -> list[Path]:
    """Lists all files in a folder and its subfolders, without hidden ones.

    Args:
      path: path of the folder.
      problems: what is neither a file nor a folder is added to these.

    Raises:
      UserError: if there is no such folder.
    """
    root = _folder(path)
    return _files_below(root, root, problems)


def _folder(path: str | os.PathLike[str]) -> Path:
    root = Path(path).expanduser()
    if not os.path.isdir(root):
        raise UserError(f"there is no folder {root}")
    return root


def _cached_images(
    root: Path, files: list[Path], image_size: int | None, problems: Problems
) -> np.ndarray:
    """Returns the images of the files, uint8 [N, H, W, C], from the cache if no file has changed.

    Raises:
      UserError: if an image must be decoded and there are problems, earlier ones included.
    """

    def decode() -> Arrays:
        named_files = ((_relative(file, root), file) for file in files)
        images = image_files.read_all(named_files, image_size, problems)
        problems.check()
        return {"images": images}

    state = (state_of(files, root), image_files.DECODER)
    return cached("folder", root, state, decode, variant=f"size {image_size}")["images"]


def _splits(root: Path, options: ReadOptions, problems: Problems) -> tuple[Split, Split | None]:
    """Returns the files for training and for testing; None for the latter without a test folder.

    Raises:
      UserError: if there is a training folder without a test folder, two folders are the same
        split, or a random split is requested although there is a test folder.
    """
    folders = [entry for entry in _entries(root, problems) if _is_folder(entry)]
    # A folder named train that holds no folders is a class of that name.
    train = _find_split([entry for entry in folders if _holds_folders(entry)], TRAIN, root)
    if train is None:
        return _classes(root, root, problems), None
    test_folders = (_find_split(folders, pattern, root) for pattern in TESTS)
    test = next((folder for folder in test_folders if folder), None)
    if test is None:
        raise UserError(
            f"{root} has {train.name}, but none of test, validation and val; its folders are "
            f"{', '.join(entry.name for entry in folders)}"
        )
    refuse_split_options(options, f"{root} has a {test.name} folder")
    return _classes(train, root, problems), _classes(test, root, problems)


def _find_split(folders: list[Entry], pattern: re.Pattern[str], root: Path) -> Path | None:
    """Returns the folder whose name matches; None if there is none.

    Raises:
      UserError: if several match.
    """
    matches = [entry for entry in folders if pattern.fullmatch(entry.name)]
    if len(matches) > 1:
        names = " and ".join(entry.name for entry in matches)
        raise UserError(f"{root} has {names}, which are names of the same split: merge them")
    return Path(matches[0].path) if matches else None


def _holds_folders(entry: Entry) -> bool:
    return any(_is_folder(inner) for inner in _entries(Path(entry.path), Problems("")))


def _check_for_splits(entry: Entry, path: str, problems: Problems) -> None:
    """Adds a problem if a class folder is, or contains, what looks like a train or test folder.

    Otherwise its test images would be used for training.
    """
    inner_entries = _entries(Path(entry.path), Problems(""))
    names = [inner.name for inner in inner_entries if _is_folder(inner)]
    is_split = any(pattern.fullmatch(entry.name) for pattern in (TRAIN, *TESTS))
    if is_split and names and len(names) == len(inner_entries):
        problems.add(
            f"{path}: holds only folders, like a train or test folder: put class folders into "
            "train and test, or rename it if it is a class"
        )
    train = [name for name in names if TRAIN.fullmatch(name)]
    test = [name for name in names if any(pattern.fullmatch(name) for pattern in TESTS)]
    if train and test:
        problems.add(
            f"{path}: holds {train[0]} and {test[0]}: put class folders into train and test; if "
            f"{path} is the whole data set, pass that folder to --dataset"
        )


def _classes(folder: Path, root: Path, problems: Problems) -> Split:
    """Returns the files of each class folder, sorted by the name of the class."""
    classes: Split = {}
    folder_names: dict[str, str] = {}  # by the name of the class
    image_suffixes = image_files.suffixes()
    for entry in _entries(folder, problems):
        path = _relative(entry.path, root)
        if _is_folder(entry):
            _check_for_splits(entry, path, problems)
            # Some systems store an accented letter as two characters.
            name = unicodedata.normalize("NFC", entry.name)
            if name in classes:
                problems.add(f"{path}: {look_alike(folder_names[name], entry.name)}")
            folder_names[name] = entry.name
            classes[name] = _files_below(Path(entry.path), root, problems)
        elif Path(entry.name).suffix.lower() in image_suffixes:
            problems.add(f"{path}: has no label, because it is not in a class folder")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            problems.add(f"{path}: {BROKEN_LINK}")
    return classes


def _files_below(folder: Path, root: Path, problems: Problems) -> list[Path]:
    """Returns all files in a folder and its subfolders. Anything else is added to the problems."""
    visited = set() if folder == root else {_identity(root), _identity(folder.parent)}
    files, folders = [], [folder]
    while folders:
        current = folders.pop()
        if _identity(current) in visited:  # a link can point to a folder that contains it
            problems.add(f"{_relative(current, root)}: a link to a folder that is already read")
            continue
        visited.add(_identity(current))
        for entry in _entries(current, problems):
            path = Path(entry.path)
            if _is_folder(entry):
                folders.append(path)
            elif os.path.isfile(path):
                files.append(path)
            else:  # such as a pipe: reading one can block without end
                kind = BROKEN_LINK if entry.is_symlink() else "neither a file nor a folder"
                problems.add(f"{_relative(path, root)}: {kind}")
    return sorted(files)


def _identity(folder: Path) -> tuple[int, int]:
    """Returns device and inode, which are the same for a folder and for a link to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _entries(folder: Path, problems: Problems) -> list[Entry]:
    """Returns the entries of a folder, sorted by name, without hidden and ignored ones.

    The list is empty if there is no such folder; a folder that can't be read is a problem.
    """
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if e.name[0] != "." and e.name.lower() not in IGNORED]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.add(f"{folder}: {error.strerror}")
        return []
    return sorted(found, key=lambda entry: entry.name)


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # such as a link to itself


def _files_and_labels(split: Split, names: list[str]) -> tuple[list[Path], np.ndarray]:
    """Returns the files of all classes, sorted by class, and their labels int [N]."""
    files = [file for name in names for file in split.get(name, [])]
    counts = [len(split.get(name, [])) for name in names]
    return files, np.repeat(np.arange(len(names)), counts)


def _relative(path: str | os.PathLike[str], root: Path) -> str:
    return os.path.relpath(path, root)
