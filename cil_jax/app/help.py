"""The help of a method that fits a screen; argparse makes the one with all flags."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from cil_jax.settings import loading
from cil_jax.settings.config import Config

WIDTH = 79  # characters in a line
# The flags that --help shows, each in a line; --help-all explains all flags.
MOST_USED = {
    "method": "method to train, or path.py:Class of your own",
    "preset": "recipe to start from",
    "config": "YAML file of settings, laid over the preset",
    "dataset": "data set, such as digits or folder:DIR",
    "task_size": "number of classes per task",
    "order": "class order: seeded, icarl, or a list",
    "backbone": "network, such as resnet8, or path.py:Class",
    "epochs": "epochs per task",
    "memory": "number of exemplars in all",
    "seed": "seed of the initial weights",
    "seeds": "train one run per seed, such as 0,1,2",
    "out": "folder of the run",
    "resume": "continue the run in --out",
    "accelerator": "auto, cpu, gpu or tpu",
    "help_all": "explain all flags",
}


class HelpAction(argparse.Action):
    """Prints a text and ends the command.

    Args:
      text: returns the text.
    """

    def __init__(self, *args: Any, text: Callable[[], str], **options: Any) -> None:
        super().__init__(*args, nargs=0, **options)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(self.text(), end="")
        parser.exit()


def short_help(parser: argparse.ArgumentParser, method: str, default_preset: str) -> str:
    """The help that fits a screen: the presets, the flags used most, and the method's own.

    Args:
      parser: the parser of all flags.
      method: see `make_parser`.
      default_preset: the preset whose values are shown as defaults.
    """
    actions = {action.dest: action for action in parser._actions}
    shown = {name: about for name, about in MOST_USED.items() if name in actions}
    defaults = loading.preset(method, default_preset) if method else Config()
    lines = [f"usage: {parser.prog} [--FLAG VALUE ...]", ""]
    for line in str(parser.description).splitlines():
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ") or [""]
    if method and loading.presets(method):
        lines += ["", "presets:", *_presets(method, default_preset)]
    lines += ["", "flags used most [default]:"]
    for name, about in shown.items():
        lines.append(_flag_line(actions[name], about, getattr(defaults, name, None)))
    titles = {group.title: group._group_actions for group in parser._action_groups}
    own = titles.get(f"settings of {method}", [])
    if own:
        names = " ".join(action.option_strings[0] for action in own)
        lines += [
            "",
            *textwrap.wrap(f"settings of {method}: {names}", WIDTH, subsequent_indent="    "),
        ]
    n_others = len(actions.keys() - shown.keys() - {action.dest for action in own})
    lines += ["", f"--help-all explains these and {n_others} more flags."]
    return "\n".join(lines) + "\n"


def _presets(method: str, default_preset: str) -> list[str]:
    """A line for each preset of a method."""
    lines = []
    for name in loading.presets(method):
        default = " [default]" if name == default_preset else ""
        room = WIDTH - 14 - len(default)
        about = textwrap.shorten(loading.about_preset(method, name), room, placeholder=" ...")
        lines.append(f"  {name:12}{about}{default}")
    return lines


def _flag_line(action: argparse.Action, about: str, default: Any) -> str:
    """The line of a flag, with its default if it takes a value and has one."""
    words, takes_value = action.option_strings[-1], action.nargs != 0
    if takes_value:
        words += f" {action.metavar or 'NAME'}"
    shown = f" [{default}]" if takes_value and default not in (None, "") else ""
    return f"  {words:20}{about}{shown}"
