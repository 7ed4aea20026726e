"""Backbones: their size, shape and statistics, and the CPU's convolution against XLA's own."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cil_jax import models
from cil_jax.errors import UserError
from cil_jax.models import convolution, normalization

IMAGES = jnp.zeros((2, 32, 32, 3))


def n_parameters(name: str, n_outputs: int = 0) -> int:
    module = models.build(name)
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)["params"]
    backbone = sum(x.size for x in jax.tree.leaves(shapes))
    return backbone + n_outputs * (module.n_features + 1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_072),
        ("resnet32", 463_504),
        ("resnet44", 657_936),
        ("resnet56", 852_368),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert n_parameters(name) == count
    assert n_parameters(name, 100) == count + 6_500


def test_imagenets_network_has_its_published_size_and_the_other_stem_a_smaller_kernel():
    assert n_parameters("resnet18-imagenet", 1000) == 11_689_512  # as torchvision's resnet18
    assert n_parameters("resnet18-imagenet") - n_parameters("resnet18") == 3 * 64 * (49 - 9)


@pytest.mark.parametrize(("name", "sides"), [("resnet18", (64, 8)), ("resnet18-imagenet", (16, 2))])
def test_the_stem_says_how_large_the_maps_are(name, sides):
    """Of images of 64 x 64 pixels: three stages halve them, and ImageNet's stem divides by 4."""
    module, images = models.build(name), jnp.zeros((1, 64, 64, 3))

    def recorded(key):
        variables = module.init(key, images)
        return module.apply(variables, images, mutable=["intermediates"])[1]["intermediates"]

    maps = jax.eval_shape(recorded, jax.random.key(0))
    assert [maps[stage][0].shape[1] for stage in ("stage0", "stage3")] == list(sides)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet8", 8),
        ("resnet20", 20),
        ("resnet32", 32),
        ("resnet64", 64),
        ("resnet110", 110),
        ("resnet29-bottleneck", 29),
        ("resnet18", 18 + 3),  # and the projections of three shortcuts
    ],
)
def test_a_network_has_the_layers_of_its_name(name, layers):
    shapes = jax.eval_shape(models.build(name).init, jax.random.key(0), IMAGES)["params"]
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    n_convolutions = sum(path[-1].key == "kernel" for path, _ in paths)
    assert n_convolutions + 1 == layers  # and the head


@pytest.mark.parametrize("name", sorted(models.BACKBONES))
def test_features_are_one_row_an_image(name):
    module = models.build(name)
    variables = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
    features = jax.eval_shape(lambda v: module.apply(v, IMAGES, train=False), variables)
    assert features.shape == (2, module.n_features)


def test_the_first_stage_keeps_the_image_and_the_others_halve_it():
    module = models.build("resnet8")
    variables = module.init(jax.random.key(0), IMAGES)
    _, state = module.apply(variables, IMAGES, capture_intermediates=True)
    blocks = state["intermediates"]
    shapes = [blocks[f"BasicBlock_{i}"]["__call__"][0].shape for i in range(3)]
    assert shapes == [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]


def test_a_bottleneck_halves_the_image_in_its_middle_convolution():
    module = models.build("resnet29-bottleneck")

    def intermediates(key):
        variables = module.init(key, IMAGES)
        return module.apply(variables, IMAGES, capture_intermediates=True)[1]["intermediates"]

    block = jax.eval_shape(intermediates, jax.random.key(0))["BottleneckBlock_3"]
    shapes = [block[f"Conv_{i}"]["__call__"][0].shape for i in range(3)]
    assert shapes == [(2, 32, 32, 32), (2, 16, 16, 32), (2, 16, 16, 128)]


def test_kernels_begin_as_he_et_al_have_them_by_what_leaves_a_layer():
    params = models.build("resnet8").init(jax.random.key(0), IMAGES)["params"]
    for stage, width in enumerate((16, 32, 64)):
        kernel = np.asarray(params[f"BasicBlock_{stage}"]["Conv_0"]["kernel"])
        np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * width)), rtol=0.05)


def test_without_the_last_relu_features_may_be_negative():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    for last_relu in (True, False):
        module = models.build("two-stage", last_relu=last_relu)
        features = module.apply(module.init(jax.random.key(1), images), images)
        assert (np.asarray(features).min() >= 0) == last_relu


def test_the_shortcut_pads_channels_with_zeros_on_both_sides():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1) + 1
    y = models.resnet.shortcut(x, 4, 2)
    expected = np.zeros((1, 2, 2, 4))
    expected[0, :, :, 1] = [[1, 3], [9, 11]]
    chex.assert_trees_all_close(y, expected)


def test_normalisation_uses_the_batch_in_training_and_running_statistics_otherwise():
    images = 3 + 2 * jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    module = models.build("two-stage")
    variables = module.init(jax.random.key(1), images)
    one, moved = module.apply(variables, images, train=True, mutable=["batch_stats"])
    scaled, _ = module.apply(variables, 5 * images, train=True, mutable=["batch_stats"])
    chex.assert_trees_all_close(one, scaled, atol=1e-3)  # the batch's own scale is divided out
    alone = module.apply(variables, images[:1], train=False)
    chex.assert_trees_all_close(alone, module.apply(variables, images, train=False)[:1], atol=1e-5)
    first = moved["batch_stats"]["BatchNorm_0"]
    kernel = variables["params"]["Conv_0"]["kernel"]
    before = lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    chex.assert_trees_all_close(first["mean"], 0.1 * before.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(
        first["var"], 0.9 + 0.1 * before.var((0, 1, 2)), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (1, 2, 2, 16)])
def test_normalisation_is_flaxs_own(shape):
    images = 3 + 2 * jax.random.normal(jax.random.key(0), shape)
    keys = jax.random.split(jax.random.key(1), 4)
    scale, bias, mean, var = (jax.random.uniform(k, shape[-1:], minval=0.5) for k in keys)
    params = {"scale": scale, "bias": bias}
    stats = {"mean": mean, "var": var}

    def everything(module, running):
        def loss(params, images):
            variables = {"params": params, "batch_stats": stats}
            y, moved = module(use_running_average=running, momentum=0.9, epsilon=1e-5).apply(
                variables, images, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)), (y, moved)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    for running in (True, False):
        ours, theirs = (
            everything(module, running) for module in (normalization.BatchNorm, nn.BatchNorm)
        )
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_unknown_backbone_is_named_with_a_guess():
    with pytest.raises(UserError, match=r"unknown backbone 'resnet23': did you mean 'resnet\d+'"):
        models.build("resnet23")


@pytest.mark.parametrize("batch", [3, 16, 20])  # below, equal to and above a piece, with a rest
@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_the_cpus_convolution_has_the_gradients_of_the_stock_one(batch, window, stride):
    images = jax.random.normal(jax.random.key(0), (batch, 9, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (window, window, 3, 5))
    pads = [(window // 2, window // 2)] * 2

    def gradients(convolve):
        def loss(images, kernel):
            return jnp.sum(convolve(images, kernel) ** 2) / batch

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(images, kernel)

    stock = gradients(
        lambda x, w: lax.conv_general_dilated(
            x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    ours = gradients(lambda x, w: convolution.cpu_convolution(x, w, (stride, stride), pads))
    chex.assert_trees_all_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_the_cpus_convolution_refuses_what_it_does_not_do():
    images, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2))
    with pytest.raises(ValueError, match="groups"):
        convolution.cpu_convolution(images, kernel, (1, 1), [(1, 1), (1, 1)], feature_group_count=2)
