"""What the process of PyTorch can be asked to do. Imported there only; imports PyTorch, not JAX."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # optional

from cil_jax.benchmark import pytorch_model, pytorch_shipped


class Work:
    """The work that PyTorch does for the benchmark. Arrays come and go as NumPy's.

    Each method returns when the device has finished.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, pytorch_model.Task] = {}
        self._runs: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._features = torch.zeros(0)

    def has_cuda(self) -> bool:
        """Whether PyTorch can compute on a GPU here."""
        return torch.cuda.is_available()

    def put_task(
        self,
        name: str,
        model: dict[str, Any],
        n_old: int,
        task: dict[str, Any],
    ) -> None:
        """Keeps the middle of a run under a name.

        Args:
          name: the name.
          model: the arguments of `model_of`.
          n_old: the number of old classes.
          task: the arguments of `pytorch_model.Task`, without the model.
        """
        made = model_of(**model)
        made.begin_task(n_old)
        self._tasks[name] = pytorch_model.Task(made, **task)

    def train(self, name: str, n_steps: int) -> None:
        """Makes updates in the middle of a run."""
        self._tasks[name].train(n_steps)

    def answer(self, name: str, means: np.ndarray) -> np.ndarray:
        """The predictions of NME, with means [C, D], for the test images: int [M]."""
        return self._tasks[name].answer(means)

    def put_features(self, features: np.ndarray, device: str) -> None:
        """Keeps features [K, n, D] for `herd`."""
        self._features = torch.tensor(features).to(device)

    def herd(self, count: int) -> np.ndarray:
        """Indices [K, count] of the images that herding selects."""
        return pytorch_model.herding(self._features, count).cpu().numpy()

    def put_run(self, name: str, model: dict[str, Any], run: dict[str, Any]) -> None:
        """Keeps the data of a whole run: the arguments of `model_of` and of a whole run."""
        self._runs[name] = model, run

    def whole_run(self, name: str) -> float:
        """A whole run from a new network; see `pytorch_model.whole_run`. The last accuracy."""
        model, run = self._runs[name]
        return pytorch_model.whole_run(model_of(**model), **run)[-1]

    def shipped_run(self, name: str) -> list[float]:
        """A whole run as it is usually written; see `pytorch_shipped.run`."""
        model, run = self._runs[name]
        return pytorch_shipped.run(**model, **run)


def model_of(network: dict[str, Any], **settings: Any) -> pytorch_model.ICaRL:
    """A model with a new network.

    Args:
      network: the arguments of `pytorch_model.Network`.
      **settings: the other arguments of `pytorch_model.ICaRL`.
    """
    return pytorch_model.ICaRL(pytorch_model.Network(**network), **settings)
