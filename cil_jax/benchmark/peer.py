"""The same work in PyTorch, to be timed beside ours. Imported only where PyTorch is installed.

Written from He et al. 2016 and Rebuffi et al. 2017 and not from our own code, so that the tests
that compare the two prove both. Written for speed as a user of PyTorch would: images lie on the
device as bytes, a batch is augmented at once, memory is channels_last, the teacher runs in
inference mode. With `compiled`, student, teacher and features run under `torch.compile`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

EVAL_BATCH = 500


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is passed; zeros for channels it lacks."""

    def __init__(self, n_in: int, n_out: int, stride: int, last_relu: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.missing, self.last_relu = stride, n_out - n_in, last_relu

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.missing:
            x = x[:, :, :: self.stride, :: self.stride]
            half = self.missing // 2
            x = F.pad(x, (0, 0, 0, 0, half, self.missing - half))
        y = y + x
        return F.relu(y) if self.last_relu else y


class Network(nn.Module):
    """A ResNet of basic blocks with a linear head.

    Args:
      stage_sizes: blocks of each stage; every stage after the first halves the image.
      widths: channels of each stage.
      n_classes: outputs.
      last_relu: whether the last block ends in a ReLU.
      n_channels: of the images.
    """

    def __init__(
        self,
        stage_sizes: Sequence[int],
        widths: Sequence[int],
        n_classes: int,
        last_relu: bool = True,
        n_channels: int = 3,
    ):
        super().__init__()
        self.conv = nn.Conv2d(n_channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        blocks, n_in = [], widths[0]
        for stage, (size, n_out) in enumerate(zip(stage_sizes, widths, strict=True)):
            for i in range(size):
                final = stage == len(widths) - 1 and i == size - 1
                stride = 2 if stage and i == 0 else 1
                blocks.append(Block(n_in, n_out, stride, last_relu or not final))
                n_in = n_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(n_in, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, C, H, W]."""
        return self.blocks(F.relu(self.bn(self.conv(x)))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ICaRL:
    """iCaRL as the preset `paper` has it: all outputs open, sigmoids, herding, nearest means.

    Images are uint8 [N, H, W, C] on the device. All methods leave the device at work; `wait`
    waits for it.

    Attributes:
      network, teacher: of this task and of the one before.
      n_old: outputs before this come from the teacher.
    """

    def __init__(
        self,
        network: Network,
        *,
        mean: np.ndarray,
        std: np.ndarray,
        pad: int,
        mirror: bool,
        momentum: float,
        weight_decay: float,
        divisor: float,
        device: str,
        compiled: bool = False,
    ):
        self.device = torch.device(device)
        if self.device.type == "cuda":  # as XLA does by itself: the fastest algorithms, and TF32
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self.mean, self.std = self.put(mean), self.put(std)
        self.pad, self.mirror, self.divisor = pad, mirror, divisor
        self.momentum, self.weight_decay, self.compiled = momentum, weight_decay, compiled
        self.n_old = 0
        self._answers = self._compile(self.network)
        self._features = self._compile(self.network.features)
        self.begin_task(0)

    def put(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return torch.tensor(np.asarray(array)).to(self.device)

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function) if self.compiled else function

    def begin_task(self, n_old: int) -> None:
        """Freezes the network as teacher of the outputs before n_old, forgets the momentum."""
        self.n_old = n_old
        self.teacher = copy.deepcopy(self.network).eval()
        self._teacher_answers = self._compile(self.teacher)
        named = list(self.network.named_parameters())
        kernels = [p for name, p in named if p.ndim == 4 or name == "head.weight"]
        others = [p for name, p in named if not (p.ndim == 4 or name == "head.weight")]
        groups = [
            {"params": kernels, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self.momentum)

    def normalize(self, images: Tensor) -> Tensor:
        """float32 [B, H, W, C] of bytes of the same shape."""
        return (images / 255.0 - self.mean) / self.std

    def augment(self, images: Tensor) -> Tensor:
        """Normalised, moved and mirrored at random: channels_last [B, C, H, W]."""
        n = len(images)
        offsets = torch.randint(2 * self.pad + 1, (n, 2), device=self.device)
        chance = 0.5 if self.mirror else 0.0
        is_mirrored = torch.rand(n, device=self.device) < chance
        return self.place(images, offsets, is_mirrored)

    def place(self, images: Tensor, offsets: Tensor, is_mirrored: Tensor) -> Tensor:
        """Each image cut out of its padded self at its offset [B, 2], some mirrored: one gather."""
        n, height, width, _ = images.shape
        images = F.pad(self.normalize(images), (0, 0, self.pad, self.pad, self.pad, self.pad))
        rows = offsets[:, :1] + torch.arange(height, device=self.device)
        column = torch.arange(width, device=self.device)
        columns = torch.where(is_mirrored[:, None], column.flip(0), column) + offsets[:, 1:]
        image = torch.arange(n, device=self.device)[:, None, None]
        return images[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """One update on bytes [B, H, W, C] and labels [B]. The loss, before it."""
        x = self.augment(images)
        self.network.train()
        with torch.inference_mode():
            old = self._teacher_answers(x)[:, : self.n_old].sigmoid()
        logits = self._answers(x)
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        targets[:, : self.n_old] = old
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        loss = loss / (len(images) * self.divisor)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.detach()

    def train(
        self, images: Tensor, labels: Tensor, batch_size: int, n_steps: int, rate: float
    ) -> Tensor:
        """So many updates in random order, round and round the images. The summed loss."""
        order, total = torch.randperm(len(images), device=self.device), 0.0
        places = torch.arange(batch_size, device=self.device)
        for step in range(n_steps):
            rows = order[(step * batch_size + places) % len(images)]
            total = total + self.step(images[rows], labels[rows], rate)
        return total

    @torch.inference_mode()
    def embed(self, images: Tensor, mirrored: bool = False) -> Tensor:
        """Features [N, D] of bytes, in evaluation mode."""
        self.network.eval()
        features = []
        for batch in images.split(EVAL_BATCH):
            x = self.normalize(batch.flip(2) if mirrored else batch).permute(0, 3, 1, 2)
            features.append(self._features(x))
        return torch.cat(features)

    @torch.inference_mode()
    def class_means(self, images: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Unit-length means [n_classes, D] of unit-length features, mirror images included."""
        member = F.one_hot(labels, n_classes).T.to(torch.float32)
        sides = (False, True) if self.mirror else (False,)
        return unit(sum(member @ unit(self.embed(images, side)) for side in sides))

    @torch.inference_mode()
    def nearest_means(self, images: Tensor, means: Tensor) -> Tensor:
        """int64 [N]: of bytes, the class of the nearest mean [C, D]."""
        return torch.cdist(unit(self.embed(images)), means).argmin(dim=1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] brought to length 1; a zero vector stays zero."""
    return F.normalize(vectors, dim=-1)


@torch.inference_mode()
def herding(features: Tensor, count: int) -> Tensor:
    """Picks [K, count] of each of K classes' features [K, n, D], greedy and without repeats."""
    rows = unit(features)
    target = rows.mean(dim=1)
    squared_norm = (rows * rows).sum(dim=2)
    wanted, taken = target.clone(), torch.zeros_like(squared_norm)
    classes, picks = torch.arange(len(rows), device=rows.device), []
    for _ in range(count):
        gain = 2.0 * torch.bmm(rows, wanted[:, :, None])[:, :, 0] - squared_norm + taken
        pick = gain.argmax(dim=1)
        taken[classes, pick] = -torch.inf
        wanted += target - rows[classes, pick]
        picks.append(pick)
    return torch.stack(picks, dim=1)


class Task:
    """A learner, and what it learns from and is asked, ready to be timed.

    Args:
      model: with the teacher of the task before.
      images, labels: uint8 [N, H, W, C] and int [N].
      test_images: uint8 [M, H, W, C].
      batch_size: images an update.
      rate: the learning rate.
    """

    def __init__(
        self,
        model: ICaRL,
        images: np.ndarray,
        labels: np.ndarray,
        test_images: np.ndarray,
        batch_size: int,
        rate: float,
    ):
        self._model, self._batch_size, self._rate = model, batch_size, rate
        self._images, self._labels = model.put(images), model.put(labels).long()
        self._test_images = model.put(test_images)

    def train(self, n_steps: int) -> None:
        """So many updates, done when it returns."""
        self._model.train(self._images, self._labels, self._batch_size, n_steps, self._rate)
        self._model.wait()

    def answer(self, means: np.ndarray) -> np.ndarray:
        """NME's answers to all test images."""
        return self._model.nearest_means(self._test_images, self._model.put(means)).cpu().numpy()


def whole_run(
    model: ICaRL,
    tasks: Sequence[tuple[np.ndarray, np.ndarray]],
    test: tuple[np.ndarray, np.ndarray],
    *,
    rates: Sequence[float],
    batch_size: int,
    memory: int,
    n_classes: int,
) -> list[float]:
    """iCaRL from the first task to the last: training, herding, means, answers to test images.

    Args:
      model: whose network is fresh.
      tasks: images uint8 [N, H, W, C] and labels [N] of each; classes in the order of labels.
      test: images and labels of all classes.
      rates: the learning rate of each epoch of a task.
      batch_size: images an update; a rest smaller than this is left out.
      memory: exemplars, over all classes.
      n_classes: of all tasks.

    Returns:
      Accuracy on the classes seen by nearest means, after each task.
    """
    kept: list[Tensor] = []  # of each class, in the order of selection
    test_images, test_labels = map(model.put, test)
    accuracies = []
    for new_images, new_labels in tasks:
        images, labels = model.put(new_images), model.put(new_labels).long()
        model.begin_task(len(kept))
        pool, pool_labels = _joined([*kept, images], labels)
        for rate in rates:
            n_steps = max(1, len(pool) // batch_size)
            float(model.train(pool, pool_labels, batch_size, n_steps, rate))
        features, n_seen = model.embed(images), int(labels.max()) + 1
        share = memory // n_seen
        for c in range(len(kept), n_seen):
            own = labels == c
            picks = herding(features[own][None], min(share, int(own.sum())))[0]
            kept.append(images[own][picks])
        kept = [of_class[:share] for of_class in kept]
        means = model.class_means(*_joined(kept, labels[:0]), n_classes)[:n_seen]
        seen = test_labels < n_seen
        answers = model.nearest_means(test_images[seen], means)
        accuracies.append(float((answers == test_labels[seen]).float().mean()))
    return accuracies


def _joined(parts: Sequence[Tensor], last_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images of class after class, and at the end those with the last labels."""
    n_classes = len(parts) - bool(len(last_labels))
    counts = torch.tensor([len(part) for part in parts[:n_classes]], dtype=torch.long)
    labels = torch.repeat_interleave(torch.arange(n_classes), counts).to(last_labels.device)
    return torch.cat(list(parts)), torch.cat([labels, last_labels])
