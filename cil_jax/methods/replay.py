"""Replay: finetuning on the new images and the exemplars together."""

import dataclasses

from cil_jax.methods.finetune import Finetune
from cil_jax.methods.rehearsal import Rehearsal


@dataclasses.dataclass(frozen=True)
class Replay(Rehearsal, Finetune):
    """Classification loss over all open outputs, on new images and exemplars."""
