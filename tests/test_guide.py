"""The methods in docs/your_own_method.md run as the page says."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from test_run import Stopper, final_learner, resumed, without_times

import cil_jax
from cil_jax import losses, methods, models
from cil_jax.network import Network
from cil_jax.settings import loading
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.signals import Stopped

DOCS = Path(__file__).parents[1] / "docs"
SMALL = dict(dataset="digits", classes=4, task_size=2, backbone="tiny", epochs=2, batch_size=32)


def test_the_first_method_of_the_guide_is_one(tmp_path):
    page = (DOCS / "your_own_method.md").read_text()
    code = next(part for part in page.split("```") if part.startswith("python\nimport dataclasses"))
    (tmp_path / "anchored.py").write_text(code.removeprefix("python\n"))
    method = f"{tmp_path / 'anchored.py'}:Anchored"
    config = loading.preset(method, "strong", strength=3.0)
    assert (config.strength, config.epochs) == (3.0, 20)
    config = loading.preset(method, **SMALL, out=str(tmp_path / "run"))
    assert cil_jax.run(config)["task_sizes"] == [2, 2]
    (line, *_) = RunFolder(config.folder()).measurements()
    assert set(line["parts"]) == {"cross_entropy", "drift"}


@pytest.fixture(scope="module")
def adjusted(tmp_path_factory):
    """Settings, results and final learner of the guide's second method."""
    out = tmp_path_factory.mktemp("adjusted") / "run"
    method = f"{DOCS / 'examples/adjusted_replay.py'}:AdjustedReplay"
    config = loading.preset(method, **SMALL, memory=12, head_epochs=2, out=str(out))
    results = cil_jax.run(config)
    return config, results, final_learner(config)


def test_the_second_method_trains_twice_and_counts_its_images(adjusted):
    config, results, learner = adjusted
    lines = [x for x in RunFolder(config.folder()).measurements() if x["kind"] == "epoch"]
    names = [(x["task"], x["epoch"], x.get("training", "main")) for x in lines]
    first, second = [(0, 0, "main"), (0, 1, "main")], [(1, 0, "main"), (1, 1, "main")]
    assert names == [*first, *second, (1, 2, "head"), (1, 3, "head")]
    counts = learner.own["counts"].tolist()
    assert counts[:2] == [6, 6] and min(counts[2:]) > 100
    assert results["classifiers"]["linear"]["last_accuracy"] > 0.4


@pytest.mark.parametrize("stop", [("epoch_done", 1, 1), ("epoch_done", 1, 2)], ids=str)
def test_it_ends_the_same_when_it_is_stopped_before_or_within_its_second_training(
    adjusted, tmp_path, stop
):
    config, results, learner = adjusted
    again = dataclasses.replace(config, out=str(tmp_path / "run"))
    with pytest.raises(Stopped):
        cil_jax.run(again, Stopper(*stop))
    assert without_times(cil_jax.run(resumed(again))) == without_times(results)
    chex.assert_trees_all_equal(final_learner(again), learner)


@pytest.mark.slow
def test_it_ends_the_same_where_images_stay_on_the_host(adjusted, tmp_path):
    config, _, learner = adjusted
    streamed = dataclasses.replace(config, out=str(tmp_path / "run"), stream=True)
    cil_jax.run(streamed)
    chex.assert_trees_all_equal(final_learner(streamed), learner)


def test_the_gradient_of_a_map_in_the_guide_is_that_of_its_mean():
    """The features are the mean of the last map: each pixel above 0 has a share of the gradient."""
    page = (DOCS / "your_own_method.md").read_text()
    names = {"jax": jax, "jnp": jnp, "nn": nn, "losses": losses}
    for part in page.split("```"):
        if part.startswith(("python\ndef own", "python\ndef add_squares")):
            exec(part.removeprefix("python\n"), names)
    network = Network(models.build("resnet8"))
    weights = network.create((8, 8, 1), 3, jax.random.key(0))
    head = network.head.grow(weights.params["head"], 0, 3, jax.random.key(1))
    weights = weights.replace(params={**weights.params, "head": head})
    method = SimpleNamespace(network=network)
    learner = SimpleNamespace(weights=weights, n_seen=3, image_shape=(8, 8, 1))
    importance = names["own"](method, learner)["importance"]
    widths = {"stage0": (16,), "stage1": (32,), "stage2": (64,)}
    widths |= {f"{name}_before_relu": width for name, width in widths.items()}
    assert {name: x.shape for name, x in importance.items()} == widths

    images, labels = jax.random.normal(jax.random.key(2), (3, 8, 8, 1)), jnp.array([1, 2, -1])
    batch = SimpleNamespace(images=images, labels=labels)
    squares = names["add_squares"](method, learner, jnp.zeros(64), batch)

    output = network(weights, images[:2], 3, maps=True)
    features = output.features
    probabilities = jax.nn.softmax(features @ head["kernel"] + head["bias"])
    gradients = (probabilities - jax.nn.one_hot(labels[:2], 3)) @ head["kernel"].T
    shares = (output.maps["stage2_before_relu"] > 0) / 4  # of 2 x 2 pixels
    of_pixels = gradients[:, None, None] * shares
    chex.assert_trees_all_close(squares, jnp.sum(of_pixels**2, axis=(0, 1, 2)), rtol=1e-4)


def test_the_authors_initial_weights_have_the_deviations_of_their_code():
    """Lasagne's He initialization: sqrt(2 / (inputs of a pixel)); outputs: 1 / sqrt(features)."""
    method = f"{DOCS / 'examples/authors_initialization.py'}:AuthorsInitialization"
    config = loading.preset(method, backbone="resnet32", classes=100)
    key = jax.random.key(1)
    facts = {"n_classes": 100, "n_tasks": 10, "task_room": 10, "mirror_means": False}
    built = methods.build(config, models.build("resnet32"), **facts)
    params = built.initial_weights((32, 32, 3), 100, key).params
    kernels = [x for x in jax.tree.leaves(params["backbone"]) if x.ndim == 4]
    first = next(x for x in kernels if x.shape[2] == 3)
    assert float(first.std()) == pytest.approx(0.272, rel=0.1)  # of 432 numbers
    for kernel in kernels:
        height, width, n_inputs, _ = kernel.shape
        expected = (2 / (height * width * n_inputs)) ** 0.5
        assert float(kernel.std()) == pytest.approx(expected, rel=0.1)
    head = built.network.head.grow(params["head"], 20, 30, key)
    assert float(head["kernel"][:, 20:50].std()) == pytest.approx(1 / 8, rel=0.1)
    assert not jnp.any(head["kernel"][:, :20]) and not jnp.any(head["kernel"][:, 50:])
    assert not jnp.any(head["bias"])
