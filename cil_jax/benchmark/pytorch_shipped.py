"""iCaRL in PyTorch as it is usually written: a loop over a DataLoader with transforms per image.

The recipe is that of PyCIL's iCaRL (Zhou et al., https://arxiv.org/abs/2112.12533), in our own
code: cross-entropy over all classes seen plus distillation of the old outputs at temperature 2,
herding, and the nearest mean of exemplars. Transforms are those of torchvision, one PIL image at a
time, in the processes of the loader. Imported only if PyTorch is installed.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # optional
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]
from torch.utils import data  # pyright: ignore[reportMissingImports]

from cil_jax.benchmark.pytorch_model import Network, herding, unit

TEMPERATURE = 2.0
MOST_WORKERS = 8  # as PyCIL


class Images(data.Dataset):
    """Images and labels, each image transformed when it is read.

    Args:
      images: uint8 [N, H, W, C] with 1 or 3 channels.
      labels: int [N].
      mean, std: of pixels / 255, for each channel.
      augmentation: pad, mirror and brightness as in `cil_jax.data.augment.Augmentation`; None to
        only normalize.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        augmentation: tuple[int, bool, float] | None = None,
    ):
        self.images, self.labels, self.augmentation = images, labels, augmentation
        self.mean, self.std = (torch.tensor(x.ravel())[:, None, None] for x in (mean, std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        if self.augmentation:
            image = self._augmented(image, *self.augmentation)
        array = np.array(image).reshape(pixels.shape)
        tensor = torch.from_numpy(array).permute(2, 0, 1).float().div(255.0)
        return (tensor - self.mean) / self.std, int(self.labels[index])

    @staticmethod
    def _augmented(image: Image.Image, pad: int, mirror: bool, brightness: float) -> Image.Image:
        """Crops at random from a black border, mirrors, and changes the brightness."""
        width, height = image.size
        left, top = torch.randint(2 * pad + 1, (2,)).tolist()
        image = ImageOps.expand(image, pad).crop((left, top, left + width, top + height))
        if mirror and torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        if brightness:
            factor = 1 + brightness * (2 * float(torch.rand(())) - 1)
            image = ImageEnhance.Brightness(image).enhance(factor)
        return image


def run(
    network: dict[str, Any],
    *,
    tasks: Sequence[tuple[np.ndarray, np.ndarray]],
    test: tuple[np.ndarray, np.ndarray],
    mean: np.ndarray,
    std: np.ndarray,
    augmentation: tuple[int, bool, float],
    schedules: Sequence[tuple[Sequence[float], float]],
    momentum: float,
    batch_size: int,
    memory: int,
    device: str,
) -> list[float]:
    """A whole run.

    Args:
      network: the arguments of `cil_jax.benchmark.pytorch_model.Network`, without n_classes.
      tasks: images uint8 [N, H, W, C] and labels [N] of each task. Labels increase over tasks.
      test: test images and labels of all classes.
      mean, std, augmentation: see `Images`.
      schedules: for each task, the learning rate of each epoch, and the weight decay.
      momentum: momentum of SGD.
      batch_size: images per update; the last partial batch of an epoch is kept.
      memory: the total number of exemplars.
      device: a PyTorch device.

    Returns:
      The accuracy of nearest means of exemplars on the classes seen, after each task.
    """
    n_workers = min(MOST_WORKERS, os.cpu_count() or 1)

    def loader(images: np.ndarray, labels: np.ndarray, train: bool) -> data.DataLoader:
        dataset = Images(images, labels, mean, std, augmentation if train else None)
        return data.DataLoader(dataset, batch_size, shuffle=train, num_workers=n_workers)

    model = Network(**network, n_classes=int(tasks[0][1].max()) + 1).to(device)
    exemplars = np.zeros((0, *tasks[0][0].shape[1:]), np.uint8)
    exemplar_labels = np.zeros(0, int)
    accuracies, n_old = [], 0
    for (images, labels), (rates, weight_decay) in zip(tasks, schedules, strict=True):
        n_seen = int(labels.max()) + 1
        teacher = copy.deepcopy(model).eval() if n_old else None
        if n_old:
            _grow(model, n_seen, device)
        pool = np.concatenate([images, exemplars]), np.concatenate([labels, exemplar_labels])
        optimizer = torch.optim.SGD(
            model.parameters(), lr=rates[0], momentum=momentum, weight_decay=weight_decay
        )
        batches = loader(*pool, train=True)
        for rate in rates:
            for group in optimizer.param_groups:
                group["lr"] = rate
            _epoch(model, teacher, batches, optimizer, n_old, device)
        share = memory // n_seen
        features = _features(model, loader(images, labels, train=False), device)
        chosen = [np.flatnonzero(exemplar_labels == c)[:share] for c in range(n_old)]
        kept = np.concatenate([*chosen, np.zeros(0, int)])
        new = []
        for c in range(n_old, n_seen):
            rows = np.flatnonzero(labels == c)
            picks = herding(features[rows][None], min(share, len(rows)))[0]
            new.append(rows[picks.cpu().numpy()])
        rows = np.concatenate(new)
        exemplars = np.concatenate([exemplars[kept], images[rows]])
        exemplar_labels = np.concatenate([exemplar_labels[kept], labels[rows]])
        of_exemplars = unit(_features(model, loader(exemplars, exemplar_labels, False), device))
        means = [of_exemplars[exemplar_labels == c].mean(dim=0) for c in range(n_seen)]
        seen = test[1] < n_seen
        of_test = unit(_features(model, loader(test[0][seen], test[1][seen], False), device))
        answers = torch.cdist(of_test, unit(torch.stack(means))).argmin(dim=1).cpu().numpy()
        accuracies.append(float((answers == test[1][seen]).mean()))
        n_old = n_seen
    return accuracies


def _grow(model: Network, n_classes: int, device: str) -> None:
    """Gives the head of a network more outputs; old ones keep their weights."""
    old = model.head
    model.head = nn.Linear(old.in_features, n_classes).to(device)
    with torch.no_grad():
        model.head.weight[: old.out_features] = old.weight
        model.head.bias[: old.out_features] = old.bias


def _epoch(
    model: Network,
    teacher: Network | None,
    batches: data.DataLoader,
    optimizer: torch.optim.Optimizer,
    n_old: int,
    device: str,
) -> None:
    """One epoch of cross-entropy and distillation."""
    model.train()
    for images, labels in batches:
        inputs = images.to(device)
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels.to(device))
        if teacher is not None:
            with torch.no_grad():
                old = F.softmax(teacher(inputs) / TEMPERATURE, dim=1)
            new = F.log_softmax(logits[:, :n_old] / TEMPERATURE, dim=1)
            loss = loss - (old * new).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _features(model: Network, batches: data.DataLoader, device: str) -> Tensor:
    """Features [N, D] in evaluation mode."""
    model.eval()
    return torch.cat([model.features(inputs.to(device)) for inputs, _ in batches])
