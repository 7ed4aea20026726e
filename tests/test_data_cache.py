"""The cache of decoded arrays: whatever happens to its files, the data is what it was."""

import itertools
import os
import re

import numpy as np
import pytest
from PIL import Image

from cil_jax import data
from cil_jax.data.cache import cached, state_of
from cil_jax.files import npz

STATE = ("as it was",)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of a cache that is empty."""
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def arrays():
    return {"images": np.array([[[[3]]], [[[200]]]], np.uint8)}


def check_equal(found):
    assert found.keys() == arrays().keys() and found["images"].dtype == np.uint8
    np.testing.assert_array_equal(found["images"], arrays()["images"])


class Made(Exception):
    """The arrays were asked for again."""


def make_none():
    raise Made


def test_no_flipped_bit_of_a_cache_file_stops_or_changes_what_is_read(cache, tmp_path):
    cached("x", tmp_path, STATE, arrays)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    check_equal(cached("x", tmp_path, STATE, make_none))
    n_made = 0
    # One byte stands for a run of equal ones, such as the spaces that fill a header.
    places = [run.start() for run in re.finditer(rb"(?s)(.)\1*", whole)]
    with file.open("r+b", buffering=0) as content:
        for place, bit in itertools.product(places, (0, 3, 7)):
            os.pwrite(content.fileno(), bytes([whole[place] ^ 1 << bit]), place)
            try:
                # The dates in zip headers, for one, change nothing.
                check_equal(cached("x", tmp_path, STATE, make_none))
            except Made:
                n_made += 1
            os.pwrite(content.fileno(), whole[place : place + 1], place)
    assert n_made > 2 * len(places)
    file.write_bytes(whole[:-1])
    check_equal(cached("x", tmp_path, STATE, arrays))  # and is written again
    check_equal(cached("x", tmp_path, STATE, make_none))


@pytest.mark.parametrize("error", [MemoryError, RecursionError, SyntaxError, RuntimeError])
def test_a_cache_file_that_fails_in_any_way_is_made_again(cache, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    cached("x", tmp_path, STATE, arrays)
    with monkeypatch.context() as patched:
        patched.setattr(np, "load", fail)
        check_equal(cached("x", tmp_path, STATE, arrays))
    check_equal(cached("x", tmp_path, STATE, make_none))


def test_a_header_cannot_ask_for_more_than_the_file_holds(tmp_path, monkeypatch):
    file = tmp_path / "x.npz"
    np.savez(file, images=np.zeros((100, 8, 8), np.uint8))
    content = file.read_bytes()
    huge = content.replace(b"(100, 8, 8), }       ", b"(1000000000, 8, 8), }")
    assert len(huge) == len(content) and huge != content
    file.write_bytes(huge)
    monkeypatch.setattr(np.lib.format, "read_array", None)  # which would allocate it
    with (
        npz.opened(file) as opened,
        pytest.raises(npz.UnreadableArray, match="has another size than its header says"),
    ):
        npz.read_array(opened, "images")


def test_a_picture_replaced_by_one_of_equal_size_and_date_is_noticed(cache, tmp_path):
    """Bitmaps of one size have files of one size."""
    folder = tmp_path / "pictures"
    for c in "ab":
        (folder / c).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (2, 2), 10 + i).save(folder / c / f"{i}.bmp")
    before = data.load(f"folder:{folder}")
    assert data.load(f"folder:{folder}").sha256() == before.sha256()

    file = folder / "a" / "0.bmp"
    old_status, old_state = file.stat(), state_of([file], folder)
    Image.new("L", (2, 2), 99).save(file)
    os.utime(file, ns=(old_status.st_atime_ns, old_status.st_mtime_ns))
    new_status = file.stat()
    assert new_status.st_size == old_status.st_size
    assert new_status.st_mtime_ns == old_status.st_mtime_ns
    assert state_of([file], folder) != old_state
    after = data.load(f"folder:{folder}")
    assert 99 in np.concatenate([after.train_images, after.test_images])
