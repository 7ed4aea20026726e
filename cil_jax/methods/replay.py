"""Replay: finetuning on the new images and the exemplars together."""

import dataclasses

from cil_jax.methods.classification import Classification
from cil_jax.methods.rehearsal import Rehearsal


@dataclasses.dataclass(frozen=True)
class Replay(Rehearsal, Classification):
    """Classification loss over all open outputs, on new images and exemplars."""
