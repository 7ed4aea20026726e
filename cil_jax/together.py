"""Several runs at once: one program makes the updates of all, and each does the rest by itself.

Runs that differ in their seeds or class orders only have equal engines. Each leaves its updates to
whoever goes through it, so that they can be made together, wherever each stands. How they are
made, and why, is said at `Engine.train_together`.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import devices
from cil_jax.engine import Engine, Updates
from cil_jax.protocol import Run, Trained


def go(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each run from where it stands to its end. Returns what results.json holds, of each.

    Where one fails, the others are closed and go on from what they saved. Where one is interrupted,
    so are the others, but not before each was handed updates that it may save.

    Raises:
      ValueError: if the runs' engines differ.
    """
    if len({run.engine for run in runs}) != 1:
        raise ValueError("runs can be trained together only if nothing but their seeds differs")
    members = [_Member(run) for run in runs]
    with contextlib.ExitStack() as stack:
        for member in members:
            stack.enter_context(contextlib.closing(member.steps))
        stack.enter_context(devices.used(runs[0].mesh))
        _go_through(members, runs[0].engine)
    return [member.results for member in members]


class _Member:
    """A run, what it asks for and, once it is done, its results."""

    def __init__(self, run: Run):
        self.steps = run.steps()
        self.updates: Updates | None = None
        self.results: dict[str, Any] | None = None
        self.n_left, self.seconds = 0, 0.0  # of these updates

    def go_on(self, trained: Trained | None) -> None:
        """Until it asks for updates, or is done."""
        self.updates = None
        try:
            self.updates = self.steps.send(trained)
        except StopIteration as end:
            self.results = end.value
        else:
            self.n_left = int(self.updates.stop) - int(self.updates.learner.step)
            self.seconds = 0.0


def _go_through(members: Sequence[_Member], engine: Engine) -> None:
    for member in members:
        member.go_on(None)
    interrupt = failure = None
    while going := [member for member in members if member.updates]:
        if not interrupt:  # which is no time to compile a smaller program
            n_slots = len(going)
        _train(engine, going, n_slots)
        for member in going:
            if member.n_left:
                continue
            learner, sums = member.updates.learner, member.updates.sums
            try:
                member.go_on(Trained(learner, sums, member.seconds))
            except Exception as error:
                if not interrupt:
                    raise
                failure = failure or error  # the others save first
            except BaseException as error:  # KeyboardInterrupt and its like
                interrupt = interrupt or error
            if interrupt:
                member.updates = None
    if interrupt:
        raise failure or interrupt


def _train(engine: Engine, members: Sequence[_Member], n_slots: int) -> None:
    """As many updates of each as all have left; idle slots repeat the first's."""
    asked = [member.updates for member in members]
    n = min(member.n_left for member in members)
    start = time.perf_counter()
    if n_slots == 1:
        answers = [engine.train(*asked[0])]
    else:
        idle = asked[:1] * (n_slots - len(asked))
        answers = engine.train_together((*asked, *idle), jnp.int32(n))
    jax.block_until_ready(answers)
    took = time.perf_counter() - start
    for member, (learner, sums) in zip(members, answers, strict=False):
        member.updates = member.updates._replace(learner=learner, sums=sums)
        member.n_left -= n
        member.seconds += took
