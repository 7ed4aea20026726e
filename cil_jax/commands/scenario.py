"""Show how many images of each class a scenario file gives to each task, without training.

  cil-jax scenario blurry.yaml                                # the table, for CIFAR-100 in 10 tasks
  cil-jax scenario blurry.yaml --tasks b50-10 --figure x.png  # and a heat map, classes by tasks

The file is that of --scenario of the methods.
"""

from pathlib import Path
from typing import Any

from cil_jax.app.accelerator import start_accelerator
from cil_jax.app.command_line import check_writable, command_parser, guarded
from cil_jax.errors import UserError
from cil_jax.files import writing
from cil_jax.settings import loading, orders
from cil_jax.settings.config import Config, help_of
from cil_jax.settings.declaring import flag

SETTINGS = (
    *("dataset", "data_dir", "image_size", "tasks", "task_size", "first_task", "classes"),
    *("order", "order_seed"),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code. `arguments` replace those of the command line."""
    return guarded(lambda: _scenario(arguments))


def _scenario(arguments: list[str] | None) -> None:
    parser = command_parser("scenario", __doc__)
    parser.add_argument("file", metavar="FILE", help="YAML file of a scenario")
    for name in SETTINGS:
        field = Config.__dataclass_fields__[name]
        number = {"type": int, "metavar": "N"} if "int" in str(field.type) else {}
        words: dict[str, Any] = {"metavar": field.metadata.get("metavar", "NAME"), **number}
        help = help_of(name).replace("%", "%%")
        if "(default: " not in help:
            help += f" (default: {field.default})"
        parser.add_argument(flag(name), help=help, **words)
    parser.add_argument("--figure", metavar="FILE", help="draw classes by tasks to FILE")
    flags = vars(parser.parse_args(arguments))
    figure = flags.pop("figure")
    check_writable(figure)
    given = {name: value for name, value in flags.items() if value is not None and name != "file"}
    config = Config(**loading.over(given, ""), scenario=flags["file"])
    start_accelerator("cpu")

    from cil_jax.report import escaping, tables
    from cil_jax.training.build import dataset_of, scenario_of

    scenario = scenario_of(config, dataset_of(config))
    results = {
        "dataset": config.dataset,
        "task_sizes": scenario.task_sizes,
        "order": orders.describe(config.order, config.order_seed),
        "scenario": str(scenario.stream),
    }
    about = tables.protocol(results)
    counts = scenario.counts()
    escaping.console().print(tables.class_counts(counts, scenario.bounds, about))
    if figure:
        _draw(counts, about, figure)


def _draw(counts: Any, about: str, file: str) -> None:
    """Writes the heat map, in the format that the file's name ends in; PNG if in none."""
    from cil_jax.report.figure_style import save, styled
    from cil_jax.report.matrix_figures import class_counts

    try:
        with styled(about), writing.writing(file), writing.replaced(file) as out:
            save(class_counts(counts, about), out, Path(file).suffix[1:] or "png")
    except ValueError as error:  # an unknown format
        raise UserError(f"can't write {file}: {error}") from error
