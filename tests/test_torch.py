"""The ResNet and its training against PyTorch with the same weights.

Written in PyTorch here, from He et al. 2016 and not from our own code; skipped where PyTorch is not
installed: pip install -e '.[bench]'.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cil_jax import losses, models, schedules

torch = pytest.importorskip("torch")
F = torch.nn.functional

N_CLASSES, BATCH = 7, 6


class Block(torch.nn.Module):
    def __init__(self, n_in, n_out, stride, last_relu):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(n_out)
        self.conv2 = torch.nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(n_out)
        self.stride, self.missing, self.last_relu = stride, n_out - n_in, last_relu

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        half = self.missing // 2
        y = y + F.pad(short, (0, 0, 0, 0, half, self.missing - half))
        return F.relu(y) if self.last_relu else y


class Network(torch.nn.Module):
    def __init__(self, n_blocks, last_relu):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = torch.nn.BatchNorm2d(16)
        blocks, n_in = [], 16
        for stage, n_out in enumerate((16, 32, 64)):
            for i in range(n_blocks):
                final = stage == 2 and i == n_blocks - 1
                stride = 2 if stage and i == 0 else 1
                blocks.append(Block(n_in, n_out, stride, last_relu or not final))
                n_in = n_out
        self.blocks = torch.nn.Sequential(*blocks)
        self.head = torch.nn.Linear(64, N_CLASSES)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.bn(self.conv(x)))).mean(dim=(2, 3)))


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
    network = filled(Network(n_blocks, last_relu), rng)
    convolution = models.convolution_for("cpu")
    backbone = models.build(name, last_relu=last_relu, convolution=convolution)
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
    recipe = schedules.Recipe(epochs=3, rate=0.1, steps=(2 / 3,), factor=10.0, weight_decay=0.03)
    for step, gradient in enumerate(gradients):
        for name, parameter in network.named_parameters():
            parameter.grad = gradient[name].clone()
        grads, _ = to_flax(network, lambda parameter: parameter.grad)
        optimizer.step()
        scheduler.step()
        updates, state = direction.update(grads, state, params)
        rate = recipe.rate_at(step)
        params = optax.apply_updates(params, jax.tree.map(lambda u, r=rate: -r * u, updates))
    expected, _ = to_flax(network)
    network.load_state_dict(before)
    for got, want in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
