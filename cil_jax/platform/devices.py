"""The devices of a run: a mesh with one axis, along which batches are divided.

Every device holds the whole learner and computes its share of each batch. Statistics and sums are
taken over the whole batch, so the number of devices changes results by rounding only. The mesh in
use is ambient (`jax.set_mesh`); without a mesh, everything runs on a single device.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from cil_jax.errors import UserError
from cil_jax.typing import Array

AXIS = "data"

Tree = TypeVar("Tree")  # a tree of arrays


def mesh(n_local: int | None, batch_size: int) -> Mesh | None:
    """Makes the mesh of a run over all its processes; None if the run uses one device.

    Args:
      n_local: number of devices of each process (default: on an accelerator, the most that divide
        the batch equally; on the CPU, 1).
      batch_size: images per update, over all devices.

    Raises:
      UserError: if there are too few devices, or they do not divide the batch equally.
    """
    n_found = jax.local_device_count()
    default = 1 if jax.default_backend() == "cpu" else _most_that_divide(n_found, batch_size)
    n_wanted = n_local or default
    if n_wanted > n_found:
        device_kind = jax.local_devices()[0].device_kind
        raise UserError(
            f"--devices is {n_wanted}, but JAX finds only {n_found} on this machine ({device_kind})"
        )
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][:n_wanted]
    ]
    if batch_size % len(chosen):
        raise UserError(
            f"--batch-size {batch_size} is not a multiple of the number of devices, "
            f"{len(chosen)}: change --batch-size or --devices"
        )
    if len(chosen) == 1:
        return None
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def _most_that_divide(n_found: int, batch_size: int) -> int:
    """Returns the most devices of each process among which a batch is divided equally."""
    counts = range(1, n_found + 1)
    divisors = [n for n in counts if batch_size % (n * jax.process_count()) == 0]
    return max(divisors, default=n_found)


def using(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns a context in which the functions of this module use the mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def copy_to_all(tree: Tree) -> Tree:
    """Copies arrays to every device of the mesh in use. Call it outside compiled programs.

    Without a mesh the arrays go to the default device without being committed to it: committed
    arrays would make every program compile again.
    """

    def copy(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(copy(jax.random.key_data(leaf)))
        return jnp.asarray(np.array(leaf))

    return jax.tree.map(copy, tree)


def is_first_process() -> bool:
    """Returns whether this process writes files and output; a single process always does."""
    return jax.process_index() == 0


def max_over_processes(*numbers: int) -> list[int]:
    """Returns the maximum of each number over all processes, so that all decide alike."""
    if jax.process_count() == 1:
        return list(numbers)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(numbers)).max(axis=0).tolist()


def shard_batch(batch: Array) -> Array:
    """Divides a batch [B, ...] among the devices. Call it inside a compiled program."""
    return _constrain(batch, PartitionSpec(AXIS))


def replicate(tree: Tree) -> Tree:
    """Puts whole arrays on every device. Call it on what a compiled program returns, inside it."""
    return _constrain(tree, PartitionSpec())


def shard_members(
    function: Callable[..., tuple[Tree, ...]], members: tuple[Any, ...], *shared: Any
) -> tuple[Tree, ...]:
    """Computes function(members, *shared), with each device working on a share of the members.

    Call it inside a compiled program. Without a mesh, or if the members cannot be divided equally
    or differ in their shapes, the function gets all members at once.

    Args:
      function: takes a tuple of members and the shared arguments; returns a tuple with one result
        per member.
      members: trees of arrays.
      *shared: arrays that are the same for all members.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shapes = {
        (jax.tree.structure(member), tuple(map(jnp.shape, jax.tree.leaves(member))))
        for member in members
    }
    if mesh.empty or len(members) % mesh.size or len(shapes) > 1:
        return function(members, *shared)

    def on_share(share: Any, *shared: Any) -> Any:
        return _stack(function(_unstack(share, len(members) // mesh.size), *shared))

    on_all = jax.shard_map(
        on_share,
        in_specs=(PartitionSpec(AXIS), *(PartitionSpec() for _ in shared)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,  # else every loop would have to mark its first values as varying
    )
    return replicate(_unstack(on_all(_stack(members), *shared), len(members)))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, n: int) -> tuple[Any, ...]:
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(n))


def _constrain(tree: Tree, spec: PartitionSpec) -> Tree:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # inside shard_map a device works on its own
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)
