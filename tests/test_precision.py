"""bfloat16 in the layers: what stays float32, how near the numbers are, and that it learns."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from jax import lax

from cil_jax import models
from cil_jax.errors import UserError
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import Run


def distance(tree, other):
    """Of two trees, in parts of the length of the second."""
    one, two = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (tree, other))
    return float(jnp.linalg.norm(one - two) / jnp.linalg.norm(two))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # whose layers are other functions
def test_features_and_gradients_are_near_those_of_float32(platform):
    """Within 2% and 10% of their length: a bfloat16 has 8 bits, each rounding is up to 0.4%."""
    images = jax.random.normal(jax.random.key(0), (24, 8, 8, 1))
    answers = jax.random.normal(jax.random.key(1), (24, 8))

    def everything(dtype):
        module = models.build("two-stage", layers=models.layers_for(platform), dtype=dtype)
        variables = jax.jit(module.init)(jax.random.key(2), images)

        def loss(params):
            variables_now = {**variables, "params": params}
            features, moved = module.apply(
                variables_now, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean((features - answers) ** 2), (features, moved)

        return variables, *jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    one, two = everything(jnp.bfloat16), everything(jnp.float32)
    chex.assert_trees_all_equal(one[0], two[0])  # fresh weights are the same
    chex.assert_trees_all_equal_dtypes(one, two)
    (_, gradients, (features, moved)), (_, exact_gradients, (exact_features, exact_moved)) = (
        one,
        two,
    )
    assert 1e-5 < distance(features, exact_features) < 0.02
    assert 1e-5 < distance(moved, exact_moved) < 0.02
    assert 1e-5 < distance(gradients, exact_gradients) < 0.1


def test_the_cpus_kernel_gradient_is_summed_in_float32():
    """Of 512 images, as exact as one rounding; a sum in bfloat16 is 5 times as far off."""
    images = jax.random.uniform(jax.random.key(0), (512, 4, 4, 2)).astype(jnp.bfloat16)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 3)).astype(jnp.bfloat16)
    convolve = models.layers_for("cpu").convolution

    def gradient(dtype):
        def loss(kernel):
            y = convolve(images.astype(dtype), kernel, (1, 1), [(1, 1), (1, 1)])
            return y.astype(jnp.float32).sum()

        return jax.grad(loss)(kernel.astype(dtype))

    exact, rounded = gradient(jnp.float32), gradient(jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=2**-8)
    assert lax.reduce_precision(exact, 8, 7).tolist() == rounded.astype(jnp.float32).tolist()


def trained(precision, folder):
    """A run's learner before and after two digits, and the share of them that it got right last."""
    config = small_config("icarl", folder, precision=precision)
    run = Run(config, RunFolder(config.folder()), Callback())
    new = run.new_learner()
    learner = run.engine.begin_task(new, jnp.int32(2))
    pool = run.pool(learner, run.scenario.task(0))
    recipe = jnp.float32(1.0), jnp.float32(1e-4)  # rate and weight decay
    for epoch in range(12):
        learner = learner.replace(epoch=jnp.int32(epoch), step=jnp.int32(0))
        learner, sums = run.engine.train(learner, pool, run.engine.no_sums(), *recipe, jnp.int32(9))
    learner = run.engine.keep(learner.replace(step=jnp.int32(0)), pool)
    return new, learner, float(sums["n_new_right"] / sums["n_new"])


@pytest.mark.slow
def test_all_that_a_learner_holds_stays_float32_and_it_learns_as_well(tmp_path):
    """To within 3 of 100 of the images that it trains on."""
    right = {}
    for precision in ("float32", "bfloat16"):
        new, learner, right[precision] = trained(precision, tmp_path / precision)
        chex.assert_trees_all_equal_dtypes(new, learner)
        for part in (learner.weights, learner.teacher, learner.momentum, learner.means):
            assert {leaf.dtype for leaf in jax.tree.leaves(part)} == {jnp.dtype("float32")}
    assert right["float32"] > 0.9 and right["bfloat16"] > right["float32"] - 0.03


def test_a_run_is_not_resumed_in_another_precision(tmp_path):
    config = small_config("icarl", tmp_path / "run", precision="bfloat16")
    folder = RunFolder(config.folder())
    folder.start(config)
    with pytest.raises(UserError, match="precision was bfloat16, is now float32"):
        folder.check(dataclasses.replace(config, precision="float32", resume=True))
    with pytest.raises(UserError, match="unknown --precision 'float16'"):
        small_config("icarl", tmp_path / "run", precision="float16")
