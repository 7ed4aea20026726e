"""Decodes image files to arrays of one size, with Pillow."""

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

from cil_jax.data.user_data import Problems, check_memory
from cil_jax.files.reading import is_regular

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
DECODER = ("pictures 2", PIL.__version__)  # the versions that the arrays depend on

THREADS = 8
BATCH = 256  # images that are decoded at once
MAX_SHOWN = 20  # images of another size that are listed, one line each

TURNS: dict[object, Image.Transpose] = {  # turns an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Source = str | os.PathLike[str] | bytes  # the path of a file, or its content
Size = int | tuple[int, int] | None  # height and width if equal, (height, width), or unchanged


class Unreadable(Exception):
    """An image that can't be used; the message says why, to follow the name of the image."""


def suffixes() -> frozenset[str]:
    """Returns the usual suffixes of FORMATS, such as .png."""
    suffix_formats = Image.registered_extensions().items()
    return frozenset(suffix for suffix, format_name in suffix_formats if format_name in FORMATS)


def read(source: Source, image_size: Size = None, channels: int | None = None) -> np.ndarray:
    """Decodes an image.

    The image is turned upright by its EXIF orientation. Of several frames the first is used.
    Transparent pixels are shown on white, and grey values of 10, 12 or 16 bits are scaled to 8.

    Args:
      source: the path of a file, or its content.
      image_size: height and width in pixels, as one number if they are equal. The image is scaled
        until it covers this size, and its centre is cropped (default: keep the size).
      channels: 1 for grey, 3 for colour (default: as in the image).

    Returns:
      uint8 [H, W, C].

    Raises:
      Unreadable: if the format is not one of FORMATS, or the image is damaged or larger than
        Pillow considers safe.
    """
    try:
        if not isinstance(source, bytes) and not is_regular(source) and os.path.exists(source):
            raise Unreadable("not a regular file")
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError  # Pillow only warns up to twice this size
            if not image_size:
                pixels = _with_channels(_grey_or_colour(picture), channels)
            else:
                height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
                picture.draft(None, (2 * width, 2 * height))  # decodes a large JPEG at a fraction
                pixels = _with_channels(_grey_or_colour(picture), channels)
                pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
            array = np.array(pixels, np.uint8)
    except Unreadable:
        raise
    except PIL.UnidentifiedImageError:
        raise Unreadable(f"not an image in a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise Unreadable(f"more than {limit} pixels, possibly a decompression bomb") from None
    except OSError as error:
        raise Unreadable(f"can't be read: {error.strerror or error}") from error
    except Exception as error:  # decoding a damaged file can raise any exception
        raise Unreadable(f"can't be read: {error or type(error).__name__}") from error
    return array[..., None] if array.ndim == 2 else array


def _with_channels(picture: Image.Image, channels: int | None) -> Image.Image:
    """Converts an image to 1 or 3 channels; None leaves it as it is."""
    return picture.convert({1: "L", 3: "RGB"}[channels]) if channels else picture


def _grey_or_colour(picture: Image.Image) -> Image.Image:
    """Decodes an opened image: upright, of mode L (grey) or RGB.

    Raises:
      Unreadable: if its pixels have 32 bits.
    """
    mode, tags = picture.mode, getattr(picture, "tag_v2", {})  # only a TIFF has tags
    has_16_bits = mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM"))
    if mode in ("I", "F") and not has_16_bits:
        raise Unreadable("its pixels have 32 bits: save it with 8 or 16 bits")
    # Pillow returns the pixels of a TIFF as stored, but scales those of a PGM to 16 bits.
    n_bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    white_is_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    picture = _upright(picture)
    if has_16_bits:
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
    """Turns an image by its EXIF orientation; leaves it as it is if the EXIF data is damaged."""
    picture.load()  # outside of the try block, because damaged pixels are an error
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # reading damaged EXIF data can raise any exception
        turn = None
    return picture if turn is None else picture.transpose(turn)


def read_each(
    pictures: Iterable[tuple[str, Source]], image_size: Size = None, channels: int | None = None
) -> Iterator[tuple[str, np.ndarray | Unreadable]]:
    """Decodes images in order, some of them ahead, in several threads.

    Args:
      pictures: the name and the source of each image.
      image_size, channels: as for `read`.

    Yields:
      The name of each image, and its pixels or the reason why they can't be read.
    """
    Image.init()  # before the threads start, because they would all do it

    def read_or_error(named_source: tuple[str, Source]) -> np.ndarray | Unreadable:
        try:
            return read(named_source[1], image_size, channels)
        except Unreadable as error:
            return error

    pictures = iter(pictures)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        while batch := list(islice(pictures, BATCH)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about harmless damage
                decoded = list(pool.map(read_or_error, batch))
            yield from zip((name for name, _ in batch), decoded, strict=True)


def read_all(
    pictures: Iterable[tuple[str, Source]],
    image_size: Size,
    problems: Problems,
    channels: int | None = None,
) -> np.ndarray:
    """Decodes images into one array.

    Args:
      pictures: the name of each image in messages, and its source.
      image_size: as for `read`. If it is None, all images must have the same size.
      problems: images that can't be used are added to these. The result is then meaningless.
      channels: as for `read` (default: 1 if all images are grey, otherwise 3).

    Returns:
      uint8 [N, H, W, C].

    Raises:
      UserError: if the images do not fit into memory.
    """
    names: list[str] = []
    arrays: list[np.ndarray] = []
    n_bytes = 0
    for name, decoded in read_each(pictures, image_size, channels):
        if isinstance(decoded, Unreadable):
            problems.add(f"{name}: {decoded}")
            continue
        names.append(name)
        arrays.append(decoded)
        n_bytes += decoded.nbytes
        check_memory(n_bytes)
    _check_sizes(names, arrays, problems)
    if problems or not arrays:
        return np.zeros((0, 1, 1, 1), np.uint8)
    shape = (*arrays[0].shape[:2], max(array.shape[2] for array in arrays))
    images = np.empty((len(arrays), *shape), np.uint8)
    for i, array in enumerate(arrays):
        images[i] = array  # a grey image is broadcast to all channels
    return images


def _check_sizes(names: list[str], arrays: list[np.ndarray], problems: Problems) -> None:
    """Adds problems if images differ in size, and lists those of a rarer size."""
    sizes = Counter(array.shape[:2] for array in arrays)
    if len(sizes) < 2:
        return
    most_common = sizes.most_common(1)[0][0]
    problems.add(
        f"the images have {len(sizes)} sizes, most often {_size_text(most_common)}: resize all to "
        "N x N pixels with --image-size N"
    )
    others = [i for i, array in enumerate(arrays) if array.shape[:2] != most_common]
    for i in others[:MAX_SHOWN]:
        problems.add(f"{names[i]}: {_size_text(arrays[i].shape)} pixels")
    if len(others) > MAX_SHOWN:
        problems.add(f"and {len(others) - MAX_SHOWN} more")


def _size_text(shape: tuple[int, ...]) -> str:
    """Returns width x height."""
    return f"{shape[1]} x {shape[0]}"
