"""What methods that learn labels share: cross-entropy, or a binary classifier per output."""

import dataclasses
from typing import Any, ClassVar

from cil_jax import heads, losses
from cil_jax.classifiers import PROBABILITY, PROBABILITY_EACH, Scale
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, Method
from cil_jax.settings.declaring import POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Classification(Method):
    """Trains all open outputs on labels; a subclass says on which images, and what else it does.

    Attributes:
      objective: "softmax" for cross-entropy; "sigmoid" for a binary classifier per output.
      divisor: constant that the summed sigmoid loss is divided by.
    """

    objective: str = setting(
        "softmax",
        "softmax: cross-entropy; sigmoid: binary cross-entropy of every output",
        choices=("softmax", "sigmoid"),
    )
    divisor: float = setting(
        100.0,
        "divisor of the sigmoid loss, which is summed over the outputs (--objective sigmoid)",
        bound=POSITIVE,
    )

    parts: ClassVar[tuple[str, ...]] = ("classification",)

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        return set() if config.objective == "sigmoid" else {"divisor"}

    def scale(self, classifier: str) -> Scale:
        return PROBABILITY_EACH if self.objective == "sigmoid" else PROBABILITY

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        loss = self.classification(output.logits, batch.labels, self.n_open(learner))
        return loss, ({"classification": loss}, output)

    def classification(
        self, logits: Array, labels: Array, n_open: Array, first: int | Array = 0
    ) -> Array:
        """Computes the loss of logits [B, room] on labels [B]; a scalar.

        Args:
          logits: of the network in training.
          labels: the classes of the images.
          n_open: outputs n_open and above are ignored.
          first: outputs below are left out of the softmax; they count among the sigmoids.
        """
        if self.objective == "sigmoid":
            return losses.sigmoid_classification(logits, labels, n_open, self.divisor)
        return losses.cross_entropy(heads.restrict(logits, first, n_open), labels)
