"""Reference results: our own runs on CIFAR-100, recorded in the package.

reference/PROTOCOL/RUN/MEMBER/
  config.yaml, results.json, metrics.jsonl   of a run; see `cil_jax.storage.run_folder`

PROTOCOL is "full" or "reduced", and RUN the name of a row of published results, such as
"icarl-paper". A run under way is recorded with the tasks that it has learned so far.
"""

import json
from importlib import resources
from pathlib import Path

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import writing
from cil_jax.settings import orders
from cil_jax.settings.config import Config
from cil_jax.storage import replicates
from cil_jax.storage.run_folder import RunFolder
from cil_jax.storage.schemas import n_learned

FOLDER = Path(str(resources.files("cil_jax.report"))) / "reference"
PREFIX = "reference:"  # of the names that stand for recorded runs in place of paths


def names() -> list[str]:
    """The recorded groups of runs, such as "full/icarl-paper"."""
    return sorted(f"{path.parent.name}/{path.name}" for path in FOLDER.glob("*/*/"))


def group(protocol: str, run: str) -> Path:
    """The folder of a recorded group; it need not exist."""
    return FOLDER / protocol / run


def named(name: str) -> Path:
    """The folder that a name such as "reference:full/icarl-paper" stands for.

    Raises:
      UserError: if nothing of this name is recorded.
    """
    known = names()
    word = name.removeprefix(PREFIX)
    if word not in known:
        hint = nearest_name(word, known) if known else "; nothing is recorded"
        raise UserError(f"no reference results {word!r}{hint}")
    return FOLDER / word


def record(folder: RunFolder, config: Config, protocol: str, run: str) -> Path:
    """Records a run: copies its settings, its results and its measurements so far.

    Args:
      folder: the run folder; the run may still be training.
      config: the settings that the run must have, apart from seeds and class order.
      protocol, run: see above.

    Returns:
      The folder of the copies.

    Raises:
      UserError: if the run has no results or other settings, or the folder can't be written.
    """
    if differences := replicates.differences(folder, config):
        words = "; ".join(f"{k} is {a}, not {b}" for k, (a, b) in differences.items())
        raise UserError(f"{folder.path} is not a run of {run}, {protocol} protocol: {words}")
    results, settings = folder.results(), folder.settings()
    order = orders.slug(str(settings["order"]), results["seeds"]["order"])
    copy = RunFolder(group(protocol, run) / f"{order}-seed{results['seeds']['init']}")
    lines = [line for line in folder.measurements() if line["task"] < n_learned(results)]
    with copy.writing():
        writing.make_folder(copy.path)
        writing.replace_text(copy.config_file, folder.config_file.read_text())
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        writing.replace_text(copy.metrics_file, text)
        copy.write_results(results)
    return copy.path
