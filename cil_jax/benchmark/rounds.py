"""Timing in rounds: on a shared machine only what ran at about the same time can be compared."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Times = dict[str, list[float]]  # seconds of each contestant, a number a round


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number measured several times: median, lowest, highest, and how often."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of two contestants' times, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def alternate(
    contestants: Mapping[str, Callable[[], Any]],
    repeat: int,
    limit: float,
    tell: Callable[[int, Times], None] = lambda n, times: None,
) -> Times:
    """Times each contestant once a round, forwards and backwards by turns.

    Each is called once before, untimed, so that nothing is compiled while it is timed.

    Args:
      contestants: by name; a call returns when its work is done.
      repeat: rounds.
      limit: seconds after which no round begins; one is always made.
      tell: is told of each round done, and all times so far.
    """
    for call in contestants.values():
        call()
    times: Times = {name: [] for name in contestants}
    began = time.perf_counter()
    for number in range(repeat):
        if number and time.perf_counter() - began > limit:
            break
        order = list(contestants.items())
        for name, call in order if number % 2 == 0 else order[::-1]:
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
        tell(number + 1, times)
    return times
