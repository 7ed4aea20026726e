"""Making a tensorflow-datasets folder of CIFAR-100 on a machine that has none, without TensorFlow.

tfds' own builder and writer do the work; only what would need TensorFlow is done here: fetching
the archive, unpacking it, and opening its files.
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

import numpy as np
from PIL import Image

from cil_jax.data import cifar100
from cil_jax.errors import UserError
from cil_jax.files import writing

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte
CONTENT, MADE = "content", "made"  # the archive's, and what is made of it
_LEFT = re.compile(r"\.prepare-[a-z0-9_]{8}")  # by a killed process of an older version

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to fetch, and how to know it.

    Attributes:
      url: where it is.
      size: in bytes.
      md5: in hexadecimal digits.
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
    data_dir: str | os.PathLike,
    archive_file: str | os.PathLike | None = None,
    archive: Archive | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Prepares CIFAR-100 as ArrayRecord, from a file or from the network.

    Args:
      data_dir: the tfds data folder to put it in.
      archive_file: the archive, if it is here already; it is left as it is.
      archive: where to fetch it from otherwise, and what it must be (default: CIFAR100).
      progress: told of the bytes fetched.

    Returns:
      The folder of the prepared data set. If it was there before, nothing is done.

    Raises:
      UserError: if the archive can't be fetched or is not the right one, or the folder can't be
        written. Nothing half-made is left.
    """
    archive = archive or CIFAR100
    data_dir = Path(data_dir).expanduser()
    _sweep(data_dir, archive)
    version = cifar100.prepared_version(data_dir)
    if version:
        return data_dir / cifar100.NAME / version
    for taken in data_dir.glob(f"{cifar100.NAME}/[0-9]*"):
        raise UserError(f"{taken} is there already, but not as ArrayRecord: move it away")
    try:
        writing.make_folder(data_dir)
        # Everything is made beside the target and moved there whole.
        with writing.scratch_folder(data_dir) as scratch:
            file = Path(archive_file) if archive_file else scratch / Path(archive.url).name
            if not archive_file:
                fetch(archive, file, progress)
            verify(file, archive)
            _unpack(file, scratch / CONTENT)
            made = _build(scratch / CONTENT, scratch / MADE)
            target = data_dir / made.relative_to(scratch / MADE)
            writing.make_folder(target.parent)
            writing.move(made, target)
            return target
    except OSError as error:
        raise UserError(f"can't prepare CIFAR-100 in {data_dir}: {error}") from error


def _sweep(data_dir: Path, archive: Archive) -> None:
    """Removes what killed processes left, those of older versions of this package included."""
    writing.sweep(data_dir)
    for folder in data_dir.glob(".prepare-*"):
        with contextlib.suppress(OSError):
            there = {file.name for file in folder.iterdir()}
            if _LEFT.fullmatch(folder.name) and there <= {Path(archive.url).name, CONTENT, MADE}:
                writing.remove_if_left(folder)


def fetch(archive: Archive, file: Path, progress: Progress) -> None:
    """Downloads an archive to a file.

    Raises:
      UserError: if it can't be reached or the connection breaks.
    """
    try:
        with urllib.request.urlopen(archive.url, timeout=TIMEOUT) as source, file.open("wb") as out:
            done = 0
            while chunk := source.read(CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(done, archive.size)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"can't download {archive.url}: {reason}; where there is no network, fetch it "
            "elsewhere and pass it with --archive FILE"
        ) from error


def verify(file: Path, archive: Archive) -> None:
    """Checks a file's size and checksum.

    Raises:
      UserError: if it is not the archive, with both sizes or both checksums.
    """
    if not file.is_file():
        raise UserError(f"no archive at {file}")
    with file.open("rb") as content:
        md5 = hashlib.file_digest(content, "md5").hexdigest()
    size = file.stat().st_size
    if size != archive.size or md5 != archive.md5:
        raise UserError(
            f"{file.name} is not the CIFAR-100 archive, or not all of it: {size:,} bytes with "
            f"md5 {md5}, where {archive.size:,} bytes with md5 {archive.md5} are expected"
        )


def _unpack(file: Path, folder: Path) -> None:
    try:
        with tarfile.open(file) as content:
            content.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"{file.name} can't be unpacked: {error}") from error


def _build(content: Path, data_dir: Path) -> Path:
    """Runs tfds' builder over the unpacked archive."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.image_classification import cifar

    class Builder(cifar.Cifar100, skip_registration=True):
        """tfds' own builder, reading with plain Python."""

        name = "cifar100"

        def _split_generators(self, dl_manager):
            del dl_manager  # it fetches and unpacks through TensorFlow
            info = self._cifar_info
            folder = content / info.prefix
            for key, file in zip(info.label_keys, info.label_files, strict=True):
                self.info.features[key].names = (folder / file).read_text().split()
            return {
                tfds.Split.TRAIN: self._generate_examples("train_", folder / info.train_files[0]),
                tfds.Split.TEST: self._generate_examples("test_", folder / info.test_files[0]),
            }

        def _generate_examples(self, prefix, file):
            for i, (coarse, fine, image) in enumerate(records(file)):
                png = io.BytesIO()  # an array would be encoded by TensorFlow
                Image.fromarray(image).save(png, format="png")
                png.seek(0)
                yield (
                    i,
                    {
                        "id": f"{prefix}{i:05d}",
                        "image": png,
                        "label": fine,
                        "coarse_label": coarse,
                    },
                )

    builder = Builder(data_dir=os.fspath(data_dir), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it would name folders that will be moved
        builder.download_and_prepare()
    return Path(builder.data_path)


def records(file: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    """Coarse label, fine label and image uint8 [32, 32, 3] of each record of a CIFAR-100 file."""
    raw = np.fromfile(file, np.uint8).reshape(-1, 2 + 3 * 32 * 32)
    images = raw[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for (coarse, fine), image in zip(raw[:, :2].tolist(), images, strict=True):
        yield coarse, fine, np.ascontiguousarray(image)
