"""Export the trained classifier of a run as one file that needs only JAX.

  cil-jax export runs/icarl --out icarl.zip

The file contains a program with its weights, which turns uint8 images into scores; the class names;
and example code that uses both. The program runs on CPUs, GPUs and TPUs.
"""

from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import add_code_flags, command_parser, guarded, warn


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _export(arguments))


def _export(arguments: list[str] | None) -> None:
    parser = command_parser("export", __doc__)
    parser.add_argument("run", metavar="RUN", help="run folder, or folder of a saved learner")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write, such as a.zip")
    parser.add_argument(
        "--classifier", metavar="NAME", help="classifier to export (default: the method's own)"
    )
    add_code_flags(parser)
    flags = parser.parse_args(arguments)
    start_accelerator("cpu")  # always available; the exported program runs on all platforms

    import cil_jax
    from cil_jax.trained.export import export

    learner = cil_jax.load(flags.run, warn, method=flags.method, backbone=flags.backbone)
    example = export(learner, flags.out, flags.classifier)
    n_classes = len(learner.class_names)
    print(f"wrote {flags.out}, with {n_classes} classes. Example code, also in the file:\n")
    print(example, end="")
