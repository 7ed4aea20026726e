"""What a run computes on: its name, and how much memory it took."""

import functools
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """The CPU's model, cores that this process may use, the device, and the load.

    `load` is the mean number of processes that wanted to run in the last minute, this one
    included; None where the system does not say.
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
    """The most bytes in use at once since the process began, None where it is not known.

    Of the fullest device's memory; where the CPU computes, of the process, libraries included.
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
    """Bytes in use now, None where it is not known; whose, see `peak_memory`."""
    used = _of_devices("bytes_in_use")
    if used or jax.default_backend() != "cpu":
        return max(used, default=None)
    statistics = Path("/proc/self/statm")  # in pages, the second number those in memory
    if not statistics.exists():
        return None
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _of_devices(name: str) -> list[int]:
    """A number of the devices' memory statistics, of those devices that have it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return [one[name] for one in stats if one and name in one]


COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


def working_time() -> float:
    """Seconds that go by while nothing is compiled, from the first call on."""
    return time.perf_counter() - sum(_compiling())


@functools.cache
def _compiling() -> list[float]:
    """Seconds of each compilation from now on."""
    found: list[float] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event in COMPILING:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
