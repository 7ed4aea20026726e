"""Picture files to arrays of one size, with Pillow."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import PIL
from PIL import Image, ImageOps

from cil_jax.data.own import Problems, check_memory

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
DECODER = ("pictures 1", PIL.__version__)  # what an array depends on, beside its file

THREADS = 8
BATCH = 256  # pictures in work at once
NAMED = 20  # pictures of other sizes, each with a line of its own


class Unreadable(Exception):
    """A picture can't be used, and why."""


def suffixes() -> frozenset[str]:
    """Of file names, such as .png, by which these formats are known."""
    return frozenset(s for s, name in Image.registered_extensions().items() if name in FORMATS)


def read(source: str | os.PathLike | bytes, image_size: int | None = None) -> np.ndarray:
    """A picture as uint8 [H, W, 1] if it is grey, else [H, W, 3].

    Turned as its EXIF orientation says, the first of several frames, on white where it is
    transparent, 16-bit grey scaled to 8 bits. With `image_size` the shorter side is brought to it
    and the middle square is taken.

    Args:
      source: a file, or what it holds.
      image_size: pixels of a side.

    Raises:
      Unreadable: if it is none of FORMATS, damaged, or larger than Pillow takes to be safe.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError  # where Pillow would only warn
            if image_size:
                picture.draft(None, (2 * image_size, 2 * image_size))  # a JPEG need not be whole
            kind = picture.format
            pixels = _grey_or_colour(ImageOps.exif_transpose(picture), kind)
            if image_size:
                side = (image_size, image_size)
                pixels = ImageOps.fit(pixels, side, Image.Resampling.BICUBIC)
            array = np.array(pixels, np.uint8)
    except Unreadable:
        raise
    except PIL.UnidentifiedImageError:
        raise Unreadable(f"no picture that can be read ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise Unreadable(f"more than {most} pixels, which may be a decompression bomb") from None
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror or error}") from error
    except Exception as error:  # of a decoder that stumbles over damage there is no list
        raise Unreadable(f"can't be read: {error or type(error).__name__}") from error
    return array[..., None] if array.ndim == 2 else array


def _grey_or_colour(picture: Image.Image, kind: str | None) -> Image.Image:
    """Of mode L or RGB."""
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and kind == "PNG"):  # older Pillow: I
        return Image.fromarray(np.round(np.asarray(picture) / 257).astype(np.uint8))
    if mode in ("I", "F"):
        raise Unreadable("pixels of 32 bits: save it with 8 or 16")
    if mode[-1] in "Aa" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")


def read_all(
    pictures: Iterable[tuple[str, str | os.PathLike | bytes]],
    image_size: int | None,
    problems: Problems,
) -> np.ndarray:
    """Pictures as uint8 [N, H, W, C]: one channel if all are grey, else three.

    Args:
      pictures: what each is called in messages, and its source.
      image_size: as for `read`; without one all must have the same size.
      problems: is told of every one that can't be used. The array is then of no use.

    Raises:
      UserError: if they do not fit the memory.
    """
    Image.init()  # not by several threads at once
    names, arrays, n_bytes = [], [], 0
    pictures = iter(pictures)
    with warnings.catch_warnings(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # on damage that does not matter
        while batch := list(islice(pictures, BATCH)):
            for (name, _), found in zip(
                batch, pool.map(lambda one: _read_or_why(one[1], image_size), batch), strict=True
            ):
                if isinstance(found, Unreadable):
                    problems.add(f"{name}: {found}")
                    continue
                names.append(name)
                arrays.append(found)
                n_bytes += found.nbytes
            check_memory(n_bytes)
    _check_sizes(names, arrays, problems)
    if problems or not arrays:
        return np.zeros((0, 1, 1, 1), np.uint8)
    shape = (*arrays[0].shape[:2], max(array.shape[2] for array in arrays))
    images = np.empty((len(arrays), *shape), np.uint8)
    for i, array in enumerate(arrays):
        images[i] = array  # a grey one fills all channels
    return images


def _read_or_why(source, image_size):
    try:
        return read(source, image_size)
    except Unreadable as error:
        return error


def _check_sizes(names: list[str], arrays: list[np.ndarray], problems: Problems) -> None:
    sizes = Counter(array.shape[:2] for array in arrays)
    if len(sizes) < 2:
        return
    common = sizes.most_common(1)[0][0]
    problems.add(
        f"pictures have {len(sizes)} sizes, most {_written(common)}: --image-size N brings all to "
        "N x N pixels"
    )
    others = [i for i, array in enumerate(arrays) if array.shape[:2] != common]
    for i in others[:NAMED]:
        problems.add(f"{names[i]}: {_written(arrays[i].shape)} pixels")
    if len(others) > NAMED:
        problems.add(f"and {len(others) - NAMED} more")


def _written(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
