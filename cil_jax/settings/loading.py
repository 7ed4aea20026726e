"""Settings from presets and files, and how a preset, a file and flags are merged.

Presets are the files in `cil_jax/settings/presets/METHOD/`; those of a method from outside the
package are its class attribute `presets`. Your own files of settings have the same format, and so
has the `config.yaml` of a run.

Which settings there are depends on the method, so most functions import the class of the method,
and JAX with it, but start no backend of JAX.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading
from cil_jax.settings import code, orders, task_sizes
from cil_jax.settings.config import FLAGS_ONLY, NOT_SETTINGS, Config, config_type
from cil_jax.settings.declaring import Value, check, flag, is_setting, kind, plain

# Settings with a variant for the first task, such as first_epochs.
WITH_FIRST_VARIANT = ("epochs", "rate_steps", "weight_decay")
# How large the memory of exemplars is: each setting takes the place of those before it, unless it
# has this value.
SIZES_OF_MEMORY: Mapping[str, Value] = {"memory": 0, "per_class": 0, "budget_mb": None}
DEFAULT_PRESETS = {"finetune": "seed"}  # of methods for which neither paper nor pycil is it

# Fields of Config by their source. Later sources override earlier ones.
Layers = Mapping[str, Mapping[str, Any]]

CIFAR100 = ("cifar100", "tfds:cifar100")  # data sets whose classes the order "icarl" lists

# Settings that the name of a run has in any case.
IN_NAMES = ("method", "preset", "dataset", "backbone", "seed")
HASH_LENGTH = 6  # characters of the hash of changed settings in the name of a run

COMMENT_COLUMN = 40  # comments are aligned here, unless a line is longer

TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of numbers, such as [0.5, 0.8]",
}


def type_of(method: str) -> type[Config]:
    """The class of the settings of a method's runs.

    Raises:
      UserError: if there is no method of this name, or it declares settings that can't be.
    """
    return config_type(method, code.METHODS.named(method))


def presets(method: str) -> list[str]:
    """The names of a method's presets.

    Raises:
      UserError: if there is no such method.
    """
    if method not in code.METHODS:
        return list(_own_presets(method))
    folder = resources.files("cil_jax.settings") / "presets" / method
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name[-5:] == ".yaml")


def about_preset(method: str, name: str) -> str:
    """What a preset is, in a line: the head of its file, without its sources.

    A preset of a method from outside the package has no file: its settings are listed instead.
    """
    if method not in code.METHODS:
        return ", ".join(f"{key} {value}" for key, value in _own_presets(method)[name].items())
    file = resources.files("cil_jax.settings") / "presets" / method / f"{name}.yaml"
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in lines)
    sentence = re.split(r"(?<! et al)\. |\.$|, https?://", re.sub(r" \([^)]*\)", "", text))[0]
    what, _, more = sentence.partition(": ")
    return what if "et al." in more else sentence


def _own_presets(method: str) -> Mapping[str, Mapping[str, Any]]:
    """The presets of a method from outside the package."""
    return getattr(code.METHODS.named(method), "presets", {})


def default_preset(method: str) -> str:
    """The preset to start from if none is named: "" for a method from outside the package."""
    known = presets(method) if method in code.METHODS else []
    wanted = DEFAULT_PRESETS.get(method, "paper")
    return next((name for name in (wanted, "pycil", *known) if name in known), "")


def known_presets(method: str) -> list[str]:
    """The names of a method's presets; none if there is no such method."""
    try:
        return presets(method)
    except UserError:
        return []


def protocol_values(name: str) -> dict[str, Any]:
    """The settings of a protocol, which are laid over a preset, as fields of Config.

    Args:
      name: a file in `cil_jax/settings/protocols`, such as "reduced".
    """
    file = resources.files("cil_jax.settings") / "protocols" / f"{name}.yaml"
    return from_plain(yaml.safe_load(file.read_text()), f"protocol {name}")


def preset(method: str | type, name: str = "", **overrides: Any) -> Config:
    """The settings of a preset, with overrides.

    Args:
      method: a key of `cil_jax.methods.METHODS`; or a method of your own, as its class or as
        "path.py:Class".
      name: the name of the preset, such as "paper"; "" for the defaults.
      **overrides: settings and their values; see `over`. `backbone` may also be the class of a
        Linen module, or "path.py:Class".

    Raises:
      UserError: if there is no such method, preset or setting, or a value is not allowed.
    """
    method = code.METHODS.add(method)
    settings_type = type_of(method)
    fields = [field.name for field in dataclasses.fields(settings_type)]
    for key in overrides:
        if key not in fields:
            raise UserError(f"unknown setting {key!r} of {method}{nearest_name(key, fields)}")
    if "backbone" in overrides:
        overrides["backbone"] = code.BACKBONES.add(overrides["backbone"])
    values = preset_values(method, name, overrides.get("dataset")) if name else {}
    own = over(overrides, method)
    return settings_type(**{**values, **own, "method": method, "preset": name})


def with_method(config: Config, method: str | type) -> Config:
    """The settings for another method, without a preset; those that both methods have are kept.

    Args:
      config: the settings.
      method: see `preset`.
    """
    name = code.METHODS.add(method)
    fields = {field.name for field in dataclasses.fields(type_of(name))}
    kept = {key: value for key, value in vars(config).items() if key in fields}
    return type_of(name)(**{**kept, "method": name, "preset": ""})


def preset_values(method: str, name: str, dataset: str | None = None) -> dict[str, Any]:
    """The settings in a preset's file and in those that it extends, as fields of Config.

    Args:
      method, name: see `preset`.
      dataset: the data set of the run (default: CIFAR-100). The class order "icarl" is a list of
        CIFAR-100's classes, so it is left out of a preset for another data set.

    Raises:
      UserError: if there is no such preset.
    """
    known = presets(method)
    if name not in known:
        hint = nearest_name(name, known) if known else ", which has none"
        raise UserError(f"unknown preset {name!r} of {method}{hint}")
    values = _preset_values(method, name) if method in code.METHODS else _own_presets(method)[name]
    settings = from_plain(values, f"preset {method}/{name}", method)
    if settings.get("order") == "icarl" and dataset not in (None, *CIFAR100):
        del settings["order"]
    return settings


def order_note(config: Config) -> str:
    """A line to show if a run has the default class order in place of its preset's; else ""."""
    if config.order != "seeded" or config.dataset in CIFAR100:
        return ""
    try:
        order = preset_values(config.method, config.preset).get("order")
    except UserError:  # a name given in Python need not be that of a preset
        return ""
    if order != "icarl":
        return ""
    return (
        f"order: that of preset {config.preset} (icarl) is for CIFAR-100 only, so this run takes "
        f"{orders.describe(config.order, config.order_seed)}"
    )


def _preset_values(method: str, name: str) -> dict[str, Any]:
    """The values of a preset's file, merged over those of the file that it extends.

    The latter may be for another method: its settings that this method lacks are left out.
    """
    text = (resources.files("cil_jax.settings") / "presets" / method / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    if "extends" not in values:
        return values
    _, base_method, base_name = values.pop("extends").split("/")  # such as /icarl/paper
    names = {field.name.rstrip("_") for field in dataclasses.fields(type_of(method))}
    base = _preset_values(base_method, base_name)
    return {key: value for key, value in base.items() if key in names} | values


def over(settings: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The fields of Config that settings override.

    A setting of all tasks, such as `epochs`, also resets the variant for the first task,
    `first_epochs`, to None, unless the settings give both. A list of `tasks` and their size
    override each other, and so do the sizes of the memory: `memory`, `per_class` and `budget_mb`.

    Args:
      settings: values by the names of fields.
      method: the method that they are settings of.

    Raises:
      UserError: if `tasks` has a wrong value.
    """
    reset: dict[str, Any] = {
        f"first_{name}": None for name in WITH_FIRST_VARIANT if name in settings
    }
    sizes = list(SIZES_OF_MEMORY)
    if given := [name for name in sizes if name in settings]:
        fields = {field.name for field in dataclasses.fields(type_of(method))}
        above = sizes[sizes.index(given[0]) + 1 :]
        reset |= {name: SIZES_OF_MEMORY[name] for name in above if name in fields}
    if settings.get("tasks") is not None:
        return {**reset, **settings, **task_sizes.settings_of(settings["tasks"])}
    if {"task_size", "first_task"} & settings.keys():
        reset["tasks"] = None
    return {**reset, **settings}


def run_name(config: Config, *, is_group: bool = False) -> str:
    """A name of a run or group that tells it apart from those with other settings.

    It has the method, the preset, the data set, the backbone, and what differs from the preset: the
    number of classes, the epochs, and a hash of all else. The name of a run ends in its seed.

    Args:
      config: the settings of the run, or those that the runs of the group share.
      is_group: whether it is a group of runs, which differ in their seeds or class orders.
    """
    expected = type(config)(method=config.method).decisive()
    with contextlib.suppress(UserError):  # a name given in Python need not be that of a preset
        expected = preset(config.method, config.preset, dataset=config.dataset).decisive()
    settings = config.decisive()
    changed = {key: settings[key] for key in settings if settings[key] != expected[key]}
    of_group = ("data_seed", "order", "order_seed") if is_group else ()
    for key in (*IN_NAMES, *of_group):
        changed.pop(key, None)
    words = [config.label()]
    for key in ("classes", "epochs"):
        if key in changed:
            words.append(f"{changed.pop(key)}{key}")
    if changed:
        text = json.dumps(changed, sort_keys=True)
        words.append(hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH])
    return "-".join([*words, *([] if is_group else [f"seed{config.seed}"])])


def config_of(layers: Layers) -> Config:
    """The settings that result from merging layers, one of which names the method.

    Raises:
      UserError: if a value is not allowed.
    """
    values = {name: value for layer in layers.values() for name, value in layer.items()}
    if "method" not in values:
        raise UserError("the settings name no method")
    return type_of(values["method"])(**values)


def commented(layers: Layers) -> str:
    """All settings as YAML for `read`, each with its source in a comment."""
    config, lines = config_of(layers), []
    last_first = list(layers)[::-1]
    for field in dataclasses.fields(config):
        source = next((name for name in last_first if field.name in layers[name]), "default")
        value = yaml.safe_dump(
            plain(getattr(config, field.name)), default_flow_style=True, width=10**6
        )
        lines.append((f"{field.name.rstrip('_')}: {value.splitlines()[0]}", source))
    column = max(len(text) for text, _ in lines if len(text) < COMMENT_COLUMN)
    return "".join(f"{text:{column}}  # {source}\n" for text, source in lines)


def command(config: Config) -> str | None:
    """The command that repeats a run: its preset, and a flag for each setting that differs from it.

    Settings that do not affect the result are left out.

    Returns:
      The command, or None if no flags give these settings. That can happen if a Config was built in
      Python.
    """
    name = config.preset or default_preset(config.method)
    fields = [field for field in dataclasses.fields(config) if field.metadata["group"]]
    fields = [field for field in fields if field.metadata.get("decides", True)]
    given: dict[str, Any] = {}
    while True:
        # A flag of all tasks may reset the preset's value for the first task: compare again.
        values = preset_values(config.method, name) if name else {}
        named = {"method": config.method, "preset": name}
        reached = type(config)(**{**values, **over(given, config.method), **named})
        missing = [f.name for f in fields if getattr(reached, f.name) != getattr(config, f.name)]
        # No flag sets a first-task variant to None, but the flag of all tasks resets it.
        missing = [
            key.removeprefix("first_") if getattr(config, key) is None else key for key in missing
        ]
        if not missing:
            break
        if set(missing) <= given.keys():
            return None
        given.update((key, getattr(config, key)) for key in missing)
    program = program_of(config)
    if program is None:
        return None
    words = [*program, *(["--preset", name] if name else [])]
    for field in fields:  # in the order of --help
        if field.name in given:
            is_own = field.name == "backbone" and code.BACKBONES.own(config.backbone)
            if is_own:  # in the words of the program
                continue
            flag_words = _flag_words(field, given[field.name])
            if flag_words is None:
                return None
            words += flag_words
    return shlex.join(words)


def command_with_file(values: Mapping[str, Any], file: str | os.PathLike) -> str | None:
    """The command that repeats a run by its config.yaml, for which no code is needed.

    Args:
      values: the content of config.yaml.
      file: config.yaml.

    Returns:
      The command, or None if code of the user's is in no file.
    """
    method, recorded_code = str(values.get("method", "")), values.get("code")
    program = _program(method, code.named_again(recorded_code))
    return shlex.join([*program, "--config", str(file)]) if program else None


def program_of(config: Config) -> list[str] | None:
    """The first words of the commands for a run: the program, and the files of your own code.

    Returns:
      The words; None if code of your own is in no file.
    """
    recorded_code = code.record(config.method_class, config.backbone)
    return _program(config.method, code.named_again(recorded_code))


def _program(method: str, code_flags: list[str] | None) -> list[str] | None:
    """The first words of a command for a method; see `program_of`."""
    if code_flags is None:
        return None
    return ["cil-jax", "train" if "--method" in code_flags else method, *code_flags]


def _flag_words(field: dataclasses.Field[Any], value: Value) -> list[str] | None:
    """The words of the flag that gives a field its value; None if there is no such flag."""
    name = flag(field.name)
    if isinstance(value, bool):
        if not (value or field.default):  # a flag that is off by default has no --no-
            return None
        return [name if value else f"--no-{name[2:]}"]
    values = value if isinstance(value, tuple) else (value,)
    return None if None in values else [name, *map(str, values)]


def read(file: str | os.PathLike, method: str = "") -> dict[str, Any]:
    """The settings in a file, as fields of Config. `method` and `preset` may be among them.

    Args:
      file: YAML with settings under the names of their flags, as in the config.yaml of a run.
      method: the method that the settings are for, if the file names none.

    Raises:
      UserError: if the file can't be read, or a name or a value in it is wrong.
    """
    return recorded(reading.read_yaml(Path(file)), str(file), method)


def recorded(values: Mapping[str, Any], source: str, method: str = "") -> dict[str, Any]:
    """Fields of Config from the content of a config.yaml or of a file in its format.

    Settings that only other methods of the package have are left out; see `of_other_methods`. Runs
    of older versions recorded them, too.

    Args:
      values: the content of the file.
      source: see `from_plain`.
      method: see `read`.

    Raises:
      UserError: see `from_plain`; also if the run used code from outside the package and the user
        has not named it.
    """
    code.check_known(values.get("code"), source)
    foreign = of_other_methods(values, method)
    settings = {k: v for k, v in without_others(values).items() if k not in foreign}
    return from_plain(settings, source, method)


def of_other_methods(values: Mapping[str, Any], method: str = "") -> list[str]:
    """The settings in the content of a file that only other methods of the package have.

    Args:
      values: the content of the file.
      method: the method that they are meant for, if they do not name it; "" for none.

    Returns:
      Their names, in the order of the file; none if there is no such method.
    """
    named = values.get("method", method)
    try:
        fields = dataclasses.fields(type_of(str(named)))
    except UserError:
        return []
    unknown = set(values) - {field.name.rstrip("_") for field in fields}
    # Asks the other methods only where it must, as to import them takes a while.
    foreign = unknown & _settings_of_all_methods() if unknown - set(NOT_SETTINGS) else set()
    return [name for name in values if name in foreign]


def decisive_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that affect the result of a run, from its config.yaml, as plain values.

    A setting that the run is older than has its default. Code from outside the package, which is
    not needed, counts as a setting `code`, of checksums.
    """
    named, settings = values.get("method"), without_others(values)
    settings_type = type_of(str(named)) if named in list(code.METHODS) else Config
    defaults = settings_type().decisive()
    if settings_type is not Config:
        settings = {name: value for name, value in settings.items() if name in defaults}
    origins = code.checksums(values.get("code"))
    return {**defaults, **settings, **({"code": origins} if origins else {})}


def _settings_of_all_methods() -> set[str]:
    """The names of the settings that any method of the package declares, as in config.yaml."""
    return {
        field.name.rstrip("_")
        for method_class in code.METHODS.values()
        for field in dataclasses.fields(method_class)
        if is_setting(field)
    }


def without_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config.yaml that are settings."""
    return {name: value for name, value in values.items() if name not in NOT_SETTINGS}


def from_plain(values: Mapping[str, Any], source: str, method: str = "") -> dict[str, Any]:
    """Fields of Config from values as YAML represents them.

    Args:
      values: values under the names of their flags.
      source: where they come from, such as a file name; error messages begin with it.
      method: the method that they are settings of, if they do not name it; "" for settings that all
        methods share.

    Raises:
      UserError: if there is no such method, a name is unknown, or a value has the wrong type or is
        not allowed.
    """
    named = values.get("method", method)
    try:
        settings_type = type_of(named) if named and isinstance(named, str) else Config
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(settings_type)}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name in FLAGS_ONLY:
            raise UserError(
                f"{source}: {name} is not a setting of a single run: use the flag {flag(name)}"
            )
        if name not in fields:
            hint = nearest_name(str(name), fields)
            of = f" of {named}" if named else ""
            raise UserError(f"{source}: unknown setting {name!r}{of}{hint}")
        try:
            settings[fields[name].name] = _value(name, fields[name], value)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return settings


def _value(name: str, field: dataclasses.Field[Any], value: Any) -> Value:
    """A value from YAML, converted to the type of the setting."""
    wanted, converted = kind(field), value
    if isinstance(value, list) and wanted is tuple and all(map(_is_number, value)):
        converted = tuple(map(float, value))
    elif wanted is float and _is_number(value):
        converted = float(value)
    elif value is None and "None" not in str(field.type):
        raise UserError(f"{name} has no value")
    elif value is not None and type(value) is not wanted:
        must_be = f"{TYPE_NAMES[wanted]}{_hint(wanted, value)}"
        raise UserError(f"{name} is {_as_written(value)}; it must be {must_be}")
    check(field, converted)
    return converted


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_written(value: object) -> str:
    """A value as in YAML."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _hint(wanted: type, value: object) -> str:
    """How to write a value that YAML does not read as the type it seems to have."""
    if wanted is str and isinstance(value, bool):
        return ": write it in quotes, 'yes' or 'no'"
    if wanted is str and _is_number(value):
        return ": write it in quotes"
    if wanted in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML reads 2e-5 as text, and 2.0e-5 as a number
            return f": write {yaml.safe_dump(wanted(value)).split()[0]}"
    return ""
