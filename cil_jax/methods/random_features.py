"""What ACIL, DS-AL and RanPAC share: ridge regression on random features of a frozen network."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.learner import Learner, Purpose
from cil_jax.methods.frozen import Frozen
from cil_jax.regression import Pair, add_product
from cil_jax.selection import EXACT
from cil_jax.settings.declaring import COUNT, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class RandomFeatures(Frozen, abc.ABC):
    """Sums H^T H and Y^T H, where H are random features relu(F P) and Y are one-hot labels.

    A subclass computes the weights W from them; the scores of an image are W relu(P^T f). A class
    that has not arrived has a zero column in Y, so the sums don't depend on the tasks.

    Attributes:
      n_random: M, the number of columns of the random projection P. The sums take 8 M^2 bytes.
    """

    n_random: int = setting(8192, "number of random features", bound=COUNT)

    @property
    def headline(self) -> str:
        return "ridge"

    @abc.abstractmethod
    def draw(self, key: Key, shape: tuple[int, int]) -> Array:
        """Draws the random projection P, float [D, M]."""

    def own(self, learner: Learner) -> Params:
        (room, n_features), m = learner.means.shape, self.n_random
        return {
            "classes": {"product": Pair.zeros(room, m)},
            "total": {"gram": Pair.zeros(m, m)},
            "projection": self.draw(learner.key(Purpose.HEAD, 1), (n_features, m)),
            "weights": jnp.zeros((room, m)),
        }

    def projected(self, learner: Learner, features: Array) -> Array:
        """Returns F P, [B, M], in the precision of the features [B, D]."""
        projection = learner.own["projection"].astype(features.dtype)
        return jnp.matmul(features, projection, precision=EXACT)

    def added(
        self,
        learner: Learner,
        sums: dict[str, Any],
        features: Array,
        labels: Array,
        sign: int = 1,
    ) -> dict[str, Any]:
        product, gram = sums["classes"]["product"], sums["total"]["gram"]
        targets = jax.nn.one_hot(labels, len(product.high))
        with jax.enable_x64(True):  # see cil_jax.regression
            random = jax.nn.relu(self.projected(learner, features.astype(jnp.float64)))
            random = jnp.where(labels[:, None] >= 0, random, 0.0)
            product = add_product(product, targets, random, sign)
            gram = add_product(gram, random, random, sign)
        return {
            "classes": {**sums["classes"], "product": product},
            "total": {**sums["total"], "gram": gram},
        }

    def scores(self, learner: Learner, features: Array) -> Array:
        random = jax.nn.relu(self.projected(learner, features))
        scores = jnp.matmul(random, learner.own["weights"].T, precision=EXACT)
        return heads.restrict(scores, 0, learner.n_seen)
