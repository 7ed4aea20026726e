"""The measurements as a dictionary for JSON, and as a table for the terminal and Markdown."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cil_jax.benchmark.parts import Bench
from cil_jax.benchmark.rounds import Spread
from cil_jax.benchmark.settings import PROGRAMS
from cil_jax.platform.versions import versions

COLUMNS = (
    *("work", "time", "images/s", "GFLOP/s", "of peak", "PyTorch", "PyTorch / ours", "n"),
    *("compile", "cached", "memory"),
)

SCALE_COLUMNS = (
    *("classes", "tasks", "test images", "task 2", "last task", "its lines"),
    *("metrics.jsonl", "confusion.npz", "results.json", "report.html"),
)

# Environment variables that affect the speed.
ENVIRONMENT = ("OMP_WAIT_POLICY", "GLIBC_TUNABLES", "XLA_FLAGS")


SCALE_REMARK = (
    "More and more classes: whole runs of iCaRL on random grey pixels, 8 x 8, with ten training "
    "and two test images per class, one epoch per task and two exemplars per class. The time of a "
    "task excludes compilation, but includes writing all files and the nearest mean of all "
    "training data so far."
)


def report(bench: Bench, first_calls: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All measurements with the machine and the versions, as plain values for JSON.

    Args:
      bench: the benchmark, after measuring.
      first_calls: for each program, the result of `cil_jax.benchmark.parts.first_call` in a process
        with an empty compilation cache ("cold"), and in the next process ("cached").
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    rows = []
    for row in bench.rows:
        line = {name: _plain(value) for name, value in vars(row).items()}
        median = row.seconds.median
        line["images_per_second"] = row.images and row.images / median
        line["flop_per_second"] = row.flop / median
        line["first_call"] = first_calls.get(PROGRAMS.get(row.part, ""), {}) if row.is_whole else {}
        rows.append(line)
    return {
        "machine": {**bench.machine, "environment": environment},
        "versions": {**versions(), "torch": bench.torch_version},
        "dtype": (
            "float32, each library's default precision"
            if bench.settings.precision == "float32"
            else f"{bench.settings.precision} layers (PyTorch: autocast)"
        ),
        "settings": dataclasses.asdict(bench.settings),
        "matmul_flop_per_second": bench.best_matmul,
        "rows": rows,
        "scales": [dataclasses.asdict(scale) for scale in bench.scales],
        "ratios": {name: _plain(spread) for name, spread in bench.ratios.items()},
        "learner_bytes": bench.learner_bytes,
        "notes": list(bench.notes),
    }


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Spread) else value


def cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a row of `report`, one for each of COLUMNS."""
    peer = f"{_time(row['peer_seconds']['median'])} ({row['peer']})" if row["peer"] else "-"
    first = row["first_call"]
    compile_times = [f"{first[k]['compile_seconds']:.1f} s" for k in ("cold", "cached") if first]
    peak = first["cached"]["peak_bytes"] if first else None
    return [
        row["what"],
        _time(row["seconds"]["median"]),
        f"{row['images_per_second']:,.0f}" if row["images_per_second"] else "-",
        f"{row['flop_per_second'] / 1e9:,.1f}",
        f"{100 * row['share']['median']:.1f}%",
        peer,
        _ratio(row["faster"]) if row["faster"] else "-",
        str(row["seconds"]["n"]),
        *(compile_times or ("-", "-")),
        "-" if peak is None else _megabytes(peak),
    ]


def scale_cells(scale: Mapping[str, Any]) -> list[str]:
    """The cells of one of the "scales" of `report`, one for each of SCALE_COLUMNS."""
    counts = (f"{scale[name]:,}" for name in ("n_classes", "n_tasks", "test_images"))
    times = (_time(scale[name]) for name in ("second", "last"))
    sizes = (scale[name] for name in ("line", "metrics", "confusion", "results", "page"))
    return [*counts, *times, *(f"{size / 1e3:,.1f} kB" for size in sizes)]


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Notes on how the numbers were measured, and further results: one or two sentences each."""
    machine, versions, sizes = report["machine"], report["versions"], report["settings"]
    load = f", load {machine['load']} at the start" if machine["load"] is not None else ""
    is_cpu = machine["platform"] == "cpu"
    device = "the CPU" if is_cpu else f"one of {machine['devices']} x {machine['device']}"
    environment = "".join(f", {name}={value}" for name, value in machine["environment"].items())
    learner = ", ".join(f"{name} {_megabytes(n)}" for name, n in report["learner_bytes"].items())
    timed = [
        f"iCaRL, preset paper, {sizes['backbone']}, batch {sizes['batch_size']}, "
        f"{'--fast, ' if sizes['fast'] else ''}"
        f"{report['dtype']}; random pixels, except in the run. "
        f"Herding selects {sizes['herded']} images of each class.",
        f"Peak: {report['matmul_flop_per_second'] / 1e9:,.0f} GFLOP/s, the fastest matrix product "
        "measured; 'of peak' is relative to the matrix product in the same round.",
        "PyTorch works in a process of its own, by turns with ours: one waits while the other "
        "works. Times are medians of n rounds; each contestant is timed once per round. Ratios are "
        "taken within a round, with the lowest and the highest in brackets: above 1, ours is "
        "faster.",
        "Compile: time of the first call minus that of the second, in a separate process; cached: "
        "the same in the next process, which finds the compiled programs in the cache. Memory: "
        f"peak of that process, {'libraries included' if is_cpu else 'on the device'}.",
    ]
    return [
        f"{machine['cpu']}, {machine['cores']} cores{load}; computed on {device}{environment}.",
        "python {python}, jax {jax}, flax {flax}, torch {torch}.".format(**versions),
        *(timed if report["rows"] else []),
        *(f"{name[0].upper()}{name[1:]}: {_ratio(r)}." for name, r in report["ratios"].items()),
        *([f"The learner: {learner}."] if learner else []),
        *([SCALE_REMARK] if report["scales"] else []),
        *report["notes"],
    ]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """The tables for the terminal, one for each kind of measurement that was made."""
    shown = []
    for columns, rows in _contents(report):
        table = Table()
        for name in columns:
            table.add_column(name, justify="left" if name == "work" else "right")
        for row in rows:
            table.add_row(*row)
        shown.append(table)
    return shown


def markdown(report: Mapping[str, Any]) -> str:
    """The tables and the remarks as Markdown."""
    lines = []
    for columns, rows in _contents(report):
        rule = ["---" if name == "work" else "---:" for name in columns]
        lines += ["| " + " | ".join(line) + " |" for line in (columns, rule, *rows)] + [""]
    return "\n".join([*lines, *(f"- {line}" for line in remarks(report))]) + "\n"


def _contents(report: Mapping[str, Any]) -> list[tuple[Sequence[str], list[list[str]]]]:
    """The columns and the rows of each table that has a row."""
    all_tables = [
        (COLUMNS, [cells(row) for row in report["rows"]]),
        (SCALE_COLUMNS, [scale_cells(scale) for scale in report["scales"]]),
    ]
    return [(columns, rows) for columns, rows in all_tables if rows]


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.3g} ms"


def _ratio(spread: Mapping[str, float]) -> str:
    return "{median:.2f} ({low:.2f} to {high:.2f})".format(**spread)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
