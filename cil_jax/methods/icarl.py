"""iCaRL (Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725), and the paper's hybrids.

New outputs are trained on the labels, old outputs on the old network's outputs, for new images and
exemplars alike. The prediction is the class with the nearest mean of exemplars; see
`cil_jax.methods.rehearsal` for the memory.
"""

import dataclasses

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.distillation import Distillation
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class ICaRL(Rehearsal, Distillation):
    """Distillation on new images and exemplars, and their nearest-mean classifier.

    objective "sigmoid" is the paper's: the sum over outputs of their binary cross-entropy,

        L = 1 / divisor * (sum of BCE(z_c, s_c) over old c + sum of BCE(z_c, y_c) over new c),

    where s_c is the sigmoid of the old network's output. "softmax" is PyCIL's, cross-entropy over
    all open outputs plus lambda * distillation at a temperature. distill "none" gives hybrid 2
    (with answer "nme") and hybrid 3 (with answer "linear"); distillation with answer "linear" is
    hybrid 1.
    """

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        if not self.is_icarls:
            return self.with_distillation(learner, batch, output)
        n_open, old = self.n_open(learner), self.teacher(learner, batch).logits
        parts = losses.icarl(output.logits, batch.labels, old, learner.n_old, n_open, self.divisor)
        return parts["classification"] + parts["distillation"], (parts, output)
