"""Replay: finetuning on the new images and the exemplars together, and nothing else."""

import dataclasses

from cil_jax.methods.finetune import Finetune
from cil_jax.methods.rehearsal import Rehearsal


@dataclasses.dataclass(frozen=True)
class Replay(Rehearsal, Finetune):
    """The labels of new images and exemplars, over all open outputs."""
