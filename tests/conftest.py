"""Settings of the whole suite, a tiny network, and small runs that tests share."""

import dataclasses
import gc
import os
import signal
import time
from pathlib import Path

# Before JAX starts: tests run on the CPU, and compiled programs and decoded data are kept in the
# checkout, so that the next run of the suite is faster.
CACHE = Path(__file__).parents[1] / ".cache"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads: see `cil-jax benchmark`
os.environ["CIL_JAX_CACHE"] = str(CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Tests compile far longer than they compute: at this level a run of theirs takes half the time.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

# Where the suite runs in the background, SIGINT may be ignored, as SIGHUP is under nohup, and would
# be in each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import metrics, models
from cil_jax.confusion import Confusion
from cil_jax.data import cifar100
from cil_jax.methods import METHODS, Batch
from cil_jax.models import BasicBlock
from cil_jax.settings.config import Config
from cil_jax.settings.loading import preset, presets
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder

# Backbones that compile in a moment; the second has all that a ResNet has, as a change of width.
models.BACKBONES["tiny"] = {"block": BasicBlock, "stage_sizes": (1,), "widths": (8,)}
models.BACKBONES["two-stage"] = {"block": BasicBlock, "stage_sizes": (1, 1), "widths": (4, 8)}

# The recipe that tests take for each method: the paper's, else the first of its presets.
PRESETS = {m: "paper" if "paper" in presets(m) else presets(m)[0] for m in METHODS}


def small_config(method: str, out: os.PathLike | str, **overrides) -> Config:
    """Three tasks of digits, the last one smaller, two epochs each, in seconds."""
    values = {
        "dataset": "digits",
        "classes": 5,
        "task_size": 2,
        "backbone": "tiny",
        "epochs": 2,
        "batch_size": 32,
        "out": str(out),
    }
    if method in ("icarl", "replay"):  # which keep exemplars
        values["memory"] = 20
    config = preset(method, PRESETS[method], **{**values, **overrides})
    # A published number of random features is in the thousands.
    return dataclasses.replace(config, n_random=64) if hasattr(config, "n_random") else config


def results_of(sizes=(2, 2, 1), matrix=((0.9,), (0.5, 0.8), (0.2, 0.4, 0.7)), **others) -> dict:
    """What results.json would hold of a run with this accuracy matrix, without a run."""
    summary = metrics.summarize(
        matrix, sizes, task_aware=[[0.95] * len(row) for row in matrix], top5=[None] * len(matrix)
    )
    return {
        "method": "icarl",
        "preset": "paper",
        "dataset": "digits",
        "order": "seeded 1993",
        "seeds": {"order": 1993, "init": 0, "data": 0},
        "backbone": "resnet8",
        "epochs": [7, *[5] * (len(sizes) - 1)],
        "exemplars": 20,
        "keeps_all_data": False,
        "uses_all_data": ["ncm"],
        "class_names": [f"class {c}" for c in range(sum(sizes))],
        "task_sizes": list(sizes),
        "headline": "nme",
        "parameters": 1234,
        "memory_bytes": 5678,
        "memory": {"parameters": 4936, "teacher": 4936, "exemplars": 5678, "peak": None},
        "seconds": {"train": 1.5},
        "machine": {"cpu": "a CPU", "cores": 2},
        "classifiers": {
            "nme": summary,
            "linear": summary,
            "ncm": summary,
        },
        **others,
    }


def write_run(folder, *, epochs=2, exemplars=0, config=None, **results) -> RunFolder:
    """What a finished run would leave in a folder, without a run.

    Args:
      folder: where to.
      epochs: of each task, in metrics.jsonl.
      exemplars: images 6x6 kept of each class: exemplar k of class c has pixels c and k.
      config: its settings (default: those of `small_config`).
      **results: see `results_of`.
    """
    run, made = RunFolder(folder), results_of(**results)
    run.start(config or small_config("icarl", folder))
    for task, n in enumerate(np.cumsum(made["task_sizes"])[: replicates.n_learned(made)]):
        for epoch in range(epochs):
            values = {"train_loss": 1.0 + epoch, "test_loss": 1.25, "train_accuracy": 0.5}
            values |= {"test_accuracy": 0.4, "rate": 0.1, "images_per_second": 100.0}
            values["parts"] = {"classification": 0.75, "distillation": 0.25}
            run.append({"kind": "epoch", "task": task, "epoch": epoch, **values})
        run.append({"kind": "evaluation", "task": task, "n_seen": int(n), "loss": 2.0 + task})
    confusion = Confusion.of(9 * np.eye(n, dtype=int) + np.eye(n, k=1, dtype=int))
    run.write_confusions({name: confusion for name in made["classifiers"]})
    labels = np.repeat(np.arange(sum(made["task_sizes"])), exemplars)
    if exemplars:
        images = np.zeros((len(labels), 6, 6, 3), np.uint8)
        images[..., 0] = labels[:, None, None]
        images[..., 1] = (np.arange(len(labels)) % exemplars)[:, None, None]
        run.write_exemplars(images, labels, made["class_names"])
    run.write_results(made)
    return run


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """A tfds folder with the real CIFAR-100."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or cifar100.prepared_version(Path(folder)) is None:
        pytest.skip("no CIFAR-100 in TFDS_DATA_DIR")
    return folder


def new_images(images, labels):
    """A batch without exemplars."""
    labels = jnp.asarray(labels)
    return Batch(images, labels, {}, jnp.zeros(labels.shape, bool))


MAPS_AT_MOST = 35_000
SECONDS_BETWEEN_CHECKS = 5.0
last_check = [time.monotonic()]


@pytest.fixture(autouse=True)
def room_for_programs():
    """Drops the compiled programs of earlier tests once they take half of the memory maps.

    Linux gives a process 65,530 maps, and a compiled program takes several. The compiler dies
    where there is none left. Reading the maps takes up to 30 ms.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and time.monotonic() - last_check[0] > SECONDS_BETWEEN_CHECKS:
        last_check[0] = time.monotonic()
        if maps.read_bytes().count(b"\n") > MAPS_AT_MOST:
            jax.clear_caches()
            gc.collect()
