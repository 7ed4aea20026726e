"""The ResNet and its training against PyTorch with the same weights.

PyTorch's side is `cil_jax.benchmark.pytorch_model`, written from the papers and not from our own
code; so these tests also prove that the benchmark compares the same work. Skipped where PyTorch is
not installed: pip install -e '.[bench]'.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cil_jax import losses, models, schedules
from cil_jax.classifiers import class_means, nearest_mean
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer, Weights, embed
from cil_jax.memory import join
from cil_jax.methods import build
from cil_jax.selection import herding, unit
from cil_jax.settings.loading import preset
from cil_jax.training.engine import Engine

torch = pytest.importorskip("torch")
from cil_jax.benchmark import pytorch_model, pytorch_process, pytorch_shipped  # noqa: E402

F = torch.nn.functional


N_CLASSES, BATCH = 7, 6


def convolutions(network):
    """(convolution, normalisation) in the order in which they are applied."""
    yield network.conv, network.bn
    for block in network.blocks:
        yield block.conv1, block.bn1
        yield block.conv2, block.bn2


def flax_path(index):
    """Where the index-th convolution lies: the first is the network's, then two a block."""
    if index == 0:
        return (), 0
    return (f"BasicBlock_{(index - 1) // 2}",), (index - 1) % 2


def at(tree, path, name):
    for key in path:
        tree = tree[key]
    return tree[name]


def filled(network, rng):
    """Random weights and statistics, so that nothing is at its initial value by chance."""
    with torch.no_grad():
        for conv, norm in convolutions(network):
            norm.weight.copy_(torch.tensor(rng.uniform(0.5, 1.5, norm.weight.shape)))
            norm.bias.copy_(torch.tensor(rng.randn(*norm.bias.shape) * 0.2))
            norm.running_mean.copy_(torch.tensor(rng.randn(*norm.bias.shape) * 0.2))
            norm.running_var.copy_(torch.tensor(rng.uniform(0.5, 2, norm.bias.shape)))
            del conv
    return network


def to_flax(network, read=lambda parameter: parameter.detach()):
    """Parameters (or what `read` makes of them) and statistics in Flax' form."""
    params, stats = {}, {}
    for index, (conv, norm) in enumerate(convolutions(network)):
        path, number = flax_path(index)
        node, node_stats = params, stats
        for key in path:
            node, node_stats = node.setdefault(key, {}), node_stats.setdefault(key, {})
        kernel = read(conv.weight).numpy().transpose(2, 3, 1, 0)
        node[f"Conv_{number}"] = {"kernel": kernel.copy()}
        node[f"BatchNorm_{number}"] = {
            "scale": read(norm.weight).numpy().copy(),
            "bias": read(norm.bias).numpy().copy(),
        }
        node_stats[f"BatchNorm_{number}"] = {
            "mean": norm.running_mean.numpy().copy(),
            "var": norm.running_var.numpy().copy(),
        }
    head = {
        "kernel": read(network.head.weight).numpy().T.copy(),
        "bias": read(network.head.bias).numpy().copy(),
    }
    return jax.tree.map(jnp.asarray, ({"backbone": params, "head": head}, stats))


@pytest.fixture(scope="module", params=[("resnet8", 1, True), ("resnet20", 3, False)], ids=str)
def case(request):
    """The same network twice, images and labels."""
    name, n_blocks, last_relu = request.param
    rng = np.random.RandomState(0)
    torch.manual_seed(0)
    sizes = (n_blocks,) * 3
    network = filled(pytorch_model.Network(sizes, (16, 32, 64), N_CLASSES, last_relu), rng)
    backbone = models.build(name, last_relu=last_relu, layers=models.layers_for("cpu"))
    images = rng.randn(BATCH, 32, 32, 3).astype(np.float32)
    return network, backbone, images, rng.randint(0, N_CLASSES, BATCH)


def logits_of(backbone, params, stats, images, train):
    variables = {"params": params["backbone"], "batch_stats": stats}
    if train:
        features, moved = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
        stats = moved["batch_stats"]
    else:
        features = backbone.apply(variables, images)
    return features @ params["head"]["kernel"] + params["head"]["bias"], stats


@pytest.mark.parametrize("train", [False, True])
def test_outputs_and_gradients_are_pytorchs(case, train):
    network, backbone, images, labels = case
    network.train(train)
    params, stats = to_flax(network)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.zero_grad()
    logits = network(torch.tensor(images).permute(0, 3, 1, 2))
    loss = F.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    expected, _ = to_flax(network, lambda parameter: parameter.grad)
    network.load_state_dict(before)

    def ours(params):
        logits, _ = logits_of(backbone, params, stats, images, train)
        return losses.cross_entropy(logits, jnp.asarray(labels)), logits

    (our_loss, our_logits), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    np.testing.assert_allclose(our_logits, logits.detach().numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(our_loss, loss.item(), rtol=1e-4)
    for (path, grad), other in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected), strict=True
    ):
        scale = float(np.abs(other).max())
        np.testing.assert_allclose(grad, other, rtol=0, atol=2e-3 * scale, err_msg=str(path))


def test_running_statistics_are_pytorchs_but_for_the_unbiased_variance(case):
    network, backbone, images, _ = case
    params, stats = to_flax(network)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    network(torch.tensor(images).permute(0, 3, 1, 2))
    _, expected = to_flax(network)
    network.load_state_dict(before)
    _, moved = logits_of(backbone, params, stats, images, train=True)
    got, want = moved["BatchNorm_0"], expected["BatchNorm_0"]
    np.testing.assert_allclose(got["mean"], want["mean"], rtol=1e-4, atol=1e-5)
    n = BATCH * 32 * 32  # PyTorch divides by n - 1 in what it keeps, Flax by n
    old = stats["BatchNorm_0"]["var"]
    biased = 0.9 * old + (want["var"] - 0.9 * old) * (n - 1) / n
    np.testing.assert_allclose(got["var"], biased, rtol=1e-4)


@pytest.mark.parametrize("decay", ["kernels", "all"])
def test_three_updates_are_pytorchs_sgd(case, decay):
    """Momentum, weight decay and a rate that falls, from the same gradients."""
    network, _, _, _ = case
    params, _ = to_flax(network)
    rng = np.random.RandomState(1)
    gradients = [
        {n: torch.tensor(rng.randn(*p.shape), dtype=p.dtype) for n, p in
         network.named_parameters()}
        for _ in range(3)
    ]  # fmt: skip
    kernels = {
        name for name, p in network.named_parameters() if p.ndim == 4 or name == "head.weight"
    }
    decayed = [p for n, p in network.named_parameters() if decay == "all" or n in kernels]
    others = [p for n, p in network.named_parameters() if decay != "all" and n not in kernels]
    groups = [{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], 0.1)
    before = {k: v.clone() for k, v in network.state_dict().items()}

    direction = schedules.SGD(0.9, decay).direction(jnp.float32(0.03))
    state = direction.init(params)
    schedule = schedules.Schedule(3, rate=0.1, drops=(2 / 3,), factor=10.0, weight_decay=0.03)
    for step, gradient in enumerate(gradients):
        for name, parameter in network.named_parameters():
            parameter.grad = gradient[name].clone()
        grads, _ = to_flax(network, lambda parameter: parameter.grad)
        optimizer.step()
        scheduler.step()
        updates, state = direction.update(grads, state, params)
        rate = schedule.rate_at(step)
        params = optax.apply_updates(params, jax.tree.map(lambda u, r=rate: -r * u, updates))
    expected, _ = to_flax(network)
    network.load_state_dict(before)
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


RATE, DECAY, N_OLD = 0.5, 0.03, 3
CIFAR = (32, 32, 3)


def both_sides(pad=0, mirror=False):
    """iCaRL's engine and learner, and PyTorch's, with the same student and the same teacher."""
    rng = np.random.RandomState(2)
    torch.manual_seed(2)
    mean, std = rng.uniform(0.3, 0.6, CIFAR).astype(np.float32), np.ones(CIFAR, np.float32)
    networks = [
        filled(pytorch_model.Network((1, 1), (4, 8), N_CLASSES, last_relu=False), rng)
        for _ in range(2)
    ]
    teacher, student = (Weights(*to_flax(network)) for network in networks)
    model = pytorch_model.ICaRL(
        networks[0],
        mean=mean,
        std=std,
        pad=pad,
        mirror=mirror,
        momentum=0.9,
        weight_decay=DECAY,
        divisor=100.0,
        device="cpu",
    )
    model.begin_task(N_OLD)
    model.network.load_state_dict(networks[1].state_dict())

    config = preset("icarl", "paper", memory=20)
    backbone = models.build("two-stage", last_relu=False, layers=models.layers_for("cpu"))
    engine = Engine(
        method=build(config, backbone, mirror_means=mirror),
        optimizer=schedules.SGD(0.9, config.decay),
        augmentation=Augmentation(pad, mirror),
        batch_size=BATCH,
    )
    keys = jax.random.key(0), jax.random.key(1)
    normalizer = Normalizer(jnp.asarray(mean), jnp.asarray(std))
    learner = engine.create(CIFAR, N_CLASSES, normalizer, *keys)
    learner = engine.begin_task(learner.replace(n_seen=jnp.int32(N_OLD)), jnp.int32(2))
    return model, engine, learner.replace(weights=student, teacher=teacher)


def pixels(n, seed=3):
    rng = np.random.RandomState(seed)
    return rng.randint(0, 256, (n, *CIFAR)).astype(np.uint8), rng.randint(0, 5, n)


@pytest.mark.parametrize("n_steps", [1, 2])
def test_an_icarl_step_is_pytorchs(n_steps):
    """Loss, weights and statistics after whole updates: teacher, loss, momentum and decay.

    The batch is the whole pool, so that the order in which images are drawn does not matter.
    """
    model, engine, learner = both_sides()
    images, labels = pixels(BATCH)
    pool = join(jnp.asarray(images), jnp.asarray(labels, jnp.int32), learner.memory, 2, BATCH)
    after, sums = engine.train(
        learner,
        pool,
        engine.no_sums(),
        jnp.float32(RATE),
        jnp.float32(DECAY),
        jnp.int32(n_steps),
    )
    loss = model.train(model.put(images), model.put(labels), BATCH, n_steps, RATE)
    np.testing.assert_allclose(sums["loss"], float(loss), rtol=1e-4)
    params, stats = to_flax(model.network)
    before = jax.tree.leaves(learner.weights.params)
    for old, got, want in zip(
        before, jax.tree.leaves(after.weights.params), jax.tree.leaves(params), strict=True
    ):
        moved = float(np.abs(want - old).max())  # of which the two may differ by a little
        assert moved > 0
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-3 * moved)
    got, want = after.weights.batch_stats, stats
    np.testing.assert_allclose(
        got["BatchNorm_0"]["mean"], want["BatchNorm_0"]["mean"], rtol=1e-4, atol=1e-5
    )


def test_augmentation_is_pytorchs():
    """The same places and mirrorings give the same pixels."""
    model, engine, learner = both_sides(pad=4, mirror=True)
    images, _ = pixels(BATCH)
    key = jax.random.key(5)
    ours = engine.augmentation(key, jnp.asarray(images), learner.normalizer)
    crop_key, mirror_key = jax.random.split(jax.random.split(key)[0])  # as Augmentation draws
    offsets = np.asarray(jax.random.randint(crop_key, (BATCH, 2), 0, 9))
    is_mirrored = np.asarray(jax.random.bernoulli(mirror_key, shape=(BATCH, 1, 1, 1)))[:, 0, 0, 0]
    assert 0 < is_mirrored.sum() < BATCH
    placed = model.crop(*map(model.put, (images, offsets, is_mirrored)))
    assert placed.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(ours, placed.permute(0, 2, 3, 1).numpy(), atol=1e-6)


def test_herding_means_and_nearest_means_are_pytorchs():
    model, engine, learner = both_sides(mirror=True)
    features = jax.random.normal(jax.random.key(4), (3, 30, 16))
    ours = jax.vmap(lambda rows: herding(rows, 12))(features)
    theirs = pytorch_model.herding(torch.tensor(np.asarray(features)), 12)
    np.testing.assert_array_equal(ours, theirs.numpy())

    images, labels = pixels(20)
    model.network.eval()
    sides = [
        embed(engine.method.network, learner, jnp.asarray(images), mirrored=side)
        for side in (False, True)
    ]
    np.testing.assert_allclose(sides[0], model.embed(model.put(images)), rtol=1e-3, atol=1e-4)
    means = class_means(jnp.concatenate(sides), jnp.tile(labels, 2), N_CLASSES)
    their_means = model.class_means(model.put(images), model.put(labels), N_CLASSES)
    np.testing.assert_allclose(means, their_means, rtol=1e-3, atol=1e-4)
    answers = model.nearest_means(model.put(images), their_means)
    np.testing.assert_array_equal(nearest_mean(unit(sides[0]), means), answers)


def test_the_process_of_pytorch_answers_and_says_what_fails():
    process = pytorch_process.Process()
    assert process.do("has_cuda") == torch.cuda.is_available()
    features = np.random.RandomState(0).randn(2, 10, 4).astype(np.float32)
    process.do("put_features", features, "cpu")
    expected = pytorch_model.herding(torch.tensor(features), 3).numpy()
    np.testing.assert_array_equal(process.do("herd", 3), expected)
    with pytest.raises(pytorch_process.Failed, match="KeyError: 'nothing'"):
        process.do("train", "nothing", 1)
    process.close()
    with pytest.raises(pytorch_process.Failed, match="has ended"):
        process.do("has_cuda")


def test_autocast_computes_the_layers_in_bfloat16():
    images, labels = pixels(BATCH)
    losses_of = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        network = pytorch_model.Network((1, 1), (4, 8), N_CLASSES)
        settings = {"pad": 0, "mirror": False, "momentum": 0.9, "weight_decay": 0.0}
        mean = np.zeros(CIFAR, np.float32)
        model = pytorch_model.ICaRL(
            *(network,),
            **{**settings, "mean": mean, "std": mean + 1, "divisor": 1.0, "device": "cpu"},
            precision=precision,
        )
        features = model.embed(model.put(images))
        assert features.dtype == torch.float32
        is_rounded = torch.equal(features, features.bfloat16().float())
        assert is_rounded == (precision == "bfloat16")
        losses_of[precision] = float(model.step(model.put(images), model.put(labels), 0.1))
    first, second = losses_of.values()
    assert first != second and second == pytest.approx(first, rel=0.02)


def test_images_of_a_loader_are_normalized_and_augmented_one_at_a_time():
    images, labels = pixels(3)
    mean, std = np.full((1, 1, 3), 0.5, np.float32), np.full((1, 1, 3), 0.25, np.float32)
    plain = pytorch_shipped.Images(images, labels, mean, std)
    image, label = plain[1]
    expected = ((images[1] / 255 - 0.5) / 0.25).transpose(2, 0, 1)
    np.testing.assert_allclose(image, expected, atol=1e-5)
    assert label == labels[1] and len(plain) == 3
    torch.manual_seed(0)
    augmented = pytorch_shipped.Images(images, labels, mean, std, (4, True, 0.0))
    padded = np.pad(images[1], ((4, 4), (4, 4), (0, 0)))
    crops = {
        part.tobytes()
        for row in range(9)
        for column in range(9)
        for crop in [padded[row : row + 32, column : column + 32]]
        for part in (crop, crop[:, ::-1])
    }
    seen = set()
    for _ in range(20):
        back = np.rint((augmented[1][0].numpy().transpose(1, 2, 0) * 0.25 + 0.5) * 255)
        seen.add(back.astype(np.uint8).tobytes())
    assert seen <= crops and len(seen) > 10
    brighter = pytorch_shipped.Images(images, labels, mean, std, (0, False, 0.5))
    assert any(abs(float((brighter[1][0] - image).mean())) > 0.1 for _ in range(10))


@pytest.mark.slow
def test_a_loop_with_a_loader_learns_what_can_be_told_apart():
    """Four classes of one colour each in two tasks; the second must not replace the first."""
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], np.uint8)

    def split(n):
        labels = np.repeat(np.arange(4), n)
        noise = np.random.RandomState(n).randint(0, 6, (4 * n, 8, 8, 3))
        return (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8), labels

    images, labels = split(16)
    network = {"stage_sizes": (1, 1), "widths": (4, 8), "last_relu": True, "n_channels": 3}
    run = {
        "tasks": [(images[rows], labels[rows]) for rows in (labels < 2, labels >= 2)],
        "test": split(5),
        "mean": np.full((1, 1, 3), 0.5, np.float32),
        "std": np.full((1, 1, 3), 0.25, np.float32),
        "augmentation": (1, True, 0.1),
        "schedules": [([0.1, 0.1, 0.01], 0.0)] * 2,
        "momentum": 0.9,
        "batch_size": 8,
        "memory": 8,
        "device": "cpu",
    }
    process = pytorch_process.Process()  # without JAX, which must not be forked by a loader
    process.do("put_run", "colours", {"network": network}, run)
    accuracies = process.do("shipped_run", "colours")
    process.close()
    assert len(accuracies) == 2 and accuracies[0] > 0.7 and accuracies[1] > 0.5


def test_projections_and_imagenets_stem_are_pytorchs():
    """The forward pass of a small network with them, with random weights and statistics."""
    small = dict(block=models.BasicBlock, stage_sizes=(1, 1), widths=(4, 6))
    module = models.ResNet(**small, projects=True, stem="imagenet")
    rng = np.random.RandomState(3)
    images = rng.randn(BATCH, 20, 20, 3).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    weights = {
        name: jax.tree.map(lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), tree)
        for name, tree in shapes.items()
        if name != "intermediates"
    }
    ours = module.apply(weights, images)

    def layer(x, place, number, stride, padding):
        """A convolution and its normalization."""
        params, stats = (weights[name] for name in ("params", "batch_stats"))
        for key in place:
            params, stats = params[key], stats[key]
        kernel = torch.tensor(params[f"Conv_{number}"]["kernel"].transpose(3, 2, 0, 1))
        norm, moments = params[f"BatchNorm_{number}"], stats[f"BatchNorm_{number}"]
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        order = (moments["mean"], moments["var"], norm["scale"], norm["bias"])
        return F.batch_norm(x, *map(torch.tensor, order), eps=1e-5)

    def block(x, number, stride):
        place = (f"BasicBlock_{number}",)
        y = layer(F.relu(layer(x, place, 0, stride, 1)), place, 1, 1, 1)
        return F.relu(y + (layer(x, place, 2, stride, 0) if number else x))

    x = F.relu(layer(torch.tensor(images.transpose(0, 3, 1, 2)), (), 0, 2, 3))
    x = block(block(F.max_pool2d(x, 3, 2, 1), 0, 1), 1, 2)
    np.testing.assert_allclose(ours, x.mean(dim=(2, 3)).numpy(), rtol=1e-5)
