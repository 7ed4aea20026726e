"""From flags to a run: settings, the accelerator, and error messages for people."""

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from cil_jax.config import Config, UserError, cache_dir, flag, from_plain, preset, presets
from cil_jax.record import RunFolder

FAILED = 2  # exit code for what the user can put right
INTERRUPTED = 130

EXTRAS = {
    "gpu": "for CUDA: pip install 'cil_jax[cuda13]' (or, for older drivers, 'cil_jax[cuda12]')",
    "tpu": "install its support: pip install 'cil_jax[tpu]'",
    "cpu": "check the JAX_PLATFORMS environment variable",
}
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        known = self._option_string_actions
        unknown = [word for word in message.split() if word.startswith("--") and word not in known]
        guess = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        hint = f"did you mean {guess[0]}?" if guess else "see --help"
        raise UserError(f"{message}; {hint}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The module's text as it is written, and the default of each flag."""

    def _get_help_string(self, action):
        if action.default is None or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def main(method: str, default_preset: str, about: str | None = None) -> None:
    """Reads the flags, runs the method, and exits.

    Args:
      method: a key of `cil_jax.methods.METHODS`.
      default_preset: which of the method's presets the flags are laid over.
      about: the experiment's own text, shown by --help.
    """
    code = guarded(lambda: _run(settings(method, default_preset, about=about)))
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the compiler's threads may still run, and crash an orderly exit
    sys.exit(code)


def guarded(action: Callable[[], None]) -> int:
    """The exit code of an action, with a UserError said in one line."""
    try:
        action()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return INTERRUPTED
    return 0


def settings(
    method: str,
    default_preset: str,
    arguments: list[str] | None = None,
    about: str | None = None,
) -> Config:
    """The settings that flags make: the preset's, with the flags laid over them.

    With --resume the run's own settings take the preset's place, so that no flag need be said
    twice; one that is said must agree.

    Raises:
      UserError: if a flag or a value makes no sense.
    """
    parser = make_parser(method, default_preset, about)
    given = vars(parser.parse_args(arguments))
    config = preset(method, **{"name": given.get("preset", default_preset), **given})
    if not config.resume:
        return config
    if not RunFolder(config.folder()).holds_a_run:
        raise UserError(f"{config.folder()} holds no run: leave out --resume to start one")
    stored = saved_settings(config.folder())
    if stored.method != method:
        raise UserError(f"can't resume {config.folder()}: it is a run of {stored.method}")
    return dataclasses.replace(stored, **given)


def saved_settings(folder: str, **given: Any) -> Config:
    """The settings of a run, with others laid over them.

    Raises:
      UserError: if there is no run, or its settings can't be read.
    """
    stored = RunFolder(folder).settings()
    stored.pop("versions", None)
    return Config(**{**from_plain(stored), **given, "out": folder})


def make_parser(method: str, default_preset: str, about: str | None = None) -> Parser:
    """The parser of an experiment's flags, made from the fields of Config."""
    defaults = preset(method, default_preset)
    parser = Parser(
        prog=f"python -m experiments.{method}",
        description=about,
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--preset",
        choices=presets(method),
        help=f"file of settings that the other flags are laid over (default: {default_preset})",
    )
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        group, help = field.metadata["group"], field.metadata["help"]
        if not group:
            continue
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = getattr(defaults, field.name)
        if default is not None and "(default" not in help:
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            help = f"{help} (default: {shown})"
        groups[group].add_argument(
            flag(field.name), dest=field.name, help=help.replace("%", "%%"), **_reading(field)
        )
    return parser


def _reading(field: dataclasses.Field) -> dict[str, Any]:
    """How argparse reads a field's flag."""
    if field.metadata.get("choices"):
        return {"choices": field.metadata["choices"]}
    if field.type is bool or field.type == "bool":
        return {"action": argparse.BooleanOptionalAction if field.default else "store_true"}
    if isinstance(field.default, tuple):
        return {"type": float, "nargs": "+", "metavar": "X", "action": _Tuple}
    kind = next((k for k in (int, float, str) if k.__name__ in str(field.type)), str)
    metavar = field.metadata.get("metavar", {int: "N", float: "X", str: "NAME"}[kind])
    return {"type": kind, "metavar": metavar}


class _Tuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


def _run(config: Config) -> None:
    RunFolder(config.folder()).check(config)  # before JAX starts, which takes a while
    start_accelerator(config.accelerator)

    from rich.console import Console

    from cil_jax import report
    from cil_jax.protocol import Run
    from cil_jax.terminal import Terminal

    console = Console()
    folder = RunFolder(config.folder())
    try:
        with Terminal(console) as terminal:
            run = Run(config, folder, terminal)
            results = run.go()
    except KeyboardInterrupt:
        if folder.holds_a_run:
            print(f"\nto continue: --resume --out {folder.path}", end="", file=sys.stderr)
        raise
    console.print(report.summary(results))
    files = report.draw(folder, run.scenario.class_names)
    page = report.write_page(folder, run.scenario.class_names)
    console.print(f"results: {folder.results_file}", soft_wrap=True, highlight=False)
    names = ", ".join(file.name for file in files)
    console.print(f"figures: {folder.figures} ({names})", soft_wrap=True, highlight=False)
    console.print(f"page:    {page}", soft_wrap=True, highlight=False)


def start_accelerator(name: str) -> None:
    """Makes JAX use an accelerator; to be called before anything else touches a backend.

    Args:
      name: auto, cpu, gpu or tpu; auto leaves the choice to JAX.

    Raises:
      UserError: if there is none of that kind, with what to install.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    # A second process then starts in seconds. JAX's own variable names another folder.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.fspath(cache_dir() / "programs"))
    if name != "auto":
        jax.config.update("jax_platforms", PLATFORMS[name])
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        hint = EXTRAS.get(name, EXTRAS["cpu"])
        raise UserError(f"JAX finds no {name.upper()} on this machine; {hint}") from error
