"""ER, experience replay (Chaudhry et al. 2019, https://arxiv.org/abs/1902.10486).

Each batch of new images is joined by as many exemplars, drawn at random from a memory that is a
uniform sample of all images so far. The loss is the mean cross-entropy over both.
"""

import dataclasses

from cil_jax.methods.classification import Classification
from cil_jax.methods.two_streams import ReservoirReplay


@dataclasses.dataclass(frozen=True)
class ER(ReservoirReplay, Classification):
    """Classification loss over all open outputs, on new images and on exemplars beside them."""
