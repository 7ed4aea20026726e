"""Options and checks that the formats for users' own data share."""

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError

TEST_SHARE = 0.2
# Unicode categories: control characters, surrogates, and separators of lines and paragraphs.
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
# Invisible characters outside the category Cf: joiners, fillers and variation selectors.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How to read a data set. None stands for the default.

    Attributes:
      image_size: height and width in pixels that image files are resized to (default: keep the
        size).
      test_share: fraction of each class to use for testing, for data without test images (default:
        TEST_SHARE).
      split_seed: seed of the random choice of these test images (default: 0).
    """

    image_size: int | None = None
    test_share: float | None = None
    split_seed: int | None = None


class Problems:
    """The problems of a data set, collected so that one error message lists all of them.

    Attributes:
      source: the file or folder, which begins the message.
      found: the problems, one line each.
    """

    def __init__(self, source: str | os.PathLike[str]):
        self.source = source
        self.found: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, problem: str) -> None:
        """Adds a problem, described in one line."""
        self.found.append(problem)

    def check(self) -> None:
        """Raises an error if there are problems.

        Raises:
          UserError: a message that lists all problems.
        """
        if len(self.found) == 1:
            raise UserError(f"{self.source}: {self.found[0]}")
        if self.found:
            raise UserError(f"{self.source} has {len(self.found)} problems:", self.found)


def existing_path(path: str, is_file: bool) -> Path:
    """Returns the path of a file or of a folder, after a check that it exists.

    Args:
      path: the path as the user wrote it.
      is_file: whether it must be a file rather than a folder.

    Raises:
      UserError: if there is no such file or folder.
    """
    expanded = Path(path).expanduser()
    # Unlike the methods of Path, os.path returns False for a name that is too long.
    if is_file and os.path.isdir(expanded):
        raise UserError(f"{expanded} is a folder: read it with --dataset folder:{expanded}")
    if not is_file and os.path.isfile(expanded):
        raise UserError(
            f"{expanded} is a file: if numpy.savez wrote it, read it with --dataset npz:{expanded}"
        )
    if not (os.path.isfile if is_file else os.path.isdir)(expanded):
        raise UserError(f"there is no {'file' if is_file else 'folder'} {expanded}")
    return expanded


def name_problems(names: Iterable[Any]) -> list[str]:
    """Returns the problems of a list of class names, one line each.

    Class names are printed, searched and written to files, so they must be printable text. They
    must also look different: "Käfer" can be encoded with five characters or with six, and "cat" may
    end in a zero-width space.
    """
    problems = []
    spellings: dict[str, list[str]] = {}  # the names of each appearance
    for name in names:
        appearance = _appearance(name) if isinstance(name, str) else ""
        if appearance and not any(unicodedata.category(c) in UNPRINTABLE for c in name):
            # str, because the repr of numpy's strings differs
            spellings.setdefault(appearance, []).append(str(name))
        else:
            shown = str(name) if isinstance(name, str) else name
            problems.append(f"the class name {shown!r} is not printable text: rename the class")
    for counts in map(Counter, spellings.values()):
        problems += [f"two classes are named {name!r}" for name, n in counts.items() if n > 1]
        first, *others = counts
        problems += [look_alike(first, other) for other in others]
    return problems


def look_alike(name: str, other: str) -> str:
    """Returns the message about two class names that look the same."""
    return f"the class names {_with_codes(name)} and {_with_codes(other)} look the same: rename one"


def _appearance(name: str) -> str:
    """Returns a name without invisible characters, and with accents encoded in one way."""
    if name.isascii():
        return " ".join(name.split())
    visible = (c for c in name if unicodedata.category(c) != "Cf" and not INVISIBLE.match(c))
    return " ".join(unicodedata.normalize("NFC", "".join(visible)).split())


def _with_codes(name: str) -> str:
    """Returns a quoted name, followed by its character codes if it is not plain ASCII."""
    codes = "".join(c if " " <= c <= "~" else f"<U+{ord(c):04X}>" for c in name)
    return f"{name!r}" if codes == name else f"{name!r} ({codes})"


def check_names(names: Iterable[Any], problems: Problems) -> None:
    """Adds the problems of a list of class names."""
    for problem in name_problems(names):
        problems.add(problem)


def check_classes(
    names: Sequence[str], train_labels: np.ndarray, test_labels: np.ndarray, problems: Problems
) -> None:
    """Adds a problem for each class without a training image or without a test image."""
    for kind, labels in (("training", train_labels), ("test", test_labels)):
        valid = labels[(labels >= 0) & (labels < len(names))]
        counts = np.bincount(valid, minlength=len(names))
        for c in np.flatnonzero(counts == 0).tolist():
            problems.add(f"class {names[c]!r} has no {kind} image")


def check_memory(n_bytes: int) -> None:
    """Checks that images fit into this machine's memory.

    A decompression bomb, a small file that unpacks to a huge image, does not.

    Raises:
      UserError: if they do not fit.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return  # this system does not report its memory
    if n_bytes > memory:
        raise UserError(
            f"the images need at least {n_bytes / 1e9:,.1f} GB, but this machine has "
            f"{memory / 1e9:,.1f} GB of memory: use fewer or smaller images"
        )


def hold_out(
    labels: np.ndarray, names: Sequence[str], options: ReadOptions, problems: Problems
) -> np.ndarray:
    """Chooses the test images at random, the same fraction of each class.

    Args:
      labels: int [N].
      names: the names of the classes.
      options: the fraction, and the seed of the choice.
      problems: a class with fewer than two images is added to these.

    Returns:
      bool [N], True for a test image.
    """
    share = TEST_SHARE if options.test_share is None else options.test_share
    random = np.random.RandomState(options.split_seed or 0)
    is_test = np.zeros(len(labels), bool)
    for c, name in enumerate(names):
        rows = np.flatnonzero(labels == c)
        if len(rows) < 2:
            count = "only one image" if len(rows) else "no image"
            problems.add(
                f"class {name!r} has {count}; it needs one for training and one for testing"
            )
        n_test = min(max(round(share * len(rows)), 1), len(rows) - 1)
        is_test[random.permutation(rows)[: max(n_test, 0)]] = True
    return is_test


def refuse_split_options(options: ReadOptions, reason: str) -> None:
    """Checks that no random split is requested for data that already has test images.

    Args:
      options: how to read the data.
      reason: what says which images are for testing; the first part of the error message.

    Raises:
      UserError: if `test_share` or `split_seed` is given.
    """
    if options.test_share is not None or options.split_seed is not None:
        raise UserError(f"{reason}: leave out --test-share and --split-seed")


def user_dataset(
    name: str,
    images: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
) -> Dataset:
    """Makes a data set of users' images, with defaults for its augmentation.

    The border for crops is an eighth of the shorter side, as for CIFAR-100. Images are not
    mirrored by default, because for some data, such as letters, a mirrored image is wrong.

    Args:
      name: its name on the command line, the value of `--dataset`.
      images: uint8 [N, H, W, C], for training and for testing.
      labels: int [N], for training and for testing.
      class_names: the name of each class.
    """
    return Dataset(
        name=name,
        train_images=images[0],
        train_labels=labels[0].astype(np.int32),
        test_images=images[1],
        test_labels=labels[1].astype(np.int32),
        class_names=tuple(class_names),
        pad=round(min(images[0].shape[1:3]) / 8),
        mirror=False,
    )
