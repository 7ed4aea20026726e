"""What all data sets of the user's own have in common: how they are read, and what must hold."""

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
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode categories: control, surrogate, line separators
# Characters without a shape that are in other categories than Cf: joiners, fillers, and selectors
# of a variant of the character before.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a data set is read; None where that is not said.

    Attributes:
      image_size: pixels of a side to which pictures are brought.
      test_share: of each class' images, where a data set has no test images of its own.
      split_seed: of the choice of these.
    """

    image_size: int | None = None
    test_share: float | None = None
    split_seed: int | None = None


class Problems:
    """What is wrong with a data set, collected so that all of it is said at once."""

    def __init__(self, source: str | os.PathLike):
        self.source = source
        self.found: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, what: str) -> None:
        """Adds one that is said in a line."""
        self.found.append(what)

    def check(self) -> None:
        """Nothing, if nothing is wrong.

        Raises:
          UserError: with all that is.
        """
        if len(self.found) == 1:
            raise UserError(f"{self.source}: {self.found[0]}")
        if self.found:
            raise UserError(f"{self.source} has {len(self.found)} problems:", self.found)


def existing(path: str, is_file: bool) -> Path:
    """The path of a file or of a folder.

    Raises:
      UserError: if there is no such thing.
    """
    file = Path(path).expanduser()
    # os.path answers where Path raises: on names that are too long, for one.
    if is_file and os.path.isdir(file):
        raise UserError(f"{file} is a folder: --dataset folder:{file} reads one")
    if not is_file and os.path.isfile(file):
        raise UserError(f"{file} is a file: --dataset npz:{file} reads one that numpy.savez wrote")
    if not (os.path.isfile if is_file else os.path.isdir)(file):
        raise UserError(f"there is no {'file' if is_file else 'folder'} {file}")
    return file


def name_problems(names: Iterable[Any]) -> list[str]:
    """What is wrong with class names, a line each; nothing if nothing is.

    They are shown, searched and written to files, so they must be text that can be printed, and
    distinct: also in what a reader sees of them. "Käfer" can be written with six characters or
    with five, and "cat" with a space of no width at its end.
    """
    problems = []
    spellings: dict[str, list[str]] = {}  # by what they look like
    for name in names:
        look = _appearance(name) if isinstance(name, str) else ""
        if look and not any(unicodedata.category(c) in UNPRINTABLE for c in name):
            spellings.setdefault(look, []).append(str(name))  # numpy's strings have another repr
        else:
            shown = str(name) if isinstance(name, str) else name
            problems.append(
                f"{shown!r} is no name for a class: it must be text that can be printed"
            )
    for counts in map(Counter, spellings.values()):
        problems += [f"two classes are named {name!r}" for name, n in counts.items() if n > 1]
        first, *others = counts
        problems += [look_alike(first, other) for other in others]
    return problems


def look_alike(name: str, other: str) -> str:
    """What to say of two class names that a reader can't tell apart."""
    return f"the class names {_with_codes(name)} and {_with_codes(other)} look the same: rename one"


def _appearance(name: str) -> str:
    """A name without the characters that can't be seen, its accents in one form."""
    if name.isascii():
        return " ".join(name.split())
    visible = (c for c in name if unicodedata.category(c) != "Cf" and not INVISIBLE.match(c))
    return " ".join(unicodedata.normalize("NFC", "".join(visible)).split())


def _with_codes(name: str) -> str:
    """A name and, where it is not ASCII, the same with the numbers of the other characters."""
    codes = "".join(c if " " <= c <= "~" else f"<U+{ord(c):04X}>" for c in name)
    return f"{name!r}" if codes == name else f"{name!r} ({codes})"


def check_names(names: Iterable[Any], problems: Problems) -> None:
    """Adds what is wrong with class names."""
    for problem in name_problems(names):
        problems.add(problem)


def check_classes(
    names: Sequence[str], train_labels: np.ndarray, test_labels: np.ndarray, problems: Problems
) -> None:
    """Every class must have an image to learn and one to be tested with."""
    for kind, labels in (("training", train_labels), ("test", test_labels)):
        known = labels[(labels >= 0) & (labels < len(names))]
        counts = np.bincount(known, minlength=len(names))
        for c in np.flatnonzero(counts == 0):
            problems.add(f"class {names[c]!r} has no {kind} image")


def check_memory(n_bytes: int) -> None:
    """Images must fit the machine's memory, which those of a decompression bomb do not.

    Raises:
      UserError: if they can't.
    """
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return  # a system that does not tell
    if n_bytes > memory:
        raise UserError(
            f"the images take {n_bytes / 1e9:,.1f} GB or more, and this machine has "
            f"{memory / 1e9:,.1f} GB of memory: take fewer, or smaller ones (--image-size)"
        )


def hold_out(
    labels: np.ndarray, names: Sequence[str], reading: Reading, problems: Problems
) -> np.ndarray:
    """bool [N]: the images that are kept for testing, the same share of each class.

    Args:
      labels: int [N].
      names: of the classes.
      reading: the share, and the seed of the choice.
      problems: is told of classes with fewer than two images.
    """
    share = TEST_SHARE if reading.test_share is None else reading.test_share
    random = np.random.RandomState(reading.split_seed or 0)
    is_test = np.zeros(len(labels), bool)
    for c, name in enumerate(names):
        rows = np.flatnonzero(labels == c)
        if len(rows) < 2:
            has = "one image, which can't be for training and for test" if len(rows) else "no image"
            problems.add(f"class {name!r} has {has}")
        n_test = min(max(round(share * len(rows)), 1), len(rows) - 1)
        is_test[random.permutation(rows)[: max(n_test, 0)]] = True
    return is_test


def refuse_split(reading: Reading, what: str) -> None:
    """For data that says itself what is for testing.

    Raises:
      UserError: if a split is asked for all the same.
    """
    if reading.test_share is not None or reading.split_seed is not None:
        raise UserError(f"{what}: leave out --test-share and --split-seed")


def dataset(
    name: str,
    images: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
) -> Dataset:
    """A data set of which nothing else is known.

    Crops move an image by an eighth of its size, as for CIFAR-100. It is not mirrored unless that
    is asked for: a mirrored letter is no letter.

    Args:
      name: as given to `--dataset`.
      images: uint8 [N, H, W, C] for training and for test.
      labels: int [N] of either.
      class_names: one for each class.
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
