"""The content of results.json: the accuracies of a run, and the facts needed to interpret them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cil_jax import methods, metrics
from cil_jax.data.scenario import Scenario
from cil_jax.errors import UserError
from cil_jax.learner import Learner, n_bytes
from cil_jax.methods.plan import Train
from cil_jax.network import n_parameters_in_use
from cil_jax.platform import environment
from cil_jax.settings import loading, orders
from cil_jax.settings.config import Config
from cil_jax.storage import replicates
from cil_jax.storage.schemas import AugmentationFacts, ClassifierSummary, Results
from cil_jax.training.build import data_seed, schedule_of
from cil_jax.training.engine import Engine

# Settings that have an entry of their own in results.json, or that do not change the method.
TASKS = ("classes", "tasks", "task_size", "first_task")
NOT_CHANGES = (
    *("dataset", "scenario", "validation", *TASKS),
    *replicates.SEEDS,
    *("backbone", "epochs", "first_epochs", "memory", "augmentation", *replicates.ONLY_REPORTED),
)


def changed(config: Config) -> dict[str, Any]:
    """The settings of a run that differ from its preset, under the names of their flags.

    A run without a preset is compared with the defaults. Settings in `NOT_CHANGES`, and settings
    that the method does not use, are left out. Settings of the reduced protocol are named together,
    as protocol "reduced", if the run has all of them; its tasks may have another size.
    """
    of_protocol = loading.protocol_values("reduced")
    reduced = all(
        getattr(config, name) == value for name, value in of_protocol.items() if name not in TASKS
    )
    overrides = of_protocol if reduced else {}
    try:
        named = loading.preset(config.method, config.preset, **overrides) if config.preset else None
    except UserError:  # a name given in Python need not be that of a preset
        return {}
    settings, expected = config.decisive(), (named or type(config)(method=config.method)).decisive()
    ignored = {*NOT_CHANGES, *(name.rstrip("_") for name in methods.unused_settings(config))}
    differing = [key for key in settings if settings[key] != expected[key] and key not in ignored]
    # Setting epochs also resets the first_epochs of the preset to None. Name only epochs then.
    keys = [key.removeprefix("first_") if settings[key] is None else key for key in differing]
    protocol = {"protocol": "reduced"} if reduced and named else {}
    return protocol | {key: settings[key] for key in keys}


def results_of(
    config: Config,
    scenario: Scenario,
    engine: Engine,
    learner: Learner,
    history: Mapping[str, Any],
) -> Results:
    """The content of results.json after the tasks learned so far.

    Args:
      config: the settings of the run.
      scenario: the tasks of the run.
      engine: the compiled programs and the method of the run.
      learner: the learner, between two tasks.
      history: the measurements so far; a `cil_jax.storage.schemas.History`.
    """
    method, n_seen, learner_bytes = engine.method, int(learner.n_seen), n_bytes(learner)
    n_images = [scenario.n_test_images(t) for t in range(len(scenario.task_sizes))]
    results: Results = {
        "method": config.method,
        "preset": config.preset,
        "changed": changed(config),
        "dataset": config.dataset,
        "data_sha256": history["data_sha256"],
        "order": orders.describe(config.order, config.order_seed),
        "backbone": config.backbone,
        "epochs": [_epochs(config, method, t) for t in range(len(scenario.task_sizes))],
        "exemplars": method.memory_size or 0,
        "keeps_all_data": method.keeps_all_data,
        "class_order": list(scenario.class_order),
        "class_names": list(scenario.class_names),
        "image_shape": list(learner.image_shape),
        "augmentation": AugmentationFacts(**dataclasses.asdict(engine.augmentation)),
        "task_sizes": list(scenario.task_sizes),
        "seeds": {"order": config.order_seed, "init": config.seed, "data": data_seed(config)},
        "classifiers": {
            name: ClassifierSummary(
                **metrics.summarize(
                    [evaluation["task_accuracy"] for evaluation in scores],
                    n_images,
                    task_aware=[evaluation["task_aware"] for evaluation in scores],
                    top5=[evaluation["top5"] for evaluation in scores],
                )
            )
            for name, scores in history["scores"].items()
        },
        "headline": method.headline,
        "uses_all_data": [name for name in metrics.USES_ALL_DATA if name in history["scores"]],
        "memory_bytes": learner_bytes["exemplars"],
        "memory": {**learner_bytes, "peak": history["peak_bytes"]},
        "parameters": n_parameters_in_use(learner.weights, n_seen),
        "seconds": {kind: round(seconds, 3) for kind, seconds in history["seconds"].items()},
        "machine": environment.describe()["machine"],
    }
    if config.validation is not None:
        results["validation"] = config.validation
    if about := str(scenario.stream):
        results["scenario"] = about
    return results


def _epochs(config: Config, method: methods.Method, task: int) -> int:
    """Returns the epochs of a task by its settings; 0 if its plan has no training."""
    trains = any(isinstance(step, Train) for step in method.plan(is_first=task == 0))
    return schedule_of(config, task).epochs if trains else 0
