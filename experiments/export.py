"""Writes the learner of a run as one file that needs only JAX.

  python -m experiments.export runs/icarl --out icarl.zip

The file holds a program, with its weights, that turns uint8 images into scores, the class names,
and the lines of Python that use both. It runs on CPUs, GPUs and TPUs.
"""

from cil_jax.accelerator import start_accelerator
from cil_jax.cli import command_parser, guarded, leave, warn


def main(arguments: list[str] | None = None) -> int:
    """The exit code of writing what the flags ask for."""
    return guarded(lambda: _export(arguments))


def _export(arguments: list[str] | None) -> None:
    parser = command_parser("export", __doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a run, or of a saved learner")
    parser.add_argument("--out", required=True, metavar="FILE", help="to be written, such as a.zip")
    parser.add_argument("--classifier", metavar="NAME", help="who answers (default: the run's own)")
    flags = parser.parse_args(arguments)
    start_accelerator("cpu")  # which is always there; the program is for all

    import cil_jax

    learner = cil_jax.load(flags.run, warn)
    use = cil_jax.portable.export(learner, flags.out, flags.classifier)
    print(f"{flags.out}: {len(learner.class_names)} classes. To use it (these lines are in it):\n")
    print(use, end="")


if __name__ == "__main__":
    leave(main())
