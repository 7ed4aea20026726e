"""The engine for images that stay on the host: they come to the devices a piece at a time.

Order, keys and updates are those of a pool on the device. grain reads pieces ahead, in threads,
and brings them to the devices while these compute. With several processes each reads its own share
of every batch.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cil_jax.classifiers import Counts
from cil_jax.devices import AXIS
from cil_jax.engine import Engine
from cil_jax.learner import Learner
from cil_jax.memory import Chunk, Pool, rows_of_step
from cil_jax.typing import Array

CHUNK_STEPS, CHUNK_BYTES = 16, 2**23  # of batches in one call, at most and about
EMBEDDED = 500  # images at once


@dataclasses.dataclass(frozen=True)
class HostPool:
    """A pool whose images are on the host.

    Attributes:
      index: the pool without its images.
      new: uint8 [N, H, W, C], the task's images.
      kept: uint8 [room, H, W, C], the memory's.
    """

    index: Pool
    new: np.ndarray
    kept: np.ndarray

    def count(self) -> Array:
        """How many images there are."""
        return self.index.count()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Images uint8 [*rows.shape, H, W, C] of rows of the pool."""
        is_new = rows < len(self.new)
        images = self.new[np.where(is_new, rows, 0)]
        images[~is_new] = self.kept[rows[~is_new] - len(self.new)]
        return images


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What `Engine` does with images, for images on the host. The arguments are the same.

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
        """The task's new images and the memory's."""
        index = self.engine.pool(learner, None, labels, task_room, class_room)
        return HostPool(index, images, np.asarray(learner.memory.images))

    def chunks(self, learner: Learner, pool: HostPool, steps: int) -> Iterator[tuple[Chunk, int]]:
        """The rest of an epoch of so many steps: chunks, and the step before which each ends."""
        order, count = jax.device_get(self.engine.order(learner, pool.index))
        labels = np.asarray(pool.index.labels)
        size, first = self.engine.batch_size, int(learner.step)
        fits = CHUNK_BYTES // (size * pool.new[0].nbytes)
        length = max(1, min(CHUNK_STEPS, fits))
        share = slice(None)
        if self.mesh is not None:
            share = size // jax.process_count()
            share = slice(share * jax.process_index(), share * (jax.process_index() + 1))

        def chunk(start):
            # The last one goes on into steps that are not taken, so that all have one shape.
            all_steps = start + np.arange(length)[:, None]
            rows = rows_of_step(order, count, all_steps, size)[:, share]
            images, of_images = self._placed(pool.take(rows)), self._placed(labels[rows])
            return Chunk(images, of_images, np.int32(start))

        starts = range(first, steps, length)
        for start, one in zip(starts, ahead(starts, chunk), strict=True):
            yield one, min(start + length, steps)

    def end_task(self, learner: Learner, pool: HostPool) -> Learner:
        """What the method does after training on a task: features, then rows, then memory."""
        engine = self.engine
        if engine.method.memory_size is None:
            return engine.end_task(learner, pool.index)
        features = None
        if engine.method.selects_by_features:
            features = self._features(learner, pool.new, mirrored=False)
        after, rows = engine.select(learner, pool.index, features)
        return engine.keep(learner, after, pool.take(np.asarray(rows)))

    def feature_sums(
        self, learner: Learner, images: np.ndarray, labels: np.ndarray, mirrored: bool
    ) -> Array:
        """Sums [room, D] of the unit-length features of each class."""
        sides = (False, True) if mirrored else (False,)
        return sum(
            self.engine.sums_of(learner, self._features(learner, images, side), labels)
            for side in sides
        )

    def evaluate(
        self,
        learner: Learner,
        images: np.ndarray,
        labels: np.ndarray,
        start: int,
        stop: int,
        all_data_means: Array,
    ) -> tuple[dict[str, Counts], Array]:
        """All classifiers on test images start .. stop - 1, and the mean of the method's loss."""
        start, stop = int(start), int(stop)
        size = min(self.engine.eval_batch_size, len(labels))

        def batch(first):
            rows = np.minimum(first + np.arange(size), len(labels) - 1)
            return images[rows], labels[rows]

        firsts = range(start, stop, size)
        counts, total = None, 0.0
        for first, (some, of_some) in zip(firsts, ahead(firsts, batch), strict=True):
            n = min(size, stop - first)
            more, loss = self.engine.evaluate(
                learner, some, of_some, jnp.int32(0), jnp.int32(n), all_data_means
            )
            counts = more if counts is None else jax.tree.map(jnp.add, counts, more)
            total += n * loss
        return counts, total / (stop - start)

    def _features(self, learner: Learner, images: np.ndarray, mirrored: bool) -> Array:
        """Features [N, D], in the batches of `cil_jax.learner.embed`: the last one overlaps."""
        n = len(images)
        size = min(EMBEDDED, n)
        ends = [min(end, n) for end in range(size, n + size, size)]
        batches = ahead(ends, lambda end: images[end - size : end])
        parts = [self.engine.embed(learner, batch, mirrored=mirrored) for batch in batches]
        return jnp.concatenate([*parts[:-1], parts[-1][(len(parts) * size - n) :]])

    def _placed(self, array: np.ndarray) -> Array:
        """This process' share of chunks [S, B, ...], on its devices, as part of the whole."""
        if self.mesh is None:
            return jnp.asarray(array)
        sharding = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
        return jax.make_array_from_process_local_data(sharding, array)


def ahead(items: Sequence[Any], make: Any) -> Iterator[Any]:
    """make(item) of each item in order, made before it is asked for."""
    if not items:
        return iter(())
    import grain  # only a run that streams waits for it

    made = grain.MapDataset.source(items).map(make)
    return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))
