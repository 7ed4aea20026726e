"""Launches what a command runs: a single run, or the members of a group of replicates.

A member is one run of a group, whose runs differ only in their seeds or class orders (`--seeds`,
`--orders`). Commands show progress, stop on signals, and write the report and the figures of each
run. Settings are checked before JAX is imported, which takes a while.
"""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from cil_jax.app import output
from cil_jax.app.accelerator import start_accelerator, take_huge_pages
from cil_jax.errors import MissingExtra, UserError
from cil_jax.settings import loading
from cil_jax.settings.config import Config
from cil_jax.settings.declaring import flag
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import signals

if TYPE_CHECKING:
    from rich.console import Console

    from cil_jax.storage.schemas import GroupSummary, Results
    from cil_jax.training.callbacks import Callback

STOPPING = "stopping: saving at the next step (press Ctrl-C again to quit without saving)"


def run(
    config: Config,
    callback: "Callback | None" = None,
    *,
    method: str | type | None = None,
    progress: bool = False,
) -> "Results":
    """Runs a method through a scenario, or resumes a run that was interrupted.

    It writes no report and handles no signals.

    Args:
      config: the settings; see `cil_jax.preset`.
      callback: is called while the run trains.
      method: a method to run in place of the config's, as in `cil_jax.preset`; the settings that
        both methods have are kept.
      progress: whether to show the progress as the commands do, in a notebook too; by default,
        nothing is printed.

    Returns:
      The contents of results.json.

    Raises:
      UserError: if the settings, the data or the run folder do not allow the run.
    """
    from cil_jax.platform import devices
    from cil_jax.training.callbacks import Callback, CallbackList
    from cil_jax.training.loop import Run

    if method is not None:
        config = loading.with_method(config, method)
    folder = RunFolder(config.folder())
    if devices.is_first_process():
        folder.check(config)
    with contextlib.ExitStack() as stack:
        callbacks = [callback or Callback()]
        if progress and devices.is_first_process():
            from cil_jax.report import escaping
            from cil_jax.report.terminal import Terminal

            callbacks.append(stack.enter_context(Terminal(escaping.console())))
        if config.log:
            from cil_jax.report import trackers

            say = partial(print, file=sys.stderr)
            callbacks += stack.enter_context(trackers.opened(config, say, page=False))
        return Run(config, folder, CallbackList(callbacks)).go()


def run_command(config: Config) -> None:
    """Runs a single run as a command: shows its progress, its results and its files.

    Raises:
      UserError: if the settings, the data, the machine or the run folder do not allow the run.
    """
    output.need_not_be_shown()
    if config.coordinator is None:
        RunFolder(config.folder()).check(config)  # before JAX starts, which takes a while
    if config.fast:
        take_huge_pages(config.accelerator)
    start_accelerator(config.accelerator, config)

    from cil_jax import report
    from cil_jax.platform import devices
    from cil_jax.report import escaping

    folder = RunFolder(config.folder())
    how_to_continue = resume_command(config)
    if not devices.is_first_process():
        run_one(config, escaping.console(quiet=True), how_to_continue)
        return
    folder.check(config)
    console = escaping.console()
    console.print(report.summary(run_one(config, console, how_to_continue)))
    names = ", ".join(sorted(file.name for file in folder.figures.glob("*")))
    for line in (
        f"results: {folder.results_file}",
        *([f"figures: {folder.figures} ({names})"] if names else []),
        f"page:    {folder.report_file}",
    ):
        _print_line(console, line)


def resume_command(config: Config) -> str:
    """Returns the shell command that resumes a run.

    It repeats only settings that do not affect the result; the others are in the run folder.
    """
    program = loading.program_of(config) or ["cil-jax", "train"]
    words = [*program, "--resume", "--out", config.folder()]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_covered = field.metadata.get("decides", True) or field.name in ("resume", "out")
        if not is_covered and value != field.default:
            words += [flag(field.name)] if value is True else [flag(field.name), str(value)]
    return shlex.join(words)


def run_one(config: Config, console: "Console", how_to_continue: str) -> "Results":
    """Trains a run to its end and writes its report and figures.

    Args:
      config: the settings.
      console: where progress is shown.
      how_to_continue: the command that resumes the run, shown when it is stopped by a signal.

    Returns:
      The contents of results.json.

    Raises:
      Stopped: if a signal has stopped the run.
    """
    return _run_together([config], console, how_to_continue)[0]


def _run_together(
    configs: Sequence[Config], console: "Console", how_to_continue: str
) -> "list[Results]":
    """Trains one or several runs in one program; see `run_one`."""
    from cil_jax.platform import devices

    folders = [RunFolder(config.folder()) for config in configs]
    try:
        results = _train(configs, console)
        if devices.is_first_process():
            for folder in folders:
                _draw(folder)
    except KeyboardInterrupt as stop:
        if not (any(folder.holds_a_run for folder in folders) and devices.is_first_process()):
            raise
        message = (str(stop) if len(configs) == 1 else "") or "stopped"
        signal_number = signals.exit_code(stop) - 128
        raise signals.Stopped(signal_number, f"{message}; to continue: {how_to_continue}") from None
    return results


def _train(configs: Sequence[Config], console: "Console") -> "list[Results]":
    """Trains runs to their end with progress, logs and signals; returns their results.

    Raises:
      Stopped: if a signal has stopped the runs.
    """
    from cil_jax.report import trackers
    from cil_jax.report.terminal import Terminal, progress
    from cil_jax.training import lockstep
    from cil_jax.training.callbacks import CallbackList
    from cil_jax.training.loop import Run

    is_single, runs = len(configs) == 1, []
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(progress(console))
        for config in configs:
            folder = RunFolder(config.folder())
            terminal = Terminal(console, "" if is_single else folder.path.name, live)
            logs = stack.enter_context(trackers.opened(config, terminal.say))
            runs.append(Run(config, folder, CallbackList([terminal, *logs])))
        stop_asked = stack.enter_context(signals.noted(STOPPING))
        for run in runs:
            run.stop_asked = stop_asked
        results = [runs[0].go()] if is_single else lockstep.go(runs)
    if stop_asked():  # after the last step
        raise signals.Stopped(stop_asked())
    return results


def _draw(folder: RunFolder) -> None:
    """Writes the report of a run and then its figures."""
    from cil_jax import report

    try:
        with folder.writing():
            lines = folder.measurements()
            report.write_page(folder, lines)
            report.draw(folder, lambda line: print(f"warning: {line}", file=sys.stderr), lines)
    except MissingExtra as error:
        print(f"warning: no figures were drawn: {error}", file=sys.stderr)
    except UserError:
        raise
    except Exception as error:  # no reason to fail, as the run is complete and saved
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"warning: the report can't be made: {reason}", file=sys.stderr)
        command = shlex.join(["cil-jax", "report", str(folder.path)])
        print(f"to try again: {command}", file=sys.stderr)


def run_members(
    config: Config, seeds: list[int] | None, n_orders: int | None, n_at_once: int = 1
) -> "GroupSummary":
    """Trains the members of a group that are not done; prints and writes the summary of all.

    Args:
      config: the settings that all members share; `out` is the folder of the group.
      seeds, n_orders: see `cil_jax.storage.replicates.member_configs`.
      n_at_once: number of members that one program trains.

    Returns:
      The contents of summary.json.

    Raises:
      UserError: before training, if the settings or the folder of a member do not allow it.
    """
    output.need_not_be_shown()
    members = _checked_members(config, seeds, n_orders)
    if config.fast:
        take_huge_pages(config.accelerator)
    start_accelerator(config.accelerator)

    from cil_jax.report import escaping

    console = escaping.console()
    todo = _skip_done(members, console)
    for start in range(0, len(todo), n_at_once):
        group = todo[start : start + n_at_once]
        for title, _ in group:
            _print_line(console, title)
        _run_together([member for _, member in group], console, "the same command again")
    return _summarize(config, console)


def _checked_members(config: Config, seeds: list[int] | None, n_orders: int | None) -> list[Config]:
    """Returns the settings of all members of a group.

    Raises:
      UserError: if the folder of a member that is to be trained does not allow it.
    """
    from cil_jax.storage import replicates

    if config.coordinator:
        raise UserError("--coordinator is for a single run: leave out --seeds and --orders")
    members = replicates.member_configs(config, seeds, n_orders)
    for member in members:
        if not replicates.is_done(member):
            RunFolder(member.folder()).check(member)
    return members


def _skip_done(members: Sequence[Config], console: "Console") -> list[tuple[str, Config]]:
    """Returns the members that are still to be trained, each with its title.

    Says which are done, and draws those that were killed before they were drawn.
    """
    from cil_jax.storage import replicates

    todo = []
    for number, member in enumerate(members, start=1):
        folder = RunFolder(member.folder())
        title = f"member {number} of {len(members)}: {member.folder()}"
        if not replicates.is_done(member):
            todo.append((title, member))
            continue
        _print_line(console, f"{title} is done")
        if not folder.is_drawn:
            _draw(folder)
    return todo


def _summarize(config: Config, console: "Console") -> "GroupSummary":
    """Prints and writes the summary of all finished members of a group, and returns it."""
    from cil_jax import report
    from cil_jax.storage import replicates

    summary = replicates.summarize(replicates.finished_results(config)[0])
    file = replicates.write_summary(replicates.group_folder(config), summary)
    console.print(report.group_summary(summary))
    _print_line(console, f"summary: {file}")
    return summary


def _print_line(console: "Console", text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
