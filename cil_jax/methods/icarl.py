"""iCaRL (Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725), and the paper's hybrids.

The loss is `cil_jax.losses.icarl`: new outputs are trained on the labels, old outputs on the old
network's sigmoids, for new images and exemplars alike. The prediction is the class with the nearest
mean of exemplars.
"""

import dataclasses

from cil_jax.methods.lwf import LwF
from cil_jax.methods.rehearsal import Rehearsal


@dataclasses.dataclass(frozen=True)
class ICaRL(Rehearsal, LwF):
    """Distillation as in LwF.MC, with exemplars and their nearest-mean classifier.

    `LwF._parts` computes the loss.

    objective "sigmoid" is the paper's; "softmax" is PyCIL's, cross-entropy over all open outputs
    plus distillation at a temperature. distill "none" gives hybrid 2 (with answer "nme") and hybrid
    3 (with answer "linear"); distillation with answer "linear" is hybrid 1.
    """
