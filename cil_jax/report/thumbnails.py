"""Exemplars as pictures in a page: a strip for each class, in the order of selection."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

from cil_jax.report.thinning import spread

SHOWN = 20  # of each class, at most
CLASSES = 200  # that are shown, at most
LARGEST = 64  # pixels of a side; larger ones are made smaller
ROOM = 8_000_000  # bytes of pixels in all: about a fourth of that in the page
SMALL = 600_000  # bytes of pixels that are kept as they are
COARSE = 20  # pixels of a side below which pixels are shown as squares
ON_PAGE = 32  # pixels of a side there, at least


@dataclasses.dataclass(frozen=True)
class Strip:
    """Exemplars of a class, side by side.

    Attributes:
      uri: the picture.
      width, height: in pixels of the page.
      shown, kept: how many there are in it, and in the memory.
      coarse: whether its pixels are to be seen as squares.
    """

    uri: str
    width: int
    height: int
    shown: int
    kept: int
    coarse: bool


def strips(images: np.ndarray, labels: np.ndarray) -> dict[int, Strip]:
    """A strip for each class that has exemplars, or for CLASSES of more, evenly spread.

    Args:
      images: uint8 [N, H, W, C], by class and then in the order of selection.
      labels: int [N].
    """
    classes, first, kept = np.unique(labels, return_index=True, return_counts=True)
    if not len(classes):
        return {}
    some = spread(len(classes), CLASSES)
    classes, first, kept = classes[some], first[some], kept[some]
    height, width = images.shape[1:3]
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    each = size[0] * size[1] * images.shape[3]
    n = int(np.clip(ROOM // (each * len(classes)), 1, SHOWN))
    lossless = each * n * len(classes) <= SMALL
    found = {}
    for label, start, n_kept in zip(classes.tolist(), first.tolist(), kept.tolist(), strict=True):
        own = images[start : start + min(n, n_kept)]
        pictures = [_picture(image, size) for image in own]
        strip = Image.new(pictures[0].mode, (size[0] * len(pictures), size[1]))
        for place, picture in enumerate(pictures):
            strip.paste(picture, (place * size[0], 0))
        out = io.BytesIO()
        strip.save(out, "WEBP", lossless=lossless, quality=80, method=2)
        uri = "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
        larger = max(1, -(-ON_PAGE // max(size)))
        found[label] = Strip(
            uri=uri,
            width=strip.width * larger,
            height=strip.height * larger,
            shown=len(own),
            kept=n_kept,
            coarse=max(size) < COARSE,
        )
    return found


def _picture(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture of an image uint8 [H, W, C] with C 1 or 3."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
