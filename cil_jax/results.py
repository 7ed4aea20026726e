"""What results.json holds: how a run went, and all that is needed to say whose numbers they are."""

import dataclasses
from typing import Any

import jax

from cil_jax import machine, members, methods, metrics, recipes
from cil_jax.assemble import data_seed, schedule_of
from cil_jax.config import Config, UserError
from cil_jax.data.scenario import Scenario
from cil_jax.engine import Engine
from cil_jax.learner import Learner, n_bytes

NOT_CHANGES = (  # settings that results tell under other names, and those that change no method
    *("dataset", "classes", "task_size", "first_task", "order", *members.SEEDS),
    *("backbone", "epochs", "first_epochs", "memory", *members.ONLY_REPORTED),
)


def changed(config: Config) -> dict[str, Any]:
    """Settings in which a run is not what its preset's name says, under their flags' names.

    Without a preset it is held against the defaults. `NOT_CHANGES` are left out, and settings
    without effect on the method.
    """
    try:
        named = recipes.preset(config.method, config.preset) if config.preset else None
    except UserError:  # a name given in Python: what it stands for is not known
        return {}
    here, there = config.decisive(), (named or Config(method=config.method)).decisive()
    silent = {*NOT_CHANGES, *(name.rstrip("_") for name in methods.unused_settings(config))}
    differing = [key for key in here if here[key] != there[key] and key not in silent]
    # What the preset says of the first task alone is set aside by saying it of all.
    keys = [key.removeprefix("first_") if here[key] is None else key for key in differing]
    return {key: here[key] for key in keys}


def results_of(
    config: Config,
    scenario: Scenario,
    engine: Engine,
    learner: Learner,
    history: dict[str, Any],
) -> dict[str, Any]:
    """What results.json holds after the tasks learned so far.

    Args:
      config: the settings.
      scenario: all tasks.
      engine: whose method learns.
      learner: between two tasks.
      history: of the run so far: `scores` by classifier, `seconds` by kind of work, `peak_bytes`
        of memory and `data_sha256`.
    """
    method, n_seen, own = engine.method, int(learner.n_seen), n_bytes(learner)
    sizes = jax.tree.map(lambda x: x.size, learner.weights.params)
    n_features = learner.means.shape[1]
    n_images = [scenario.n_test_images(t) for t in range(len(scenario.task_sizes))]
    return {
        "method": config.method,
        "preset": config.preset,
        "changed": changed(config),
        "dataset": config.dataset,
        "data_sha256": history["data_sha256"],
        "order": f"seeded {config.order_seed}" if config.order == "seeded" else config.order,
        "backbone": config.backbone,
        "epochs": [schedule_of(config, t).epochs for t in range(len(scenario.task_sizes))],
        "exemplars": method.memory_size or 0,
        "keeps_all_data": method.keeps_all_data,
        "class_order": list(scenario.class_order),
        "class_names": list(scenario.class_names),
        "image_shape": list(learner.image_shape),
        "augmentation": dataclasses.asdict(engine.augmentation),
        "task_sizes": list(scenario.task_sizes),
        "seeds": {"order": config.order_seed, "init": config.seed, "data": data_seed(config)},
        "classifiers": {
            name: metrics.summarize(
                [one["task_accuracy"] for one in scores],
                n_images,
                task_aware=[one["task_aware"] for one in scores],
                top5=[one["top5"] for one in scores],
            )
            for name, scores in history["scores"].items()
        },
        "headline": method.headline,
        "uses_all_data": [name for name in metrics.USES_ALL_DATA if name in history["scores"]],
        "memory_bytes": own["exemplars"],
        "memory": {**own, "peak": history["peak_bytes"]},
        "parameters": sum(jax.tree.leaves(sizes["backbone"])) + n_seen * (n_features + 1),
        "seconds": {k: round(v, 3) for k, v in history["seconds"].items()},
        "machine": {k: v for k, v in machine.describe().items() if k != "load"},
    }
