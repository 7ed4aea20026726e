"""Compare runs in a table for each protocol and, if you like, on a page and in figures.

  cil-jax compare runs/*                        # the table
  cil-jax compare runs/* --page compare.html    # curves and tables on one page
  cil-jax compare runs/* --latex table.tex --markdown table.md --csv table.csv

Runs with the same method, preset and settings form a group, which is shown as mean and standard
deviation over class orders or seeds. Groups with the same data, tasks and class orders share a
table. Folders without a finished run are left out, and listed.
"""

import sys
from pathlib import Path

from cil_jax.app.command_line import check_writable, command_parser, guarded
from cil_jax.files import writing
from cil_jax.report import budgets, comparison, escaping, groups
from cil_jax.report.groups import compare, published_lines

FORMATS = {
    "csv": comparison.as_csv,
    "latex": comparison.as_latex,
    "markdown": comparison.as_markdown,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _compare(sys.argv[1:] if arguments is None else arguments))


def _compare(arguments: list[str]) -> None:
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, folder of a group of runs, or reference:NAME for results recorded in the "
        "package, such as reference:full/icarl-paper",
    )
    parser.add_argument(
        "--common-orders",
        action="store_true",
        help="use only the class orders that all groups have",
    )
    for name in FORMATS:
        parser.add_argument(f"--{name}", metavar="FILE", help=f"also write the table as {name}")
    parser.add_argument("--page", metavar="FILE", help="write a self-contained HTML page")
    parser.add_argument(
        "--figure",
        metavar="FILE",
        help="plot the accuracy on all classes seen to FILE, such as x.png, x.pdf or x.svg; "
        "further protocols go to x-2.png and so on",
    )
    flags = parser.parse_args(arguments)
    check_writable(flags.page, flags.figure, *(getattr(flags, name) for name in FORMATS))
    found = compare(flags.runs, flags.common_orders)
    console = escaping.console()
    console.width = max(console.width, 130)  # in a narrow terminal, wrap rows rather than cut cells
    for one in found:
        if one is not found[0]:
            console.print()
        console.print(comparison.table(one))
        if note := comparison.differing(one):
            console.print(f"{note}.", soft_wrap=True, highlight=False, markup=False)
        if curves := budgets.curves(one.groups):
            console.print(budgets.table(curves))
    if groups.differ_in_orders(found):
        console.print(
            "Some tables differ in the class orders only: --common-orders compares runs of the "
            "orders that all groups have.",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    for path, reason in found[0].left_out:
        console.print(f"left out: {path} {reason}", soft_wrap=True, highlight=False, markup=False)
    for name, made in FORMATS.items():
        if file := getattr(flags, name):
            with writing.writing(file):
                writing.replace_text(Path(file), made(found))
    if flags.page:
        with writing.writing(flags.page):
            comparison.write_comparisons(found, Path(flags.page), arguments)
    if flags.figure:
        from cil_jax.report import figures  # needs matplotlib, which is optional
        from cil_jax.report.figure_style import write

        path = Path(flags.figure)
        for number, one in enumerate(found, start=1):
            runs = {group.name: group.summary for group in one.groups}
            lines = {group.name: published_lines(group, one.seen) for group in one.groups}
            file = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            write(figures.seen_accuracy_of_groups(runs, lines), str(file))
