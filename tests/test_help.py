"""The help that fits a screen, and the one that has all."""

import re

import pytest

from cil_jax.app import command_line
from cil_jax.commands import COMMANDS, overview, run
from cil_jax.methods import METHODS
from cil_jax.settings import loading


@pytest.mark.parametrize("method", METHODS)
def test_the_short_help_fits_a_screen_and_has_each_preset_in_a_line(method, capsys):
    assert run([method, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for preset in loading.presets(method):
        (line,) = re.findall(rf"^  {preset} .*", text, re.MULTILINE)
        assert len(line.split()) > 3
        assert line.endswith("[default]") == (preset == loading.default_preset(method))
    shown = re.findall(r"^  (--[a-z-]+) ", text, re.MULTILINE)
    assert "--epochs" in shown and "--resume" in shown and len(shown) <= 15


def test_its_defaults_are_those_of_the_preset(capsys):
    run(["icarl", "--help"])
    text = capsys.readouterr().out
    assert "epochs per task [70]" in text and "number of exemplars in all [2000]" in text
    assert "--mirror-means" in text.partition("settings of icarl:")[2]


def test_all_flags_are_in_the_long_help(capsys):
    parser = command_line.make_parser("icarl", "paper")
    assert run(["icarl", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert all(action.option_strings[0] in text for action in parser._actions)
    assert run(["train", "--help"]) == 0
    assert "flags used most" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["finetune", "icarl"])
def test_the_number_of_further_flags_is_right(method, capsys):
    run([method, "--help"])
    text = capsys.readouterr().out
    named = set(re.findall(r"(?<=\s)--[a-z-]+", text))
    n_all = len(command_line.make_parser(method, loading.default_preset(method))._actions)
    assert f"these and {n_all - len(named)} more flags" in text


def test_the_overview_has_every_command():
    words = overview().split()
    assert {*METHODS, *COMMANDS} <= {*words}
    assert max(map(len, overview().splitlines())) <= 80


OWN_METHOD = '''
import dataclasses
from typing import ClassVar

from cil_jax.methods import Method
from cil_jax.settings.declaring import setting


@dataclasses.dataclass(frozen=True)
class Mine(Method):
    """Keeps the features near those of the old network."""

    strength: float = setting(3.0, "weight of the change")

    presets: ClassVar = {"strong": {"strength": 10.0, "backbone": "resnet8"}}

    def loss(self, params, learner, batch, key, train=True):
        raise NotImplementedError
'''


def test_the_help_of_a_method_of_ones_own_is_about_it(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(OWN_METHOD)
    assert run(["train", "--method", f"{tmp_path / 'mine.py'}:Mine", "--help"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 36 and max(map(len, lines)) <= 80
    assert "Keeps the features near those of the old network." in text
    assert "  strong      strength 10.0, backbone resnet8" in lines
    assert "Distillation on new images and exemplars" not in text  # of another method
    assert run(["train", "--help"]) == 0
    assert "Distillation on new images and exemplars" in capsys.readouterr().out
