"""The parts of the benchmark. Each times our code and PyTorch doing the same work, alternately."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.benchmark import scale
from cil_jax.benchmark.pytorch import COMPILED, EAGER, SHIPPED, PyTorch
from cil_jax.benchmark.rounds import Spread, Times, alternate, ratio
from cil_jax.benchmark.settings import PROGRAMS, Settings
from cil_jax.benchmark.workbench import (
    Place,
    Workbench,
    shipped_run_config,
    small_run,
    small_run_config,
    step_flop,
)
from cil_jax.learner import n_bytes
from cil_jax.platform import machine
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.loop import SECONDS_A_CALL, Run

OURS, MATMUL = "ours", "matrix product"


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurements of one kind of work.

    Attributes:
      part: the part, a key of PROGRAMS.
      what: the work in words.
      seconds: seconds per call.
      flop: floating-point operations per call.
      share: speed as a fraction of the matrix product's speed in the same round.
      is_whole: whether this is the work that a run does, so that the row shows the cost of the
        first call.
      images: images per call; None if the work is not per image.
      peer: the faster variant of PyTorch, such as "eager"; "" if it was not measured.
      peer_seconds: seconds per call of that variant.
      faster: PyTorch's seconds divided by ours, round by round: above 1, ours is faster.
    """

    part: str
    what: str
    seconds: Spread
    flop: int
    share: Spread
    is_whole: bool = True
    images: int | None = None
    peer: str = ""
    peer_seconds: Spread | None = None
    faster: Spread | None = None


class Bench:
    """Measures the parts, one at a time.

    Args:
      settings: the sizes of the work.
      tell: a callback for lines that report progress.

    Attributes:
      settings: the sizes of the work.
      rows: the measurements so far.
      scales: the measurements of whole runs with more and more classes.
      ratios: ratios between two of our own times, by a description.
      notes: remarks to show below the table.
      learner_bytes: `cil_jax.learner.n_bytes` of the learner, once a part has used one.
      machine: `cil_jax.platform.machine.describe()` before the first measurement.
      best_matmul: the highest speed of a matrix product so far, in operations per second.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None] = lambda line: None):
        self.settings, self._tell = settings, tell
        self.machine = machine.describe()
        self.learner_bytes: dict[str, int] = {}
        self.rows: list[Row] = []
        self.scales: list[scale.Scale] = []
        self.ratios: dict[str, Spread] = {}
        self.notes: list[str] = []
        self.best_matmul = 0.0
        self._pytorch = PyTorch(settings, self.notes, tell)
        size = settings.matmul or (2048 if jax.default_backend() == "cpu" else 8192)
        self._matmul_flop = 2 * size**3
        square = jax.random.normal(jax.random.key(3), (size, size))
        product = jax.jit(jnp.matmul)
        self._matmul = lambda: jax.block_until_ready(product(square, square))

    @property
    def torch_version(self) -> str:
        """The version of PyTorch, "-" if it is not measured."""
        return self._pytorch.version

    def measure(self, part: str) -> None:
        """Measures a part, one of `cil_jax.benchmark.settings.PARTS`, and adds its results."""
        getattr(self, f"_{part}")()

    def close(self) -> None:
        """Ends the process of PyTorch."""
        self._pytorch.close()

    def _step(self) -> None:
        bench, learner, pool = self._here
        last = bench.learner(9)
        last_pool = bench.pool(last)
        n = self._steps_a_call()
        times = self._rounds(
            "step",
            {
                OURS: lambda: bench.train(learner, pool, n),
                "task 10": lambda: bench.train(last, last_pool, n),
                **self._pytorch.train(self._here, n),
            },
        )
        images = n * self.settings.batch_size
        self._add("step", f"update, {n} a call", times, n * bench.step_flop(learner), images)
        of_last = ratio(times["task 10"], times[OURS])
        self.ratios["an update of task 10 over one of task 2"] = of_last

    def _epoch(self) -> None:
        bench, learner, pool = self._here
        n = bench.steps(pool)
        times = self._rounds(
            "epoch",
            {
                OURS: lambda: bench.train(learner, pool, n),
                **self._pytorch.train(self._here, n),
            },
        )
        images = n * self.settings.batch_size
        self._add("epoch", f"epoch, {n} updates", times, n * bench.step_flop(learner), images)

    def _herding(self) -> None:
        bench = self._workbench
        for n_classes in self.settings.herded_classes:
            features = bench.features_to_herd(n_classes)
            times = self._rounds(
                f"herding, {n_classes} classes",
                {
                    OURS: functools.partial(bench.herd, features),
                    **self._pytorch.herding(features),
                },
            )
            what = f"herding, {n_classes} x {features.shape[1]}"
            is_whole = n_classes == self.settings.herded_classes[0]
            self._add("herding", what, times, bench.herd_flop(features), is_whole=is_whole)

    def _nme(self) -> None:
        bench, learner, _ = self._here
        n = len(bench.test_labels)
        times = self._rounds(
            "nme",
            {
                "forward": lambda: bench.embed(learner),
                OURS: lambda: bench.nearest_means(learner),
                "evaluation": lambda: bench.evaluate(learner),
                **self._pytorch.answer(self._here),
            },
        )
        flop = n * bench.forward_flop(learner)
        means_flop = 2 * n * learner.means.size
        both = n * bench.evaluation_flop(learner) + 2 * means_flop
        what = f"forward pass, {n:,}"
        self._add("nme", what, times, flop, n, ours="forward", is_whole=False)
        what = f"nearest means, {n:,}"
        self._add("nme", what, times, flop + means_flop, n, is_whole=False)
        self._add("nme", f"evaluation, {n:,}", times, both, n, ours="evaluation")
        not_forward = Spread.of(
            [1 - f / t for f, t in zip(times["forward"], times[OURS], strict=True)]
        )
        self.ratios["share of nearest means that is not the forward pass"] = not_forward
        evaluation = ratio(times["evaluation"], times["forward"])
        self.ratios["a run's evaluation, loss included, over the forward pass"] = evaluation

    def _run(self) -> None:
        config = small_run_config(self.settings)
        accuracy: dict[str, float] = {}

        def ours() -> None:
            nme = small_run(config)["classifiers"]["nme"]
            accuracy[OURS] = nme["last_accuracy"]

        run = Run(config, RunFolder("unused"), Callback())  # writes nothing until it starts
        sizes = run.scenario.task_sizes
        n_updates = sum(run.course.n_updates(t) for t in range(len(sizes)))
        update_flop = step_flop(run.engine, run.new_learner())
        times = self._rounds("run", {OURS: ours, **self._pytorch.whole_run(run, accuracy)})
        what = f"run, {n_updates:,} updates"
        self._add("run", what, times, n_updates * update_flop, n_updates * config.batch_size)
        accuracies = ", ".join(f"{name} {100 * value:.1f}%" for name, value in accuracy.items())
        self.notes.append(
            f"The run: {config.backbone} on digits, {len(sizes)} tasks of 2 classes, "
            f"{config.epochs} epochs, batch {config.batch_size}; only operations of updates are "
            "counted. Ours also evaluates after each epoch and saves checkpoints; PyTorch's does "
            f"neither. Last NME accuracy, to show that both learn: {accuracies}."
        )

    def _shipped(self) -> None:
        config = shipped_run_config(self.settings)
        curves: dict[str, list[float]] = {}
        run = Run(config, RunFolder("unused"), Callback())  # writes nothing until it starts
        sizes = run.scenario.task_sizes
        n_updates = sum(run.course.n_updates(t) for t in range(len(sizes)))

        def ours() -> None:
            curves[OURS] = small_run(config)["classifiers"]["nme"]["seen_accuracy"]

        contestants = {OURS: ours, **self._pytorch.shipped_run(run, curves)}
        times = self._rounds("shipped", contestants, is_warmed_up=False)
        update_flop = step_flop(run.engine, run.new_learner())
        what = f"run of PyCIL's recipe, {n_updates:,} updates"
        self._add("shipped", what, times, n_updates * update_flop, n_updates * config.batch_size)
        accuracies = "; ".join(
            f"{name} average {100 * statistics.mean(curve):.1f}%, last {100 * curve[-1]:.1f}%"
            for name, curve in curves.items()
        )
        self.notes.append(
            f"The run of PyCIL's recipe: iCaRL, {config.backbone} on {config.dataset}, "
            f"{len(sizes)} tasks, {config.epochs} epochs, order seeded {config.order_seed}, n = 1. "
            "PyTorch's is a loop over a DataLoader with transforms per image, as such code is "
            "usually written, and keeps the last partial batch. Ours includes compiling, an "
            f"evaluation after each epoch and checkpoints. NME accuracy: {accuracies}."
        )

    def _scale(self) -> None:
        for n_classes in self.settings.scale_classes:
            self._tell(f"scale: a run of {n_classes} classes")
            self.scales.append(scale.measure(self.settings, n_classes))

    @functools.cached_property
    def _workbench(self) -> Workbench:
        return Workbench(self.settings)

    @functools.cached_property
    def _here(self) -> Place:
        """The start of the second task, where most parts are measured."""
        bench = self._workbench
        learner = bench.learner(1)
        self.learner_bytes = n_bytes(learner)
        return Place(bench, learner, bench.pool(learner))

    def _steps_a_call(self) -> int:
        """The number of updates that take about as long as one call in a run."""
        bench, learner, pool = self._here
        bench.train(learner, pool, 1)
        start = time.perf_counter()
        bench.train(learner, pool, 1)
        fitting = SECONDS_A_CALL / (time.perf_counter() - start)
        return min(max(1, round(fitting)), bench.steps(pool))

    def _rounds(
        self,
        name: str,
        contestants: Mapping[str, Callable[[], Any]],
        is_warmed_up: bool = True,
    ) -> Times:
        """Times contestants by turns; without warm-up, in one round that includes compiling."""

        def tell(n: int, times: Times) -> None:
            last = ", ".join(f"{who} {seconds[-1]:.3g} s" for who, seconds in times.items())
            self._tell(f"{name}, round {n} of {self.settings.repeat}: {last}")

        everyone = {**contestants, MATMUL: self._matmul}
        if is_warmed_up:
            self._tell(f"{name}: first calls of {', '.join(contestants)}")
            times = alternate(everyone, self.settings.repeat, self.settings.limit, tell)
        else:
            self._matmul()
            times = alternate(everyone, 1, self.settings.limit, tell, is_warmed_up=False)
        self.best_matmul = max(self.best_matmul, self._matmul_flop / min(times[MATMUL]))
        return times

    def _add(
        self,
        part: str,
        what: str,
        times: Times,
        flop: int,
        images: int | None = None,
        ours: str = OURS,
        is_whole: bool = True,
    ) -> None:
        """Adds a row for the contestant `ours`; for OURS, with the faster variant of PyTorch."""
        seconds = times[ours]
        scale = flop / self._matmul_flop
        row = Row(
            part=part,
            what=what,
            seconds=Spread.of(seconds),
            flop=flop,
            share=Spread.of([scale * m / s for m, s in zip(times[MATMUL], seconds, strict=True)]),
            is_whole=is_whole,
            images=images,
        )
        peers = [name for name in (EAGER, COMPILED, SHIPPED) if name in times and ours == OURS]
        if peers:
            best = min(peers, key=lambda name: statistics.median(times[name]))
            row = dataclasses.replace(
                row,
                peer=best,
                peer_seconds=Spread.of(times[best]),
                faster=ratio(times[best], seconds),
            )
            if best == COMPILED:
                self.ratios[f"PyTorch's {what} over ours, eagerly"] = ratio(times[EAGER], seconds)
        self.rows.append(row)


def first_call(part: str, settings: Settings) -> dict[str, Any]:
    """The cost of the first call of a part's program in this process, which must be fresh.

    Returns:
      "compile_seconds", the time of the first call minus that of the second: tracing, and compiling
      or reading compiled programs from the cache; and "peak_bytes", see
      `cil_jax.platform.machine.peak_memory`.
    """
    call = _first_calls(settings)[PROGRAMS[part]]()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {
        "compile_seconds": max(0.0, seconds[0] - seconds[1]),
        "peak_bytes": machine.peak_memory(),
    }


def _first_calls(settings: Settings) -> dict[str, Callable[[], Callable[[], Any]]]:
    """For each program, a function that prepares a short call of it and returns that call."""

    def train() -> Callable[[], Any]:
        bench = Workbench(settings)
        learner = bench.learner(1)
        pool = bench.pool(learner)
        return lambda: bench.train(learner, pool, 1)

    def evaluate() -> Callable[[], Any]:
        bench = Workbench(settings)
        learner = bench.learner(1)
        return lambda: bench.evaluate(learner, bench.engine.eval_batch_size)

    def herd() -> Callable[[], Any]:
        bench = Workbench(settings)
        features = bench.features_to_herd(settings.herded_classes[0])
        return lambda: bench.herd(features)

    def run() -> Callable[[], Any]:
        return functools.partial(small_run, small_run_config(settings))

    return {"train": train, "evaluate": evaluate, "herd": herd, "run": run}
