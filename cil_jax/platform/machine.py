"""The machine of a run: its processor and devices, memory in use, and time without compiling."""

import functools
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """Returns the model of the CPU, the cores that this process may use, the devices and the load.

    `load` is the mean number of processes that were ready to run during the last minute, including
    this one; None if the system does not tell.
    """
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def peak_memory() -> int | None:
    """Returns the peak of bytes in use since the process began; None if it is not known.

    On an accelerator, it is the memory of the device with the highest peak; on the CPU, that of the
    process including its libraries.
    """
    peaks = _of_devices("peak_bytes_in_use")
    if peaks or jax.default_backend() != "cpu":
        return max(peaks, default=None)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def memory_in_use() -> int | None:
    """Returns the bytes in use now, of the memory that `peak_memory` describes."""
    used = _of_devices("bytes_in_use")
    if used or jax.default_backend() != "cpu":
        return max(used, default=None)
    statistics = Path("/proc/self/statm")  # in pages; the second number counts those in memory
    if not statistics.exists():
        return None
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _of_devices(name: str) -> list[int]:
    """Returns an entry of the memory statistics of each local device that reports it."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    return [of_device[name] for of_device in statistics if of_device and name in of_device]


COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


def working_time() -> float:
    """Returns a clock in seconds that stands still during compilations after the first call."""
    return time.perf_counter() - sum(_compilation_seconds())


@functools.cache
def _compilation_seconds() -> list[float]:
    """Returns a list that grows by the seconds of each compilation from now on."""
    all_seconds: list[float] = []

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event in COMPILING:
            all_seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return all_seconds


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
