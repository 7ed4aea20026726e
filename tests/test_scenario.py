"""The class order, the tasks, and the augmentation of their images."""

import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_jax import data
from cil_jax.data import scenario
from cil_jax.data.augment import Augmentation
from cil_jax.errors import UserError


def test_the_order_of_icarls_authors_is_the_one_that_their_loader_leaves():
    random = np.random.RandomState(1993)
    for _ in range(100):
        random.shuffle(np.arange(500))
    expected = np.arange(100)
    random.shuffle(expected)
    np.testing.assert_array_equal(scenario.class_order(100, "icarl", 0), expected)
    assert expected[:4].tolist() == [87, 0, 52, 58]
    with pytest.raises(UserError, match=r"an order of 100 classes .* this data set has 10"):
        scenario.class_order(10, "icarl", 0)


def test_the_default_order_is_the_published_one():
    order = scenario.class_order(100, "seeded", 1993)
    assert order[:12].tolist() == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89]
    np.random.seed(1993)
    assert order.tolist() == np.random.permutation(100).tolist()
    assert scenario.class_order(100, "natural", 1993).tolist() == list(range(100))


NAMES = ("ant", "bee fly", "cat", "0", "dog")


@pytest.mark.parametrize(
    ("order", "classes"),
    [
        ("3, 1, 2", [3, 1, 2]),
        ("dog, ant, 1", [4, 0, 1]),
        ("bee fly, 02", [1, 2]),  # a name with a space; a number with a zero before it
        ("0, 3", "class '3' twice, once as '0'"),  # a name takes precedence over a number
        (
            "1, cats",
            "unknown class 'cats': did you mean 'cat'? The data set has the classes 0 to 4",
        ),
        ("1, 5", "unknown class '5'. The data set has"),
        ("1, -1", "unknown class '-1'"),
        ("1, 2, 1", "class '1' twice"),
    ],
)
def test_an_own_order_is_a_list_of_names_or_numbers(order, classes):
    if isinstance(classes, list):
        assert scenario.class_order(5, order, 0, NAMES).tolist() == classes
        return
    with pytest.raises(UserError, match=re.escape(classes)):
        scenario.class_order(5, order, 0, NAMES)


def test_an_order_of_some_classes_uses_only_these(digits):
    tasks = scenario.create(digits, order="7, 3, 5, 1", task_size=2)
    assert tasks.class_order == (7, 3, 5, 1) and tasks.task_sizes == (2, 2)
    assert set(digits.test_labels[np.isin(digits.test_labels, (7, 3))]) == {7, 3}
    n_first = np.isin(digits.test_labels, (7, 3)).sum()
    assert tasks.test_set()[2] == (0, n_first, len(tasks.test_set()[1]))
    fewer = scenario.create(digits, order="7, 3, 5, 1", task_size=2, classes=3)
    assert fewer.class_order == (7, 3, 5)
    with pytest.raises(UserError, match=r"--classes is 5; the list of --order has 4 classes"):
        scenario.create(digits, order="7, 3, 5, 1", task_size=2, classes=5)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((100, 10), (10,) * 10),
        ((100, 10, 50), (50, 10, 10, 10, 10, 10)),
        ((100, 30), (30, 30, 30, 10)),
        ((10, 4, 1), (1, 4, 4, 1)),
        ((10, 10), (10,)),
        ((10, 2, 10), (10,)),
    ],
)
def test_task_sizes(arguments, sizes):
    assert scenario.split(*arguments) == sizes


def test_listed_sizes_must_add_up(digits):
    made = scenario.create(digits, order="natural", tasks="5,1,4")
    assert made.task_sizes == (5, 1, 4) and made.bounds == (0, 5, 6, 10)
    assert set(made.task(1).labels) == {5} and made.task(1).n_classes == 1
    assert made.largest_task == made.n_images(0)
    assert scenario.create(digits, tasks="2,1", classes=3).task_sizes == (2, 1)
    with pytest.raises(UserError, match=r"^--tasks 5,6 adds up to 11 classes, but there are 10$"):
        scenario.create(digits, tasks="5,6")
    with pytest.raises(UserError, match=r"adds up to 9 of 10 classes: add --classes 9 to"):
        scenario.create(digits, tasks="5,4")


@given(st.integers(1, 200), st.integers(1, 200), st.none() | st.integers(1, 200))
def test_tasks_cover_all_classes_or_are_refused(n_classes, task_size, first_task):
    fits = max(task_size, first_task or 1) <= n_classes
    if fits:
        sizes = scenario.split(n_classes, task_size, first_task)
        assert sum(sizes) == n_classes and min(sizes) >= 1
        assert all(size == task_size for size in sizes[1:-1])
    else:
        with pytest.raises(UserError, match=f"with {n_classes} classes it must lie in"):
            scenario.split(n_classes, task_size, first_task)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_tasks_partition_the_training_images_and_remap_their_labels(digits):
    tasks = scenario.create(digits, task_size=3, first_task=2, classes=9)
    assert tasks.task_sizes == (2, 3, 3, 1) and len(tasks.class_names) == 9
    seen = 0
    for index in range(4):
        task = tasks.task(index)
        assert set(task.labels.tolist()) == set(range(seen, seen + task.n_classes))
        for label in range(seen, seen + task.n_classes):
            original = tasks.class_order[label]
            expected = digits.train_images[digits.train_labels == original]
            np.testing.assert_array_equal(task.images[task.labels == label], expected)
            assert tasks.class_names[label] == digits.class_names[original]
        assert tasks.n_images(index) == len(task.labels) <= tasks.largest_task
        seen += task.n_classes
    counts = np.bincount(digits.train_labels)[list(tasks.class_order)]
    assert tasks.largest_class == counts.max()


def test_the_test_set_has_the_classes_seen_as_a_prefix(digits):
    tasks = scenario.create(digits, task_size=3, classes=7)
    images, labels, bounds = tasks.test_set()
    assert np.all(np.diff(labels) >= 0)
    for t, (start, stop) in enumerate(itertools.pairwise(bounds)):
        first, end = tasks.bounds[t : t + 2]
        assert set(labels[start:stop].tolist()) == set(range(first, end))
    assert bounds[-1] == len(labels) == len(images)
    original = np.array(tasks.class_order)[labels]
    for c in set(original.tolist()):
        np.testing.assert_array_equal(
            images[original == c], digits.test_images[digits.test_labels == c]
        )


def test_more_classes_than_there_are_are_refused(digits):
    with pytest.raises(UserError, match="--classes is 11; digits has 10 classes"):
        scenario.create(digits, classes=11)


def test_digits_are_real_and_split_by_writer(digits):
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert digits.image_shape == (8, 8, 1) and digits.train_images.max() == 255
    assert np.bincount(digits.test_labels).min() >= 34


def test_pixel_statistics(digits):
    pixels = digits.train_images / 255.0
    mean, std = digits.pixel_statistics("per-channel")
    np.testing.assert_allclose(mean.ravel(), [pixels.mean()], rtol=1e-5)
    np.testing.assert_allclose(std.ravel(), [pixels.std()], rtol=1e-5)
    mean, std = digits.pixel_statistics("per-pixel")
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1e-6)
    assert np.all(std == 1)


def test_each_channel_has_its_own_pixel_statistics():
    # Per channel half of the pixels are 51 and 153, 0 and 255, 102 and 102.
    first, second = np.array([51, 0, 102], np.uint8), np.array([153, 255, 102], np.uint8)
    images = np.stack([np.tile(first, (2, 3, 1)), np.tile(second, (2, 3, 1))])
    labels = np.zeros(2, np.int32)
    coloured = data.Dataset("coloured", images, labels, images, labels, ("any",), 0, False)
    mean, std = coloured.pixel_statistics("per-channel")
    assert mean.shape == std.shape == (1, 1, 3)
    np.testing.assert_allclose(mean[0, 0], [0.4, 0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(std[0, 0], [0.2, 0.5, 1e-6], rtol=1e-6)


def as_it_is(images):
    return images


def test_every_augmented_image_is_a_crop_and_all_crops_occur():
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    augmented = np.asarray(
        Augmentation(1, True)(jax.random.key(0), jnp.tile(image, (500, 1, 1, 1)), as_it_is)
    )
    padded = np.pad(np.asarray(image[0]), ((1, 1), (1, 1), (0, 0)))
    crops = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    crops += [crop[:, ::-1] for crop in crops]
    found = [next(k for k, c in enumerate(crops) if np.array_equal(a, c)) for a in augmented]
    counts = np.bincount(found, minlength=18)
    assert counts.min() > 5 and counts.max() < 60  # 27.8 each


def test_no_augmentation_changes_nothing_and_a_key_repeats():
    images = jax.random.normal(jax.random.key(1), (6, 5, 5, 2))
    chex.assert_trees_all_equal(Augmentation(0, False)(jax.random.key(0), images, as_it_is), images)
    augment = Augmentation(2, True)
    one, two = (augment(jax.random.key(3), images, as_it_is) for _ in range(2))
    chex.assert_trees_all_equal(one, two)
    assert not np.array_equal(one, augment(jax.random.key(4), images, as_it_is))


def test_padding_is_the_mean_or_black():
    """Crops of a grey image of 100 under a mean of 0.5: zeros after normalisation, or -0.5."""
    images = np.full((200, 4, 4, 1), 100, np.uint8)
    for padding, frame in (("mean", 0.0), ("black", -0.5)):
        augment = Augmentation(2, False, padding=padding)
        seen = np.unique(augment(jax.random.key(0), images, lambda x: x / 255.0 - 0.5))
        np.testing.assert_allclose(seen, sorted([frame, 100 / 255 - 0.5]), atol=1e-6)


@pytest.mark.parametrize("padding", ["mean", "black"])
def test_brightness_is_one_number_an_image_up_to_white(padding):
    images = np.full((500, 2, 2, 1), 200, np.uint8)
    images[:, 0, 0] = 100
    augment = Augmentation(0, False, padding=padding, brightness=0.4)
    pixels = np.asarray(augment(jax.random.key(0), images, as_it_is))
    factors = pixels[:, 0, 0, 0] / 100
    assert 0.6 <= factors.min() < 0.65 and 1.35 < factors.max() <= 1.4
    np.testing.assert_allclose(factors.mean(), 1.0, atol=0.04)
    expected = np.minimum(200 * factors, 255)
    np.testing.assert_allclose(pixels[:, 1, 1, 0], expected, rtol=1e-5)
    assert (pixels <= 255).all()


def test_all_data_up_to_a_task_and_padding(digits):
    cut = scenario.create(digits, task_size=4)
    task = cut.up_to(1)
    assert task.n_classes == 4 and set(task.labels.tolist()) == set(range(8))
    parts = [cut.task(0), cut.task(1)]
    assert len(task.labels) == sum(len(part.labels) for part in parts)
    images, labels = parts[0].padded(len(parts[0].labels) + 3)
    assert labels[-3:].tolist() == [-1] * 3 and not images[-3:].any()
    np.testing.assert_array_equal(images[:-3], parts[0].images)
    assert cut.n_all_images == len(digits.train_labels)
