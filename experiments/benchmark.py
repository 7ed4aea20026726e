"""How fast this machine is at the work of a run, and PyTorch, where it is there, at the same work.

  python -m experiments.benchmark                         # all parts, for some minutes
  python -m experiments.benchmark step herding            # an update; choosing exemplars
  python -m experiments.benchmark --json benchmark.json   # all numbers, for other tools

Parts: step (an update with student, teacher and augmentation), epoch, herding, nme (answers to
10,000 test images), run (a whole small one): ours and PyTorch's are timed by turns. What a first
call takes, and memory, are measured in processes of their own. And scale: seconds and bytes of a
task in whole runs of 10, 100 and 1000 classes, ours alone.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_jax import files
from cil_jax.accelerator import start_accelerator, take_huge_pages
from cil_jax.benchmark.settings import PARTS, PROGRAMS, QUICK, Settings
from cil_jax.cli import Parser, check_writable, command_parser, guarded, leave
from cil_jax.config import ACCELERATORS, UserError, nearest_name


def main(arguments: list[str] | None = None) -> int:
    """The exit code of measuring what the flags ask for."""
    return guarded(lambda: _benchmark(sys.argv[1:] if arguments is None else arguments))


def _parser() -> Parser:
    parser = command_parser("benchmark", __doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all where none is named")
    add("--backbone", metavar="NAME", help=f"network of all but the run ({Settings.backbone})")
    add("--batch-size", type=int, metavar="N", help=f"images an update ({Settings.batch_size})")
    add("--fast", action="store_true", help="updates as in a run with --fast")
    add("--repeat", type=int, metavar="N", help=f"rounds of timing ({Settings.repeat})")
    limit = f"begin no further round of a part after this ({Settings.limit:g})"
    add("--limit", type=float, metavar="SECONDS", help=limit)
    add("--quick", action="store_true", help="everything tiny, to see that it works")
    add("--no-torch", dest="torch", action="store_const", const=False, help="leave PyTorch out")
    add(
        "--no-torch-compile",
        dest="torch_compile",
        action="store_const",
        const=False,
        help="eager PyTorch only",
    )
    add("--accelerator", choices=ACCELERATORS, default="auto", help="(auto)")
    add("--json", metavar="FILE", help="write all numbers to FILE")
    add("--markdown", metavar="FILE", help="write the table to FILE")
    add("--first-call", choices=PROGRAMS, help=argparse.SUPPRESS)  # what a process of its own does
    return parser


def _benchmark(arguments: Sequence[str]) -> None:
    flags = _parser().parse_args(arguments)
    settings = _settings(flags)
    parts = list(dict.fromkeys(flags.parts)) or list(PARTS)
    for part in parts:
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}{nearest_name(part, PARTS)}")
    check_writable(flags.json, flags.markdown)
    # PyTorch's threads spin while they wait, which made it 3 to 15 times slower where other
    # processes wanted the same cores: no fair comparison. Read when OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some as well
    if settings.fast:
        take_huge_pages(flags.accelerator)
    if flags.first_call:
        start_accelerator(flags.accelerator)
        from cil_jax.benchmark.parts import first_call

        print(json.dumps(first_call(flags.first_call, settings)))
        return
    from cil_jax import models

    models.build(settings.backbone)  # refuses a name that is none
    # Before a device is taken here, since not every kind can be shared by two processes.
    firsts = _first_calls(parts, arguments)
    start_accelerator(flags.accelerator)

    from cil_jax.benchmark import table
    from cil_jax.benchmark.parts import Bench
    from cil_jax.text import console as plain_console

    bench = Bench(settings, _tell)
    for part in parts:
        bench.measure(part)
    report = table.report(bench, firsts)
    console = plain_console(width=max(130, plain_console().width))  # a row in a line
    for part_table in table.tables(report):
        console.print(part_table)
    for line in table.remarks(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for file, text in (
        (flags.json, json.dumps(report, indent=1) + "\n"),
        (flags.markdown, table.markdown(report)),
    ):
        if file:
            with files.writing(file):
                files.replace_text(Path(file), text)


def _settings(flags: Any) -> Settings:
    named = {field.name for field in dataclasses.fields(Settings)}
    given = {k: v for k, v in vars(flags).items() if k in named and v is not None}
    return Settings(**{**(QUICK if flags.quick else {}), **given})


def _first_calls(parts: Sequence[str], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each program's first call takes, without and with compiled programs in the cache."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part not in PROGRAMS or PROGRAMS[part] in found:
            continue
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, "-m", "experiments.benchmark", *arguments]
            command += ["--first-call", part]
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
            for state in ("cold", "cached"):
                _tell(f"{part}: a process of its own, {state}")
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
                    raise UserError(f"{reason.removeprefix('error: ')}")
                first = json.loads(done.stdout.splitlines()[-1])
                found.setdefault(PROGRAMS[part], {})[state] = first
    return found


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave(main())
