"""Chooses the accelerator of a command and prepares its process, before JAX starts."""

import os
import sys
import traceback
from pathlib import Path

from cil_jax.errors import UserError
from cil_jax.settings.config import Config, cache_dir

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when JAX is imported

EXTRAS = {
    "gpu": "for CUDA: pip install 'cil_jax[cuda13]' (or, for older drivers, 'cil_jax[cuda12]')",
    "tpu": "install its support: pip install 'cil_jax[tpu]'",
    "cpu": "check the JAX_PLATFORMS environment variable",
}
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"  # read when a process starts


def start_accelerator(name: str, hosts: Config | None = None) -> None:
    """Sets up JAX for a command: its accelerator, its options, its cache of compiled programs.

    Call this before anything else uses a backend.

    Args:
      name: auto, cpu, gpu or tpu; auto leaves the choice to JAX.
      hosts: the settings of a run that may use several hosts, or None.

    Raises:
      UserError: if JAX finds no such accelerator, or can't connect the hosts.
    """
    import jax

    from cil_jax.app import program_cache
    from cil_jax.platform import environment

    environment.set_options()
    cache = cache_dir()
    program_cache.keep_in(cache / "programs" if cache else None)
    if name != "auto":
        jax.config.update("jax_platforms", PLATFORMS[name])
    if hosts and hosts.coordinator:
        _connect_hosts(hosts)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        hint = EXTRAS.get(name, EXTRAS["cpu"])
        missing = "device to compute on" if name == "auto" else f"{name.upper()} on this machine"
        raise UserError(f"JAX finds no {missing}; {hint}") from error
    if name != "auto" and jax.default_backend() != name:
        raise UserError(
            f"JAX was started on {jax.default_backend()} before --accelerator {name} was set: a "
            "file of your own must compute nothing while it is imported"
        )


def is_refusal_by_jax(error: ValueError) -> bool:
    """Returns whether JAX raised an error while it was imported.

    It then reads its options from environment variables, and raises at a value that it does not
    allow.
    """
    return any(
        frame.f_globals.get("__name__") == "jax" and frame.f_code.co_name == "<module>"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def take_huge_pages(accelerator: str) -> None:
    """Restarts this command with huge pages, if Linux grants them on request.

    An update of a ResNet-32 uses a gigabyte of memory that XLA allocates and frees each time. In
    pages of 4 KiB, this takes a tenth of the time of an update on a CPU. glibc (2.35 or newer)
    requests pages of 2 MiB if an environment variable is set when the process starts, so this
    function sets it and replaces the process by a new one with the same id. It does nothing if the
    program is not one of ours, if an argument is a pipe, which can't be read twice, or if
    the variable is already set.

    Args:
      accelerator: auto, cpu, gpu or tpu; nothing is done for gpu and tpu.
    """
    if accelerator not in ("auto", "cpu"):
        return
    if not _is_command() or TUNABLES in os.environ or not HUGE_PAGES.exists():
        return
    if any(Path(word.partition("=")[2] or word).is_fifo() for word in sys.orig_argv):
        return
    if "[madvise]" in HUGE_PAGES.read_text():
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_command() -> bool:
    """Whether this process was started as a command of ours, so that it can be started again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return Path(sys.argv[0]).name == "cil-jax"
    return spec.name == "cil_jax.__main__" or spec.name.startswith("experiments.")


def _connect_hosts(config: Config) -> None:
    """Waits for the other processes of a run and connects to them.

    Raises:
      UserError: if they can't be reached.
    """
    import jax

    address = None if config.coordinator == "auto" else config.coordinator
    try:
        jax.distributed.initialize(address, config.num_processes, config.process_id)
    except (RuntimeError, ValueError) as error:
        hint = ""
        if not address:
            hint = "; no cluster was detected: set --coordinator HOST:PORT, --num-processes and "
            hint += "--process-id"
        raise UserError(f"can't join --coordinator {config.coordinator}: {error}{hint}") from error
