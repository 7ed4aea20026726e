"""What a method keeps from one task to the next, read from its learner and its hooks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.learner import Learner, Normalizer, bytes_per_exemplar, n_bytes_of
from cil_jax.methods.base import Batch, Method
from cil_jax.methods.plan import Do, Fold, Train
from cil_jax.network import SplitNetwork
from cil_jax.settings.config import Config
from cil_jax.training.budget import within_budget
from cil_jax.training.build import Room, engine_of
from cil_jax.typing import ImageShape


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a method keeps after the last task of a run.

    Attributes:
      n_exemplars: number of exemplars over all classes.
      extras: what is stored with each exemplar besides its image and label, by name.
      has_means: whether it keeps the mean features of the exemplars of each class.
      n_networks: number of backbones that there is room for.
      is_split: whether these share all but their last stage.
      has_teacher: whether it trains with the network of the previous task.
      own: the method's own arrays, by name.
      keeps_all_data: whether it keeps all training images.
      n_bytes: bytes of the "network", that of the previous task ("teacher"), the "exemplars" with
        all that is stored with them, the "means" and the "own" arrays; 0 for what it does not keep.
    """

    n_exemplars: int
    extras: tuple[str, ...]
    has_means: bool
    n_networks: int
    is_split: bool
    has_teacher: bool
    own: tuple[str, ...]
    keeps_all_data: bool
    n_bytes: dict[str, int]

    @property
    def networks(self) -> str:
        """The backbones in words, such as "3 networks"."""
        if self.is_split:
            return f"a network with {self.n_networks} last stages"
        return "the network" if self.n_networks == 1 else f"{self.n_networks} networks"

    def words(self) -> list[str]:
        """What is kept, each in a few words; the network itself is named only if there are more."""
        exemplars = f"{self.n_exemplars} exemplars"
        if self.extras:
            exemplars += f" with their {' and '.join(self.extras)}"
        said = {
            "all training images": self.keeps_all_data,
            exemplars: self.n_exemplars,
            "class means of the exemplars": self.has_means,
            self.networks: self.n_networks > 1,
            "the previous network": self.has_teacher,
            f"statistics: {', '.join(self.own)}": self.own,
        }
        return [words for words, holds in said.items() if holds] or ["nothing but the network"]


def inventory(config: Config, image_shape: ImageShape, room: Room) -> Inventory:
    """Finds what a method keeps in a run; computes nothing but shapes.

    Args:
      config: the settings; those that depend on the data set must be given, see
        `cil_jax.training.build.augmentation_of`.
      image_shape: (H, W, C).
      room: the classes and tasks of the run.
    """
    engine = engine_of(within_budget(config, None, image_shape, room), None, room)
    method = engine.method
    pixels: Any = jax.ShapeDtypeStruct((1, 1, image_shape[2]), jnp.float32)
    learner = engine.blank(image_shape, room.n_classes, Normalizer(pixels, pixels))
    n_exemplars = method.memory_size or 0
    has_means = n_exemplars > 0 and _changes_means(method, learner)
    has_teacher = "teacher" in _read_in_later_tasks(method, learner, config.batch_size)
    sizes = {
        "network": n_bytes_of(learner.weights),
        "teacher": has_teacher * n_bytes_of(learner.teacher),
        "exemplars": n_exemplars * bytes_per_exemplar(learner),
        "means": has_means * n_bytes_of(learner.means),
        "own": n_bytes_of(learner.own),
    }
    return Inventory(
        n_exemplars=n_exemplars,
        extras=tuple(learner.memory.extras),
        has_means=has_means,
        n_networks=method.network.slots,
        is_split=isinstance(method.network, SplitNetwork),
        has_teacher=has_teacher,
        own=tuple(learner.own),
        keeps_all_data=method.keeps_all_data,
        n_bytes=sizes,
    )


def _changes_means(method: Method, learner: Learner) -> bool:
    """Whether the method computes class means when it has selected its exemplars."""
    jaxpr = jax.make_jaxpr(lambda learner: method.kept(learner).means)(learner).jaxpr
    return jaxpr.outvars[0] not in jaxpr.invars


def _read_in_later_tasks(method: Method, learner: Learner, batch_size: int) -> set[str]:
    """The fields of the learner that the plan of the second task reads."""
    key = jax.random.key(0)
    read: set[str] = set()
    for step in method.plan(is_first=False):
        if isinstance(step, Train):
            loss = step.loss or method.loss
            batch = _batch(learner, batch_size + step.beside)
            read |= _fields_read(
                lambda learner, batch, loss=loss: loss(learner.weights.params, learner, batch, key),
                *(learner, batch),
            )
        elif isinstance(step, Fold):
            sums = jax.eval_shape(step.zero, learner)
            batch = _batch(learner, step.batch_size)
            read |= _fields_read(step.add, learner, sums, batch)
            read |= _fields_read(
                lambda learner, sums, done=step.done: done(learner, sums, key), learner, sums
            )
        elif isinstance(step, Do):
            read |= _fields_read(lambda learner, change=step.change: change(learner, key), learner)
    return read


def _batch(learner: Learner, size: int) -> Batch:
    """The shapes of a batch of images."""

    def shape(x: Any, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((size, *x), dtype)

    return Batch(
        images=shape(learner.image_shape, jnp.float32),
        labels=shape((), jnp.int32),
        extras=jax.tree.map(lambda x: shape(x.shape[1:], x.dtype), learner.memory.extras),
        from_memory=shape((), jnp.bool_),
    )


def _fields_read(function: Callable[..., Any], learner: Learner, *arguments: Any) -> set[str]:
    """The fields of a learner, the first argument of a function, that the function computes with.

    A field that is only passed through does not count.
    """
    jaxpr = jax.make_jaxpr(function)(learner, *arguments).jaxpr
    read = {id(var) for equation in jaxpr.eqns for var in equation.invars}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(learner)]
    pairs = zip(paths, jaxpr.invars, strict=False)  # those of the other arguments follow
    return {path[0].name for path, var in pairs if id(var) in read}
