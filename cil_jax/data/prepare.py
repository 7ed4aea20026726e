"""Prepares CIFAR-100 in the format of tensorflow-datasets, without TensorFlow.

The builder and writer of tensorflow-datasets do the work. This module replaces only the steps that
need TensorFlow: it downloads the archive, unpacks it and reads its files.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cil_jax.data import cifar100, tfds
from cil_jax.errors import UserError, needs_extra
from cil_jax.files import writing

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without receiving a byte
CONTENT, MADE = "content", "made"  # folders of the unpacked archive and of the prepared data

# The name of a temporary folder that older versions left behind if they were killed.
_OLD_TEMPORARY_FOLDER = re.compile(r"\.prepare-[a-z0-9_]{8}")

Progress = Callable[[int, int], None]  # called with the bytes so far and the bytes in total


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download, and how to verify it.

    Attributes:
      url: its address.
      size: its size in bytes.
      md5: its MD5 checksum, as hexadecimal digits.
    """

    url: str
    size: int
    md5: str


CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    size=168_513_733,
    md5="03b5dce01913d631647c71ecec9e9cb8",
)


def prepare(
    data_dir: str | os.PathLike[str],
    archive_file: str | os.PathLike[str] | None = None,
    archive: Archive | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Prepares CIFAR-100 as ArrayRecord, from a file or from the network.

    Does nothing if the data folder already has it.

    Args:
      data_dir: the folder of prepared tensorflow-datasets, to write to.
      archive_file: the archive, if you already have it. It is not changed.
      archive: the archive to download otherwise, and the size and checksum that the file must have
        (default: CIFAR100).
      progress: called during the download.

    Returns:
      The folder of the prepared data set.

    Raises:
      UserError: if the archive can't be downloaded or is not the right one, or the folder can't be
        written. Unfinished files are removed.
    """
    archive = archive or CIFAR100
    data_dir = Path(data_dir).expanduser()
    _remove_temporary_folders(data_dir, archive)
    version = cifar100.prepared_version(data_dir)
    if version:
        return data_dir / cifar100.NAME / version
    for existing in data_dir.glob(f"{cifar100.NAME}/[0-9]*"):
        raise UserError(f"{existing} already exists, but not as ArrayRecord: move it away")
    try:
        writing.make_folder(data_dir)
        # Everything is made in a temporary folder, and moved to its place when it is complete.
        with writing.scratch_folder(data_dir) as scratch:
            file = Path(archive_file) if archive_file else scratch / Path(archive.url).name
            if not archive_file:
                fetch(archive, file, progress)
            verify(file, archive)
            _unpack(file, scratch / CONTENT)
            prepared = _build(scratch / CONTENT, scratch / MADE)
            target = data_dir / prepared.relative_to(scratch / MADE)
            writing.make_folder(target.parent)
            writing.move(prepared, target)
            return target
    except OSError as error:
        raise UserError(f"can't prepare CIFAR-100 in {data_dir}: {error}") from error


def _remove_temporary_folders(data_dir: Path, archive: Archive) -> None:
    """Removes what killed processes left behind, also those of older versions of this package."""
    writing.sweep(data_dir)
    our_names = {Path(archive.url).name, CONTENT, MADE}
    for folder in data_dir.glob(".prepare-*"):
        with contextlib.suppress(OSError):
            names = {file.name for file in folder.iterdir()}
            if _OLD_TEMPORARY_FOLDER.fullmatch(folder.name) and names <= our_names:
                writing.remove_if_left(folder)


def fetch(archive: Archive, file: Path, progress: Progress) -> None:
    """Downloads an archive to a file.

    Raises:
      UserError: if the server can't be reached or the connection breaks.
    """
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT) as source, file.open("wb") as out:
            n_bytes = 0
            while chunk := source.read(CHUNK):
                out.write(chunk)
                n_bytes += len(chunk)
                progress(n_bytes, archive.size)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"can't download {archive.url}: {reason}; without a network, download it on another "
            "machine and pass it with --archive FILE"
        ) from error


def verify(file: Path, archive: Archive) -> None:
    """Checks the size and the checksum of a file.

    Raises:
      UserError: if it is not the archive; the message has both sizes and both checksums.
    """
    if not file.is_file():
        raise UserError(f"there is no archive {file}")
    with file.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").hexdigest()
    size = file.stat().st_size
    if size != archive.size or md5 != archive.md5:
        raise UserError(
            f"{file.name} is not the complete CIFAR-100 archive: it has {size:,} bytes and MD5 "
            f"{md5}, expected {archive.size:,} bytes and MD5 {archive.md5}"
        )


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file) as content:
            content.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"{file.name} can't be unpacked: {error}") from error


def _build(content: Path, data_dir: Path) -> Path:
    """Runs the builder of tensorflow-datasets on the unpacked archive.

    Args:
      content: folder of the unpacked archive.
      data_dir: folder of prepared data sets to write to.

    Returns:
      The folder of the prepared version.
    """
    with needs_extra("tfds", tfds.PURPOSE):
        from tensorflow_datasets.image_classification import cifar

    class Builder(cifar.Cifar100, skip_registration=True):
        """The builder of tensorflow-datasets, with files read in plain Python."""

        name = "cifar100"

        def _split_generators(self, dl_manager: object) -> Any:
            del dl_manager  # it needs TensorFlow to download and unpack
            info = self._cifar_info
            folder = content / info.prefix
            features: Any = self.info.features
            for key, file in zip(info.label_keys, info.label_files, strict=True):
                features[key].names = (folder / file).read_text().split()
            return {
                "train": self._generate_examples("train_", folder / info.train_files[0]),
                "test": self._generate_examples("test_", folder / info.test_files[0]),
            }

        def _generate_examples(self, split_prefix: str, filepaths: Path) -> Any:
            for i, (coarse, fine, image) in enumerate(read_records(filepaths)):
                png = io.BytesIO()  # encoded here, because an array needs TensorFlow for that
                Image.fromarray(image).save(png, format="png")
                png.seek(0)
                yield (
                    i,
                    {
                        "id": f"{split_prefix}{i:05d}",
                        "image": png,
                        "label": fine,
                        "coarse_label": coarse,
                    },
                )

    builder = Builder(data_dir=os.fspath(data_dir), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of a temporary folder
        builder.download_and_prepare()
    return Path(builder.data_path)


def read_records(file: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields the coarse label, fine label and image uint8 [32, 32, 3] of each record of a file."""
    raw = np.fromfile(file, np.uint8).reshape(-1, 2 + 3 * 32 * 32)
    images = raw[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for (coarse, fine), image in zip(raw[:, :2].tolist(), images, strict=True):
        yield coarse, fine, np.ascontiguousarray(image)
