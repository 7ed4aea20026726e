"""Settings from presets and files, and how a preset, a file and flags are merged.

Presets are the files in `cil_jax/settings/presets/METHOD/`. Your own files of settings have the
same format, and so has the `config.yaml` of a run. This module does not import JAX.
"""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading
from cil_jax.settings import orders
from cil_jax.settings.config import Config, Value, check, flag, kind, plain

# Settings with a variant for the first task, such as first_epochs.
WITH_FIRST_VARIANT = ("epochs", "rate_steps", "weight_decay")
FLAGS_ONLY = ("seeds", "orders", "parallel_members")  # they ask for several runs
# Other entries of config.yaml, see `cil_jax.platform.environment`.
NOT_SETTINGS = ("versions", "machine", "options")

# Fields of Config by their source. Later sources override earlier ones.
Layers = Mapping[str, Mapping[str, Any]]

CIFAR100 = ("cifar100", "tfds:cifar100")  # data sets whose classes the order "icarl" lists

COMMENT_COLUMN = 40  # comments are aligned here, unless a line is longer

TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of numbers, such as [0.5, 0.8]",
}


def presets(method: str) -> list[str]:
    """The names of a method's presets.

    Raises:
      UserError: if it has none.
    """
    all_presets = resources.files("cil_jax.settings") / "presets"
    folder = all_presets / method
    if not folder.is_dir():
        known = sorted(f.name for f in all_presets.iterdir() if f.is_dir())
        raise UserError(
            f"no presets of {method!r}{nearest_name(method, known)}; if you are adding a method, "
            f"create cil_jax/settings/presets/{method}/default.yaml"
        )
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


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


def preset(method: str, name: str, **overrides: Any) -> Config:
    """The settings of a preset, with overrides.

    Args:
      method: a key of `cil_jax.methods.METHODS`.
      name: the name of the preset, such as "paper".
      **overrides: fields of Config and their values; see `over`.

    Raises:
      UserError: if there is no such preset or field, or a value is not allowed.
    """
    named = {"method": method, "preset": name}
    fields = [field.name for field in dataclasses.fields(Config)]
    for key in overrides:
        if key not in fields:
            raise UserError(f"unknown setting {key!r}{nearest_name(key, fields)}")
    dataset = overrides.get("dataset")
    return Config(**{**preset_values(method, name, dataset), **over(overrides), **named})


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
        raise UserError(f"unknown preset {name!r} of {method}{nearest_name(name, known)}")
    values = from_plain(_preset_values(method, name), f"preset {method}/{name}")
    if values.get("order") == "icarl" and dataset not in (None, *CIFAR100):
        del values["order"]
    return values


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
    """The values of a preset's file, merged over those of the file that it extends."""
    text = (resources.files("cil_jax.settings") / "presets" / method / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    if "extends" not in values:
        return values
    _, base_method, base_name = values.pop("extends").split("/")  # such as /icarl/paper
    return {**_preset_values(base_method, base_name), **values}


def over(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Config that settings override.

    A setting of all tasks, such as `epochs`, also resets the variant for the first task,
    `first_epochs`, to None, unless the settings give both.
    """
    reset = {f"first_{name}": None for name in WITH_FIRST_VARIANT if name in settings}
    return {**reset, **settings}


def config_of(layers: Layers) -> Config:
    """The settings that result from merging layers.

    Raises:
      UserError: if a value is not allowed.
    """
    return Config(**{name: value for layer in layers.values() for name, value in layer.items()})


def commented(layers: Layers) -> str:
    """All settings as YAML for `read`, each with its source in a comment."""
    config, lines = config_of(layers), []
    last_first = list(layers)[::-1]
    for field in dataclasses.fields(Config):
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
    name = config.preset or presets(config.method)[0]
    fields = [field for field in dataclasses.fields(config) if field.metadata["group"]]
    fields = [field for field in fields if field.metadata.get("decides", True)]
    given: dict[str, Any] = {}
    while True:
        # A flag of all tasks may reset the preset's value for the first task: compare again.
        reached = preset(config.method, name, **given)
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
    words = ["python", "-m", f"experiments.{config.method}", "--preset", name]
    for field in fields:  # in the order of --help
        if field.name in given:
            flag_words = _flag_words(field, given[field.name])
            if flag_words is None:
                return None
            words += flag_words
    return shlex.join(words)


def _flag_words(field: dataclasses.Field[Any], value: Value) -> list[str] | None:
    """The words of the flag that gives a field its value; None if there is no such flag."""
    name = flag(field.name)
    if isinstance(value, bool):
        if not (value or field.default):  # a flag that is off by default has no --no-
            return None
        return [name if value else f"--no-{name[2:]}"]
    values = value if isinstance(value, tuple) else (value,)
    return None if None in values else [name, *map(str, values)]


def read(file: str | os.PathLike) -> dict[str, Any]:
    """The settings in a file, as fields of Config. `method` and `preset` may be among them.

    Args:
      file: YAML with settings under the names of their flags, as in the config.yaml of a run.

    Raises:
      UserError: if the file can't be read, or a name or a value in it is wrong.
    """
    values = reading.read_yaml(Path(file))
    return from_plain(without_others(values), str(file))


def without_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config.yaml that are settings."""
    return {name: value for name, value in values.items() if name not in NOT_SETTINGS}


def from_plain(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of Config from values as YAML represents them.

    Args:
      values: values under the names of their flags.
      source: where they come from, such as a file name; error messages begin with it.

    Raises:
      UserError: if a name is unknown, or a value has the wrong type or is not allowed.
    """
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(Config)}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name in FLAGS_ONLY:
            raise UserError(
                f"{source}: {name} is not a setting of a single run: use the flag {flag(name)}"
            )
        if name not in fields:
            hint = nearest_name(str(name), fields)
            raise UserError(f"{source}: unknown setting {name!r}{hint}")
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
