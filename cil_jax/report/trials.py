"""The trials of a search for settings, as lines and as a table."""

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table

from cil_jax.report.percentages import percent
from cil_jax.settings.declaring import flag


class TrialResult(Protocol):
    """Two tasks that were learned; see `cil_jax.app.search.Trial`."""

    @property
    def method(self) -> str: ...
    @property
    def rate(self) -> float: ...
    @property
    def trade_off(self) -> float | None: ...
    @property
    def new_accuracy(self) -> float: ...
    @property
    def old_accuracy(self) -> float: ...
    @property
    def seconds(self) -> float: ...


class ChoiceResult(Protocol):
    """What a search has chosen; see `cil_jax.app.search.Choice`."""

    @property
    def rate(self) -> float: ...
    @property
    def trade_off(self) -> float | None: ...
    @property
    def is_accepted(self) -> bool: ...


def line(trial: TrialResult, name: str | None) -> str:
    """A trial in one line.

    Args:
      trial: the trial.
      name: the setting that is the trade-off; None if the method has none.
    """
    value = "" if trial.trade_off is None or name is None else f" {flag(name)} {trial.trade_off:g}"
    return (
        f"{trial.method} --rate {trial.rate:g}{value}: {percent(trial.new_accuracy)} on the new "
        f"task, {percent(trial.old_accuracy)} on the old one, in {trial.seconds:.0f} s"
    )


def table(trials: Sequence[TrialResult], name: str | None) -> Table:
    """All trials; for the arguments see `line`."""
    made = Table(
        title="two tasks each, tested on training images that were held out", title_justify="left"
    )
    made.add_column("method")
    for column in ("rate", flag(name).removeprefix("--") if name else "trade-off"):
        made.add_column(column, justify="right")
    for column in ("new task", "old task", "seconds"):
        made.add_column(column, justify="right")
    for trial in trials:
        value = "-" if trial.trade_off is None else f"{trial.trade_off:g}"
        accuracies = percent(trial.new_accuracy), percent(trial.old_accuracy)
        made.add_row(trial.method, f"{trial.rate:g}", value, *accuracies, f"{trial.seconds:.0f}")
    return made


def result(
    trials: Sequence[TrialResult], choice: ChoiceResult, name: str | None, drop: float
) -> list[str]:
    """What was chosen, and what the search cost.

    Args:
      trials, name: see `line`.
      choice: the choice.
      drop: the share of the best accuracy that the method may lose.
    """
    cost = f"{len(trials)} trials in {sum(trial.seconds for trial in trials):.0f} seconds"
    words = [f"--rate {choice.rate:g}"]
    if choice.trade_off is not None and name is not None:
        words.append(f"{flag(name)} {choice.trade_off:g}")
    lines = [f"choose {' '.join(words)}", f"cost: {cost}"]
    if not choice.is_accepted and name is not None:
        lines.insert(
            1,
            f"no {flag(name)} was accepted: at {trials[-1].trade_off:g} the accuracy on the new "
            f"task is still more than {percent(drop)} below finetuning's",
        )
    return lines
