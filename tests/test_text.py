"""Names that a library or a format would interpret are shown as they are."""

import csv
import io
import os
import shlex
import types
import warnings

import numpy as np
import pytest
from conftest import write_run
from rich.table import Table

from cil_jax.app import launch
from cil_jax.commands import report
from cil_jax.data import image_files
from cil_jax.errors import UserError
from cil_jax.report import comparison, draw, escaping, fonts, matrix_figures, published_results
from cil_jax.report.groups import compare
from cil_jax.trained import teaching

NAMES = ["$x_{$", "[red]", "=cmd()", "a|b", "\u65e5\u672c"]


@pytest.fixture
def named(tmp_path):
    """A run with such classes, in a folder with such a name."""
    return write_run(tmp_path / "[/red]out", class_names=NAMES, preset="=cmd()|$x_{$ [red]")


def test_figures_show_names_as_they_are_and_say_which_no_font_has(named):
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each character without a font
        assert len(draw(named, said.append)) == 7
    has_font = not fonts.families("\u65e5\u672c")[1]
    assert said == [] if has_font else len(said) == 1 and "\u65e5\u672c" in said[0]
    labels = matrix_figures.confusion(named.results(), named.confusions(named.results())["nme"])
    shown = [label.get_text() for label in labels.axes[0].get_xticklabels()]
    assert shown[:4] == NAMES[:4] and len(shown[4]) == 2


def test_a_font_is_found_for_characters_that_the_own_one_does_not_have(monkeypatch):
    """No machine need have a Chinese font: one of matplotlib's own stands for it."""
    file = fonts.font_manager.findfont("STIXGeneral")
    extra = fonts._characters(file) - fonts._characters(fonts._default_file())
    character = min(c for c in extra if c.isalpha())
    monkeypatch.setattr(fonts, "_others", lambda: [("STIXGeneral", file)])
    fonts._families.cache_clear()
    try:
        assert fonts.families(f"a{character}") == (["DejaVu Sans", "STIXGeneral"], "")
        assert fonts.families("a") == (["DejaVu Sans"], "")
        assert fonts.drawable(f"{character}\ue123") == f"{character}{fonts.UNKNOWN}"
    finally:
        fonts._families.cache_clear()


def test_the_console_prints_brackets_and_colons_as_they_are(capsys):
    table = Table(title="[red]a :cat:")
    table.add_column("[bold]b")
    table.add_row("[/red]c, and more that makes the table wide")
    console = escaping.console(width=80)
    console.print(table)
    console.print("runs/[/red]out")
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("[red]a :cat:", "[bold]b", "[/red]c", "runs/[/red]out"))


def test_report_prints_the_path_as_it_is(named, capsys, monkeypatch):
    monkeypatch.setattr("cil_jax.report.draw", lambda *_: [])
    assert report.main([str(named.path)]) == 0
    assert capsys.readouterr().out == f"page: {named.report_file}\n"


def test_the_command_to_try_again_is_quoted(named, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("in a way that nobody foresaw")

    monkeypatch.setattr("cil_jax.report.draw", fail)
    launch._draw(named)
    line = capsys.readouterr().err.splitlines()[-1]
    command = line.removeprefix("to try again: ")
    assert shlex.split(command)[-1] == str(named.path) and "'" in command


def test_commands_of_published_rows_are_quoted():
    row = published_results.rows()[0]
    command = published_results.command(row, "reduced", "a b")
    assert shlex.split(command)[-1] == f"a b/reduced/{row.run}"


def test_tables_in_files_hold_names_that_nothing_interprets(named):
    (found,) = compare([named.path])
    rows = list(csv.reader(io.StringIO(comparison.as_csv([found]))))
    place = rows[0].index("preset")
    assert {row[place] for row in rows[1:]} == {"'=cmd()|$x_{$ [red]"}
    markdown = comparison.as_markdown([found])
    assert r"=cmd()\|\$x\_{\$ \[red\]" in markdown
    assert r"\$x\_\{\$" in comparison.as_latex([found])


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\rx", '"\'\nx"'),
        ("-1.5", "-1.5"),
        ("+3", "+3"),
        (-2, "-2"),
        ("a=b", "a=b"),
    ],
)
def test_a_cell_of_csv_is_no_formula(cell, written):
    assert escaping.csv_table([[cell]]) == f"{written}\n"


def test_markdown_is_escaped_in_one_line():
    assert escaping.markdown("a|b`*_[x](y)<i>\\~$\n2") == r"a\|b\`\*\_\[x\](y)\<i\>\\\~\$ 2"


def test_pictures_are_files_and_neither_pipes_nor_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(image_files.Unreadable, match="not a regular file"):
            image_files.read(source)
    with pytest.raises(image_files.Unreadable, match="No such file"):
        image_files.read(tmp_path / "missing.png")


def test_names_that_cannot_be_saved_are_not_learned():
    method = types.SimpleNamespace(keeps_all_data=False, memory_size=None)
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1])
    for names in (["a", ""], ["a", 3], ["a", "\x07"], ["a", None], "ab", ["a", "a"]):
        with pytest.raises(UserError):
            teaching.checked(method, [], images, labels, names)
    assert teaching.checked(method, [], images, labels, ["a", "b"]).class_names == ("a", "b")


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "1"])
def test_a_seed_that_is_none_is_refused_before_training(seed):
    with pytest.raises(UserError, match="seed is"):
        teaching.taught(None, None, None, None, seed=seed)
