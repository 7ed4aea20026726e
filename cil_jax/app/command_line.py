"""The flags of a command: parsing them, checking them, and reporting errors in one line."""

import argparse
import dataclasses
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cil_jax.app import accelerator, launch, output
from cil_jax.app.help import HelpAction, short_help
from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading
from cil_jax.settings import code, loading, orders
from cil_jax.settings.config import Config
from cil_jax.settings.declaring import flag, kind
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import signals

FAILED = 2  # exit code for errors that the user can fix


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError, with the nearest flag as a hint, and does not exit."""

    def error(self, message: str) -> NoReturn:
        _, _, unknown = message.partition("unrecognized arguments: ")
        matches = difflib.get_close_matches(unknown.split(" ")[0], self._option_string_actions, n=1)
        hint = f"did you mean {matches[0]}?" if matches else "see --help"
        raise UserError(f"{message}; {hint}")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the description with its line breaks, and appends the default of each flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def run_method(method: str, arguments: Sequence[str]) -> int:
    """Parses the flags of a method of the package, trains it, and returns the exit code.

    Args:
      method: a key of `cil_jax.methods.METHODS`.
      arguments: the flags.
    """
    return guarded(lambda: _from_flags(method, arguments))


def run_any_method(about: str | None, arguments: Sequence[str]) -> int:
    """Parses the flags of `cil-jax train`, which has --method, and does as `run_method`.

    Args:
      about: the description that --help shows, with a list of all methods, unless --method names
        one.
      arguments: the flags.
    """
    return guarded(lambda: _with_method(about, arguments))


def _with_method(about: str | None, arguments: Sequence[str]) -> None:
    """Parses --method, and then the other flags, which depend on it."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--method")
    parser.add_argument("--list", action="store_true")
    chosen, others = parser.parse_known_args(arguments)
    if chosen.list:
        _print_methods([*(["--method"] if chosen.method is not None else []), *others])
        return
    named = _method_in_file(others) if chosen.method is None else chosen.method
    if named is not None:
        method = code.METHODS.add(named)
        _from_flags(method, arguments, _about_class(method), program="train")
    elif {"-h", "--help", "--help-all"} & {*others}:
        about = f"{about}\n{_list_of_methods()}"
        make_parser("", "", about, program="train").parse_args(others)
    else:
        raise UserError(
            f"--method is missing: choose from {', '.join(code.METHODS)}, or name a class of your "
            "own as path.py:Class. --config RUN/config.yaml repeats a run, and with --out RUN "
            "--resume goes on with it"
        )


def _method_in_file(arguments: Sequence[str]) -> str | None:
    """The method of the package that the file of --config names; None if there is none."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    file = parser.parse_known_args(arguments)[0].config
    named = None if file is None else reading.read_yaml(Path(file)).get("method")
    # A class of one's own is code that runs: only the user can name it.
    return named if isinstance(named, str) and named in code.METHODS else None


def _about(method: str) -> str:
    """What --help says of a method."""
    module = inspect.getmodule(code.METHODS[method])
    text = (inspect.getdoc(module) or "").partition("\n\n")[0]
    return f"{text}\n\n  cil-jax {method} --accelerator gpu    # the full experiment, on CIFAR-100"


def _about_class(method: str) -> str:
    """What `cil-jax train --method METHOD --help` says of a method: its docstring's beginning."""
    method_class = code.METHODS.named(method)
    text = (inspect.getdoc(method_class) or "").partition("\n\n")[0]
    # A dataclass without a docstring has its signature instead.
    text = "" if text.startswith(f"{method_class.__name__}(") else text
    return f"Train {method}. {text}".rstrip()


def _list_of_methods() -> str:
    """The methods of the package, a line each."""
    lines = []
    for name, method_class in code.METHODS.items():
        lines.append(f"  {name:9} {(method_class.__doc__ or '').partition(chr(10))[0]}")
    return "\n".join(["methods (--method NAME --help lists the settings of one):", *lines])


def _print_methods(others: Sequence[str]) -> None:
    """Prints the list of all methods, each as soon as it is known.

    Args:
      others: the other words of the command line, of which there must be none.

    Raises:
      UserError: if there are any.
    """
    if others:
        raise UserError(f"--list takes no other flag: leave out {others[0]}")
    from cil_jax.app import method_list

    for entry in method_list.entries():
        if output.is_lost():
            return
        print(entry, flush=True)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code."""
    if code > 128:  # a signal has stopped it
        os._exit(code)  # threads of the compiler may still run, and would crash an orderly exit
    sys.exit(code)


def guarded(action: Callable[[], None]) -> int:
    """Runs an action, prints its errors for the user, and returns the exit code.

    A UserError is printed in one line, or in one line for each of its problems. Output that can't
    be written does not stop the action; see `cil_jax.app.output`. It only makes the exit code
    `FAILED`, if output is all that the action produces and the cause is not a closed pipe.
    """
    with output.kept_going() as stdout:
        code = _code_of(action)
        stdout.flush()
        failure = stdout.failure if stdout.matters else None
        if code == 0 and failure and not isinstance(failure, BrokenPipeError):
            return _failed([f"can't write to the standard output: {failure.strerror}"])
    return code


def _code_of(action: Callable[[], None]) -> int:
    """Runs an action and returns its exit code; prints what has stopped it."""
    try:
        with signals.raised():
            action()
    except UserError as error:
        return _failed(error.lines)
    except ValueError as error:
        if not accelerator.is_refusal_by_jax(error):
            raise
        return _failed([f"JAX rejects an environment variable that begins with JAX_: {error}"])
    except OSError as error:
        if error.filename is None:  # not about a file, so nothing that the user can fix
            raise
        return _failed([f"{error.filename}: {error.strerror}"])
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        return signals.exit_code(stop)
    except SystemExit as end:  # argparse's, after --help
        return int(end.code or 0)
    return 0


def _failed(lines: Iterable[str]) -> int:
    """Prints an error, given as lines, and returns the exit code."""
    print("error: " + "\n  ".join(" ".join(line.split()) for line in lines), file=sys.stderr)
    return FAILED


def warn(text: str) -> None:
    """Prints a warning."""
    print(f"warning: {text}", file=sys.stderr)


def check_writable(*files: str | None) -> None:
    """Checks before the work that the files to write have a folder; None and "" are skipped.

    Raises:
      UserError: which file can't be written.
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
    **options: Any,
) -> Parser:
    """Returns a parser for the flags of `cil-jax NAME`.

    Args:
      name: of the command.
      about: the description that --help shows.
      formatter_class: formats the help.
      **options: further arguments of `argparse.ArgumentParser`.
    """
    return Parser(
        prog=f"cil-jax {name}",
        description=about,
        formatter_class=formatter_class,
        allow_abbrev=False,
        **options,
    )


def add_member_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --seeds, --orders and --parallel-members, which train a group of runs."""
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N,N,...",
        help="train a group of runs (its members), one per value of --seed; members that are done "
        "are skipped, and interrupted ones are resumed",
    )
    parser.add_argument(
        "--orders",
        type=int,
        metavar="N",
        help="train a group of runs (its members), one per class order, with N consecutive seeds "
        "from --order-seed on; with --seeds, every combination",
    )
    parser.add_argument(
        "--parallel-members",
        type=_count,
        metavar="N",
        help="train N members of the group at a time in one program, each with the result that it "
        "has alone (default: 1); several devices share the members if N is a multiple of their "
        "number, and otherwise share each batch",
    )


def add_code_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --method and --backbone, which name code of the user's that a run was made with."""
    for kind_of_code in ("method", "backbone"):
        parser.add_argument(
            f"--{kind_of_code}",
            metavar="PATH:CLASS",
            help=f"the {kind_of_code} of the run, as path.py:Class, if it is not one of the "
            "package",
        )


def check_several(n_at_once: int | None, is_several: bool) -> None:
    """Checks that --parallel-members, if given, comes with several runs.

    Raises:
      UserError: which flag is missing.
    """
    if n_at_once is not None and not is_several:
        raise UserError("--parallel-members is for several runs: add --seeds or --orders")


def _seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))  # without repetitions
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1,2") from None


def _no_preset(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        f"there is no preset {text!r}: the method has none; its class may have an attribute presets"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def _from_flags(
    method: str,
    arguments: Sequence[str],
    about: str | None = None,
    program: str | None = None,
) -> None:
    """Parses the flags of a method and does what they ask for."""
    default_preset = loading.default_preset(method)
    parser = make_parser(method, default_preset, about or _about(method), program)
    given, foreign = _parsed(parser, method, arguments)
    given.pop("method", None)
    if "backbone" in given:
        given["backbone"] = code.BACKBONES.add(given["backbone"])
    seeds, n_orders = given.pop("seeds", None), given.pop("orders", None)
    n_at_once = given.pop("parallel_members", None)
    is_single = seeds is None and n_orders is None
    check_several(n_at_once, not is_single)
    if given.get("resume") and not is_single:
        raise UserError(
            "--resume is for a single run: leave it out, as --seeds and --orders resume "
            "interrupted members by themselves"
        )
    file, only_print = given.pop("config", None), given.pop("print_config", False)
    setting_layers = layers(method, default_preset, given, file)
    config = _with_folder(loading.config_of(setting_layers), is_group=not is_single)
    for name in foreign:
        warn(f"{flag(name)} has no effect on {method}, which has no such setting")
    for warning in without_effect(config, given):
        warn(warning)
    if only_print:
        print(loading.commented(setting_layers), end="")
        return
    if is_single:
        launch.run_command(config)
    else:
        launch.run_members(config, seeds, n_orders, n_at_once or 1)


def _with_folder(config: Config, *, is_group: bool = False) -> Config:
    """The settings with a folder, whose name is that of the run unless --out names one."""
    if config.out is not None:
        return config
    return dataclasses.replace(config, out=f"runs/{loading.run_name(config, is_group=is_group)}")


def _parsed(
    parser: argparse.ArgumentParser, method: str, arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parses the flags of a method, and sets those apart that only other methods have.

    Returns:
      The values of the flags, and the names of the fields that the method lacks.
    """
    given, unknown = parser.parse_known_args(arguments)
    if not unknown:
        return vars(given), []
    known, foreign = {field.name for field in dataclasses.fields(loading.type_of(method))}, set()
    for other in code.METHODS:  # imported only here, as it takes a while
        for field in dataclasses.fields(loading.type_of(other)):
            if field.name not in known | foreign:
                foreign.add(field.name)
                options = _parsing_of(field)
                options.pop("choices", None)
                parser.add_argument(flag(field.name), dest=field.name, **options)
    values = vars(parser.parse_args(arguments))
    return {k: v for k, v in values.items() if k not in foreign}, sorted(foreign & values.keys())


def settings(
    method: str, default_preset: str, given: dict[str, Any], file: str | None = None
) -> Config:
    """Returns the settings that flags result in; for the arguments see `layers`."""
    return loading.config_of(layers(method, default_preset, given, file))


def layers(
    method: str, default_preset: str, given: dict[str, Any], file: str | None = None
) -> loading.Layers:
    """Returns the layers of settings, in which later ones override earlier ones.

    These are the defaults, the preset, the file and the flags. With --resume, the settings of the
    run take the place of the defaults and the preset, so that you need not repeat them; those that
    a file or a flag repeats must agree. A setting of the file that only other methods have is left
    out, with a warning.

    Args:
      method: name of the method, a key of `cil_jax.methods.METHODS`.
      default_preset: the preset to start from if neither --preset nor the file names one.
      given: values by flag, under the names of the fields of Config.
      file: value of --config.

    Raises:
      UserError: if a value is not allowed, or settings contradict each other.
    """
    in_file = reading.read_yaml(Path(file)) if file else {}
    file_settings = loading.recorded(in_file, str(file), method)
    if file_settings.get("method", method) != method:
        other = file_settings["method"]
        raise UserError(f"{file} is for {other}, not for {method}: cil-jax {other}")
    for name in loading.of_other_methods(in_file, method):
        warn(f"{name} in {file} has no effect on {method}, which has no such setting")
    preset = _preset_name(method, default_preset, given.get("preset"), file_settings, file)
    file_layers = {str(file): file_settings} if file else {}
    dataset = given.get("dataset", file_settings.get("dataset"))
    all_layers = {
        "default": {"method": method, "preset": preset},
        # A run that was started from Python may have no preset.
        f"preset {method}/{preset}": (
            loading.preset_values(method, preset, dataset) if preset else {}
        ),
        **{name: loading.over(values, method) for name, values in file_layers.items()},
        "flag": loading.over(given, method),
    }
    config = _with_folder(loading.config_of(all_layers))
    if not config.resume:
        return all_layers
    run = _run_to_resume(config)
    stored = saved_settings(config.folder())
    if stored.method != method:
        raise UserError(f"can't resume {run.path}: it is a run of {stored.method}")
    return {str(run.config_file): vars(stored), **file_layers, "flag": {**given, "out": config.out}}


def _preset_name(
    method: str,
    default_preset: str,
    flag_preset: str | None,
    file_settings: dict[str, Any],
    file: str | None,
) -> str:
    """Returns the name of the preset to start from.

    Raises:
      UserError: if the file names an unknown preset, or not the one that the flag names.
    """
    file_preset = file_settings.get("preset")
    if file_preset and file_preset not in (known := loading.presets(method)):
        hint = nearest_name(file_preset, known) if known else ", which has none"
        raise UserError(f"{file}: unknown preset {file_preset!r} of {method}{hint}")
    if None not in (file_preset, flag_preset) and file_preset != flag_preset:
        raise UserError(
            f"{file} starts from preset {file_preset!r}: leave out --preset {flag_preset}"
        )
    names = (flag_preset, file_preset, default_preset)
    return next(name for name in names if name is not None)


def _run_to_resume(config: Config) -> RunFolder:
    """Returns the folder of the run that --resume continues.

    Raises:
      UserError: if it holds no run, or a group of runs.
    """
    run = RunFolder(config.folder())
    if run.members():
        raise UserError(
            f"{run.path} holds a group of several members, not a single run: to continue it, "
            "repeat its --seeds or --orders and leave out --resume"
        )
    if not run.holds_a_run:
        raise UserError(f"{run.path} holds no run: leave out --resume to start one")
    return run


def without_effect(config: Config, given: Iterable[str]) -> list[str]:
    """Returns a warning for each given flag that has no effect.

    It is no error, so that a loop over methods can give all of them the same flags.

    Args:
      config: the settings of a run.
      given: names of the fields that flags have set.
    """
    from cil_jax import methods, models

    unused = methods.unused_settings(config) | models.unused_settings(config.backbone)
    warnings = []
    for name in given:
        if name == "order_seed" and config.order != "seeded":
            order = orders.describe(config.order, 0)
            warnings.append(f"--order-seed has no effect on the order {order}: add --order seeded")
        elif name in ("task_size", "first_task") and "tasks" in given:
            warnings.append(f"{flag(name)} has no effect: --tasks gives the size of each task")
        elif name in unused:
            warnings.append(f"{flag(name)} has no effect on {config.method} with these settings")
    return warnings


def saved_settings(folder: str, **given: Any) -> Config:
    """Returns the settings of a run.

    Args:
      folder: the run folder.
      **given: settings that override those of the run.

    Raises:
      UserError: if there is no run, or its settings can't be read.
    """
    run = RunFolder(folder)
    stored = loading.recorded(run.settings(), str(run.config_file))
    return loading.config_of({"run": stored, "given": {**given, "out": folder}})


def make_parser(
    method: str, default_preset: str, about: str | None = None, program: str | None = None
) -> Parser:
    """Returns a parser for the flags of an experiment: common settings and those of its method.

    Args:
      method: see `main`; "" for common settings only.
      default_preset: see `main`; "" for none.
      about: see `main`.
      program: the name of the experiment, if it has a flag --method (default: the method's name).
    """
    defaults = loading.preset(method, default_preset) if method else Config()
    parser = command_parser(
        program or method,
        about,
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    parser.add_argument(
        "-h",
        "--help",
        action=HelpAction,
        text=lambda: short_help(parser, method, default_preset),
        help="show the flags used most",
    )
    parser.add_argument(
        "--help-all", action=HelpAction, text=parser.format_help, help="explain all flags"
    )
    if program:
        parser.add_argument(
            "--method",
            metavar="NAME",
            help="method to train: one of those above, or path.py:Class for one of your own "
            "(no default)",
        )
        parser.add_argument(
            "--list",
            action="store_true",
            help="list all methods with their presets and with what each keeps from one task to "
            "the next, then exit",
        )
    presets = loading.presets(method) if method else []
    if method and not presets:
        parser.add_argument("--preset", type=_no_preset, help=argparse.SUPPRESS)
    if presets:
        origin = f"that of --config, or else {default_preset or 'none'}"
        parser.add_argument(
            "--preset",
            choices=presets,
            help="recipe to start from; --config and the other flags override its settings "
            f"(default: {origin})",
        )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of settings, named like the flags; they override the preset, and flags "
        "override them. The config.yaml of a run repeats that run",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the resulting settings, and where each comes from, without running anything",
    )
    add_member_flags(parser)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(defaults):
        group, help = field.metadata["group"], field.metadata["help"]
        if not group:
            continue
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = getattr(defaults, field.name)
        if default not in (None, ""):
            words = " ".join(map(str, default)) if isinstance(default, tuple) else default
            # The default in the help of a field is for presets that do not set the field.
            help = f"{help.partition(' (default: ')[0]} (default: {words})"
        groups[group].add_argument(
            flag(field.name), dest=field.name, help=help.replace("%", "%%"), **_parsing_of(field)
        )
    return parser


def _parsing_of(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Returns the arguments of `add_argument` that say how the flag of a field is parsed."""
    if field.metadata.get("choices"):
        return {"choices": field.metadata["choices"]}
    value_type = kind(field)
    if value_type is bool:
        return {"action": argparse.BooleanOptionalAction if field.default else "store_true"}
    if field.metadata.get("several"):
        return {"metavar": field.metadata["metavar"], "action": _Combined, "combine": _joined}
    if value_type is tuple:
        options = {"action": _Combined, "combine": lambda earlier, values: tuple(values)}
        return {"type": float, "nargs": "+", "metavar": "X", **options}
    metavar = field.metadata.get("metavar", {int: "N", float: "X", str: "NAME"}[value_type])
    return {"type": value_type, "metavar": metavar}


class _Combined(argparse.Action):
    """Stores a function of the earlier value of a flag, None if there is none, and its values."""

    def __init__(self, *args: Any, combine: Callable[[Any, Any], Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self.combine = combine

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        earlier = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, self.combine(earlier, values))


def _joined(earlier: str | None, added: str) -> str:
    """Joins names with commas; the flag may be repeated."""
    names = [*(earlier or "").split(","), *added.replace(" ", "").split(",")]
    return ",".join(dict.fromkeys(filter(None, names)))
