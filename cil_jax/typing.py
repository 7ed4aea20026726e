"""Names for the arrays that travel through the library. Shapes are given where they are used."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array  # one typed random key, as made by jax.random.key
Params: TypeAlias = Mapping[str, Any]  # a nest of parameter arrays
DType: TypeAlias = Any  # what numpy.dtype takes
