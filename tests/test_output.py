"""Output that cannot be shown: see also test_cli.py for whole commands."""

import io
import os
import sys

import pytest
from rich.console import Console

from cil_jax.app import output
from cil_jax.app.command_line import FAILED, guarded


@pytest.fixture
def stdout(monkeypatch):
    """Makes a file descriptor the standard output of this process, as text."""
    opened = []

    def of(descriptor, **more):
        opened.append(os.fdopen(descriptor, "w", **more))
        monkeypatch.setattr(sys, "stdout", opened[-1])
        return opened[-1]

    yield of
    for file in opened:
        file.close()  # which writes what is buffered, and fails if that can't be


def closed_pipe():
    reads, writes = os.pipe()
    os.close(reads)
    return writes


def full():
    return os.open("/dev/full", os.O_WRONLY)


def prints_much():
    for _ in range(10_000):  # more than is buffered
        print("a line of a table", "and another column")
    Console().print("by rich")


@pytest.mark.parametrize("way", [print, lambda text: Console().print(text)], ids=["print", "rich"])
@pytest.mark.parametrize("target", [closed_pipe, full])
def test_an_action_goes_on_where_its_output_fails(stdout, target, way):
    stdout(target())
    lines = []

    def action():
        output.need_not_be_shown()
        for number in range(3):
            way("a line")
            sys.stdout.flush()
            lines.append(number)

    assert guarded(action) == 0 and lines == [0, 1, 2]


def test_a_command_whose_pipe_is_closed_ends_without_a_word(stdout, capfd):
    stdout(closed_pipe())
    assert guarded(prints_much) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("action", [prints_much, lambda: print("short")], ids=["much", "short"])
def test_a_command_that_only_prints_fails_on_a_full_disk_in_one_line(stdout, capsys, action):
    stdout(full())
    assert guarded(action) == FAILED
    error = "error: can't write to the standard output: No space left on device\n"
    assert capsys.readouterr().err == error


def test_of_several_failures_the_first_is_told():
    class Failing(io.StringIO):
        def write(self, text):
            raise OSError(len(text), text)

    stream = output.Stream(Failing())
    for text in ("x", "yy"):
        stream.write(text)
    assert stream.failure.strerror == "x"


def test_streams_that_were_closed_from_the_start_are_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert guarded(prints_much) == 0
    assert sys.stdout is None


def test_what_an_encoding_lacks_is_written_as_an_escape(stdout):
    reads, writes = os.pipe()
    stream = stdout(writes, encoding="ascii")
    assert guarded(lambda: [print("snow \u2603 \udcff"), Console().print("Stra\xdfe")]) == 0
    stream.flush()
    assert os.read(reads, 99) == b"snow \\u2603 \\udcff\nStra\\xdfe\n"
    os.close(reads)


def test_a_file_that_the_system_refuses_is_named_in_one_line(tmp_path, capsys):
    name = str(tmp_path / ("x" * 300))
    assert guarded(lambda: os.stat(name)) == FAILED
    assert capsys.readouterr().err == f"error: {name}: File name too long\n"
