"""How a command runs: one run or several members, shown, stopped by signals, drawn and summed up.

JAX is imported once it is known that there is something to run.
"""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cil_jax.app import output
from cil_jax.app.accelerator import start_accelerator, take_huge_pages
from cil_jax.errors import UserError
from cil_jax.settings.config import Config, flag
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training import signals

if TYPE_CHECKING:
    from cil_jax.storage.schemas import Results
    from cil_jax.training.callbacks import Callback

STOPPING = "stopping: saving at the next step (once more: at once, without saving)"


def run(config: Config, callback: "Callback | None" = None) -> "Results":
    """Runs a method through a scenario, or the rest of a run that was interrupted.

    Nothing is printed and no page is written. Signals are left alone.

    Args:
      config: the settings; see `cil_jax.preset`.
      callback: is called while the run trains.

    Returns:
      The content of results.json.

    Raises:
      UserError: if the settings, the data or the run folder do not allow it.
    """
    from cil_jax.platform import devices
    from cil_jax.training.callbacks import Callback, CallbackList
    from cil_jax.training.loop import Run

    folder = RunFolder(config.folder())
    if devices.is_first_process():
        folder.check(config)
    callback = callback or Callback()
    if not config.log:
        return Run(config, folder, callback).go()
    from cil_jax.report import trackers  # which draws figures

    with trackers.opened(config, partial(print, file=sys.stderr), page=False) as others:
        return Run(config, folder, CallbackList([callback, *others])).go()


def run_command(config: Config) -> None:
    """One run, and what it came to.

    Raises:
      UserError: if the settings, the data, the machine or the run folder do not allow it.
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
    again = resume_command(config)
    if not devices.is_first_process():
        run_one(config, escaping.console(quiet=True), again)
        return
    folder.check(config)
    console = escaping.console()
    console.print(report.summary(run_one(config, console, again)))
    names = ", ".join(sorted(file.name for file in folder.figures.glob("*")))
    for line in (
        f"results: {folder.results_file}",
        f"figures: {folder.figures} ({names})",
        f"page:    {folder.report_file}",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def resume_command(config: Config) -> str:
    """What a shell takes to continue a run: what decides its result is in its folder."""
    words = ["python", "-m", f"experiments.{config.method}", "--resume", "--out", config.folder()]
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        is_said = field.metadata.get("decides", True) or field.name in ("resume", "out")
        if not is_said and value != field.default:
            words += [flag(field.name)] if value is True else [flag(field.name), str(value)]
    return shlex.join(words)


def run_one(config: Config, console: Any, how_to_continue: str) -> dict[str, Any]:
    """One run to its end, its figures and its page. What results.json holds."""
    return _run_together([config], console, how_to_continue)[0]


def _run_together(
    configs: Sequence[Config], console: Any, how_to_continue: str
) -> list[dict[str, Any]]:
    """Runs to their end, several in one program, their figures and pages; and their results."""
    from cil_jax.platform import devices
    from cil_jax.report import trackers
    from cil_jax.report.terminal import Terminal, progress
    from cil_jax.training import lockstep
    from cil_jax.training.callbacks import CallbackList
    from cil_jax.training.loop import Run

    folders = [RunFolder(config.folder()) for config in configs]
    is_alone, runs = len(configs) == 1, []
    try:
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(progress(console))
            for config, folder in zip(configs, folders, strict=True):
                terminal = Terminal(console, "" if is_alone else folder.path.name, live)
                others = stack.enter_context(trackers.opened(config, terminal.say))
                runs.append(Run(config, folder, CallbackList([terminal, *others])))
            asked = stack.enter_context(signals.noted(STOPPING))
            for run in runs:
                run.stop_asked = asked
            results = [runs[0].go()] if is_alone else lockstep.go(runs)
        if asked():  # after the last step
            raise signals.Stopped(asked())
        if devices.is_first_process():
            for folder in folders:
                _draw(folder)
    except KeyboardInterrupt as stop:
        if not (any(folder.holds_a_run for folder in folders) and devices.is_first_process()):
            raise
        said = (str(stop) if is_alone else "") or "stopped"
        number = signals.exit_code(stop) - 128
        raise signals.Stopped(number, f"{said}; to continue: {how_to_continue}") from None
    return results


def _draw(folder: RunFolder) -> None:
    """The page of a run and then its figures."""
    from cil_jax import report

    try:
        with folder.writing():
            report.write_page(folder)
            report.draw(folder, lambda line: print(f"warning: {line}", file=sys.stderr))
    except UserError:
        raise
    except Exception as error:  # the run is done and saved
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"no report: {said}", file=sys.stderr)
        again = shlex.join(["python", "-m", "experiments.report", str(folder.path)])
        print(f"to try again: {again}", file=sys.stderr)


def run_members(
    config: Config, seeds: list[int] | None, n_orders: int | None, n_at_once: int = 1
) -> dict[str, Any]:
    """Runs what is not done of several members, and prints and writes the summary of all.

    Args:
      config: what they have in common; `out` is the folder of all.
      seeds, n_orders: see `cil_jax.storage.replicates.member_configs`.
      n_at_once: how many are trained in one program.

    Raises:
      UserError: before anything is run, if a member's folder does not allow it.
    """
    from cil_jax.storage import replicates

    output.need_not_be_shown()
    if config.coordinator:
        raise UserError("--coordinator is for a single run: leave out --seeds and --orders")
    found = replicates.member_configs(config, seeds, n_orders)
    for member in found:
        if not replicates.is_done(member):
            RunFolder(member.folder()).check(member)
    if config.fast:
        take_huge_pages(config.accelerator)
    start_accelerator(config.accelerator)

    from cil_jax import report
    from cil_jax.report import escaping

    console, missing = escaping.console(), []

    def say(number, member, more=""):
        title = f"member {number} of {len(found)}: {member.folder()}{more}"
        console.print(title, highlight=False, soft_wrap=True)

    for number, member in enumerate(found, start=1):
        if replicates.is_done(member):
            say(number, member, " is done")
            if not report.is_drawn(RunFolder(member.folder())):  # it was killed while it drew
                _draw(RunFolder(member.folder()))
        else:
            missing.append((number, member))
    while missing:
        group, missing = missing[:n_at_once], missing[n_at_once:]
        for number, member in group:
            say(number, member)
        _run_together([member for _, member in group], console, "the same command again")
    summary = replicates.summarize(replicates.finished_results(config)[0])
    file = replicates.write_summary(replicates.group_folder(config), summary)
    console.print(report.group_summary(summary))
    console.print(f"summary: {file}", soft_wrap=True, highlight=False)
    return summary
