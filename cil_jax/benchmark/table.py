"""What was measured, as a dictionary for JSON, and from that as a table for people."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from cil_jax import record
from cil_jax.benchmark.parts import Bench
from cil_jax.benchmark.settings import PROGRAMS

COLUMNS = (
    *("work", "time", "images/s", "GFLOP/s", "of peak", "PyTorch", "PyTorch / ours", "n"),
    *("compile", "cached", "memory"),
)

SCALE_COLUMNS = (
    *("classes", "tasks", "test images", "task 2", "last task", "its lines"),
    *("metrics.jsonl", "confusion.npz", "results.json", "report.html"),
)

ENVIRONMENT = ("OMP_WAIT_POLICY", "GLIBC_TUNABLES", "XLA_FLAGS")  # what speed depends on


SCALE_REMARK = (
    "Ever more classes: whole runs of iCaRL on random grey pixels, 8 x 8, ten images of a class to "
    "train on and two to test with, an epoch a task and two exemplars a class; seconds of a task "
    "without compiling, with all it writes, and with the nearest mean of all training data so far."
)


def report(bench: Bench, firsts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All that was measured and where; plain values.

    Args:
      bench: with its parts measured.
      firsts: by program "cold" and "cached", what `cil_jax.benchmark.parts.first_call` gave in a
        process with an empty cache of programs, and in the next.
    """
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    rows = []
    for row in bench.rows:
        line = {name: _plain(value) for name, value in vars(row).items()}
        median = row.seconds.median
        line["images_per_second"] = row.images and row.images / median
        line["flop_per_second"] = row.flop / median
        line["first_call"] = firsts.get(PROGRAMS[row.part], {}) if row.is_whole else {}
        rows.append(line)
    return {
        "machine": {**bench.machine, "environment": environment},
        "versions": {**record.versions(), "torch": bench.torch_version},
        "dtype": "float32, each library's default precision",
        "settings": dataclasses.asdict(bench.settings),
        "matmul_flop_per_second": bench.best_matmul,
        "rows": rows,
        "scales": [_plain(one) for one in bench.scales],
        "ratios": {name: _plain(spread) for name, spread in bench.ratios.items()},
        "learner_bytes": bench.learner_bytes,
        "notes": list(bench.notes),
    }


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of a report under COLUMNS."""
    peer = f"{_time(row['peer_seconds']['median'])} ({row['peer']})" if row["peer"] else "-"
    first = row["first_call"]
    compiling = [f"{first[k]['compile_seconds']:.1f} s" for k in ("cold", "cached") if first]
    peak = first["cached"]["peak_bytes"] if first else None
    return [
        row["what"],
        _time(row["seconds"]["median"]),
        f"{row['images_per_second']:,.0f}" if row["images_per_second"] else "-",
        f"{row['flop_per_second'] / 1e9:,.1f}",
        f"{100 * row['share']['median']:.1f}%",
        peer,
        _spread(row["faster"]) if row["faster"] else "-",
        str(row["seconds"]["n"]),
        *(compiling or ("-", "-")),
        "-" if peak is None else _megabytes(peak),
    ]


def scale_cells(one: Mapping[str, Any]) -> list[str]:
    """A run of a report's "scales" under SCALE_COLUMNS."""
    counts = (f"{one[name]:,}" for name in ("n_classes", "n_tasks", "test_images"))
    times = (_time(one[name]) for name in ("second", "last"))
    sizes = (one[name] for name in ("line", "metrics", "confusion", "results", "page"))
    return [*counts, *times, *(f"{size / 1e3:,.1f} kB" for size in sizes)]


def remarks(report: Mapping[str, Any]) -> list[str]:
    """Where and how it was measured, and what else came out; a sentence or two each."""
    machine, versions, sizes = report["machine"], report["versions"], report["settings"]
    load = f", load {machine['load']} at the start" if machine["load"] is not None else ""
    device = f"one of {machine['devices']} x {machine['device']}"
    device = "the CPU" if machine["platform"] == "cpu" else device
    environment = "".join(f", {name}={value}" for name, value in machine["environment"].items())
    own = ", ".join(f"{name} {_megabytes(n)}" for name, n in report["learner_bytes"].items())
    timed = [
        f"iCaRL, preset paper, {sizes['backbone']}, batch {sizes['batch_size']}, "
        f"{'--fast, ' if sizes['fast'] else ''}"
        f"{report['dtype']}; random pixels, but for the run. "
        f"Herding ranks {sizes['herded']} of each class.",
        f"Peak: {report['matmul_flop_per_second'] / 1e9:,.0f} GFLOP/s, the best matrix product "
        "seen; shares are of the product in the same round.",
        "Medians of n rounds, in each of which all were timed once, in turn. Ratios are taken "
        "round by round, lowest and highest in brackets: above 1 ours is faster than PyTorch.",
        "Compile: what the first call takes beyond the second, in a process of its own, and in the "
        "next one, which finds compiled programs in the cache. Memory: that process' peak, "
        f"{'of the device' if machine['platform'] != 'cpu' else 'libraries included'}.",
    ]
    return [
        f"{machine['cpu']}, {machine['cores']} cores{load}; computed on {device}{environment}.",
        "python {python}, jax {jax}, flax {flax}, torch {torch}.".format(**versions),
        *(timed if report["rows"] else []),
        *(f"{name[0].upper()}{name[1:]}: {_spread(r)}." for name, r in report["ratios"].items()),
        *([f"The learner: {own}."] if own else []),
        *([SCALE_REMARK] if report["scales"] else []),
        *report["notes"],
    ]


def tables(report: Mapping[str, Any]) -> list[Table]:
    """For the terminal."""
    found = []
    for columns, rows in _contents(report):
        shown = Table()
        for name in columns:
            shown.add_column(name, justify="left" if name == "work" else "right")
        for row in rows:
            shown.add_row(*row)
        found.append(shown)
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The tables and the remarks as Markdown."""
    lines = []
    for columns, rows in _contents(report):
        rule = ["---" if name == "work" else "---:" for name in columns]
        lines += ["| " + " | ".join(line) + " |" for line in (columns, rule, *rows)] + [""]
    return "\n".join([*lines, *(f"- {line}" for line in remarks(report))]) + "\n"


def _contents(report: Mapping[str, Any]) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Columns and rows of each table that has a row."""
    both = [
        (COLUMNS, [cells(row) for row in report["rows"]]),
        (SCALE_COLUMNS, [scale_cells(one) for one in report["scales"]]),
    ]
    return [(columns, rows) for columns, rows in both if rows]


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1000 * seconds:,.3g} ms"


def _spread(spread: Mapping[str, float]) -> str:
    return "{median:.2f} ({low:.2f} to {high:.2f})".format(**spread)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
