"""Compare published results with ours, and reproduce them.

  cil-jax reproduce                      # show the tables, run nothing
  cil-jax reproduce icarl-pycil finetune-pycil --reduced    # run two rows small
  cil-jax reproduce --reduced --seeds 0,1,2 --fast    # every method, with standard deviations
  cil-jax reproduce icarl-paper --full   # run one row as published, on an accelerator
  cil-jax reproduce --full --preset-family pycil    # runs that differ in the method alone
  cil-jax reproduce --markdown           # write docs/results.md, run nothing

Runs are saved in runs/reproduce/full and runs/reproduce/reduced. Finished runs are not repeated,
with or without --fast, and interrupted runs are continued. The package has recorded results of
ours, which count as well; --record FOLDER adds those of a run.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_jax.app.command_line import (
    Parser,
    add_member_flags,
    check_several,
    check_writable,
    command_parser,
    guarded,
)
from cil_jax.app.launch import run_members
from cil_jax.errors import UserError
from cil_jax.files import writing
from cil_jax.settings.config import ACCELERATORS, help_of
from cil_jax.settings.declaring import flag

if TYPE_CHECKING:
    from cil_jax.report.published_results import Row


PAGE = "docs/results.md"
COMMAND = "cil-jax reproduce"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _reproduce(arguments))


def _parser() -> Parser:
    from cil_jax.report import published_results

    parser = command_parser("reproduce", __doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="RUN", help="name of a run, such as icarl-paper (default: all)"
    )
    protocols = parser.add_mutually_exclusive_group()
    for protocol, about in published_results.ABOUT.items():
        protocols.add_argument(
            f"--{protocol}",
            dest="protocol",
            action="store_const",
            const=protocol,
            help=f"run {about}",
        )
    parser.add_argument(
        "--preset-family",
        choices=published_results.FAMILIES,
        help="with --full: run the methods whose presets share the recipe of iCaRL's paper or "
        "of PyCIL with equal settings, so that they differ in the method alone; the table is that "
        "of cil-jax compare",
    )
    add_member_flags(parser)
    parser.add_argument(
        "--folder",
        default="runs/reproduce",
        metavar="DIR",
        help="folder of the runs (default: runs/reproduce)",
    )
    parser.add_argument(
        "--markdown",
        metavar="FILE",
        nargs="?",
        const="",
        help="also write the tables to FILE; without FILE, write docs/results.md from the results "
        "recorded in the package, whatever runs there are",
    )
    parser.add_argument(
        "--record",
        metavar="DIR",
        help="record the run in DIR, finished or not, as a result of the row given (with --full or "
        "--reduced); nothing is run",
    )
    parser.add_argument("--data-dir", metavar="DIR", help=help_of("data_dir"))
    parser.add_argument(
        "--accelerator", choices=ACCELERATORS, help=f"{help_of('accelerator')} (default: auto)"
    )
    parser.add_argument("--fast", action="store_true", default=None, help=help_of("fast"))
    return parser


def _reproduce(arguments: list[str] | None) -> None:
    from cil_jax.report import published_results

    flags = _parser().parse_args(arguments)
    if flags.record:
        if flags.preset_family:
            raise UserError("--record is for runs of one row: leave out --preset-family")
        _record(flags)
        return
    if flags.preset_family and flags.protocol != "full":
        raise UserError("--preset-family needs --full")
    if flags.markdown == "" and not flags.protocol:
        _write_page(Path(PAGE))
        return
    for name in ("seeds", "orders", "parallel_members", "data_dir", "accelerator", "fast"):
        if getattr(flags, name) is not None and not flags.protocol:
            raise UserError(f"{flag(name)} needs --full or --reduced: without them nothing is run")
    if flags.markdown == "":
        raise UserError("--markdown without a FILE runs nothing: leave out --full and --reduced")
    check_writable(flags.markdown)
    check_several(flags.parallel_members, bool(flags.seeds or flags.orders))
    if flags.preset_family:
        _run_family(flags)
        return
    protocols = [flags.protocol] if flags.protocol else list(published_results.PROTOCOLS)
    rows = {protocol: published_results.rows(flags.rows, protocol) for protocol in protocols}
    if flags.protocol:
        _run(rows[flags.protocol], flags)
    texts = _show({protocol: rows[protocol] for protocol in protocols if rows[protocol]}, flags)
    if flags.markdown:
        with writing.writing(flags.markdown):
            writing.replace_text(Path(flags.markdown), "\n\n".join(texts) + "\n")


def _record(flags: argparse.Namespace) -> None:
    """Adds a run to the results recorded in the package."""
    from cil_jax.report import published_results, reference
    from cil_jax.storage.run_folder import RunFolder

    if not flags.protocol or len(flags.rows) != 1:
        raise UserError("--record needs one row, such as icarl-paper, and --full or --reduced")
    (row, *_) = published_results.rows(flags.rows, flags.protocol) or [None]
    if row is None or not row.can_be_run:
        raise UserError(f"--{flags.protocol} has no row {flags.rows[0]} that can be run")
    config = published_results.config(row, flags.protocol, flags.folder)
    place = reference.record(RunFolder(flags.record), config, flags.protocol, row.run)
    print(f"recorded: {place}; now write docs/results.md: {COMMAND} --markdown")


def _write_page(file: Path) -> None:
    """Writes the page of recorded results."""
    from cil_jax.report import results_page

    check_writable(str(file))
    with writing.writing(file):
        writing.replace_text(file, results_page.text())
    print(f"page: {file}")


def _run(rows: list["Row"], flags: argparse.Namespace) -> None:
    """Runs what is not finished of the rows' runs, as the flags ask."""
    from cil_jax.report import published_results

    for name in flags.rows:
        if name not in {row.run for row in rows}:
            raise UserError(f"--{flags.protocol} has no row {name}: use --full")
    rows = [row for row in rows if row.can_be_run]
    if missing := sorted({*flags.rows} - {row.run for row in rows}):
        raise UserError(f"{missing[0]} can't be run: there is no such method or preset yet")
    overrides = _overrides(flags)
    for row in published_results.one_per_run(rows):
        config = published_results.config(row, flags.protocol, flags.folder, **overrides)
        run_members(config, flags.seeds, flags.orders, flags.parallel_members or 1)


def _overrides(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings of all runs that flags give."""
    return {
        "data_dir": flags.data_dir,
        "accelerator": flags.accelerator or "auto",
        "fast": bool(flags.fast),
    }


def _run_family(flags: argparse.Namespace) -> None:
    """Runs the methods of a preset family, and compares them in a table."""
    from cil_jax.report import comparison, escaping, groups, published_results

    configs = published_results.family_configs(
        flags.preset_family, flags.rows, flags.folder, **_overrides(flags)
    )
    for config in configs:
        run_members(config, flags.seeds, flags.orders, flags.parallel_members or 1)
    comparisons = groups.compare([config.folder() for config in configs])
    console = escaping.console()
    console.width = max(console.width, 130)
    for found in comparisons:
        console.print(comparison.table(found))
    if flags.markdown:
        with writing.writing(flags.markdown):
            writing.replace_text(Path(flags.markdown), comparison.as_markdown(comparisons))


def _show(rows: dict[str, list["Row"]], flags: argparse.Namespace) -> list[str]:
    """Prints the table of each protocol, the sources and the commands.

    Args:
      rows: the rows by protocol.
      flags: the flags of the command.

    Returns:
      The tables as Markdown.
    """
    from cil_jax import report
    from cil_jax.report import escaping, published_results

    console, texts = escaping.console(), []
    console.width = max(console.width, 170)  # in a narrow terminal, wrap rows rather than cut cells

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    commands = {
        protocol: [
            published_results.command(row, protocol, flags.folder)
            for row in published_results.one_per_run(of_protocol)
            if row.can_be_run
        ]
        for protocol, of_protocol in rows.items()
    }
    for protocol, of_protocol in rows.items():
        about = published_results.ABOUT[protocol]
        outcomes = published_results.outcomes(of_protocol, protocol, flags.folder)
        console.print(report.reproduction(outcomes, about))
        for folder in dict.fromkeys(path for _, ours, _ in outcomes for path in ours.others):
            say(f"left out, since its settings differ: {folder}")
        texts.append(report.reproduction_markdown(outcomes, about, commands[protocol]))
    for key, source in published_results.sources().items():
        say(f"{key}: {source}")
    for protocol in rows:
        say(f"commands, {protocol} protocol:")
        for command in commands[protocol]:
            say(f"  {command}")
    return texts
