"""Declares settings: fields of a frozen dataclass with a default, a help text and a bound.

The settings that all methods share are declared in `cil_jax.settings.config.Config`, and those of a
method in its own class:

    @dataclasses.dataclass(frozen=True)
    class Mine(Method):
        margin: float = setting(0.5, "margin of the ranking loss", bound=POSITIVE)

This makes the flag `--margin`, the key `margin` of presets and of `config.yaml`, and the check of
its value. Nothing here imports JAX.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cil_jax.errors import UserError, nearest_name

Value = bool | int | float | str | tuple[float, ...] | None  # of a setting


class Bound(NamedTuple):
    """A condition on the value of a setting. None always satisfies it.

    Attributes:
      holds: whether a value satisfies it.
      rule: the condition in words, to follow "it must" in an error message.
    """

    holds: Callable[[Any], bool]
    rule: str


COUNT = Bound(lambda x: x >= 1, "be at least 1")
POSITIVE = Bound(lambda x: 0 < x < float("inf"), "be above 0 and finite")
NOT_NEGATIVE = Bound(lambda x: 0 <= x < float("inf"), "be finite and not negative")
BETWEEN_0_AND_1 = Bound(lambda x: 0 < x < 1, "lie between 0 and 1")
PROBABILITY = Bound(lambda x: 0 <= x <= 1, "lie in 0..1")
SEED = Bound(lambda x: 0 <= x < 2**32, f"lie in 0..{2**32 - 1}")
FRACTIONS = Bound(
    lambda fractions: (
        all(0 < fraction <= 1 for fraction in fractions) and list(fractions) == sorted(fractions)
    ),
    "be above 0 and at most 1, in increasing order",
)


def setting(
    default: Any,
    help: str,
    *,
    bound: Bound | None = None,
    choices: Sequence[str] = (),
    metavar: str | None = None,
    **others: Any,
) -> Any:
    """A field of a dataclass that is a setting.

    Its type must be bool, int, float, str or tuple[float, ...], or one of them or None.

    Args:
      default: its default value.
      help: what --help says. If the default is None, it ends in " (default: ...)".
      bound: what a value must satisfy, such as `COUNT` or `POSITIVE`.
      choices: the allowed values, if the setting is a name.
      metavar: the placeholder of the value in --help.
      **others: further metadata of the field; see `cil_jax.settings.config`.
    """
    given = {"bound": bound, "choices": choices, "metavar": metavar}
    metadata = {name: value for name, value in given.items() if value} | others
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def is_setting(field: dataclasses.Field[Any]) -> bool:
    """Whether a field was declared by `setting`."""
    return "help" in field.metadata


def flag(name: str) -> str:
    """The flag of a field, such as "--batch-size" of "batch_size"."""
    return "--" + name.rstrip("_").replace("_", "-")


def kind(field: dataclasses.Field[Any]) -> type:
    """The type of a setting: bool, int, float, str, or tuple for a tuple of floats."""
    if field.metadata.get("choices"):
        return str
    for known in (tuple, bool, int, float, str):
        if known.__name__ in str(field.type):
            return known
    raise UserError(
        f"the setting {field.name!r} has the type {field.type}; it must have bool, int, float, str "
        "or tuple[float, ...]"
    )


def check(field: dataclasses.Field[Any], value: Value) -> None:
    """Rejects a value that is not among the choices, out of bounds, or lacks a package.

    Raises:
      UserError: if so; it says what the value must be.
    """
    name = flag(field.name)
    choices: Sequence[str] = field.metadata.get("choices", ())
    if choices and value not in choices:
        raise UserError(f"unknown {name} {value!r}{nearest_name(str(value), choices)}")
    packages: Mapping[str, str] = field.metadata.get("several", {})
    for word in filter(None, str(value).split(",") if packages else ()):
        if word not in packages:
            raise UserError(f"unknown {name} {word!r}{nearest_name(word, packages)}")
        if importlib.util.find_spec(packages[word]) is None:
            raise UserError(
                f"{name} {word} needs {packages[word]}, which is not installed: "
                f"pip install 'cil_jax[{word}]'"
            )
    holds, rule = field.metadata.get("bound", (None, ""))
    if holds and value is not None and not holds(value):
        is_tuple = isinstance(value, tuple)
        verb = f"are {' '.join(map(str, value))}; they" if is_tuple else f"is {value}; it"
        raise UserError(f"{name} {verb} must {rule}")


def plain(value: Value) -> bool | int | float | str | list[float] | None:
    """A setting's value as YAML and JSON represent it: a tuple becomes a list."""
    return list(value) if isinstance(value, tuple) else value
