"""The same work in PyTorch, to compare with. Imported only if PyTorch is installed.

It is written from He et al. 2016 and Rebuffi et al. 2017 rather than from our own code, so that
tests that compare the two check both. It is written for speed, as a user of PyTorch would: images
are bytes on the device, a whole batch is augmented at once, tensors are channels_last, and the
teacher runs in inference mode. With `compiled`, student, teacher and features use `torch.compile`.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # optional
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

EVAL_BATCH = 500


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, which pads missing channels with zeros."""

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
      stage_sizes: the number of blocks in each stage. Each stage after the first halves the image.
      widths: the number of channels in each stage.
      n_classes: the number of outputs.
      last_relu: whether the last block ends in a ReLU.
      n_channels: the number of channels of the images.
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
        """Features [B, D] of normalized images [B, C, H, W]."""
        return self.blocks(F.relu(self.bn(self.conv(x)))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ICaRL:
    """iCaRL as in the preset `paper`: fixed outputs, sigmoids, herding, nearest means.

    Images are uint8 [N, H, W, C] on the device. Methods return before the device has finished;
    `wait` waits for it.

    Args:
      network: the network to train.
      mean, std: float32 arrays that broadcast to images, of pixels / 255.
      pad: pixels of padding for random crops.
      mirror: whether images are mirrored at random, and class means include mirror images.
      momentum: momentum of SGD.
      weight_decay: L2 weight-decay coefficient of kernels.
      divisor: constant that the summed loss is divided by.
      device: a PyTorch device.
      compiled: whether to use `torch.compile`.
      precision: "float32", or "bfloat16" for autocast to it.

    Attributes:
      network: the network of the current task.
      teacher: the network as it was after the task before.
      n_old: the number of old outputs, whose targets come from the teacher.
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
        precision: str = "float32",
    ):
        self.device = torch.device(device)
        self._autocast = functools.partial(
            torch.autocast, self.device.type, torch.bfloat16, enabled=precision == "bfloat16"
        )
        if self.device.type == "cuda":  # like XLA: the fastest algorithms, and TF32
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        self.network = network.to(  # pyright: ignore[reportCallIssue]  # it takes a memory_format
            self.device, memory_format=torch.channels_last
        )
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
        """Waits until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function) if self.compiled else function

    def begin_task(self, n_old: int) -> None:
        """Copies the network as teacher of outputs 0 .. n_old - 1, and resets the momentum."""
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
        """Normalized images, float32 [B, H, W, C], from bytes [B, H, W, C]."""
        return (images / 255.0 - self.mean) / self.std

    def augment(self, images: Tensor) -> Tensor:
        """Normalized images, randomly cropped and mirrored: channels_last [B, C, H, W]."""
        n = len(images)
        offsets = torch.randint(2 * self.pad + 1, (n, 2), device=self.device)
        chance = 0.5 if self.mirror else 0.0
        is_mirrored = torch.rand(n, device=self.device) < chance
        return self.crop(images, offsets, is_mirrored)

    def crop(self, images: Tensor, offsets: Tensor, is_mirrored: Tensor) -> Tensor:
        """Normalizes, pads, crops and mirrors images, with a single gather.

        Args:
          images: bytes [B, H, W, C].
          offsets: int [B, 2], the row and column where the crop of each padded image begins.
          is_mirrored: bool [B].
        """
        n, height, width, _ = images.shape
        images = F.pad(self.normalize(images), (0, 0, self.pad, self.pad, self.pad, self.pad))
        rows = offsets[:, :1] + torch.arange(height, device=self.device)
        column = torch.arange(width, device=self.device)
        columns = torch.where(is_mirrored[:, None], column.flip(0), column) + offsets[:, 1:]
        image = torch.arange(n, device=self.device)[:, None, None]
        return images[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """Makes one update on bytes [B, H, W, C] and labels [B]; returns the loss before it."""
        x = self.augment(images)
        self.network.train()
        with torch.inference_mode(), self._autocast():
            old = self._teacher_answers(x)[:, : self.n_old].float().sigmoid()
        with self._autocast():
            logits = self._answers(x)
        logits = logits.float()
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
        """Makes n_steps updates, cycling through the images in random order. The summed loss."""
        order = torch.randperm(len(images), device=self.device)
        total = torch.zeros((), device=self.device)
        places = torch.arange(batch_size, device=self.device)
        for step in range(n_steps):
            rows = order[(step * batch_size + places) % len(images)]
            total = total + self.step(images[rows], labels[rows], rate)
        return total

    @torch.inference_mode()
    def embed(self, images: Tensor, mirrored: bool = False) -> Tensor:
        """Features [N, D] of bytes [N, H, W, C], in evaluation mode."""
        self.network.eval()
        features = []
        for batch in images.split(EVAL_BATCH):
            x = self.normalize(batch.flip(2) if mirrored else batch).permute(0, 3, 1, 2)
            with self._autocast():
                features.append(self._features(x).float())
        return torch.cat(features)

    @torch.inference_mode()
    def class_means(self, images: Tensor, labels: Tensor, n_classes: int) -> Tensor:
        """Unit-length class means [n_classes, D], of mirror images as well if `mirror`."""
        member = F.one_hot(labels, n_classes).T.to(torch.float32)
        sides = (False, True) if self.mirror else (False,)
        sums = [member @ unit(self.embed(images, side)) for side in sides]
        return unit(torch.stack(sums).sum(dim=0))

    @torch.inference_mode()
    def nearest_means(self, images: Tensor, means: Tensor) -> Tensor:
        """The class with the nearest of the means [C, D], int64 [N], for bytes [N, H, W, C]."""
        return torch.cdist(unit(self.embed(images)), means).argmin(dim=1)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] scaled to length 1; a zero vector stays zero."""
    return F.normalize(vectors, dim=-1)


@torch.inference_mode()
def herding(features: Tensor, count: int) -> Tensor:
    """Greedy selection without repetition: indices [K, count] into the features [K, n, D]."""
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
    """A model with its training and test images, ready for timing.

    Args:
      model: the model, with the teacher of the task before.
      images, labels: training images uint8 [N, H, W, C] and labels int [N].
      test_images: uint8 [M, H, W, C].
      batch_size: images per update.
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
        """Makes n_steps updates, and waits until they are done."""
        self._model.train(self._images, self._labels, self._batch_size, n_steps, self._rate)
        self._model.wait()

    def answer(self, means: np.ndarray) -> np.ndarray:
        """The predictions of NME for all test images, int [M], with means [C, D]."""
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
    """A whole run of iCaRL: for each task, training, herding, class means and test accuracy.

    Args:
      model: a model with a new network.
      tasks: images uint8 [N, H, W, C] and labels [N] of each task. Labels increase over tasks.
      test: test images and labels of all classes.
      rates: the learning rate of each epoch of a task.
      batch_size: images per update. An epoch drops a final partial batch.
      memory: the total number of exemplars.
      n_classes: the number of classes of all tasks.

    Returns:
      The accuracy of nearest means on the classes seen, after each task.
    """
    exemplars: list[Tensor] = []  # images of each class, in the order of selection
    test_images, test_labels = map(model.put, test)
    accuracies = []
    for new_images, new_labels in tasks:
        images, labels = model.put(new_images), model.put(new_labels).long()
        model.begin_task(len(exemplars))
        pool, pool_labels = _joined([*exemplars, images], labels)
        for rate in rates:
            n_steps = max(1, len(pool) // batch_size)
            float(model.train(pool, pool_labels, batch_size, n_steps, rate))
        features, n_seen = model.embed(images), int(labels.max()) + 1
        share = memory // n_seen
        for c in range(len(exemplars), n_seen):
            is_class = labels == c
            picks = herding(features[is_class][None], min(share, int(is_class.sum())))[0]
            exemplars.append(images[is_class][picks])
        exemplars = [of_class[:share] for of_class in exemplars]
        means = model.class_means(*_joined(exemplars, labels[:0]), n_classes)[:n_seen]
        seen = test_labels < n_seen
        answers = model.nearest_means(test_images[seen], means)
        accuracies.append(float((answers == test_labels[seen]).float().mean()))
    return accuracies


def _joined(parts: Sequence[Tensor], last_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenates the images of each class and, at the end, images with their own labels.

    Args:
      parts: images of classes 0, 1, and so on; the last item belongs to `last_labels`, if any.
      last_labels: int [N] or [0].
    """
    n_classes = len(parts) - bool(len(last_labels))
    counts = torch.tensor([len(part) for part in parts[:n_classes]], dtype=torch.long)
    labels = torch.repeat_interleave(torch.arange(n_classes), counts).to(last_labels.device)
    return torch.cat(list(parts)), torch.cat([labels, last_labels])
