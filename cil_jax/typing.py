"""Types that the whole library shares. Shapes are given where the types are used."""

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # one typed random key, as made by jax.random.key
Params: TypeAlias = Mapping[str, Any]  # nested mappings of parameter arrays
DType: TypeAlias = Any  # what numpy.dtype takes
ImageShape: TypeAlias = tuple[int, int, int]  # (height, width, channels)


class Backbone(Protocol):
    """A Linen module that maps normalised images [B, H, W, C] to features [B, n_features]."""

    @property
    def n_features(self) -> int:
        """Number of features per image; a module of a user may lack it."""
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Creates the variables, as `flax.linen.Module.init` does."""
        ...

    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Creates the variables and returns the features as well."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Computes features, as `flax.linen.Module.apply` does."""
        ...

    def clone(self, **updates: Any) -> Self:
        """Copies the module with some fields changed, as `flax.linen.Module.clone` does."""
        ...
