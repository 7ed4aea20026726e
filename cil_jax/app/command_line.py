"""From flags to settings, and error messages for people."""

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from cil_jax.app import launch, output
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings import loading
from cil_jax.settings.config import Config, flag, kind
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import signals

FAILED = 2  # exit code for what the user can put right


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _, _, unknown = message.partition("unrecognized arguments: ")
        guess = difflib.get_close_matches(unknown.split(" ")[0], self._option_string_actions, n=1)
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
    leave(guarded(lambda: _from_flags(method, default_preset, about)))


def leave(code: int) -> NoReturn:
    """Ends the process."""
    if code > 128:  # a signal's
        os._exit(code)  # the compiler's threads may still run, and crash an orderly exit
    sys.exit(code)


def guarded(action: Callable[[], None]) -> int:
    """The exit code of an action, with a UserError said in one line, or one for each thing.

    Output that cannot be shown stops no action; see `cil_jax.app.output`. Where it is all that the
    action is for, and was not cut off by a closed pipe, the code says that it failed.
    """
    with output.kept_going() as shown:
        code = _code_of(action)
        shown.flush()
        failure = shown.failure if shown.matters else None
        if code == 0 and failure and not isinstance(failure, BrokenPipeError):
            return _failed([f"can't write to the standard output: {failure.strerror}"])
    return code


def _code_of(action: Callable[[], None]) -> int:
    try:
        with signals.raised():
            action()
    except UserError as error:
        return _failed(error.lines)
    except OSError as error:
        if error.filename is None:  # it is about no file, and nothing that a user can put right
            raise
        return _failed([f"{error.filename}: {error.strerror}"])
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        return signals.exit_code(stop)
    except SystemExit as end:  # argparse's, after --help
        return int(end.code or 0)
    return 0


def _failed(lines: Iterable[str]) -> int:
    """Says what is wrong. Returns the exit code."""
    print("error: " + "\n  ".join(" ".join(line.split()) for line in lines), file=sys.stderr)
    return FAILED


def warn(text: str) -> None:
    """Says what the user should know and what stops nothing."""
    print(f"warning: {text}", file=sys.stderr)


def check_writable(*files: str | None) -> None:
    """Refuses files that can't be written, rather before the work than after it.

    Raises:
      UserError: which has no folder to lie in.
    """
    for file in filter(None, files):
        if not Path(file).parent.is_dir():
            raise UserError(f"can't write {file}: there is no folder {Path(file).parent}")
        if Path(file).is_dir():
            raise UserError(f"can't write {file}: it is a folder")


def command_parser(
    name: str,
    about: str | None,
    formatter_class: Any = argparse.RawDescriptionHelpFormatter,
    **more: Any,
) -> Parser:
    """The parser of `python -m experiments.NAME`; `about` is shown as it is written."""
    return Parser(
        prog=f"python -m experiments.{name}",
        description=about,
        formatter_class=formatter_class,
        allow_abbrev=False,
        **more,
    )


def add_member_flags(parser: argparse.ArgumentParser) -> None:
    """--seeds, --orders and --parallel-members."""
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N,N,...",
        help="several runs, one for each of these seeds of weights and data; those that are done "
        "are not run again, those that were interrupted go on",
    )
    parser.add_argument(
        "--orders",
        type=int,
        metavar="N",
        help="several runs, with N class orders from --order-seed on; with --seeds, each with each",
    )
    parser.add_argument(
        "--parallel-members",
        type=_count,
        metavar="N",
        help="train N of these runs in one program, each as it would be trained alone (default: "
        "1); several devices have a share of the runs each, where N is a multiple of them, and "
        "else of every batch",
    )


def check_several(n_at_once: int | None, is_several: bool) -> None:
    """Refuses --parallel-members where there is one run.

    Raises:
      UserError: which flag is missing.
    """
    if n_at_once is not None and not is_several:
        raise UserError("--parallel-members is for several runs: add --seeds or --orders")


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))  # each seed once
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0,1,2") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is {text}; it must be at least 1")
    return int(text)


def _from_flags(method: str, default_preset: str, about: str | None) -> None:
    parser = make_parser(method, default_preset, about)
    given = vars(parser.parse_args())
    seeds, n_orders = given.pop("seeds", None), given.pop("orders", None)
    n_at_once = given.pop("parallel_members", None)
    is_single = seeds is None and n_orders is None
    check_several(n_at_once, not is_single)
    if given.get("resume") and not is_single:
        raise UserError("--resume is for a single run: --seeds and --orders go on by themselves")
    file, only_print = given.pop("config", None), given.pop("print_config", False)
    laid = layers(method, default_preset, given, file)
    config = loading.config_of(laid)
    if only_print:
        print(loading.commented(laid), end="")
        return None
    check_effect(config, given)
    if is_single:
        return launch.run_command(config)
    launch.run_members(config, seeds, n_orders, n_at_once or 1)


def settings(
    method: str, default_preset: str, given: dict[str, Any], file: str | None = None
) -> Config:
    """The settings that flags make; see `layers`."""
    return loading.config_of(layers(method, default_preset, given, file))


def layers(
    method: str, default_preset: str, given: dict[str, Any], file: str | None = None
) -> loading.Layers:
    """What the settings are made of: the preset, the file over it, the flags over both.

    Args:
      method: a key of `cil_jax.methods.METHODS`.
      default_preset: where neither --preset nor the file names one.
      given: the fields of Config that flags said.
      file: of --config.

    With --resume the run's own settings take the preset's place, so that nothing need be said
    twice; what is said, in a file or by a flag, must agree.

    Raises:
      UserError: if a flag or a value makes no sense, or they contradict each other.
    """
    from_file = loading.read(file) if file else {}
    if from_file.get("method", method) != method:
        other = from_file["method"]
        raise UserError(f"{file} is for {other}, not for {method}: python -m experiments.{other}")
    named, asked = from_file.get("preset"), given.get("preset")
    if named and named not in (known := loading.presets(method)):
        raise UserError(f"{file}: unknown preset {named!r} of {method}{nearest_name(named, known)}")
    if None not in (named, asked) and named != asked:
        raise UserError(f"{file} is laid over preset {named!r}: leave out --preset {asked}")
    name = next(x for x in (asked, named, default_preset) if x is not None)
    of_file = {str(file): from_file} if file else {}
    laid = {
        "default": {"method": method, "preset": name},
        # A run that was made from Python may have none.
        f"preset {method}/{name}": loading.preset_values(method, name) if name else {},
        **{file: loading.over(values) for file, values in of_file.items()},
        "flag": loading.over(given),
    }
    config = loading.config_of(laid)
    if not config.resume:
        return laid
    run = RunFolder(config.folder())
    if run.members():
        raise UserError(
            f"{run.path} holds the runs of several members: they go on with the --seeds or "
            "--orders that made them, without --resume"
        )
    if not run.holds_a_run:
        raise UserError(f"{run.path} holds no run: leave out --resume to start one")
    stored = saved_settings(config.folder())
    if stored.method != method:
        raise UserError(f"can't resume {run.path}: it is a run of {stored.method}")
    return {str(run.config_file): vars(stored), **of_file, "flag": given}


def check_effect(config: Config, given: Iterable[str]) -> None:
    """Refuses what was asked for and would change nothing.

    Args:
      config: the settings of a run.
      given: the fields of them that flags said.

    Raises:
      UserError: which flag has no effect.
    """
    from cil_jax import methods

    unused = methods.unused_settings(config)
    unused |= {"order_seed"} if config.order == "natural" else set()
    for name in given:
        if name in unused:
            raise UserError(
                f"{flag(name)} has no effect on {config.method} with these settings: leave it out"
            )


def saved_settings(folder: str, **given: Any) -> Config:
    """The settings of a run, with others laid over them.

    Raises:
      UserError: if there is no run, or its settings can't be read.
    """
    run = RunFolder(folder)
    stored = loading.without_others(run.settings())
    return Config(**{**loading.from_plain(stored, str(run.config_file)), **given, "out": folder})


def make_parser(method: str, default_preset: str, about: str | None = None) -> Parser:
    """The parser of an experiment's flags, made from the fields of Config."""
    defaults = loading.preset(method, default_preset)
    parser = command_parser(
        method, about, formatter_class=_Help, argument_default=argparse.SUPPRESS
    )
    parser.add_argument(
        "--preset",
        choices=loading.presets(method),
        help=f"recipe that all else is laid over (default: --config's, else {default_preset})",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of settings under their flags' names, laid over the preset and under the "
        "flags; config.yaml of any run is one, and repeats it",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the settings that come of it, each with where it comes from, and run nothing",
    )
    add_member_flags(parser)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        group, help = field.metadata["group"], field.metadata["help"]
        if not group:
            continue
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = getattr(defaults, field.name)
        if default not in (None, ""):
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            # What the help itself says is of a preset that leaves the setting open.
            help = f"{help.partition(' (default: ')[0]} (default: {shown})"
        groups[group].add_argument(
            flag(field.name), dest=field.name, help=help.replace("%", "%%"), **_reading(field)
        )
    return parser


def _reading(field: dataclasses.Field) -> dict[str, Any]:
    """How argparse reads a field's flag."""
    if field.metadata.get("choices"):
        return {"choices": field.metadata["choices"]}
    of = kind(field)
    if of is bool:
        return {"action": argparse.BooleanOptionalAction if field.default else "store_true"}
    if field.metadata.get("several"):
        return {"metavar": field.metadata["metavar"], "action": _Joined}
    if of is tuple:
        return {"type": float, "nargs": "+", "metavar": "X", "action": _Tuple}
    metavar = field.metadata.get("metavar", {int: "N", float: "X", str: "NAME"}[of])
    return {"type": of, "metavar": metavar}


class _Tuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, tuple(values))


class _Joined(argparse.Action):
    """Names with commas between them, over all times that the flag is said."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest, "").split(",")
        names = dict.fromkeys(filter(None, [*before, *values.replace(" ", "").split(",")]))
        setattr(namespace, self.dest, ",".join(names))
