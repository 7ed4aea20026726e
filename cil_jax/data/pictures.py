"""Picture files to arrays of one size, with Pillow."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps

from cil_jax.data.own import Problems, check_memory
from cil_jax.files.reading import is_regular

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
DECODER = ("pictures 2", PIL.__version__)  # what an array depends on, beside its file

THREADS = 8
BATCH = 256  # pictures in work at once
NAMED = 20  # pictures of other sizes, each with a line of its own

TURNS = {  # what brings a picture upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Source = str | os.PathLike | bytes  # a file, or what it holds
Size = int | tuple[int, int] | None  # pixels of a side, or (height, width)


class Unreadable(Exception):
    """A picture can't be used, and why."""


def suffixes() -> frozenset[str]:
    """Of file names, such as .png, by which these formats are known."""
    return frozenset(s for s, name in Image.registered_extensions().items() if name in FORMATS)


def read(source: Source, image_size: Size = None, channels: int | None = None) -> np.ndarray:
    """A picture as uint8 [H, W, C].

    Turned as its EXIF orientation says, the first of several frames, on white where it is
    transparent, grey of 10, 12 or 16 bits scaled to 8. With `image_size` the shorter side is
    brought to it and the middle square is taken, or the middle of that form.

    Args:
      source: a file, or what it holds.
      image_size: pixels of a side, or (height, width); as it is where none is given.
      channels: 1 for grey, 3 for colour; where none is given, 1 if it is grey, else 3.

    Raises:
      Unreadable: if it is none of FORMATS, damaged, or larger than Pillow takes to be safe.
    """
    try:
        if not isinstance(source, bytes) and not is_regular(source) and os.path.exists(source):
            raise Unreadable("not a regular file, which a picture must be")
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError  # where Pillow would only warn
            if image_size:
                height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
                picture.draft(None, (2 * width, 2 * height))  # a JPEG need not be whole
            pixels = _grey_or_colour(picture)
            if channels:
                pixels = pixels.convert({1: "L", 3: "RGB"}[channels])
            if image_size:
                pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
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


def _grey_or_colour(picture: Image.Image) -> Image.Image:
    """The opened picture, upright, of mode L or RGB."""
    mode, tags = picture.mode, getattr(picture, "tag_v2", {})  # a TIFF's
    is_deep = mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM"))
    if mode in ("I", "F") and not is_deep:
        raise Unreadable("pixels of 32 bits: save it with 8 or 16")
    # Pillow gives the pixels of a TIFF as they are stored, and scales those of a PGM to 16 bits.
    n_bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    white_is_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    picture = _upright(picture)
    if is_deep:
        stored = np.asarray(picture)
        grey = np.round(stored * (255 / (2**n_bits - 1))).astype(np.uint8)
        if white_is_zero:
            grey = 255 - grey
        grey[stored == picture.info.get("transparency", -1)] = 255
        return Image.fromarray(grey)
    if mode[-1] in "Aa" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is stored if EXIF is damaged."""
    picture.load()  # damaged pixels are an error
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow fails on damaged EXIF in many ways
        turn = None
    return picture if turn is None else picture.transpose(turn)


def read_each(
    pictures: Iterable[tuple[str, Source]], image_size: Size = None, channels: int | None = None
) -> Iterator[tuple[str, np.ndarray | Unreadable]]:
    """What `read` gives for each, in order and a little ahead; or why it gives nothing.

    Args:
      pictures: what each is called, and its source.
      image_size, channels: as for `read`.
    """
    Image.init()  # not by several threads at once

    def read_or_why(one):
        try:
            return read(one[1], image_size, channels)
        except Unreadable as error:
            return error

    pictures = iter(pictures)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        while batch := list(islice(pictures, BATCH)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on damage that does not matter
                found = list(pool.map(read_or_why, batch))
            yield from zip((name for name, _ in batch), found, strict=True)


def read_all(
    pictures: Iterable[tuple[str, Source]],
    image_size: Size,
    problems: Problems,
    channels: int | None = None,
) -> np.ndarray:
    """Pictures as uint8 [N, H, W, C].

    Args:
      pictures: what each is called in messages, and its source.
      image_size: as for `read`; without one all must have the same size.
      problems: is told of every one that can't be used. The array is then of no use.
      channels: as for `read`; where none is given, 1 if all are grey, else 3.

    Raises:
      UserError: if they do not fit the memory.
    """
    names, arrays, n_bytes = [], [], 0
    for name, found in read_each(pictures, image_size, channels):
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
