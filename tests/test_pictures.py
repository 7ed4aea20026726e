"""Pictures whose pixels or metadata are unusual; the expected values are worked out by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cil_jax.data import image_files

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSET, SAMPLES, ROWS, SIZE = (
    *(256, 257, 258, 259, 262, 273, 277, 278, 279),
)


def tiff(values, bits, *, white_is_zero=False, byte_order="<", deflate=False):
    """A grey TIFF, built by hand: Pillow writes none of 12 bits."""
    if bits == 12:
        pixels = b"".join(
            bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
            for row in values
            for a, b in zip(row[::2], row[1::2], strict=True)
        )
    else:
        pixels = np.array(values, f"{byte_order}u2").tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    pixels += b"\0" * (len(pixels) % 2)
    tags = {
        **{WIDTH: len(values[0]), HEIGHT: len(values), BITS: bits},
        **{COMPRESSION: 8 if deflate else 1, PHOTOMETRIC: 0 if white_is_zero else 1},
        **{OFFSET: 8, SAMPLES: 1, ROWS: len(values), SIZE: len(pixels)},
    }
    entries = [struct.pack(f"{byte_order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return b"".join((
        b"II" if byte_order == "<" else b"MM",
        struct.pack(f"{byte_order}HI", 42, 8 + len(pixels)),
        pixels,
        struct.pack(f"{byte_order}H", len(entries)),
        *entries,
        bytes(4),
    ))  # fmt: skip


def read(content):
    return image_files.read(content)[..., 0].tolist()


@pytest.mark.parametrize("deflate", [False, True])
def test_grey_tiffs_of_12_bits_use_the_whole_range(deflate):
    values = [[0, 4095, 2048, 16], [8, 9, 4079, 1606]]  # 4095 is 255: 16.06 a step
    expected = [[0, 255, 128, 1], [0, 1, 254, 100]]
    assert read(tiff(values, 12, deflate=deflate)) == expected


@pytest.mark.parametrize("deflate", [False, True])
def test_grey_tiffs_of_16_bits_have_white_where_they_say(deflate):
    values, expected = [[0, 257, 65535], [25700, 128, 129]], [[0, 1, 255], [100, 0, 1]]
    assert read(tiff(values, 16, deflate=deflate)) == expected
    assert read(tiff(values, 16, deflate=deflate, byte_order=">")) == expected
    inverted = [[255, 254, 0], [155, 255, 254]]
    assert read(tiff(values, 16, deflate=deflate, white_is_zero=True)) == inverted


@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize(
    ("most", "values", "expected"),
    [
        (255, [0, 1, 77, 255], [0, 1, 77, 255]),
        (256, [0, 1, 64, 256], [0, 1, 64, 255]),
        (1000, [0, 100, 500, 1000], [0, 26, 128, 255]),  # 25.5 and 127.5 are rounded up
        (1023, [0, 3, 512, 1023], [0, 1, 128, 255]),
        (4095, [0, 16, 2048, 4095], [0, 1, 128, 255]),
        (65535, [0, 129, 25700, 65535], [0, 1, 100, 255]),
    ],
)
def test_pgm_and_ppm_of_any_largest_value_are_read(most, values, expected, is_text):
    for n_channels, letter in ((1, "25"[not is_text]), (3, "36"[not is_text])):
        every = [value for value in values for _ in range(n_channels)]
        if is_text:
            pixels = " ".join(map(str, every)).encode()
        else:
            pixels = np.array(every, ">u2" if most > 255 else np.uint8).tobytes()
        content = f"P{letter} 2 2 {most}\n".encode() + pixels
        array = image_files.read(content)
        assert array.shape == (2, 2, n_channels)
        assert array[..., -1].ravel().tolist() == expected


def test_transparent_grey_of_16_bits_is_on_white():
    content = io.BytesIO()
    image = Image.fromarray(np.array([[257, 258]], np.uint16))
    image.save(content, "PNG", transparency=257)
    assert read(content.getvalue()) == [[255, 1]]


def saved(kind, **more):
    content = io.BytesIO()
    image = Image.fromarray(np.array([[10, 90], [170, 250], [90, 10]], np.uint8))
    image.save(content, kind, **more)
    return content.getvalue()


def junk_profile():
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 4\nno hexadecimal")
    return info


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {"exif": junk}) for kind in ("PNG", "WEBP", "JPEG") for junk in (
            b"junk", b"Exif\0\0junkjunk", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01",
        )),
        ("PNG", {"pnginfo": junk_profile()}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_with_junk_for_exif_is_read_as_it_is_stored(kind, more):
    quality = {"lossless": True} if kind == "WEBP" else {}
    expected = read(saved(kind, **quality))
    assert kind == "JPEG" or expected == [[10, 90], [170, 250], [90, 10]]
    assert read(saved(kind, **quality, **more)) == expected


def test_damaged_pixels_are_an_error_whatever_exif_says():
    content = saved("PNG", exif=b"junk")
    for damaged in (content[: content.index(b"IDAT") + 8], content[: content.index(b"eXIf") + 20]):
        with pytest.raises(image_files.Unreadable):
            image_files.read(damaged)


def test_each_exif_orientation_brings_the_picture_upright():
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
    stored_as = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
        9: upright,  # no orientation
    }
    for orientation, pixels in stored_as.items():
        for kind in ("PNG", "TIFF"):
            exif, content = Image.Exif(), io.BytesIO()
            exif[0x0112] = orientation
            Image.fromarray(np.ascontiguousarray(pixels)).save(content, kind, exif=exif)
            assert read(content.getvalue()) == upright.tolist(), (orientation, kind)
