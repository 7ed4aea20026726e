"""The devices that a run is spread over: a mesh of one axis, along which batches are cut.

The learner is whole on every device, and each computes its share of every batch. Statistics and
sums are over the whole batch, so that the number of devices decides nothing but rounding. A mesh
in use is ambient (`jax.set_mesh`): without one, everything is as on a single device.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from cil_jax.config import UserError
from cil_jax.typing import Array

AXIS = "data"


def mesh(n_local: int | None, batch_size: int) -> Mesh | None:
    """The mesh of a run, over all its processes; None where it has one device.

    Args:
      n_local: devices of each process (default: as many of an accelerator's as divide the batch, 1
        on the CPU).
      batch_size: images an update, over all devices.

    Raises:
      UserError: if there are not so many devices, or the batch can't be cut into equal shares.
    """
    there = jax.local_device_count()
    wanted = n_local or (1 if jax.default_backend() == "cpu" else _most(there, batch_size))
    if wanted > there:
        raise UserError(f"--devices {wanted} asked for; JAX finds {there} of {_kind()} here")
    chosen = [
        device
        for process in range(jax.process_count())
        for device in [d for d in jax.devices() if d.process_index == process][:wanted]
    ]
    if batch_size % len(chosen):
        raise UserError(
            f"--batch-size {batch_size} can't be divided among {len(chosen)} devices: "
            "take a multiple, or other --devices"
        )
    if len(chosen) == 1:
        return None
    return Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def _most(there: int, batch_size: int) -> int:
    """The most of the devices of each process that a batch can be divided among."""
    shares = [n for n in range(1, there + 1) if batch_size % (n * jax.process_count()) == 0]
    return max(shares, default=there)


def used(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """A context in which arrays are made on every device of the mesh and batches are cut."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def everywhere(tree: Any) -> Any:
    """The same arrays made anew, whole on every device of the mesh in use.

    Without a mesh they are on the one device and not bound to it: a bound array would compile every
    program again.
    """

    def made(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(made(jax.random.key_data(leaf)))
        return jnp.asarray(np.array(leaf))

    return jax.tree.map(made, tree)


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks for all; the only one is."""
    return jax.process_index() == 0


def largest(*numbers: int) -> list[int]:
    """The largest of each number over all processes, so that all decide alike."""
    if jax.process_count() == 1:
        return list(numbers)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(numbers)).max(axis=0).tolist()


def spread(batch: Array) -> Array:
    """The same batch [B, ...], cut along its images; inside a compiled program."""
    return _constrained(batch, PartitionSpec(AXIS))


def whole(tree: Any) -> Any:
    """The same arrays, whole on every device; inside a compiled program, of what it returns."""
    return _constrained(tree, PartitionSpec())


def shared_out(function: Callable[..., tuple], members: tuple, *others: Any) -> tuple:
    """function(members, *others), each device with its share of the members.

    Inside a compiled program. Without a mesh, or where members can't be divided equally or differ
    in their shapes, it is called with all of them at once.

    Args:
      function: of a tuple of members and others; gives a tuple with an answer for each member.
      members: trees of arrays.
      *others: arrays, the same for all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shapes = {
        (jax.tree.structure(one), tuple(map(jnp.shape, jax.tree.leaves(one)))) for one in members
    }
    if mesh.empty or len(members) % mesh.size or len(shapes) > 1:
        return function(members, *others)

    def of_share(share, *others):
        return _stacked(function(_rows(share, len(members) // mesh.size), *others))

    of_all = jax.shard_map(
        of_share,
        in_specs=(PartitionSpec(AXIS), *(PartitionSpec() for _ in others)),
        out_specs=PartitionSpec(AXIS),
        check_vma=False,  # it would have every loop say of its first values that they differ
    )
    return whole(_rows(of_all(_stacked(members), *others), len(members)))


def _stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _rows(tree, n):
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(n))


def _constrained(tree, spec):
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # the latter where a device works for itself
        return tree
    return jax.lax.with_sharding_constraint(tree, spec)


def _kind() -> str:
    return jax.local_devices()[0].device_kind
