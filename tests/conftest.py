"""Settings of the whole suite, a tiny network, and small runs that tests share."""

import os
from pathlib import Path

# Before JAX starts: tests run on the CPU, and compiled programs and decoded data are kept in the
# checkout, so that the next run of the suite is faster.
CACHE = Path(__file__).parents[1] / ".cache"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CIL_JAX_CACHE"] = str(CACHE)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "programs")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import pytest

from cil_jax import models
from cil_jax.config import Config, preset, presets
from cil_jax.data import cifar100
from cil_jax.methods import METHODS
from cil_jax.models import BasicBlock

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


@pytest.fixture(scope="session")
def real_data_dir() -> str:
    """A tfds folder with the real CIFAR-100."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or cifar100.prepared_version(Path(folder)) is None:
        pytest.skip("no CIFAR-100 in TFDS_DATA_DIR")
    return folder
