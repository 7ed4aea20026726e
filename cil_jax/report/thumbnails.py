"""The exemplars of each class as one picture for a page, in the order of selection."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from cil_jax.report.thinning import spread

SHOWN = 20  # exemplars per class, at most
CLASSES = 200  # classes, at most
LARGEST = 64  # pixels per side; larger exemplars are scaled down
MOST_BYTES = 8_000_000  # of pixels in total; compressed they take about a quarter in the page
LOSSLESS_BYTES = 600_000  # of pixels in total; up to this, compression is lossless
COARSE = 20  # pixels per side; below this, pixels are shown as squares
ON_PAGE = 32  # pixels per side on the page, at least


@dataclasses.dataclass(frozen=True)
class Strip:
    """The exemplars of a class, side by side.

    Attributes:
      uri: the picture as a data URI.
      width, height: its size on the page, in pixels.
      shown, kept: the number of exemplars in the picture, and in the memory.
      coarse: whether to show its pixels as squares.
    """

    uri: str
    width: int
    height: int
    shown: int
    kept: int
    coarse: bool


def strips(images: np.ndarray, labels: np.ndarray) -> dict[int, Strip]:
    """Makes a strip for each class with exemplars; beyond CLASSES, for an even selection of them.

    Args:
      images: uint8 [N, H, W, C], by class and then in the order of selection.
      labels: int [N].

    Returns:
      The strips by class.
    """
    classes, first, kept = np.unique(labels, return_index=True, return_counts=True)
    if not len(classes):
        return {}
    selected = spread(len(classes), CLASSES)
    classes, first, kept = classes[selected], first[selected], kept[selected]
    height, width = images.shape[1:3]
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    n_bytes = size[0] * size[1] * images.shape[3]  # of an exemplar
    n_shown = int(np.clip(MOST_BYTES // (n_bytes * len(classes)), 1, SHOWN))
    lossless = n_bytes * n_shown * len(classes) <= LOSSLESS_BYTES
    by_class = {}
    for label, start, n_kept in zip(classes.tolist(), first.tolist(), kept.tolist(), strict=True):
        shown = images[start : start + min(n_shown, n_kept)]
        pictures = [_picture(image, size) for image in shown]
        strip = Image.new(pictures[0].mode, (size[0] * len(pictures), size[1]))
        for place, picture in enumerate(pictures):
            strip.paste(picture, (place * size[0], 0))
        out = io.BytesIO()
        strip.save(out, "WEBP", lossless=lossless, quality=80, method=2)
        uri = "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
        magnification = max(1, -(-ON_PAGE // max(size)))
        by_class[label] = Strip(
            uri=uri,
            width=strip.width * magnification,
            height=strip.height * magnification,
            shown=len(shown),
            kept=n_kept,
            coarse=max(size) < COARSE,
        )
    return by_class


def _picture(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image uint8 [H, W, C], with C 1 or 3, as a picture of the given width and height."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
