"""Benchmark the parts of a run on this machine, beside PyTorch doing the same work if installed.

  cil-jax benchmark                         # all parts; takes some minutes
  cil-jax benchmark step herding            # two parts
  cil-jax benchmark --json benchmark.json   # save all numbers, for other tools

The parts are: step (one update with student, teacher and augmentation), epoch, herding, nme
(nearest-mean classification of 10,000 test images), run (a whole small run), and scale (seconds and
bytes per task in whole runs with 10, 100 and 1000 classes). Ours and PyTorch's are timed by turns,
each in a process of its own, except in scale, which measures ours only. Compile time and memory are
measured in separate processes.

One more part has to be named, as it takes from minutes to hours and needs CIFAR-100: shipped (a
whole run of PyCIL's iCaRL recipe in the reduced protocol, beside PyTorch as it is usually written,
with a DataLoader; time and accuracy).
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_jax.app.accelerator import start_accelerator, take_huge_pages
from cil_jax.app.command_line import Parser, check_writable, command_parser, guarded
from cil_jax.benchmark.settings import LONG_PARTS, PARTS, PROGRAMS, QUICK, Settings
from cil_jax.errors import UserError, nearest_name
from cil_jax.files import writing
from cil_jax.settings.config import ACCELERATORS, help_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _benchmark(sys.argv[1:] if arguments is None else arguments))


def _parser() -> Parser:
    parser = command_parser("benchmark", __doc__)
    add = parser.add_argument
    add(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"{', '.join(PARTS)} (default: these), or {LONG_PARTS[0]}",
    )
    add(
        "--backbone",
        metavar="NAME",
        help=f"network of every part except run (default: {Settings.backbone})",
    )
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"images per update (default: {Settings.batch_size})",
    )
    add("--precision", choices=("float32", "bfloat16"), help=help_of("precision"))
    add("--fast", action="store_true", help="measure updates as in a run with --fast")
    add(
        "--repeat",
        type=int,
        metavar="N",
        help=f"number of timing rounds (default: {Settings.repeat})",
    )
    limit = f"start no new round of a part after this time (default: {Settings.limit:g})"
    add("--limit", type=float, metavar="SECONDS", help=limit)
    add("--quick", action="store_true", help="use tiny sizes, to try the command out")
    add(
        "--no-torch", dest="torch", action="store_const", const=False, help="do not measure PyTorch"
    )
    add(
        "--no-torch-compile",
        dest="torch_compile",
        action="store_const",
        const=False,
        help="measure eager PyTorch only",
    )
    add(
        "--accelerator",
        choices=ACCELERATORS,
        default="auto",
        help=f"{help_of('accelerator')} (default: auto)",
    )
    add("--json", metavar="FILE", help="write all numbers to FILE")
    add("--markdown", metavar="FILE", help="write the table to FILE")
    add("--first-call", choices=PROGRAMS, help=argparse.SUPPRESS)  # of the separate processes
    return parser


def _benchmark(arguments: Sequence[str]) -> None:
    flags = _parser().parse_args(arguments)
    settings = _settings(flags)
    parts = list(dict.fromkeys(flags.parts)) or list(PARTS)
    for part in parts:
        if part not in (*PARTS, *LONG_PARTS):
            raise UserError(f"unknown part {part!r}{nearest_name(part, (*PARTS, *LONG_PARTS))}")
    check_writable(flags.json, flags.markdown)
    # By default, PyTorch's threads spin while they wait. That made it 3 to 15 times slower when
    # other processes used the same cores, which is no fair comparison. Read when OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave memory for PyTorch
    if settings.fast:
        take_huge_pages(flags.accelerator)
    if flags.first_call:
        start_accelerator(flags.accelerator)
        from cil_jax.benchmark.parts import first_call

        print(json.dumps(first_call(flags.first_call, settings)))
        return
    from cil_jax import models

    models.build(settings.backbone)  # raises if there is no such backbone
    # Before this process takes a device: not every kind can be shared by two processes.
    first_calls = _first_calls(parts, arguments)
    start_accelerator(flags.accelerator)

    from cil_jax.benchmark import table
    from cil_jax.benchmark.parts import Bench
    from cil_jax.report.escaping import console as plain_console

    bench = Bench(settings, _tell)
    with contextlib.closing(bench):
        for part in parts:
            bench.measure(part)
    report = table.report(bench, first_calls)
    console = plain_console(
        width=max(130, plain_console().width)
    )  # so that each row fits in a line
    for part_table in table.tables(report):
        console.print(part_table)
    for line in table.remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for file, text in (
        (flags.json, json.dumps(report, indent=1) + "\n"),
        (flags.markdown, table.markdown(report)),
    ):
        if file:
            with writing.writing(file):
                writing.replace_text(Path(file), text)


def _settings(flags: argparse.Namespace) -> Settings:
    names = {field.name for field in dataclasses.fields(Settings)}
    given = {k: v for k, v in vars(flags).items() if k in names and v is not None}
    return Settings(**{**(QUICK if flags.quick else {}), **given})


def _first_calls(parts: Sequence[str], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The cost of each program's first call, with an empty compilation cache and a filled one."""
    first_calls: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part not in PROGRAMS or PROGRAMS[part] in first_calls:
            continue
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-m", "cil_jax", "benchmark", *arguments]
            command += ["--first-call", part]
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
            for state in ("cold", "cached"):
                _tell(f"{part}: first call in a separate process, {state}")
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["the process was killed"])[-1]
                    raise UserError(reason.removeprefix("error: "))
                cost = json.loads(done.stdout.splitlines()[-1])
                first_calls.setdefault(PROGRAMS[part], {})[state] = cost
    return first_calls


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
