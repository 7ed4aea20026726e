"""Named augmentations: each operation against Pillow's, and each policy against its draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cil_jax.data import pixels, policies
from cil_jax.data.augment import Augmentation

SIDE = 24  # pixels


def pictures():
    """A smooth image in few colours, and noise that does not reach black or white."""
    y, x = np.mgrid[:SIDE, :SIDE]
    smooth = np.stack([40 + 8 * x, 200 - 6 * y, 60 + 3 * (x + y)], axis=-1)
    noise = np.random.default_rng(0).integers(20, 230, (SIDE, SIDE, 3))
    return [smooth.astype(np.uint8), noise.astype(np.uint8)]


def moved(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


# By Pillow, given a level as `cil_jax.data.policies.OPERATIONS` takes it.
BY_PILLOW = {
    "identity": lambda image, level: image,
    "shear x": lambda image, level: moved(image, 1, level, 0, 0, 1, 0),
    "shear y": lambda image, level: moved(image, 1, 0, 0, level, 1, 0),
    "translate x": lambda image, level: moved(image, 1, 0, int(level), 0, 1, 0),
    "translate y": lambda image, level: moved(image, 1, 0, 0, 0, 1, int(level)),
    "rotate": lambda image, level: image.rotate(level, Image.Resampling.NEAREST),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + level),
    "colour": lambda image, level: ImageEnhance.Color(image).enhance(1 + level),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + level),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + level),
    "posterize": lambda image, level: ImageOps.posterize(image, int(level)),
    "solarize": ImageOps.solarize,
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
}
LEVELS = {
    **dict.fromkeys(("shear x", "shear y"), (0.3, -0.17)),
    **dict.fromkeys(("translate x", "translate y"), (3.7, -5.0, 30.0)),
    "rotate": (20.0, -75.0),
    **dict.fromkeys(policies.ENHANCEMENTS, (0.6, -0.45)),
    "posterize": (4.0, 2.0, 8.0),
    "solarize": (128.0, 255.0, 0.0),
}


def assert_like_pillow(found, expected):
    """Up to rounding: a level of a pixel or, at the edge between two pixels, the other one."""
    difference = np.abs(np.asarray(found, float) - np.asarray(expected, float))
    assert (difference > 1).mean() < 0.02, difference.max()


@pytest.mark.parametrize("name", BY_PILLOW)
def test_each_operation_is_pillows(name):
    assert list(BY_PILLOW) == policies.NAMES
    operation = jax.jit(policies.OPERATIONS[name].apply)
    for number, picture in enumerate(pictures()):
        for level in LEVELS.get(name, (0.0,)):
            expected = np.asarray(BY_PILLOW[name](Image.fromarray(picture), level))
            found = operation(jnp.float32(picture), jnp.float32(level))
            assert_like_pillow(found, expected)
            changes = name != "identity" and level not in (8.0, 255.0)
            if number == 1 and changes:
                assert (expected != picture).mean() > 0.2


def test_grey_images_are_changed_as_pillow_changes_them():
    picture = pictures()[1][..., :1]
    image = Image.fromarray(picture[..., 0])
    for name in ("contrast", "colour", "equalize", "sharpness"):
        expected = np.asarray(BY_PILLOW[name](image, 0.5))[..., None]
        assert_like_pillow(
            policies.OPERATIONS[name].apply(jnp.float32(picture), jnp.float32(0.5)), expected
        )


def test_cutout_by_hand():
    images = jnp.ones((2, 4, 5, 1))
    found = pixels.cutout(images, jnp.array([[0, 4], [2, 2]]), side=2)[..., 0]
    corner = [[1, 1, 1, 0, 0], [1] * 5, [1] * 5, [1] * 5]
    middle = [[1] * 5, [1, 0, 0, 1, 1], [1, 0, 0, 1, 1], [1] * 5]
    assert found.astype(int).tolist() == [corner, middle]


@functools.cache
def by(policy):
    return jax.jit(policies.POLICIES[policy])


@pytest.mark.parametrize("seed", range(6))
def test_autoaugment_does_what_it_has_drawn(seed):
    """The draws are repeated, and the operations are Pillow's."""
    picture = pictures()[seed % 2]
    key, pair_key = jax.random.split(jax.random.key(seed))
    pair = policies.AUTOAUGMENT[int(jax.random.randint(pair_key, (), 0, 25))]
    image = Image.fromarray(picture)
    for name, share, n in pair:
        key, happens_key, sign_key = jax.random.split(key, 3)
        if not jax.random.bernoulli(happens_key, share):
            continue
        levels = {
            "shear": 0.3 * n / 9, "translate": 150 / 331 * SIDE * n / 9, "rotate": 30 * n / 9,
            "posterize": 8 - round(4 * n / 9), "solarize": 255 - 255 * n / 9,
        }  # fmt: skip
        level = levels.get(name.split()[0], 0.9 * n / 9)
        is_signed = name not in ("posterize", "solarize")
        sign = -1 if is_signed and jax.random.bernoulli(sign_key) else 1
        image = BY_PILLOW[name](image, sign * level)
    found = by("autoaugment")(jax.random.key(seed), jnp.float32(picture))
    difference = np.abs(np.asarray(found) - np.asarray(image, float))
    assert (difference > 3).mean() < 0.03  # two roundings, which the second may enlarge


@pytest.mark.parametrize("seed", range(6))
def test_trivialaugment_does_what_it_has_drawn(seed):
    picture = pictures()[seed % 2]
    operation_key, level_key, sign_key = jax.random.split(jax.random.key(seed), 3)
    name = list(policies.TRIVIALAUGMENT)[int(jax.random.randint(operation_key, (), 0, 14))]
    n = int(jax.random.randint(level_key, (), 0, 31))
    levels = {
        "translate": 32 * n / 30, "rotate": 135 * n / 30, "posterize": 8 - round(6 * n / 30),
        "solarize": 255 - 255 * n / 30,
    }  # fmt: skip
    level = levels.get(name.split()[0], 0.99 * n / 30)
    is_signed = name not in ("posterize", "solarize")
    sign = -1 if is_signed and jax.random.bernoulli(sign_key) else 1
    expected = np.asarray(BY_PILLOW[name](Image.fromarray(picture), sign * level))
    found = by("trivialaugment")(jax.random.key(seed), jnp.float32(picture))
    assert_like_pillow(found, expected)


def test_jitter_changes_brightness_contrast_and_saturation_in_this_order():
    picture, key = pictures()[0], jax.random.key(3)
    brightness, contrast, saturation = map(float, jax.random.uniform(key, (3,), float, 0.6, 1.4))
    image = ImageEnhance.Brightness(Image.fromarray(picture)).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    expected = np.asarray(ImageEnhance.Color(image).enhance(saturation), float)
    found = np.asarray(by("jitter")(key, jnp.float32(picture)))
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("padding", ["mean", pytest.param("black", marks=pytest.mark.slow)])
def test_a_policy_leaves_crops_and_mirroring_as_they_are(padding):
    images = jnp.asarray(np.stack(pictures() * 8))
    key = jax.random.key(1)

    def augmented(policy):
        augment = Augmentation(2, True, padding=padding, brightness=0.2, policy=policy)
        return np.asarray(augment(key, images, lambda pixels: pixels / 255.0 - 0.5))

    standard, cut = augmented("standard"), augmented("cutout")
    is_border = (standard == 0.0).all(axis=-1)  # of the crops, where it is the mean
    is_cut = (cut == 0.0).all(axis=-1) & ~is_border
    np.testing.assert_array_equal(cut[~is_cut], standard[~is_cut])
    areas = is_cut.sum(axis=(1, 2))  # of 12 x 12 pixels, but for what lies outside
    assert areas.min() >= 16 and areas.max() <= 144
    both = augmented("autoaugment+cutout")
    np.testing.assert_array_equal((both == 0.0).all(axis=-1) & ~is_border, is_cut)
    assert (np.abs(both - cut).max(axis=(1, 2, 3)) > 0.05).mean() > 0.5
