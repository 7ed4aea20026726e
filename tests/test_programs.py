"""Programs that are compiled otherwise: where this is done, and that they compute the same."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax.models.convolution import cpu_convolution
from cil_jax.training import compilation


@dataclasses.dataclass(frozen=True)
class Layer:
    fast: bool
    stride: int = 1

    @compilation.FastProgram
    def gradients(self, images, kernel):
        def loss(images, kernel):
            strides, pads = (self.stride, self.stride), [(1, 1), (1, 1)]
            return jnp.mean(cpu_convolution(images, kernel, strides, pads) ** 2)

        return jax.value_and_grad(loss, argnums=(0, 1))(images, kernel)


@pytest.fixture
def asked_again():
    yield
    compilation.accepts.cache_clear()
    compilation.has_onednn.cache_clear()


def random_numbers(options):
    """An object with a program, and what the program computes without options."""

    @dataclasses.dataclass(frozen=True)
    class Random:
        @functools.partial(compilation.Program, static_argnames=("n",), options=options)
        def numbers(self, key, n):
            return jax.random.normal(key, (n,))

    # Less effort is compared with the compiler's default level, which is not that of the tests.
    effort = {"xla_backend_optimization_level": 3} if options is compilation.LESS_EFFORT else {}
    draw = jax.jit(lambda key: jax.random.normal(key, (1000,)), compiler_options=effort)
    return Random(), draw(jax.random.key(0))


def test_options_reach_the_compiler_of_the_cpu_only(monkeypatch):
    effort = {"xla_backend_optimization_level": "high"}  # it is a number: this can't be compiled
    owner, numbers = random_numbers(effort)
    monkeypatch.setattr(compilation, "accepts", lambda **_: True)
    with pytest.raises(Exception, match="xla_backend_optimization_level"):
        owner.numbers(jax.random.key(0), n=1000)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    chex.assert_trees_all_equal(owner.numbers(jax.random.key(0), n=1000), numbers)


@pytest.mark.parametrize(
    "options", [compilation.LESS_EFFORT, compilation.ALL_CORES, {"xla_cpu_no_such_option": True}]
)
def test_options_change_no_random_number_and_unknown_ones_are_left_out(options):
    owner, numbers = random_numbers(options)
    chex.assert_trees_all_equal(owner.numbers(jax.random.key(0), n=1000), numbers)
    assert compilation.accepts(**options) == ("xla_cpu_no_such_option" not in options)


def test_a_program_is_compiled_once():
    owner, _ = random_numbers(compilation.ALL_CORES)
    for seed in range(2):
        owner.numbers(jax.random.key(seed), n=1000)
    assert type(owner).numbers._cache_size() == 1


@pytest.mark.parametrize(("stride", "channels"), [(1, 16), (2, 16), (1, 32)])
def test_fast_convolutions_and_their_gradients_are_the_same_up_to_rounding(stride, channels):
    images = jax.random.normal(jax.random.key(0), (12, 8, 8, 16))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 16, channels))
    plain, fast = (Layer(fast, stride).gradients(images, kernel) for fast in (False, True))
    chex.assert_trees_all_close(plain, fast, rtol=1e-5, atol=1e-5)


@pytest.fixture
def everything_is_saved():
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("everything_is_saved")
def test_a_fast_program_is_compiled_once_and_not_saved():
    if not compilation.has_onednn():
        pytest.skip("this JAX has no convolutions of oneDNN")
    program = Layer.__dict__["gradients"].with_onednn
    images, kernel = jnp.ones((3, 8, 8, 16)), jnp.ones((3, 3, 16, 48))
    before = program._cache_size()
    for _ in range(2):
        Layer(True).gradients(images, kernel)  # an attempt to save it would warn, which is an error
    assert program._cache_size() == before + 1
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_options_that_the_compiler_does_not_know_leave_the_plain_program(monkeypatch, asked_again):
    monkeypatch.setitem(compilation.ONEDNN, "xla_cpu_no_such_option", True)
    compilation.has_onednn.cache_clear()
    assert not compilation.has_onednn()
    images, kernel = np.ones((12, 8, 8, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    chex.assert_tree_all_finite(Layer(True).gradients(images, kernel))
