"""Settings from files, and how they are laid over each other: a preset, a file, flags.

Presets are files in `cil_jax/presets/METHOD/`. A file of the user's own is read in the same way;
the `config.yaml` of any run is one. Nothing here knows JAX.
"""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cil_jax import parsing
from cil_jax.config import Config, UserError, check, flag, kind, nearest_name, plain

OF_ALL_TASKS = ("epochs", "rate_steps", "weight_decay")  # of which the first may have its own
FLAGS_ONLY = ("seeds", "orders", "parallel_members")  # which make several runs
# What config.yaml has beside them, see `cil_jax.environment`.
NOT_SETTINGS = ("versions", "machine", "options")

# Settings by where they come from, each laid over those before it.
Layers = Mapping[str, Mapping[str, Any]]

COMMENT_COLUMN = 40  # what is longer pushes its comment to the right

KINDS = {
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
    folder = resources.files("cil_jax") / "presets" / method
    if not folder.is_dir():
        known = sorted(f.name for f in folder.parent.iterdir() if f.is_dir())
        raise UserError(
            f"no presets of {method!r}{nearest_name(method, known)}; a method of your own needs a "
            f"cil_jax/presets/{method}/default.yaml"
        )
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def preset(method: str, name: str, **overrides: Any) -> Config:
    """The settings of a preset, with others laid over them.

    Args:
      method: a key of `cil_jax.methods.METHODS`.
      name: of the preset, such as paper.
      **overrides: fields of Config; see `over`.

    Raises:
      UserError: if there is no such preset, or a value makes no sense.
    """
    named = {"method": method, "preset": name}
    fields = [field.name for field in dataclasses.fields(Config)]
    for key in overrides:
        if key not in fields:
            raise UserError(f"unknown setting {key!r}{nearest_name(key, fields)}")
    return Config(**{**preset_values(method, name), **over(overrides), **named})


def preset_values(method: str, name: str) -> dict[str, Any]:
    """What a preset says, as fields of Config.

    Raises:
      UserError: if there is no such preset.
    """
    known = presets(method)
    if name not in known:
        raise UserError(f"unknown preset {name!r} of {method}{nearest_name(name, known)}")
    return from_plain(_preset_values(method, name), f"preset {method}/{name}")


def _preset_values(method: str, name: str) -> dict[str, Any]:
    """What a preset's file says, over what the file that it extends says."""
    text = (resources.files("cil_jax") / "presets" / method / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    if "extends" not in values:
        return values
    _, *base = values.pop("extends").split("/")  # such as /icarl/paper
    return {**_preset_values(*base), **values}


def over(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Config as they are laid over others.

    One that speaks of all tasks, such as `epochs`, also sets aside what lies below it for the first
    task alone, `first_epochs`, unless it is said beside it.
    """
    set_aside = {f"first_{name}": None for name in OF_ALL_TASKS if name in settings}
    return {**set_aside, **settings}


def config_of(layers: Layers) -> Config:
    """The settings that layers make.

    Raises:
      UserError: if a value makes no sense.
    """
    return Config(**{name: value for layer in layers.values() for name, value in layer.items()})


def commented(layers: Layers) -> str:
    """All settings as YAML that `read` takes, each with a comment that says where it comes from."""
    config, lines = config_of(layers), []
    for field in dataclasses.fields(Config):
        source = next((s for s in reversed(layers) if field.name in layers[s]), "default")
        value = yaml.safe_dump(
            plain(getattr(config, field.name)), default_flow_style=True, width=10**6
        )
        lines.append((f"{field.name.rstrip('_')}: {value.splitlines()[0]}", source))
    column = max(len(text) for text, _ in lines if len(text) < COMMENT_COLUMN)
    return "".join(f"{text:{column}}  # {source}\n" for text, source in lines)


def command(config: Config) -> str | None:
    """The command that repeats a run: its method, its preset, and a flag for all else that decides.

    None where no flags make these settings, as may be of a Config that Python made.
    """
    name = config.preset or presets(config.method)[0]
    fields = [field for field in dataclasses.fields(config) if field.metadata["group"]]
    fields = [field for field in fields if field.metadata.get("decides", True)]
    given: dict[str, Any] = {}
    while True:
        # A flag that is said may set aside what the preset says of the first task alone.
        made = preset(config.method, name, **given)
        missing = [f.name for f in fields if getattr(made, f.name) != getattr(config, f.name)]
        # And what it says so is set aside by saying the flag.
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
            words += _words(field, given[field.name])
    return None if None in words else shlex.join(words)


def _words(field: dataclasses.Field, value: Any) -> list[Any]:
    """The flag that gives a field a value; None where there is none."""
    if isinstance(value, bool):
        there = value or field.default
        return [flag(field.name) if value else f"--no-{flag(field.name)[2:]}" if there else None]
    values = value if isinstance(value, tuple) else (value,)
    return [flag(field.name), *(None if one is None else str(one) for one in values)]


def read(file: str | os.PathLike) -> dict[str, Any]:
    """What a file of settings says, as fields of Config; `method` and `preset` may be among them.

    Args:
      file: YAML, settings under their flags' names, as in a run's config.yaml.

    Raises:
      UserError: if it can't be read, or a name or a value in it is wrong.
    """
    values = parsing.read_yaml(Path(file))
    return from_plain(without_others(values), str(file))


def without_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.yaml holds, without what is no setting."""
    return {name: value for name, value in values.items() if name not in NOT_SETTINGS}


def from_plain(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of Config from values under their flags' names, as YAML gives them.

    Args:
      values: by name.
      source: what messages begin with, such as the name of the file.

    Raises:
      UserError: if a name is not a setting's, or a value is none that the setting can have.
    """
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(Config)}
    found = {}
    for name, value in values.items():
        if name in FLAGS_ONLY:
            raise UserError(f"{source}: {name} is no setting of a run: say {flag(name)}")
        if name not in fields:
            hint = nearest_name(str(name), fields)
            raise UserError(f"{source}: unknown setting {name!r}{hint}")
        try:
            found[fields[name].name] = _value(name, fields[name], value)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return found


def _value(name: str, field: dataclasses.Field, value: Any) -> Any:
    """The value of a setting, of the setting's type."""
    wanted, found = kind(field), value
    if isinstance(value, list) and wanted is tuple and all(map(_is_number, value)):
        found = tuple(map(float, value))
    elif wanted is float and _is_number(value):
        found = float(value)
    elif value is None and "None" not in str(field.type):
        raise UserError(f"{name} has no value")
    elif value is not None and type(value) is not wanted:
        must_be = f"{KINDS[wanted]}{_hint(wanted, value)}"
        raise UserError(f"{name} is {_shown(value)}; it must be {must_be}")
    check(field, found)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _hint(wanted: type, value: Any) -> str:
    """What to say of values that YAML takes for something else than they look like."""
    if wanted is str and isinstance(value, bool):
        return ": write it in quotes, 'yes' or 'no'"
    if wanted is str and _is_number(value):
        return ": write it in quotes"
    if wanted in (int, float) and isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML takes 2e-5 for text, and 2.0e-5 for a number
            return f": write {yaml.safe_dump(wanted(value)).split()[0]}"
    return ""
