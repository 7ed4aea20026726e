"""What a command computes on, chosen before JAX starts."""

import os
import sys
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
    """Sets JAX up for a command; to be called before anything else touches a backend.

    It uses the accelerator, and has the options that results depend on.

    Args:
      name: auto, cpu, gpu or tpu; auto leaves the choice to JAX.
      hosts: the settings that say how several hosts meet, if they do.

    Raises:
      UserError: if there is none of that kind, with what to install; or if the hosts don't meet.
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
        _meet(hosts)
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        hint = EXTRAS.get(name, EXTRAS["cpu"])
        raise UserError(f"JAX finds no {name.upper()} on this machine; {hint}") from error


def take_huge_pages(accelerator: str) -> None:
    """Starts this command anew with huge pages, where Linux gives them to who asks for them.

    An update of ResNet-32 writes to a gigabyte that XLA takes and gives back each time. In pages of
    4 KiB, that is a tenth of its time on a CPU. glibc (2.35 or newer) asks for pages of 2 MiB if it
    is told so before the process starts: so this one is replaced, under the same number. Nothing is
    done in a program that is none of `experiments`, in one that reads from a pipe, which can be
    read once only, or where the variable is set already.

    Args:
      accelerator: as `start_accelerator` has it; nothing is done but for auto and cpu.
    """
    if accelerator not in ("auto", "cpu"):
        return
    main = getattr(sys.modules["__main__"], "__spec__", None)
    is_command = main is not None and main.name.startswith("experiments.")
    if not is_command or TUNABLES in os.environ or not HUGE_PAGES.exists():
        return
    if any(Path(word.partition("=")[2] or word).is_fifo() for word in sys.orig_argv):
        return
    if "[madvise]" in HUGE_PAGES.read_text():
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _meet(config: Config) -> None:
    """Waits for the other processes of a run."""
    import jax

    address = None if config.coordinator == "auto" else config.coordinator
    try:
        jax.distributed.initialize(address, config.num_processes, config.process_id)
    except (RuntimeError, ValueError) as error:
        hint = ""
        if not address:
            hint = "; no cluster was found: say --coordinator HOST:PORT, --num-processes and "
            hint += "--process-id"
        raise UserError(f"can't join --coordinator {config.coordinator}: {error}{hint}") from error
