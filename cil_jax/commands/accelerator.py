"""Measure and run what matters most on an accelerator that is at hand for a short time.

  cil-jax accelerator                    # on a GPU, in 15 minutes
  cil-jax accelerator --minutes 60
  cil-jax accelerator --tiny --accelerator cpu     # small, to try it out

The stages are, in this order: check (the device, and a run on digits), step, herding and evaluation
(see `cil-jax benchmark`), icarl (the paper's iCaRL on CIFAR-100, whole), and orders (ten class
orders of it in one program). After each stage, report.md and report.json in --out are up to date,
and the stage's output is in NAME.log. The same command again skips what is done and continues a run
that was stopped. At the end of the time, the run in progress is saved.

No XLA flag is set. Those that you set in XLA_FLAGS are recorded with each stage.
"""

from cil_jax.app.command_line import command_parser, guarded
from cil_jax.benchmark.stages import STAGES, Stages
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings.config import ACCELERATORS, help_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _accelerator(arguments))


def _accelerator(arguments: list[str] | None) -> None:
    parser = command_parser("accelerator", __doc__)
    add = parser.add_argument
    add("stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)} (default: all)")
    add("--out", default="runs/accelerator", metavar="DIR", help="folder (default: %(default)s)")
    add("--minutes", type=float, default=15.0, metavar="N", help="time (default: %(default)g)")
    add("--tiny", action="store_true", help="use tiny sizes and digits, to try the command out")
    add(
        "--accelerator",
        choices=ACCELERATORS,
        default="gpu",
        help=f"{help_of('accelerator')} (default: %(default)s)",
    )
    add("--data-dir", metavar="DIR", help=help_of("data_dir").replace("%", "%%"))
    flags = parser.parse_args(arguments)
    for name in flags.stages:
        if name not in STAGES:
            raise UserError(f"unknown stage {name!r}{nearest_name(name, STAGES)}")
    if flags.minutes <= 0:
        raise UserError(f"--minutes is {flags.minutes:g}; it must be above 0")
    stages = Stages(flags.out, flags.accelerator, flags.tiny, flags.data_dir)
    failed = stages.run(flags.stages or list(STAGES), 60 * flags.minutes)
    print(f"report: {stages.report_file}")
    if failed:
        raise UserError(f"failed: {', '.join(failed)}; see the logs in {flags.out}")
