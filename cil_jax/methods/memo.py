"""MEMO, memory-efficient expandable model (Zhou et al. 2023, https://arxiv.org/abs/2205.13218).

The first stages of a network differ little from task to task, and take most of its memory for maps;
the last one is particular to a task. So each task adds a last stage only.
"""

import dataclasses

from cil_jax.methods.der import DER
from cil_jax.network import Network, SplitNetwork


@dataclasses.dataclass(frozen=True)
class MEMO(DER):
    """DER, with backbones that have all but their last stage in common.

        L = CE(z, y) + auxiliary_weight * CE(auxiliary z, y or "old")

    The features are those of all last stages side by side. Those of old tasks are frozen, while the
    shared stages go on learning, so that the features of frozen stages may drift.
    """

    @property
    def network(self) -> Network:
        return SplitNetwork(self.backbone, slots=self.slots)
