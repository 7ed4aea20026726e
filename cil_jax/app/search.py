"""Chooses a learning rate, and how much a method trades the new task for the old ones.

The framework of De Lange et al. 2021 (https://arxiv.org/abs/1909.08383, section 4.1, algorithm 1),
as FACIL uses it (Masana et al. 2022, https://arxiv.org/abs/2010.15277). No choice looks at old
data. FACIL searches in every task; here the first two tasks choose for all.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

MOST_HALVINGS = 12  # of the trade-off


@dataclasses.dataclass(frozen=True)
class Trial:
    """A pair of tasks that was learned.

    Attributes:
      method: "finetune" in the search for the rate, else the method.
      rate: the learning rate.
      trade_off: the method's trade-off; None in the search for the rate.
      new_accuracy: accuracy in 0..1 on the new task, among all classes seen.
      old_accuracy: accuracy in 0..1 on the old task; for information only.
      seconds: the time that the trial took.
    """

    method: str
    rate: float
    trade_off: float | None
    new_accuracy: float
    old_accuracy: float
    seconds: float


# Learns two tasks: (method, rate, trade-off) -> Trial.
Learn = Callable[[str, float, float | None], Trial]


def trials(
    learn: Learn, method: str, rates: Sequence[float], start: float | None, drop: float
) -> Iterator[Trial]:
    """Yields trials, of which the last one that was accepted is the choice; see `chosen`.

    First finetuning learns the new task with each rate; the best accuracy on it is what the method
    is held to. Then the method learns it with that rate, from a high trade-off that is halved until
    its accuracy on the new task is within `drop` of the best.

    Args:
      learn: learns two tasks.
      method: the method.
      rates: the learning rates to try.
      start: the trade-off to begin with; None for a method without one, of which the rate alone is
        chosen.
      drop: the share of the best accuracy that the method may lose on the new task, in 0..1.
    """
    best = None
    for rate in rates:
        trial = learn("finetune", rate, None)
        yield trial
        if best is None or trial.new_accuracy > best.new_accuracy:
            best = trial
    if best is None or start is None:
        return
    trade_off = start
    for _ in range(MOST_HALVINGS + 1):
        trial = learn(method, best.rate, trade_off)
        yield trial
        if trial.new_accuracy >= (1 - drop) * best.new_accuracy:
            return
        trade_off /= 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search has chosen.

    Attributes:
      rate: the learning rate.
      trade_off: the trade-off; None if none was searched for, or none was accepted.
      is_accepted: whether the method was within the drop that it is allowed.
    """

    rate: float
    trade_off: float | None
    is_accepted: bool


def chosen(done: Sequence[Trial], drop: float) -> Choice:
    """Returns the choice of a search that has ended.

    Args:
      done: the trials in their order, of which at least one is finetuning.
      drop: see `trials`.
    """
    tuning = [trial for trial in done if trial.trade_off is None]
    best = max(tuning, key=lambda trial: trial.new_accuracy)
    last = done[-1]
    if last.trade_off is None:
        return Choice(best.rate, None, is_accepted=True)
    is_accepted = last.new_accuracy >= (1 - drop) * best.new_accuracy
    return Choice(best.rate, last.trade_off if is_accepted else None, is_accepted)
