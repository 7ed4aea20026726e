"""SimpleCIL (Zhou et al. 2023, https://arxiv.org/abs/2303.07338): the nearest class mean.

The features are those of a network that is frozen after the first task; a class is the mean of its
features. The reference "ncm" of each run also averages over all images, but computes the means with
the newest network, which only a method that keeps all images can do.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from cil_jax import heads
from cil_jax.classifiers import Scale, sums_by_class
from cil_jax.heads import Cosine
from cil_jax.learner import Learner
from cil_jax.methods.frozen import Frozen
from cil_jax.network import Network
from cil_jax.selection import EXACT, unit
from cil_jax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SimpleCIL(Frozen):
    """Scores an image by the cosine between its features and the class mean.

    The outputs of the first task are cosines, too, so the features are trained for it.
    """

    @property
    def network(self) -> Network:
        return Network(self.backbone, Cosine())

    @property
    def headline(self) -> str:
        return "prototypes"

    def own(self, learner: Learner) -> Params:
        return {"classes": {"sums": jnp.zeros_like(learner.means)}, "total": {}}

    def added(
        self,
        learner: Learner,
        sums: dict[str, Any],
        features: Array,
        labels: Array,
        sign: int = 1,
    ) -> dict[str, Any]:
        """Adds the features of each class. Their sum has the direction of their mean."""
        total = sums["classes"]["sums"]
        total += sign * sums_by_class(features, labels, len(total))
        return {"classes": {"sums": total}, "total": {}}

    def scores(self, learner: Learner, features: Array) -> Array:
        means = unit(learner.own["classes"]["sums"])
        cosines = jnp.matmul(unit(features), means.T, precision=EXACT)
        return heads.restrict(cosines, 0, learner.n_seen)

    def scale(self, classifier: str) -> Scale:
        return Scale("cosine to the mean of the class", lambda scores: scores)
