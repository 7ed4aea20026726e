"""Settings of the whole suite, a tiny network, and small runs that tests share."""

import os
from pathlib import Path

# Before JAX starts: tests run on the CPU, and compiled programs and decoded data are kept in the
# checkout, so that the next run of the suite is faster.
CACHE = Path(__file__).parents[1] / ".cache"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads: see experiments.benchmark
os.environ["CIL_JAX_CACHE"] = str(CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Random numbers alone take the CPU's compiler seconds at its default level, a tenth at this one.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"

import pytest

from cil_jax import metrics, models
from cil_jax.config import Config
from cil_jax.data import cifar100
from cil_jax.methods import METHODS
from cil_jax.models import BasicBlock
from cil_jax.recipes import preset, presets

# A backbone that compiles in a moment. It is registered as a user's own would be.
models.BACKBONES["tiny"] = {"block": BasicBlock, "stage_sizes": (1, 1), "widths": (4, 8)}

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
        "memory": 20,
        "out": str(out),
    }
    return preset(method, PRESETS[method], **{**values, **overrides})


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
        "classifiers": {
            "nme": summary,
            "linear": summary,
            "ncm": summary,
        },
        **others,
    }


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """A tfds folder with the real CIFAR-100."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or cifar100.prepared_version(Path(folder)) is None:
        pytest.skip("no CIFAR-100 in TFDS_DATA_DIR")
    return folder
