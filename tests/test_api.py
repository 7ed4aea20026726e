"""The names that others call, and that importing them starts nothing."""

import subprocess
import sys

import jax
import jax.numpy as jnp

import cil_jax


def test_public_functions_are_where_they_are_said_to_be():
    assert cil_jax.selection.herding(jnp.eye(3), 2).shape == (2,)
    assert cil_jax.selection.uniform(jax.random.key(0), 3, 2).shape == (2,)
    assert cil_jax.classifiers.nearest_mean(jnp.eye(3), jnp.eye(3)).tolist() == [0, 1, 2]
    zeros = jnp.zeros((2, 3))
    assert cil_jax.losses.cross_entropy(zeros, jnp.zeros(2, int)).shape == ()
    assert cil_jax.losses.distillation(zeros, zeros, 2.0).shape == ()
    assert cil_jax.losses.icarl_bce(zeros, zeros, 100).shape == ()
    assert cil_jax.metrics.summarize([[1.0]], [10])["last_accuracy"] == 1.0
    assert cil_jax.data.load("digits", None).n_classes == 10
    assert callable(cil_jax.run)


def test_a_backbone_gives_features():
    module = cil_jax.models.build("resnet20")
    images = jnp.zeros((2, 32, 32, 3))
    variables = jax.jit(module.init)(jax.random.key(0), images)
    assert module.apply(variables, images, train=False).shape == (2, 64)


def test_importing_starts_no_backend():
    code = (
        "import cil_jax, cil_jax.training.loop, jax;"
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_notebook_shows_is_short():
    config = cil_jax.preset("icarl", "paper", dataset="digits", task_size=2)
    assert repr(config).startswith("Config(method='icarl', preset='paper', dataset='digits', ")
    digits = cil_jax.data.load("digits", None)
    assert repr(digits) == "Dataset('digits', 10 classes, 1438 + 359 images of 8 x 8 x 1)"
    memory = cil_jax.memory.Memory(jnp.zeros((5, 8, 8, 1)), jnp.zeros(5), {}, jnp.zeros(()))
    assert repr(memory) == "Memory(5 slots, images (8, 8, 1))"


def test_all_that_is_listed_exists():
    for name in cil_jax.__all__:
        assert getattr(cil_jax, name) is not None
