"""Timing in rounds. On a shared machine, only calls made at about the same time are comparable."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Times = dict[str, list[float]]  # seconds of each contestant in each round


@dataclasses.dataclass(frozen=True)
class Spread:
    """Statistics of a number that was measured n times."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The statistics of these values."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The ratio of two contestants' times, taken round by round."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def alternate(
    contestants: Mapping[str, Callable[[], Any]],
    repeat: int,
    limit: float,
    tell: Callable[[int, Times], None] = lambda n, times: None,
    is_warmed_up: bool = True,
) -> Times:
    """Times each contestant once per round, in an order that is reversed in every second round.

    Each contestant is first called once without timing, so that compilation is not measured, unless
    `is_warmed_up` is false.

    Args:
      contestants: functions by name. A call returns when its work is done.
      repeat: the number of rounds.
      limit: seconds after which no new round starts. There is always one round.
      tell: a callback after each round, which gets the number of rounds and all times so far.
      is_warmed_up: whether to call each contestant before the first round.
    """
    for call in contestants.values() if is_warmed_up else ():
        call()
    times: Times = {name: [] for name in contestants}
    beginning = time.perf_counter()
    for number in range(repeat):
        if number and time.perf_counter() - beginning > limit:
            break
        order = list(contestants.items())
        for name, call in order if number % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        tell(number + 1, times)
    return times
