"""The stages for an accelerator: what they run, what they write as they go, and how they end."""

import json
import sys

import pytest

from cil_jax.app import command_line
from cil_jax.benchmark import stages
from cil_jax.benchmark.stages import STAGES, Stages
from cil_jax.commands import accelerator, benchmark

CODES = {
    "check": "print('a GPU')",
    "step": "import sys; print('no CUDA'); sys.exit(3)",
    # What is known is on the disk before the next stage begins.
    "herding": "import json; print(sorted(json.load(open('report.json'))))",
    "icarl": "import time; print('trains', flush=True); time.sleep(60)",
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Stages of other commands, in a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stages, "command", lambda _, name: ["-c", CODES[name]])
    return Stages(str(tmp_path), "cpu", is_tiny=True)


def test_a_stage_that_fails_does_not_stop_the_next_and_all_is_written_at_once(fake, tmp_path):
    assert fake.run(["check", "step", "herding"], 100.0) == ["step"]
    assert "['check', 'step']" in (tmp_path / "herding.log").read_text()
    known = json.loads((tmp_path / "report.json").read_text())
    assert {name: outcome["code"] for name, outcome in known.items()} == {
        "check": 0,
        "step": 3,
        "herding": 0,
    }
    text = fake.report_file.read_text()
    assert "## step: failed with exit code 3" in text and "    no CUDA" in text
    assert "## check: done" in text and "    a GPU" in text


def test_the_same_again_runs_only_what_is_not_done(fake, tmp_path, capsys):
    fake.run(["check", "step"], 100.0)
    Stages(str(tmp_path), "cpu", is_tiny=True).run(["check", "step"], 100.0)
    assert (tmp_path / "check.log").read_text().count("a GPU") == 1
    assert (tmp_path / "step.log").read_text().count("no CUDA") == 2
    assert "check: done before" in capsys.readouterr().out


def test_at_the_end_of_the_time_a_stage_is_stopped_and_no_other_begins(
    fake, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(stages, "SECONDS_TO_SAVE", 1.5)
    assert fake.run(["icarl", "check"], 3.0) == []
    outcome = fake.done["icarl"]
    assert outcome["stopped"] and outcome["code"] == -15 and outcome["seconds"] < 30
    assert "## icarl: stopped at the end of the time" in fake.report_file.read_text()
    assert "check" not in fake.done
    assert "check: no time left" in capsys.readouterr().out


@pytest.mark.parametrize("is_tiny", [False, True])
def test_the_commands_can_be_run(tmp_path, is_tiny):
    made = Stages(str(tmp_path), "cpu", is_tiny, data_dir="there")
    commands = {name: made.command(name) for name in STAGES}
    for name in ("step", "herding", "evaluation"):
        assert commands[name][:3] == ["-m", "cil_jax", "benchmark"]
        flags = benchmark._parser().parse_args(commands[name][3:])
        assert flags.accelerator == "cpu" and flags.json == str(tmp_path / f"{name}.json")
        assert bool(flags.quick) == is_tiny
        assert all(part in benchmark.PARTS for part in flags.parts) and len(flags.parts) == 1
    parser = command_line.make_parser("icarl", "paper")
    for name in ("check", "icarl", "orders"):
        assert commands[name][:3] == ["-m", "cil_jax", "icarl"]
        given = vars(parser.parse_args(commands[name][3:]))
        n = given.pop("orders", None), given.pop("parallel_members", None)
        assert n == ((None, None) if name != "orders" else (2, 2) if is_tiny else (10, 10))
        config = command_line.settings("icarl", "", given)
        is_small = is_tiny or name == "check"
        assert (config.dataset, config.epochs) == (("digits", 1) if is_small else ("cifar100", 70))
        expected = "icarl" if name == "icarl" and not is_tiny else "seeded"
        assert (config.order, config.data_dir) == (expected, "there")


def test_a_run_that_was_stopped_goes_on(tmp_path):
    (tmp_path / "runs-icarl").mkdir()
    (tmp_path / "runs-icarl/config.yaml").write_text("method: icarl\n")
    words = Stages(str(tmp_path), "gpu", is_tiny=True).command("icarl")
    assert words[-1] == "--resume" and "--dataset" not in words


def test_mistakes_are_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accelerator"])
    assert accelerator.main(["icrl"]) == 2
    assert "unknown stage 'icrl': did you mean 'icarl'" in capsys.readouterr().err
    assert accelerator.main(["--minutes", "0"]) == 2
    assert "--minutes is 0; it must be above 0" in capsys.readouterr().err
