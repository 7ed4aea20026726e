"""A list of commands to run on an accelerator within some minutes, each in a process of its own.

A stage that fails does not stop the next. What is known is written after each stage, so that
nothing is lost if the machine is taken away.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_jax.files import reading, writing
from cil_jax.storage.run_folder import RunFolder

STAGES = ("check", "step", "herding", "evaluation", "icarl", "orders")
SMALL_RUN = (
    *("--dataset", "digits", "--task-size", "2", "--backbone", "resnet8", "--epochs", "1"),
    *("--batch-size", "32", "--memory", "100"),
)
SECONDS_TO_SAVE = 30.0  # that a run which is asked to stop has to save
LARGEST_TAIL = 30  # lines of a log in the report


class Stages:
    """The stages of a folder, and what is known of them.

    Args:
      folder: where their results are written.
      accelerator: the value of --accelerator for each command.
      is_tiny: whether to use tiny sizes.
      data_dir: the value of --data-dir; None for the default.

    Attributes:
      report_file: the report in Markdown.
      done: by stage, its command, exit code, seconds and environment.
    """

    def __init__(self, folder: str, accelerator: str, is_tiny: bool, data_dir: str | None = None):
        self._folder, self._accelerator = Path(folder), accelerator
        self._is_tiny, self._data_dir = is_tiny, data_dir
        self.report_file = self._folder / "report.md"
        self._json_file = self._folder / "report.json"
        self.done: dict[str, dict[str, Any]] = {}

    def run(self, names: Sequence[str], seconds: float) -> list[str]:
        """Runs stages one after another, those that are done excepted.

        Args:
          names: of `STAGES`.
          seconds: the time for all. `SECONDS_TO_SAVE` before its end, the stage in progress is
            asked to stop, and no other starts.

        Returns:
          The stages that failed. One that was stopped at the end of the time has not.
        """
        end, failed = time.monotonic() + seconds, []
        with writing.writing(self._folder):
            writing.make_folder(self._folder)
        if self._json_file.exists():
            self.done = reading.read_json(self._json_file, dict[str, dict[str, Any]])
        for name in names:
            if self.done.get(name, {}).get("code") == 0:
                print(f"{name}: done before", flush=True)
                continue
            left = end - SECONDS_TO_SAVE - time.monotonic()
            if left <= 0:
                print(f"{name}: no time left; the same command again goes on", flush=True)
                continue
            outcome = self._run_stage(name, left)
            self.done[name] = outcome
            self._write()
            stopped = outcome["stopped"]
            failed += [name] if outcome["code"] and not stopped else []
            state = "stopped, as the time is over" if stopped else f"exit code {outcome['code']}"
            print(f"{name}: {state}, {outcome['seconds']:.0f} s", flush=True)
        return failed

    def command(self, name: str) -> list[str]:
        """The command of a stage, without the path of Python."""
        if name in ("step", "herding", "evaluation"):
            part = {"evaluation": "nme"}.get(name, name)
            words = ["-m", "cil_jax", "benchmark", part]
            words += ["--quick", "--no-torch"] if self._is_tiny else []
            for flag, suffix in (("--json", "json"), ("--markdown", "md")):
                words += [flag, str(self._folder / f"{name}.{suffix}")]
            return [*words, "--accelerator", self._accelerator]
        out = self._folder / f"runs-{name}"
        words = ["-m", "cil_jax", "icarl", "--preset", "paper", "--out", str(out)]
        words += ["--accelerator", self._accelerator]
        words += ["--data-dir", self._data_dir] if self._data_dir else []
        if name == "orders":
            n = "2" if self._is_tiny else "10"
            words += ["--order", "seeded", "--no-ncm", "--orders", n, "--parallel-members", n]
        elif RunFolder(out).holds_a_run:
            return [*words, "--resume"]
        return words + (list(SMALL_RUN) if self._is_tiny or name == "check" else [])

    def _run_stage(self, name: str, seconds: float) -> dict[str, Any]:
        """Runs a stage; its output goes to NAME.log."""
        command, start = self.command(name), time.monotonic()
        print(f"{name}: {shlex.join(['python', *command])}", flush=True)
        stopped = False
        with (self._folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                stopped = True
                code = _stop(process)
            except BaseException:  # such as Ctrl-C, which the process gets as well
                _stop(process)
                raise
        return {
            "command": shlex.join(["python", *command]),
            "code": code,
            "stopped": stopped,
            "seconds": round(time.monotonic() - start, 1),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        }

    def _write(self) -> None:
        """Writes the report of what is known."""
        with writing.writing(self._json_file):
            writing.replace_text(self._json_file, json.dumps(self.done, indent=1) + "\n")
            writing.replace_text(self.report_file, self._text())

    def _text(self) -> str:
        parts = ["# On the accelerator", ""]
        for name, outcome in self.done.items():
            state = "stopped at the end of the time" if outcome["stopped"] else "done"
            if outcome["code"] and not outcome["stopped"]:
                state = f"failed with exit code {outcome['code']}"
            parts += [f"## {name}: {state}, {outcome['seconds']:.0f} s", ""]
            parts += [f"    {outcome['command']}", ""]
            if outcome["xla_flags"]:
                parts += [f"XLA_FLAGS={outcome['xla_flags']}", ""]
            table = self._folder / f"{name}.md"
            log = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
            shown = table.read_text().splitlines() if table.exists() else []
            parts += shown or [f"    {line}" for line in log[-LARGEST_TAIL:]]
            parts.append("")
        return "\n".join(parts)


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Asks a process to stop, kills it if it does not, and returns its exit code."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(SECONDS_TO_SAVE)
    return process.wait()
