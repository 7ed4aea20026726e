"""The network: a backbone, or several side by side, and a head; and the arrays they compute with.

The structure and shapes of the arrays are the same before the first task and after the last.
"""

import dataclasses
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from cil_jax.errors import UserError
from cil_jax.heads import Head, Linear
from cil_jax.typing import Array, Backbone, ImageShape, Key, Params


class Weights(struct.PyTreeNode):
    """The arrays that a network computes with.

    Attributes:
      params: {"backbone": ..., "head": ...}, and whatever else a method trains.
      batch_stats: running statistics of the backbone's normalisation layers; {} if it has none.
      frozen: backbones that are no longer trained: "params" and "batch_stats", stacked along a
        first axis of `Network.slots` - 1, and "count" int32 [], how many of them are in use; {} for
        a network with one slot.
    """

    params: Params
    batch_stats: Params
    frozen: Params = struct.field(default_factory=dict)


class Output(struct.PyTreeNode):
    """The output of a network for a batch.

    Attributes:
      features: float [B, D]; with several slots, the features of all backbones side by side, zero
        for slots that are not in use.
      logits: float [B, room]; closed columns are `heads.CLOSED`.
      batch_stats: the running statistics after this batch.
      maps: what the trained backbone records with `self.sow("intermediates", NAME, x)`, by name;
        only if the network was asked for them.
      newest: float [B, D of one backbone], the features of the backbone that is trained.
    """

    features: Array
    logits: Array
    batch_stats: Params
    maps: Params
    newest: Array


@dataclasses.dataclass(frozen=True)
class Network:
    """How weights turn images into features and logits; it holds no arrays.

    Attributes:
      backbone: the Linen module that computes features. It may have batch statistics or not.
      head: the output layer.
      slots: number of backbones that there is room for. All but the newest are frozen.
      through_frozen: whether the gradient of the images flows through frozen backbones.
    """

    backbone: Backbone
    head: Head = dataclasses.field(default_factory=Linear)
    slots: int = 1
    through_frozen: bool = False

    def create(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        """Initialises the weights; the head has room for n_classes and no open column."""
        variables = self.backbone.init(key, jnp.zeros((1, *image_shape)), train=False)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        n_features = self.slots * self.features_per_backbone(image_shape)
        frozen: Params = {}
        if self.slots > 1:
            empty = jax.tree.map(lambda x: jnp.zeros((self.slots - 1, *x.shape), x.dtype), params)
            empty_stats = jax.tree.map(
                lambda x: jnp.zeros((self.slots - 1, *x.shape), x.dtype), batch_stats
            )
            frozen = {"params": empty, "batch_stats": empty_stats, "count": jnp.int32(0)}
        head = self.head.create(n_features, n_classes)
        return Weights({"backbone": params, "head": head}, batch_stats, frozen)

    def features_per_backbone(self, image_shape: ImageShape) -> int:
        """Returns the number of features of one backbone.

        Raises:
          UserError: if the backbone has no attribute `n_features` and its output is not an array
            [B, n_features].
        """
        if hasattr(self.backbone, "n_features"):  # nothing is traced
            return self.backbone.n_features
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        features, _ = jax.eval_shape(
            partial(self.backbone.init_with_output, train=False), jax.random.key(0), images
        )
        if not isinstance(features, jax.ShapeDtypeStruct) or len(features.shape) != 2:
            name = type(self.backbone).__name__
            raise UserError(f"{name} must return one array [B, n_features]")
        return features.shape[1]

    def expand(self, weights: Weights) -> Weights:
        """Freezes the trained backbone into the next slot; training goes on from a copy of it.

        The head's weights for the features of the new backbone are left to the method, which finds
        their rows by `is_row_in_use`.
        """
        count = weights.frozen["count"]
        now = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
        frozen = {
            part: jax.tree.map(lambda stack, x: stack.at[count].set(x), weights.frozen[part], tree)
            for part, tree in now.items()
        }
        return weights.replace(frozen={**frozen, "count": count + 1})

    def is_row_in_use(self, weights: Weights, n_features: int) -> Array:
        """Marks the features of slots up to the trained one, and of that one alone.

        Returns:
          bool [2, n_features].
        """
        count = weights.frozen["count"] if self.slots > 1 else jnp.int32(0)
        slot = jnp.arange(n_features) // (n_features // self.slots)
        return jnp.stack([slot <= count, slot == count])

    def __call__(
        self,
        weights: Weights,
        images: Array,
        n_open: int | Array,
        *,
        train: bool = False,
        maps: bool = False,
    ) -> Output:
        """Applies the network to normalised images [B, H, W, C].

        Args:
          weights: its arrays.
          images: normalised images.
          n_open: number of open head columns.
          train: whether to normalise with batch statistics and to update the running ones. Frozen
            backbones are always in evaluation mode.
          maps: whether to also return what the backbone records.
        """
        newest, batch_stats, recorded = _apply(
            self.backbone, weights.params["backbone"], weights.batch_stats, images, train, maps
        )
        features = newest
        if self.slots > 1:
            features = self._beside_frozen(weights, images, newest)
        return Output(
            features=features,
            logits=self.head.logits(weights.params["head"], features, n_open),
            batch_stats=batch_stats,
            maps=recorded,
            newest=newest,
        )

    def _beside_frozen(self, weights: Weights, images: Array, newest: Array) -> Array:
        """Returns the features of all slots side by side, [B, slots * D].

        Only the backbones in use are computed, so one program serves all tasks, and its cost grows
        with the tasks learned.
        """
        frozen, count = weights.frozen, weights.frozen["count"]
        stacks = {name: frozen[name] for name in ("params", "batch_stats")}
        if not self.through_frozen:
            images = lax.stop_gradient(images)
        empty = jnp.zeros((self.slots, *newest.shape), newest.dtype)
        features = _features_of_frozen(self.backbone, stacks, images, count, empty)
        features = cast(Array, features)  # which some versions of JAX do not say
        features = lax.dynamic_update_slice_in_dim(features, newest[None], count, axis=0)
        return jnp.moveaxis(features, 0, 1).reshape(newest.shape[0], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _features_of_frozen(
    backbone: Backbone, stacks: Params, images: Array, count: Array, empty: Array
) -> Array:
    """Computes the features of frozen backbones, which get no gradient.

    The loop has as many rounds as there are backbones in use. JAX can't differentiate such a loop,
    so its gradient with respect to the images is another one.

    Args:
      backbone: the module.
      stacks: the variables of the backbones, along a first axis.
      images: what the backbones take.
      count: how many backbones are in use.
      empty: zeros [slots, B, D].

    Returns:
      [slots, B, D], zero for slots that are not in use.
    """

    def add(slot: Array, features: Array) -> Array:
        return features.at[slot].set(_applied(backbone, stacks, slot, images))

    return lax.fori_loop(0, count, add, empty)


def _applied(backbone: Backbone, stacks: Params, slot: Array, images: Array) -> Array:
    """Computes the features of a frozen backbone."""
    variables = jax.tree.map(
        lambda stack: lax.dynamic_index_in_dim(stack, slot, keepdims=False), stacks
    )
    return backbone.apply(variables, images, train=False)


def _features_forward(
    backbone: Backbone, stacks: Params, images: Array, count: Array, empty: Array
) -> tuple[Array, Any]:
    features = _features_of_frozen(backbone, stacks, images, count, empty)
    return cast(Array, features), (stacks, images, count)


def _features_backward(backbone: Backbone, saved: Any, gradient: Array) -> tuple[Any, ...]:
    stacks, images, count = saved

    def add(slot: Array, total: Array) -> Array:
        _, pull = jax.vjp(lambda x: _applied(backbone, stacks, slot, x), images)
        return total + pull(gradient[slot])[0]

    return None, lax.fori_loop(0, count, add, jnp.zeros_like(images)), None, None


_features_of_frozen.defvjp(_features_forward, _features_backward)


@dataclasses.dataclass(frozen=True)
class SplitNetwork(Network):
    """A network whose backbones have all but their last stage in common.

    The parts are those of the backbone's method `split`: what is shared returns maps, of which each
    last stage makes features. "backbone" in `Weights.params`, and `Weights.batch_stats`, have the
    entries "shared" and "last"; the frozen stacks have the last stages alone. The shared stages go
    on learning, also from the gradient through frozen last stages.
    """

    @property
    def parts(self) -> tuple[Backbone, Network]:
        """What is shared, and the last stages as a network that takes the maps.

        Raises:
          UserError: if the backbone can't be split.
        """
        split = getattr(self.backbone, "split", None)
        if split is None:
            name = type(self.backbone).__name__
            raise UserError(
                f"{name} can't be split: it needs a method split() that returns two modules, one "
                "that maps images to maps, and one that maps these to features"
            )
        shared, last = split()
        return shared, Network(last, self.head, self.slots, through_frozen=True)

    def create(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        shared, last = self.parts
        shared_key, last_key = jax.random.split(key)
        images = jnp.zeros((1, *image_shape))
        maps, variables = shared.init_with_output(shared_key, images, train=False)
        weights = last.create(maps.shape[1:], n_classes, last_key)
        return self._joined(weights, variables["params"], variables.get("batch_stats", {}))

    def expand(self, weights: Weights) -> Weights:
        expanded = self.parts[1].expand(self._last(weights))
        shared = weights.params["backbone"]["shared"], weights.batch_stats["shared"]
        return self._joined(expanded, *shared)

    def __call__(
        self,
        weights: Weights,
        images: Array,
        n_open: int | Array,
        *,
        train: bool = False,
        maps: bool = False,
    ) -> Output:
        shared, last = self.parts
        params, batch_stats = weights.params["backbone"]["shared"], weights.batch_stats["shared"]
        x, batch_stats, recorded = _apply(shared, params, batch_stats, images, train, maps)
        output = last(self._last(weights), x, n_open, train=train, maps=maps)
        return output.replace(
            batch_stats={"shared": batch_stats, "last": output.batch_stats},
            maps={**recorded, **output.maps},
        )

    def _last(self, weights: Weights) -> Weights:
        """Returns the weights of the last stages."""
        params = {**weights.params, "backbone": weights.params["backbone"]["last"]}
        return Weights(params, weights.batch_stats["last"], weights.frozen)

    def _joined(self, last: Weights, shared: Params, batch_stats: Params) -> Weights:
        """Returns the weights of the last stages with those that are shared."""
        params = {**last.params, "backbone": {"shared": shared, "last": last.params["backbone"]}}
        return Weights(params, {"shared": batch_stats, "last": last.batch_stats}, last.frozen)


def _apply(
    module: Backbone, params: Params, batch_stats: Params, images: Array, train: bool, maps: bool
) -> tuple[Array, Params, Params]:
    """Applies a module to images.

    Returns:
      Its output, its running statistics afterwards and, if asked for, the maps that it records, by
      name.
    """
    variables = {"params": params, "batch_stats": batch_stats}
    mutable = [*(["batch_stats"] if train else []), *(["intermediates"] if maps else [])]
    if not mutable:
        return module.apply(variables, images, train=False), batch_stats, {}
    output, changed = module.apply(variables, images, train=train, mutable=mutable)
    recorded = {name: x[-1] for name, x in changed.get("intermediates", {}).items()}
    return output, changed.get("batch_stats", batch_stats), recorded


def n_parameters_in_use(weights: Weights, n_open: int) -> int:
    """Counts the parameters in use: closed columns and empty slots are left out.

    Args:
      weights: the arrays of a network.
      n_open: number of classes whose outputs are in use.
    """
    total: Any = sum(x.size for x in jax.tree.leaves(weights.params["backbone"]))
    share = 1.0  # of the rows of the head
    if weights.frozen:
        stacks, n_frozen = jax.tree.leaves(weights.frozen["params"]), int(weights.frozen["count"])
        n_stacked = stacks[0].shape[0]
        total += n_frozen * sum(x.size // n_stacked for x in stacks)
        share = (n_frozen + 1) / (n_stacked + 1)
    for name, x in weights.params["head"].items():
        columns = x.size // x.shape[-1] * n_open if x.ndim else x.size
        total += round(columns * share) if name == "kernel" else columns
    others = {k: v for k, v in weights.params.items() if k not in ("backbone", "head")}
    return total + sum(x.size for x in jax.tree.leaves(others))
