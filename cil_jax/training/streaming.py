"""The engine for images that stay on the host and are sent to the devices a few batches at a time.

The order of images, random keys and updates are the same as for a pool on the device. grain reads
batches ahead in threads and sends them to the devices while these compute. With several processes,
each reads its own share of every batch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cil_jax.classifiers import Counts
from cil_jax.errors import needs_extra
from cil_jax.learner import Learner
from cil_jax.memory import Chunk, Drawn, Pool, rows_of_step
from cil_jax.platform.devices import AXIS
from cil_jax.training.engine import Engine
from cil_jax.typing import Array

# A chunk has at most so many batches, and about so many bytes at most.
CHUNK_STEPS, CHUNK_BYTES = 16, 2**23
EMBED_BATCH = 500  # images per batch in `Streamed.feature_sums` and `Streamed.keep`

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class HostPool:
    """A pool whose images are on the host.

    Attributes:
      index: the pool with labels only; its `images` is None.
      new: uint8 [N, H, W, C], the new images of the task.
      exemplars: uint8 [room, H, W, C], the images of the memory.
    """

    index: Pool
    new: np.ndarray
    exemplars: np.ndarray

    def count(self) -> Array:
        """Returns the number of images."""
        return self.index.count()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns the images uint8 [*rows.shape, H, W, C] of the given rows of the pool."""
        rows = np.asarray(rows)
        is_new = rows < len(self.new)
        images = self.new[np.where(is_new, rows, 0)]
        images[~is_new] = self.exemplars[rows[~is_new] - len(self.new)]
        return images


@dataclasses.dataclass(frozen=True)
class Streamed:
    """The methods of `Engine` that take images, for images on the host.

    Attributes:
      engine: the compiled programs.
      mesh: the devices, or None for one.
    """

    engine: Engine
    mesh: Mesh | None = None

    def pool(
        self,
        learner: Learner,
        images: np.ndarray,
        labels: np.ndarray,
        task_room: int,
        class_room: int,
    ) -> HostPool:
        """Makes the pool of a task; see `Engine.pool`."""
        index = self.engine.pool(learner, None, labels, task_room, class_room)
        return HostPool(index, images, np.asarray(learner.memory.images))

    def restrict(self, learner: Learner, pool: HostPool, kind: int) -> HostPool:
        """Restricts a pool to the rows of a step; see `Engine.restrict`."""
        index = self.engine.restrict(learner, pool.index, kind=kind)
        return dataclasses.replace(pool, index=index)

    def chunks(
        self, learner: Learner, pool: HostPool, n_steps: int, kind: int = 0
    ) -> Iterator[tuple[Chunk, int]]:
        """Reads the batches of the rest of an epoch.

        Args:
          learner: at the current step of the epoch.
          pool: the images of the task.
          n_steps: number of steps of the epoch.
          kind: which training of the plan it is, see `Engine.kind`.

        Yields:
          Chunks of consecutive batches, and the step after the last one of each.
        """
        order, count = jax.device_get(self.engine.order(learner, pool.index))
        labels, extras = jax.device_get((pool.index.labels, pool.index.extras))
        n_new_rows, n_beside = pool.index.n_new_rows, self.engine.n_beside(kind)
        batch_size = self.engine.batch_size
        n_fitting = CHUNK_BYTES // ((batch_size + n_beside) * pool.new[0].nbytes)
        length = max(1, min(CHUNK_STEPS, n_fitting))
        columns = slice(None)  # of each batch that this process feeds
        if self.mesh is not None:
            share = (batch_size + n_beside) // jax.process_count()
            columns = slice(share * jax.process_index(), share * (jax.process_index() + 1))

        def read_chunk(start: int) -> Chunk:
            # The last chunk has batches beyond the end of the epoch, so that all have one shape.
            steps = start + np.arange(length)[:, None]
            rows = rows_of_step(order, count, steps, batch_size)
            if n_beside:
                beside = self.engine.rows_beside(learner, pool.index, steps[:, 0], kind=kind)
                rows = np.concatenate([rows, np.asarray(beside)], axis=1)
            rows = rows[:, columns]
            slots = (rows - n_new_rows).clip(min=0)
            drawn = Drawn(
                images=self._to_devices(pool.take(rows)),
                labels=self._to_devices(labels[rows]),
                extras=jax.tree.map(lambda x: self._to_devices(x[slots]), extras),
                from_memory=self._to_devices(rows >= n_new_rows),
            )
            return Chunk(drawn, np.int32(start))

        starts = range(int(learner.step), n_steps, length)
        for start, chunk in zip(starts, map_ahead(read_chunk, starts), strict=True):
            yield chunk, min(start + length, n_steps)

    def keep(self, learner: Learner, pool: HostPool) -> Learner:
        """Selects and stores the new exemplars; see `Engine.keep`."""
        engine, features = self.engine, None
        if engine.method.selects_by_features:
            features = self._features(learner, pool.new, mirrored=False)
        slots = engine.select(learner, pool.index, features)
        return engine.store(learner, pool.index, slots, pool.take(slots.source))

    def fold(self, learner: Learner, pool: HostPool, kind: int) -> Learner:
        """Passes once over images; see `Engine.fold`."""
        return self.engine.folded(learner, pool.index, kind, pool.take)

    def feature_sums(
        self, learner: Learner, images: np.ndarray, labels: np.ndarray, mirrored: bool
    ) -> Array:
        """Sums the unit-length features of each class; see `Engine.feature_sums`."""
        sides = (False, True) if mirrored else (False,)
        sums = (
            self.engine.sum_features(learner, self._features(learner, images, side), labels)
            for side in sides
        )
        return sum(sums, start=jnp.zeros(()))

    def evaluate(
        self,
        learner: Learner,
        images: np.ndarray | Array,
        labels: np.ndarray | Array,
        start: int | Array,
        stop: int | Array,
        all_data_means: Array,
    ) -> tuple[dict[str, Counts], Array]:
        """Applies all classifiers and computes the mean loss; see `Engine.evaluate`.

        The test set must not be empty.
        """
        start, stop = int(start), int(stop)
        batch_size = min(self.engine.eval_batch_size, len(labels))

        def read_batch(first: int) -> tuple[np.ndarray | Array, np.ndarray | Array]:
            rows = np.minimum(first + np.arange(batch_size), len(labels) - 1)
            return images[rows], labels[rows]

        firsts = range(start, stop, batch_size)
        counts: dict[str, Counts] = {}
        total_loss = jnp.zeros(())
        for first, batch in zip(firsts, map_ahead(read_batch, firsts), strict=True):
            n_rows = min(batch_size, stop - first)
            batch_counts, loss = self.engine.evaluate(
                learner, *batch, jnp.int32(0), jnp.int32(n_rows), all_data_means
            )
            counts = jax.tree.map(jnp.add, counts, batch_counts) if counts else batch_counts
            total_loss += n_rows * loss
        return counts, total_loss / (stop - start)

    def _features(self, learner: Learner, images: np.ndarray, mirrored: bool) -> Array:
        """Computes features [N, D] in batches of one size, the last of which overlaps the previous.

        The batches are those of `cil_jax.learner.embed`.
        """
        n = len(images)
        batch_size = min(EMBED_BATCH, n)
        ends = [min(end, n) for end in range(batch_size, n + batch_size, batch_size)]
        batches = map_ahead(lambda end: images[end - batch_size : end], ends)
        parts = [self.engine.embed(learner, batch, mirrored=mirrored) for batch in batches]
        n_repeated = len(parts) * batch_size - n
        return jnp.concatenate([*parts[:-1], parts[-1][n_repeated:]])

    def _to_devices(self, array: np.ndarray) -> Array:
        """Sends this process's share of a chunk [S, B, ...] to its devices."""
        if self.mesh is None:
            return jnp.asarray(array)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
        return jax.make_array_from_process_local_data(sharding, array)


def map_ahead(function: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
    """Yields function(item) for each item in order, computed ahead of time in threads."""
    if not items:
        return iter(())
    with needs_extra("stream", "images that stay on the host"):
        import grain  # here, as only streamed runs need it and its import is slow

    results = grain.MapDataset.source(items).map(function)
    return iter(results.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))
