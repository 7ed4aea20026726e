"""Compiled programs that are kept on disk, so that a second process starts in seconds.

JAX keeps them. What it can't read it compiles at every start, with a warning for each program, and
never replaces; here it is removed, once, and said in one line.
"""

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import Any

import jax

_told: set[str] = set()  # what this process has warned of


def keep_in(folder: Path | None) -> None:
    """Has JAX keep programs, for this whole process.

    Args:
      folder: where, unless JAX's own environment variable names another; None for nowhere. Where
        it can't be made, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(OSError):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    _replace_unreadable()


@functools.cache  # once a process
def _replace_unreadable() -> None:
    # JAX has no public place for this: it catches what these two raise and warns of it.
    try:
        from jax._src import compilation_cache

        read = compilation_cache.get_executable_and_time
        write = compilation_cache.put_executable_and_time
    except (ImportError, AttributeError):  # a JAX that does it otherwise: its warnings remain
        return

    def get(key: str, *arguments: Any, **more: Any) -> tuple[Any, int | None]:
        try:
            return read(key, *arguments, **more)
        except Exception as error:
            if not isinstance(error, OSError):  # such as that it is another user's
                with contextlib.suppress(OSError):
                    (_folder() / f"{key}-cache").unlink()
            _warn("can't be read and is compiled again", error)
            return None, None

    def put(*arguments: Any, **more: Any) -> None:
        try:
            write(*arguments, **more)
        except Exception as error:
            _warn("can't be kept and is compiled at the next start, too", error)

    compilation_cache.get_executable_and_time = get
    compilation_cache.put_executable_and_time = put


def _folder() -> Path:
    return Path(jax.config.jax_compilation_cache_dir)


def _warn(what: str, error: Exception) -> None:
    """Says what is wrong with one program, and of the first alone."""
    if what not in _told:
        _told.add(what)
        reason = " ".join(str(error).split())
        print(
            f"warning: a compiled program in {_folder()} {what}, as others may be: {reason}",
            file=sys.stderr,
        )
