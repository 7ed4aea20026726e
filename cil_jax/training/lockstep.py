"""Several runs in one process: one program makes the updates of all of them.

Runs that differ only in their seeds or class orders have equal engines. `Run.steps` yields each
request for updates to its caller, so that the updates of several runs can be made together, even if
the runs are in different tasks or epochs. `Engine.train_together` describes how they are made.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp

from cil_jax.platform import devices
from cil_jax.storage.schemas import Results
from cil_jax.training.engine import Engine, TrainRequest
from cil_jax.training.loop import Run, Trained


def go(runs: Sequence[Run]) -> list[Results]:
    """Trains several runs together, each from its current position to its end.

    If one run fails, the others are closed; they can be resumed from their last checkpoints. If one
    run is interrupted, the others stop too, each after it has received updates that it can save.

    Returns:
      The contents of results.json for each run.

    Raises:
      ValueError: if the engines of the runs differ.
    """
    if len({run.engine for run in runs}) != 1:
        raise ValueError("runs can be trained together only if they differ in nothing but seeds")
    members = [_Member(run) for run in runs]
    with contextlib.ExitStack() as stack:
        for member in members:
            stack.enter_context(contextlib.closing(member.steps))
        stack.enter_context(devices.using(runs[0].mesh))
        _drive(members, runs[0].engine)
    return [member.results for member in members if member.results is not None]


class _Member:
    """A run, its open request for updates and, when it has ended, its results.

    Attributes:
      steps: the generator of the run.
      request: the updates that it asks for; None before its start, after its end, and once it is
        stopped.
      results: the contents of results.json after its end.
      n_left: number of updates of the request that are still to be made.
      seconds: time that those already made have taken.
    """

    def __init__(self, run: Run):
        self.steps = run.steps()
        self.request: TrainRequest | None = None
        self.results: Results | None = None
        self.n_left, self.seconds = 0, 0.0

    def advance(self, trained: Trained | None) -> None:
        """Hands over the updates made; runs until the next request or the end of the run.

        Args:
          trained: the result of the request; None to start the run.
        """
        self.request = None
        try:
            # A generator is started by sending None, which its type does not allow.
            self.request = self.steps.send(cast(Trained, trained))
        except StopIteration as end:
            self.results = end.value
        else:
            self.n_left = int(self.request.stop) - int(self.request.learner.step)
            self.seconds = 0.0


def _drive(members: Sequence[_Member], engine: Engine) -> None:
    """Answers the requests of all members until all have ended or one is interrupted."""
    for member in members:
        member.advance(None)
    interrupt = failure = None
    n_slots = len(members)
    while active := [member for member in members if member.request]:
        if not interrupt:  # after an interrupt, do not compile a program for fewer members
            n_slots = len(active)
        finished = _train(engine, active, n_slots)
        for member, trained in finished:
            try:
                member.advance(trained)
            except Exception as error:
                if not interrupt:
                    raise
                failure = failure or error  # raised after the others have saved
            except BaseException as error:  # KeyboardInterrupt, for example
                interrupt = interrupt or error
            if interrupt:
                member.request = None
    if interrupt:
        raise failure or interrupt


def _train(
    engine: Engine, members: Sequence[_Member], n_slots: int
) -> list[tuple[_Member, Trained]]:
    """Makes as many updates of each member as all of them have left.

    Members that are in another training of their plan than the first one wait.

    Args:
      engine: the compiled programs.
      members: those with a request.
      n_slots: number of members that the program trains; spare slots repeat the first member.

    Returns:
      The members whose request is complete, with its result.
    """
    kind = next(member.request.kind for member in members if member.request)
    members = [member for member in members if member.request and member.request.kind == kind]
    requests = tuple(member.request for member in members if member.request)
    n_steps = min(member.n_left for member in members)
    start = time.perf_counter()
    if n_slots == 1:
        results = [engine.train(*requests[0])]
    else:
        spare = requests[:1] * (n_slots - len(requests))
        results = engine.train_together((*requests, *spare), jnp.int32(n_steps), kind=kind)
    jax.block_until_ready(results)
    seconds = time.perf_counter() - start
    finished = []
    for member, request, (learner, sums) in zip(members, requests, results, strict=False):
        member.request = request._replace(learner=learner, sums=sums)
        member.n_left -= n_steps
        member.seconds += seconds
        if not member.n_left:
            finished.append((member, Trained(learner, sums, member.seconds)))
    return finished
