"""The cache of compiled programs on disk, which lets a second process start in seconds.

JAX writes and reads the programs. It compiles a program that it can't read again at every start,
warns of each, and never replaces it. This module removes such programs and warns once.
"""

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import Any

import jax

_told: set[str] = set()  # the problems that this process has warned of


def keep_in(folder: Path | None) -> None:
    """Makes JAX cache compiled programs in a folder, for the whole process.

    Args:
      folder: the cache; JAX's own environment variable takes precedence. Nothing is cached if it
        is None or can't be created.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    _replace_unreadable()


@functools.cache  # once per process
def _replace_unreadable() -> None:
    """Wraps the functions with which JAX reads and writes a program."""
    # JAX has no public hook for this. It catches what the two functions raise, and warns.
    try:
        from jax._src import compilation_cache

        read = compilation_cache.get_executable_and_time
        write = compilation_cache.put_executable_and_time
    except (ImportError, AttributeError):  # another version of JAX, whose warnings remain
        return

    def get(key: str, *arguments: Any, **named: Any) -> tuple[Any, int | None]:
        try:
            return read(key, *arguments, **named)
        except Exception as error:
            if not isinstance(error, OSError):  # for example if it belongs to another user
                with contextlib.suppress(OSError):
                    (_folder() / f"{key}-cache").unlink()
            _warn("can't be read and is compiled again", error)
            return None, None

    def put(*arguments: Any, **named: Any) -> None:
        try:
            write(*arguments, **named)
        except Exception as error:
            _warn("can't be saved and will be compiled again at the next start", error)

    compilation_cache.get_executable_and_time = get
    compilation_cache.put_executable_and_time = put


def _folder() -> Path:
    return Path(jax.config.values["jax_compilation_cache_dir"])


def _warn(problem: str, error: Exception) -> None:
    """Prints a problem of a program, unless another program had the same."""
    if problem not in _told:
        _told.add(problem)
        reason = " ".join(str(error).split())
        print(
            f"warning: a compiled program in {_folder()} {problem}: {reason} (this is not repeated "
            "for other programs)",
            file=sys.stderr,
        )
